"""The option ``histology`` on its way from the front door to the steps of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import spatialjax as sj
from spatialjax.atlas.fingerprint import differences, fingerprint_of
from spatialjax.atlas.intake import open_in_order
from spatialjax.atlas.reconstruction import Options
from spatialjax.checks import InputError


@pytest.fixture(scope="module")
def described(make_adatas: Any) -> list[Any]:
    """Two tiny sections with columns that stand for those of a picture."""
    adatas = make_adatas(2)
    for adata in adatas:
        adata.obsm["histology"] = np.sin(adata.obsm["spatial"] / 150.0).astype(np.float32)
    return adatas


@pytest.mark.parametrize("call", [sj.tl.reconstruct, lambda adatas, **kw: sj.tl.align(*adatas, **kw)])
def test_a_missing_picture_is_refused_at_the_door(described: list[Any], call: Any) -> None:
    """Before any work: the section without columns is named."""
    bare = described[1].copy()
    del bare.obsm["histology"]
    options = {"progress": False} if call is sj.tl.reconstruct else {}
    with pytest.raises(InputError, match=r"Expected obsm\['histology'\] in all sections"):
        call([described[0], bare], units="um", histology="histology", **options)


def test_a_run_with_other_pictures_is_another_run(described: list[Any]) -> None:
    """What a resumed run must share: the columns of each picture, and whether they are used at all."""
    other = [described[0], described[1].copy()]
    other[1].obsm["histology"] = other[1].obsm["histology"] * 2.0
    marks = [
        fingerprint_of(open_in_order(adatas, units="um", histology=key).stack, Options())
        for adatas, key in ((described, "histology"), (other, "histology"), (described, None))
    ]
    assert differences(marks[0], marks[0]) == ""
    assert differences(marks[0], marks[1]) == "section 'section2', columns of its picture: other contents"
    assert "columns of its picture" in differences(marks[0], marks[2])


def test_sections_taken_in_another_order_keep_their_columns(described: list[Any]) -> None:
    """Sorted by a column of ``obs``: each section brings its own picture."""
    adatas = [a.copy() for a in described]
    for adata, number in zip(adatas, (2, 1), strict=True):
        adata.obs["number"] = number
    stack = open_in_order(adatas, units="um", order_by="number", histology="histology").stack
    for section, adata in zip(stack.sections, adatas[::-1], strict=True):
        np.testing.assert_array_equal(section.added, adata.obsm["histology"][section.order])

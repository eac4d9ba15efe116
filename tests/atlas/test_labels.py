"""Labels carried between sections: right where they can be, modest where they cannot, absent without a counterpart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import spatialjax as sj
from spatialjax.atlas.labelled import Labelled
from spatialjax.atlas.labels import transfer
from spatialjax.checks import InputError
from spatialjax.registration import voting

GRID = np.stack(np.meshgrid(np.arange(30.0), np.arange(20.0)), -1).reshape(-1, 2) * 100.0


def section(name: str, z: float, codes: Any, *, shift: float = 0.0, start: int = 0, frame: int = 0) -> Labelled:
    rows = np.arange(start, start + len(GRID))
    return Labelled(name, rows, GRID + [shift, 0.0], z, frame, 0.0, np.asarray(codes, int))


def regions(rng: np.random.Generator, *, noise: float) -> np.ndarray:
    """Three bands of tissue, a share of the cells with another label at random."""
    clean = (GRID[:, 1] // 700).astype(int)
    return np.where(rng.uniform(size=len(clean)) < noise, rng.integers(0, 3, len(clean)), clean)


def carried(a: np.ndarray, b: np.ndarray, c: np.ndarray, **options: Any) -> Any:
    """Labels of A and C on B, whose own are only the truth."""
    n = len(GRID)
    sections = [
        section("A", 0.0, a),
        section("B", 10.0, np.full(n, -1), start=n, **options),
        section("C", 20.0, c, start=2 * n),
    ]
    names = [f"cell {i}" for i in range(3 * n)]
    return transfer(sections, ["x", "y", "z"], names, source=["A", "C"], target=["B"])


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_confidence_is_how_often_the_label_is_right(rng: np.random.Generator, noise: float) -> None:
    """With labels of two sections that agree well or badly, the mean confidence is the accuracy, within 0.06."""
    a, b, c = (regions(rng, noise=noise) for _ in range(3))
    found = carried(a, b, c)
    right = found.table["label"].cat.codes.to_numpy() == b
    assert abs(found.table["confidence"].mean() - right.mean()) < 0.06
    assert right.mean() > found.table["null"].mean() + 0.1
    assert found.judged_on == "sections" and found.judged_cells == 2 * len(GRID)
    assert found.agreement > found.agreement_null + 0.1
    np.testing.assert_allclose(found.probability.sum(1), 1.0)


def test_labels_without_any_structure_are_no_better_than_the_null(rng: np.random.Generator) -> None:
    """Labels dealt out at random: confidence near the frequency of the label, not near the votes."""
    a, b, c = (rng.integers(0, 3, len(GRID)) for _ in range(3))
    found = carried(a, b, c)
    assert abs(found.table["confidence"].mean() - found.table["null"].mean()) < 0.08
    assert abs(found.agreement - found.agreement_null) < 0.06


def test_cells_without_counterpart_get_no_label(rng: np.random.Generator) -> None:
    """Half of the section hangs over the edge of the others: missing label and confidence there, and it is said."""
    a, b, c = (regions(rng, noise=0.1) for _ in range(3))
    found = carried(a, b, c, shift=1500.0)
    beyond = GRID[:, 0] + 1500.0 > 2900.0 + 300.0
    assert found.table["label"].isna().to_numpy()[beyond].all()
    assert found.table["confidence"].isna().to_numpy()[beyond].all()
    assert not found.table["label"].isna().to_numpy()[GRID[:, 0] + 1500.0 < 2900.0].any()
    assert any("no labelled counterpart in 'A' and 'C'" in m or "no labelled counterpart" in m for m in found.messages)
    assert (found.probability.to_numpy()[beyond] == 0).all()


def test_sections_of_another_frame_or_without_place_get_no_label(rng: np.random.Generator) -> None:
    """Places in two frames cannot be compared."""
    a, b, c = (regions(rng, noise=0.1) for _ in range(3))
    for frame, message in ((1, "frame of 'B'"), (-1, "not placed")):
        found = carried(a, b, c, frame=frame)
        assert found.table["label"].isna().all() and any(message in m for m in found.messages)


def test_one_labelled_section_is_judged_by_its_own_neighbours(rng: np.random.Generator) -> None:
    """Without a second labelled section: how far places tell labels, and the message says what that is not."""
    n = len(GRID)
    a = regions(rng, noise=0.3)
    sections = [section("A", 0.0, a), section("B", 10.0, np.full(n, -1), start=n)]
    found = transfer(sections, ["x", "y", "z"], list(range(2 * n)), source=["A"], target=["B"])
    assert found.judged_on == "neighbours" and 0.6 < found.agreement < 0.9
    assert found.table["confidence"].max() < 0.99 and "no two labelled sections" in found.messages[-1]


def test_votes_count_only_labelled_matches() -> None:
    """Weights of unlabelled cells drop out; a row without labelled matches is zero."""
    matches = sp.csr_matrix([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(voting.votes(matches, np.array([1, -1, 0]), 2), [[1 / 3, 2 / 3], [0, 0]])
    np.testing.assert_allclose(voting.without_self(matches[:, :2]).toarray(), [[0, 1], [0, 0]])


def test_labels_of_an_atlas(reconstruction: Any, section_names: list[str]) -> None:
    """On the shared reconstruction: labels of the outer sections found again in the middle one, by both front doors."""
    first, middle, last = section_names
    atlas = reconstruction.atlas.copy()
    own = (atlas.obs["slice"] == middle).to_numpy()
    truth = atlas.obs["layer"].astype(str).to_numpy()[own]
    atlas.obs["partly"] = atlas.obs["layer"].astype(object).where(~own, None)
    found = sj.tl.transfer_labels(atlas, "partly")
    assert list(found.table.index) == list(atlas.obs_names[own])
    assert (found.table["label"].astype(str).to_numpy() == truth).mean() > 0.85
    named = sj.tl.transfer_labels(reconstruction, "layer", source=[first, last], target=middle)
    assert (named.table["label"].astype(str).to_numpy() == truth).mean() > 0.85
    assert "partly" not in reconstruction.atlas.obs


def test_labels_of_a_pair(make_adatas: Any) -> None:
    """From the target to the source of an aligned pair; the sections are not changed."""
    one, two = make_adatas(2, angles=(0.0, 0.7))
    truth = one.obs.pop("layer").astype(str).to_numpy()
    pair = sj.tl.align(one, two, units="um", seed=1)
    found = sj.tl.transfer_labels(pair, "layer", source=one, target=two)
    assert set(found.table["section"]) == {"source"} and list(found.table.index) == list(one.obs_names)
    known = found.table["label"].notna().to_numpy()
    assert known.mean() > 0.8 and (found.table["label"].astype(str).to_numpy() == truth)[known].mean() > 0.85
    assert "layer" not in one.obs


def test_what_cannot_be_carried_is_refused(reconstruction: Any, make_adatas: Any) -> None:
    """No such column, no such section, no cell that lacks a label, no atlas."""
    for options, message in (
        ({"key": "layr"}, "Did you mean 'layer'"),
        ({"key": "layer", "source": "nobody"}, "source section 'nobody'"),
        ({"key": "layer"}, "Name target="),
    ):
        with pytest.raises(InputError, match=message):
            sj.tl.transfer_labels(reconstruction, **options)
    with pytest.raises(InputError, match="made by reconstruct"):
        sj.tl.transfer_labels(make_adatas(1)[0], "layer")

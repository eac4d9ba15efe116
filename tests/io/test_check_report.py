"""``pp.check``: the findings as a table, or the one problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialjax import pp


def test_findings(make_adatas: Any) -> None:
    """Numbers of each section and the door's messages; the text shows them."""
    adatas = make_adatas(2, n_spots=40, n_genes=12)
    adatas[1].X[3] = 0
    report = pp.check(adatas, units="um", names=["a b", "c"])
    assert report.ok
    assert (report.kind, report.features) == ("counts", 12)
    first, second = report.sections
    assert (first.name, first.cells, first.pitch, first.empty, second.empty) == ("a b", 40, 100.0, 0, 1)
    assert first.width == np.ptp(adatas[0].obsm["spatial"][:, 0])
    assert first.median_library == np.median(np.asarray(adatas[0].X.sum(1)))
    text = str(report)
    assert text.splitlines()[1].startswith("a b")
    assert "1 of 40 cells have no counts" in text
    assert all(f"- {message}" in text for message in report.messages)


def test_problem(make_adatas: Any) -> None:
    """The door's message, without an exception; one section is enough here."""
    (adata,) = make_adatas(1, n_spots=40, n_genes=12)
    report = pp.check(adata)
    assert not report.ok
    assert report.sections == ()
    assert str(report).startswith("Problem: Expected to know the length unit")
    assert pp.check(adata, units="um").ok
    assert "at least 2 sections" in str(pp.check(adata, units="um", at_least=2).problem)

"""A person's decisions in a whole run: what they change, what they leave alone, and where they are recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

import spatialjax as sj
from spatialjax.atlas import decided, intake
from spatialjax.atlas.fingerprint import differences, fingerprint_of
from spatialjax.atlas.hand import Decisions, Redo
from spatialjax.atlas.reconstruction import Options
from spatialjax.checks import InputError


@pytest.fixture(scope="module")
def again(three_sections: list[Any], section_names: list[str]) -> Any:
    """The shared reconstruction once more, with decisions or other options."""

    def run(**options: Any) -> Any:
        given = {"names": section_names, "units": "um", "gap": 20, "n_domains": 3, "seed": 1, "progress": False}
        return sj.tl.reconstruct(three_sections, **{**given, **options})

    return run


def test_an_excluded_section_in_the_middle_leaves_a_gap(
    again: Any, three_sections: list[Any], section_names: list[str]
) -> None:
    """Its neighbours are paired over the gap, heights stay, its cells are gone, and the record says so."""
    first, middle, last = section_names
    result = again(decisions={"exclude": [middle]})
    assert list(result.transforms) == [first, last]
    assert [p.z for p in result.transforms.values()] == [0.0, 40.0]
    assert [(row["source"], row["target"]) for row in result.pairs] == [(first, last)]
    assert list(result.couplings) == [(first, last)] and not result.unplaced
    names = np.concatenate([three_sections[0].obs_names, three_sections[2].obs_names])
    np.testing.assert_array_equal(result.atlas.obs["original_name"], names)
    assert any("Excluded by hand" in w and middle in w for w in result.warnings)
    kept = json.loads(result.atlas.uns["spatialjax"]["options"])["decisions"]
    assert kept["exclude"] == [middle]


def test_excluding_keeps_the_rows_of_interleaved_cells(three_sections: list[Any]) -> None:
    """Cells of sections that lie mixed in one file keep their order when one section is left out."""
    mixed = anndata.concat([a.copy() for a in three_sections], label="part", keys=["a", "b", "c"])
    mixed = mixed[np.random.default_rng(1).permutation(mixed.n_obs)].copy()
    entry = intake.open_in_order(mixed, slice_key="part", names=["a", "b", "c"], units="um")
    left = decided.without(entry, ["b"])
    expected = mixed.obs_names[(mixed.obs["part"] != "b").to_numpy()]
    found = np.empty(len(expected), object)
    for section, rows in zip(left.stack.sections, left.layout, strict=True):
        found[rows] = np.asarray(section.adata.obs_names)
    np.testing.assert_array_equal(found, expected)


def test_a_fixed_pose_is_kept_to_a_tenth_of_a_pitch(again: Any, section_names: list[str]) -> None:
    """A pose that the tissue speaks against wins over all pairs; the other sections still find their way."""
    first, middle, last = section_names
    fix = {"source": middle, "target": first, "angle_deg": 25.0, "shift": [40.0, -300.0]}
    result = again(decisions={"fix": [fix]})
    found = result.transforms[middle]
    assert abs(found.angle_deg - 25.0) < 0.2
    np.testing.assert_allclose(found.transform.shift, [40.0, -300.0], atol=10.0)
    assert found.angle_sd_deg < 0.1 and result.transforms[last].placed
    row = next(row for row in result.pairs if {row["source"], row["target"]} == {first, middle})
    assert row["status"] == "fixed by hand" and row["used"]


@pytest.fixture(scope="module")
def redone(again: Any, section_names: list[str]) -> Any:
    """A run in which the first pair is aligned with another seed."""
    first, middle, _ = section_names
    return again(decisions=Decisions(redo=(Redo(middle, first, seed=5),)))


def test_one_pair_is_redone_and_no_other(redone: Any, reconstruction: Any, section_names: list[str]) -> None:
    """Another seed for one pair: its row changes, those of the other pairs keep their bits."""
    first, middle, _ = section_names
    changed = [new["source"] == first and new["target"] == middle for new in redone.pairs]
    for new, old, anew in zip(redone.pairs, reconstruction.pairs, changed, strict=True):
        assert (new["threshold"] != old["threshold"]) == anew
        assert (new == old) or anew


def test_a_run_with_other_decisions_is_another_run(three_sections: list[Any], section_names: list[str]) -> None:
    """Going on from an interrupted run notices the decisions, and says which."""
    entry = intake.open_in_order(three_sections, names=section_names, units="um")
    plain, by_hand = (
        fingerprint_of(entry.stack, Options(decisions=d)) for d in (None, Decisions(redo=(Redo("C", "D", seed=5),)))
    )
    assert "option decisions" in differences(plain, by_hand) and "'D'" in differences(plain, by_hand)
    assert not differences(by_hand, json.loads(json.dumps(by_hand)))


def test_landmarks_from_the_command_line(three_sections: list[Any], tmp_path: Path) -> None:
    """Good points pass, contradictory ones stop the run before it begins, with exit code 2 and one message."""
    from typer.testing import CliRunner

    from spatialjax.cli import app

    for name, adata in zip("ab", three_sections, strict=False):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    a, b = (np.asarray(s.obsm["spatial"]) for s in three_sections[:2])
    lines = [f"a,b,{a[i, 0]},{a[i, 1]},{b[i, 0]},{b[i, 1]}" for i in (0, 13, 112, 119)]
    head = "source,target,x1,y1,x2,y2"
    (tmp_path / "good.csv").write_text("\n".join([head, *lines]))
    (tmp_path / "bad.csv").write_text("\n".join([head, *lines, "a,b,0,0,4000,4000"]))
    (tmp_path / "few.csv").write_text("\n".join([head, *lines[:2]]))
    files = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad"), "--units", "um"]
    results = {
        name: CliRunner().invoke(app, ["validate", *files, "--landmarks", str(tmp_path / f"{name}.csv")])
        for name in ("good", "bad", "few")
    }
    assert results["good"].exit_code == 0, results["good"].output
    assert results["bad"].exit_code == 2 and "line 6" in " ".join(results["bad"].output.split())
    assert results["few"].exit_code == 2 and "Add 1 more" in " ".join(results["few"].output.split())


def test_a_distant_pair_cannot_be_redone(make_adatas: Any) -> None:
    """Only pairs that are aligned at all can be aligned anew."""
    entry = intake.open_in_order(make_adatas(4), names=list("ABCD"), units="um")
    with pytest.raises(InputError, match="landmarks or fix"):
        decided.followed(entry, Options(decisions=Decisions(redo=(Redo("A", "D", seed=1),))))


def test_decisions_go_on_from_the_kept_steps_of_an_earlier_run(
    again: Any, redone: Any, section_names: list[str], tmp_path: Path
) -> None:
    """Features and pairs are taken over, but for the one that is redone, to the bits of a run from scratch."""
    first, middle, _ = section_names
    decisions = {"redo": [{"source": middle, "target": first, "seed": 5}]}
    again(out=tmp_path / "first", keep_checkpoint=True)
    result = again(out=tmp_path / "second", reuse=tmp_path / "first", decisions=decisions)
    restored = {timing.step: timing.restored for timing in result.timings}
    assert restored["features"] == 1 and restored["pairs"] == 2 and restored["pose graph"] == 0
    np.testing.assert_array_equal(result.atlas.obsm["spatial3d"], redone.atlas.obsm["spatial3d"])
    assert result.pairs == redone.pairs
    card = json.loads((tmp_path / "second" / "run.json").read_text())
    assert card["options"]["decisions"]["redo"][0]["seed"] == 5
    with pytest.raises(InputError, match=r"option seed: 1 -> 2"):
        again(out=tmp_path / "third", reuse=tmp_path / "first", seed=2)
    with pytest.raises(InputError, match="keep-checkpoint"):
        again(out=tmp_path / "third", reuse=tmp_path / "second")
    with pytest.raises(InputError, match="out="):
        again(reuse=tmp_path / "first")
    assert not (tmp_path / "third").exists()

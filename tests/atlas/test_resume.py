"""An interrupted run: what it keeps, when it goes on, when it is refused, and that it ends with the same bits."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

import spatialjax as sj
from spatialjax.atlas import files, outputs, pairs, run, steps
from spatialjax.atlas.files import OutputError
from spatialjax.atlas.watch import Watch
from spatialjax.checks import InputError

OPTIONS = {"units": "um", "gap": 20, "n_domains": 3, "seed": 1, "progress": False}


@pytest.fixture
def reconstruct(three_sections: list[Any], section_names: list[str]) -> Callable[..., Any]:
    """The run of the fixture ``reconstruction``, with other options where given."""

    def call(adatas: Any = None, **options: Any) -> Any:
        adatas = three_sections if adatas is None else adatas
        return sj.tl.reconstruct(adatas, **({"names": section_names} | OPTIONS | options))

    return call


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ctrl-C as soon as so many results are kept."""

    def arm(number: int) -> None:
        save, saved = steps.Store.save, []

        def counting(self: Any, name: str, result: Any) -> None:
            save(self, name, result)
            saved.append(name)
            if len(saved) == number:
                raise KeyboardInterrupt

        monkeypatch.setattr(steps.Store, "save", counting)

    return arm


@pytest.fixture(scope="module")
def begun(three_sections: list[Any], section_names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was interrupted when the features and two pairs were there."""
    out = tmp_path_factory.mktemp("begun") / "out"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        save = steps.Store.save

        def stopping(self: Any, name: str, result: Any) -> None:
            save(self, name, result)
            if name == "pairs 1-2":
                raise KeyboardInterrupt

        patch.setattr(steps.Store, "save", stopping)
        sj.tl.reconstruct(three_sections, names=section_names, out=out, **OPTIONS)
    return out


@pytest.fixture
def interrupted(begun: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(begun, tmp_path / "out"))


def _content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and time; the empty file that holds the lock does not count."""
    found = {p: p.stat() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    return {str(p.relative_to(folder)): (p.read_bytes(), s.st_mtime_ns) for p, s in found.items()}


def _assert_same_bits(first: Any, second: Any) -> None:
    """Atlas, transforms, couplings, pairs and metrics agree to the bit."""
    assert np.array_equal(first.atlas.obsm["spatial3d"], second.atlas.obsm["spatial3d"], equal_nan=True)
    assert first.atlas.obs.astype(str).equals(second.atlas.obs.astype(str))
    for name in ("overlap", "domain3d_confidence"):
        assert np.array_equal(first.atlas.obs[name], second.atlas.obs[name], equal_nan=True)
    for one, other in zip(first.transforms.values(), second.transforms.values(), strict=True):
        assert np.array_equal(one.transform.matrix, other.transform.matrix)
        assert np.array_equal(one.transform.shift, other.transform.shift)
    for one, other in zip(first.couplings.values(), second.couplings.values(), strict=True):
        assert one.data.tobytes() == other.data.tobytes()
        assert one.indices.tobytes() == other.indices.tobytes()
    assert json.dumps(outputs.plain([first.pairs, first.metrics, first.findings])) == json.dumps(
        outputs.plain([second.pairs, second.metrics, second.findings])
    )


def test_interrupted_run_keeps_its_steps_and_nothing_that_looks_finished(interrupted: Path) -> None:
    """The features and two pairs, the fingerprint and no output."""
    assert {p.name for p in interrupted.iterdir()} == {".steps"}
    names = {p.name for p in steps.kept(interrupted / ".steps")}
    assert names == {"step-features.npz", "step-pairs-0-1.npz", "step-pairs-1-2.npz"}
    assert outputs.interrupted(interrupted)


def test_resumed_run_computes_only_what_is_missing_and_ends_with_the_same_bits(
    interrupted: Path, reconstruct: Any, reconstruction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to a run that was never interrupted and kept nothing; one of three pairs is aligned; no step is left."""
    aligned = []
    monkeypatch.setattr(run, "align_pairs", lambda *a, **k: aligned.append(a[1]) or pairs.align_pairs(*a, **k))
    result = reconstruct(out=interrupted, resume=True)
    assert aligned == [[(0, 2)]]
    restored = {t.step: t.restored for t in result.timings}
    assert restored["features"] == 1
    assert restored["pairs"] == 2
    assert restored["domains"] == 0
    _assert_same_bits(result, reconstruction)
    files = {"atlas.h5ad", "couplings", "report.html", "viewer.html", "run.json"}
    assert {p.name for p in interrupted.iterdir()} == files
    card = json.loads((interrupted / "run.json").read_text())
    assert {s["step"]: s["restored"] for s in card["steps"]}["pairs"] == 2
    stored = anndata.read_h5ad(interrupted / "atlas.h5ad")
    assert np.array_equal(stored.obsm["spatial3d"], reconstruction.atlas.obsm["spatial3d"])


@pytest.mark.parametrize("number", [1, 5, 6, 7])
def test_interruption_after_any_step_ends_with_the_same_bits(
    begun: Path, interrupted: Path, reconstruct: Any, reconstruction: Any, stop_after: Any, number: int
) -> None:
    """Stopped once more, after the pairs (1), the pose graph, the domains, the couplings or in the files: same bits."""
    kept = len(steps.kept(interrupted / ".steps"))
    later = number - kept if number > kept else 1
    stop_after(later)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(out=interrupted, resume=True)
    assert not (interrupted / "run.json").exists()
    assert len(steps.kept(interrupted / ".steps")) == kept + later
    result = reconstruct(out=interrupted, resume=True, keep_checkpoint=True)
    assert sum(t.restored for t in result.timings) == kept + later
    _assert_same_bits(result, reconstruction)
    assert len(steps.kept(interrupted / ".steps")) == 7


def _counts_changed(adatas: list[Any]) -> list[Any]:
    changed = [a.copy() for a in adatas]
    changed[1].X[3, 5] += 1
    return changed


def _place_changed(adatas: list[Any]) -> list[Any]:
    changed = [a.copy() for a in adatas]
    changed[2].obsm["spatial"][7, 0] += 0.25
    return changed


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (None, {"seed": 2}, ["option seed: 1 -> 2"]),
        (None, {"n_domains": None, "reflection": "never"}, ["n_domains: 3 -> none", "reflection: auto -> never"]),
        (None, {"anchor": "C"}, ["anchor: none -> C"]),
        (None, {"gap": 25}, ["section 'C', depth in µm: 40.0 -> 50.0"]),
        (None, {"names": ["A 1/left", "<b>B</b> $2", "D"]}, ["sections: ", "C -> A 1/left, <b>B</b> $2, D"]),
        (None, {"feature_key": "layer"}, ["kind of features: counts -> categories"]),
        (_counts_changed, {}, ["section '<b>B</b> $2', features: other contents"]),
        (_place_changed, {}, ["section 'C', coordinates: other contents"]),
    ],
    ids=["seed", "options", "anchor", "gap", "names", "features", "one count", "one place"],
)
def test_run_of_other_inputs_or_options_is_refused_with_the_difference(
    interrupted: Path, reconstruct: Any, three_sections: list[Any], change: Any, options: Any, said: list[str]
) -> None:
    """Exactly what differs is named, what agrees is not, and not a byte in the folder changes."""
    before = _content(interrupted)
    adatas = three_sections if change is None else change(three_sections)
    with pytest.raises(InputError) as refused:
        reconstruct(adatas, out=interrupted, resume=True, **options)
    message = str(refused.value)
    for part in said:
        assert part in message
    assert "section 'A 1/left'" not in message.replace("section 'A 1/left', features", "") or "features" in options
    assert "version" not in message
    assert _content(interrupted) == before


def test_new_version_of_a_library_is_refused(interrupted: Path, reconstruct: Any) -> None:
    """Other versions compute other bits: the library is named with both versions."""
    path = interrupted / ".steps" / "fingerprint.json"
    marks = json.loads(path.read_text())
    now = marks["version of numpy"]
    marks["version of numpy"] = "1.0"
    path.write_text(json.dumps(marks))
    with pytest.raises(InputError, match=f"version of numpy: 1.0 -> {now}"):
        reconstruct(out=interrupted, resume=True)


def test_plain_run_starts_afresh_and_says_so(interrupted: Path, reconstruct: Any, stop_after: Any) -> None:
    """Not silently reused: told how to go on; the old results stay until the new run has its own first one."""
    heard: list[Any] = []
    before = _content(interrupted)

    def listen(event: Any) -> None:
        heard.append(event)
        if event.step == "features" and event.state == "start":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(out=interrupted, progress=listen)
    (note,) = [event.message for event in heard if event.state == "note"]
    assert "3 results" in note
    assert "--resume" in note
    assert _content(interrupted) == before
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(out=interrupted, seed=2)
    assert [p.name for p in steps.kept(interrupted / ".steps")] == ["step-features.npz"]
    assert json.loads((interrupted / ".steps" / "fingerprint.json").read_text())["option seed"] == 2


def test_resume_where_there_is_nothing_simply_starts(tmp_path: Path, reconstruct: Any, stop_after: Any) -> None:
    """An empty folder, and one that does not exist; files of somebody else are refused as ever."""
    (tmp_path / "empty").mkdir()
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(out=tmp_path / "empty", resume=True)
    assert len(steps.kept(tmp_path / "empty" / ".steps")) == 1
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="overwrite"):
        reconstruct(out=tmp_path / "foreign", resume=True)
    with pytest.raises(InputError, match="found both"):
        reconstruct(out=tmp_path / "new", resume=True, overwrite=True)


def test_damaged_result_is_computed_again(interrupted: Path, reconstruct: Any, stop_after: Any) -> None:
    """A result that is cut short, and one of another run, count as not there."""
    path = interrupted / ".steps" / "step-pairs-0-1.npz"
    path.write_bytes(path.read_bytes()[:200])
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(out=interrupted, resume=True)
    assert path.stat().st_size > 200
    assert len(steps.kept(interrupted / ".steps")) == 3


def test_two_runs_in_one_folder_are_refused(interrupted: Path, reconstruct: Any) -> None:
    """The second one is told that the folder is in use; when the first one is gone it can be resumed."""
    pytest.importorskip("fcntl")
    marks = steps.kept_fingerprint(interrupted / ".steps")
    with (
        steps.Store(interrupted / ".steps", marks).opened(resume=True),
        pytest.raises(InputError, match="at work there"),
    ):
        reconstruct(out=interrupted, resume=True)
    with steps.Store(interrupted / ".steps", marks).opened(resume=True) as store:
        assert store.load("features")[0]


def test_swallowed_ctrl_c_stops_the_run_after_the_step(tmp_path: Path) -> None:
    """A library that loses the exception delays Ctrl-C to the end of the step, whose result is kept; no longer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def deaf() -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return 7

    try:
        store = steps.Store(tmp_path / "kept", {"option seed": 1})
        with pytest.raises(KeyboardInterrupt), store.opened(resume=False):
            steps.Steps(Watch(), store).run("deaf", "loses a Ctrl-C", deaf)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with store.opened(resume=True):
            assert store.load("deaf") == (True, 7)
    finally:
        signal.signal(signal.SIGINT, before)


def test_checkpoint_in_a_folder_of_its_own(tmp_path: Path, reconstruct: Any, stop_after: Any) -> None:
    """``checkpoint=`` keeps the steps of a run that writes no files; files of the user's there survive."""
    place = tmp_path / "kept"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "align_pairs", _interrupt)
        reconstruct(checkpoint=place)
    assert [p.name for p in steps.kept(place)] == ["step-features.npz"]
    store = steps.Store(place, steps.kept_fingerprint(place))
    store.remove()
    assert [p.name for p in place.iterdir()] == ["notes.txt"]


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(reconstruction: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its fingerprint."""
    return outputs.write(reconstruction, tmp_path_factory.mktemp("done") / "out", fingerprint={"option seed": 1})


def test_finished_run_of_other_options_is_not_resumed(finished: Path, reconstruct: Any) -> None:
    """``resume`` in the folder of another finished run: refused with the difference, nothing touched."""
    before = _content(finished)
    with pytest.raises(InputError, match="option seed: 1 -> 2"):
        reconstruct(out=finished, resume=True, seed=2)
    with pytest.raises(InputError, match="overwrite"):
        reconstruct(out=finished)
    assert _content(finished) == before


def test_overwriting_run_takes_the_sign_of_the_finished_one_away_first(
    finished: Path, tmp_path: Path, reconstruct: Any, stop_after: Any
) -> None:
    """A run that replaces a finished one and is interrupted leaves no ``run.json``, and can be resumed."""
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(out=out, overwrite=True)
    assert not (out / "run.json").exists()
    with steps.Store(out / ".steps", steps.kept_fingerprint(out / ".steps")).opened(resume=True) as store:
        assert store.load("pairs 0-1")[0]


@pytest.mark.parametrize("number", range(4))
def test_full_disk_while_the_files_are_written_leaves_none_of_them_half(
    number: int, reconstruction: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full at the first, second, … file: one message with its name; earlier files whole, no ``run.json``."""
    to_disk, written = files._to_disk, []

    def full(path: Path) -> None:
        if path.is_file():
            written.append(path)
            if len(written) > number:
                raise OSError(errno.ENOSPC, "No space left on device")
        to_disk(path)

    monkeypatch.setattr(files, "_to_disk", full)
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="the disk is full") as refused:
        outputs.write(reconstruction, out)
    names = sorted(p.name for p in out.rglob("*") if p.is_file())
    assert len(names) == number
    assert not any(files.is_temporary(name) for name in names)
    assert str(out) in str(refused.value)
    if "atlas.h5ad" in names:
        assert anndata.read_h5ad(out / "atlas.h5ad").n_obs == reconstruction.atlas.n_obs


def test_full_disk_while_a_step_is_kept_stops_the_run_with_one_message(
    tmp_path: Path, reconstruct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No result is half there, and the folder of a run that kept nothing is taken away again."""

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_to_disk", full)
    with pytest.raises(OutputError, match=r"fingerprint\.json.*the disk is full"):
        reconstruct(out=tmp_path / "out")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_remains_of_a_killed_write_are_removed(reconstruction: Any, tmp_path: Path) -> None:
    """Temporary files that a killed run left go away when the next one writes; hidden files of others stay."""
    (tmp_path / "couplings").mkdir()
    for name in (".atlas~0123456789ab.h5ad", "couplings/.000_a--b~0123456789ab.npz", ".gitkeep", "couplings/.x~1.npz"):
        (tmp_path / name).write_text("half")
    outputs.write(reconstruction, tmp_path)
    hidden = sorted(p.name for p in tmp_path.rglob(".*"))
    assert hidden == [".gitkeep", ".x~1.npz"]

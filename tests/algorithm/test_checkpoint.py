"""Checkpoints: resumed to the same bits, refused to another run, never half written."""

from __future__ import annotations

import shutil
import signal
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.algorithm import Algorithm, Chain, HostSource, fit
from spatialjax.algorithm import loop as loop_module
from spatialjax.tiles import Tile


@lru_cache
def descent(*, rate=0.5):
    """Noisy descent to the mean of the data; the state also holds a key, a counter and an empty array."""

    def init(key, data, start=None):
        return {"at": jnp.zeros(2) if start is None else start, "key": key, "turn": 0, "empty": jnp.zeros((3, 0))}

    def step(key, state, data):
        x, tolerance = data
        gap = x.mean(0) - state["at"]
        at = state["at"] + rate * gap + 0.1 * jax.random.normal(key, (2,))
        loss = jnp.sum(gap**2)
        info = {"loss": loss, "turn": state["turn"], "done": loss < tolerance}
        return {**state, "at": at, "turn": state["turn"] + 1}, info

    return Algorithm(init, step, lambda key, state, data: (state["at"], data[0] - state["at"]))


def data_of(seed, rows=4, tolerance=0.0):
    return np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32), np.float32(tolerance)


def members():
    return [data_of(0), data_of(1), data_of(2, 6)]


CHAIN = Chain(descent(), lambda done, data: ((done.result[1][:3], data[1]), done.result[0]), descent(rate=0.25))


def leaves_of(fits):
    """Everything that two runs must share, to the bit."""
    parts = []
    for each in fits if isinstance(fits, list) else [fits]:
        parts += [each.steps, each.status]
        for leaf in jax.tree.leaves((each.result, each.state, each.history)):
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            leaf = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            parts += [leaf.dtype, leaf.tolist()]
    return parts


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Python's own handler of Ctrl-C, also where the tests were started in the background with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop_at(label, steps, *, how):
    """A progress callback that interrupts the run, as Ctrl-C would, by an exception or by the signal itself."""

    def report(progress):
        if progress.label == label and progress.steps >= steps:
            if how == "signal":
                signal.raise_signal(signal.SIGINT)
            else:
                raise KeyboardInterrupt

    return report


def interrupt(algorithm, key, data, *, at, directory, by="exception", **options):
    label, steps = at
    with pytest.raises(KeyboardInterrupt):
        fit(algorithm, key, data, checkpoint=directory, progress=stop_at(label, steps, how=by), **options)


def resume(algorithm, key, data, *, directory, **options):
    """The fits, and the steps of the first report of each label: where the run went on."""
    reports = []
    found = fit(algorithm, key, data, checkpoint=directory, progress=reports.append, **options)
    begun = {}
    for report in reports:
        begun.setdefault(report.label, report.steps)
    return found, begun


@pytest.mark.parametrize(("by", "kept"), [("exception", 4), ("signal", 6)])
def test_an_interrupted_run_goes_on_to_the_same_bits_with_another_chunk_length(key, tmp_path, by, kept):
    """Ctrl-C leaves a checkpoint of the last whole chunk; the signal handler is put back."""
    wanted = fit(descent(), key, data_of(0), max_steps=11)
    handler = signal.getsignal(signal.SIGINT)
    interrupt(descent(), key, data_of(0), at=("", 4), directory=tmp_path, by=by, max_steps=11, chunk=2)
    assert signal.getsignal(signal.SIGINT) is handler
    assert [place.name for place in (tmp_path / "run").iterdir()] == [str(kept)]
    found, begun = resume(descent(), key, data_of(0), directory=tmp_path, max_steps=11, chunk=5)
    assert begun == {"": kept}
    assert leaves_of(found) == leaves_of(wanted)


def test_ctrl_c_in_the_last_chunk_is_not_lost(key, tmp_path):
    """It comes after the run has nothing more to do: the run is kept, and the interruption goes up all the same."""
    interrupt(descent(), key, data_of(0), at=("", 6), directory=tmp_path, by="signal", max_steps=6, chunk=2)
    found, begun = resume(descent(), key, data_of(0), directory=tmp_path, max_steps=6)
    assert begun == {"": 6}
    assert leaves_of(found) == leaves_of(fit(descent(), key, data_of(0), max_steps=6))


def test_a_resumed_run_compiles_nothing_new(key, tmp_path, count_compilations):
    """Arrays from a checkpoint are not bound to a device, which would make another program of each."""
    fit(descent(), key, data_of(0), max_steps=6, checkpoint=tmp_path)
    with count_compilations() as compiled:
        fit(descent(), key, data_of(0), max_steps=9, checkpoint=tmp_path)
    assert compiled() == 0


def test_without_a_checkpoint_ctrl_c_is_left_alone(key):
    with pytest.raises(KeyboardInterrupt):
        fit(descent(), key, data_of(0), max_steps=6, chunk=2, progress=stop_at("", 2, how="signal"))


def test_a_finished_run_is_extended_by_a_larger_budget_and_not_by_a_smaller_one(key, tmp_path):
    fit(descent(), key, data_of(0), max_steps=4, checkpoint=tmp_path)
    found, begun = resume(descent(), key, data_of(0), directory=tmp_path, max_steps=11, chunk=3)
    assert begun == {"": 4}
    assert leaves_of(found) == leaves_of(fit(descent(), key, data_of(0), max_steps=11))
    with pytest.raises(ValueError, match=r"at most max_steps=5 steps, found one of 11: raise max_steps"):
        fit(descent(), key, data_of(0), max_steps=5, checkpoint=tmp_path)


def test_a_list_interrupted_in_its_second_member_goes_on_there(key, tmp_path):
    wanted = fit(descent(), key, members(), max_steps=9, how="map")
    at = ("member 2 of 3", 4)
    interrupt(descent(), key, members(), at=at, directory=tmp_path, max_steps=9, chunk=2, how="map")
    found, begun = resume(descent(), key, members(), directory=tmp_path, max_steps=9, chunk=7, how="map")
    assert begun == {"member 1 of 3": 9, "member 2 of 3": 4, "member 3 of 3": 0}
    assert leaves_of(found) == leaves_of(wanted)


def test_a_group_under_vmap_goes_on_with_each_member_where_it_was(key, tmp_path):
    """One member has stopped before the interruption, its history and status are kept."""
    data = [data_of(0), data_of(1, tolerance=0.2)]
    wanted = fit(descent(), key, data, max_steps=9, how="vmap")
    assert wanted[1].steps < 4
    at = ("members 1, 2 of 2", 6)
    interrupt(descent(), key, data, at=at, directory=tmp_path, max_steps=9, chunk=6, how="vmap")
    found, begun = resume(descent(), key, data, directory=tmp_path, max_steps=9, chunk=2, how="vmap")
    assert begun == {"members 1, 2 of 2": 6}
    assert leaves_of(found) == leaves_of(wanted)


@pytest.mark.parametrize(("phase", "begun"), [(1, {1: 2, 2: 0}), (2, {1: 5, 2: 2})])
def test_a_chain_interrupted_in_a_phase_goes_on_there(key, tmp_path, phase, begun):
    wanted = fit(CHAIN, key, data_of(0), max_steps=(5, 6))
    at = (f"phase {phase} of 2", 2)
    interrupt(CHAIN, key, data_of(0), at=at, directory=tmp_path, max_steps=(5, 6), chunk=2)
    found, first = resume(CHAIN, key, data_of(0), directory=tmp_path, max_steps=(5, 6), chunk=3)
    assert first == {f"phase {number} of 2": steps for number, steps in begun.items()}
    assert leaves_of(found) == leaves_of(wanted)


def test_a_run_from_a_host_source_goes_on_within_a_sweep(key, tmp_path):
    table = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32)
    none = np.zeros((24, 0), np.float32)

    def part(t):
        rows = np.arange(4, dtype=np.int32) + 4 * (t % 6)
        return Tile((table[t % 6], np.float32(0)), rows, rows < 24, none)

    base = descent()
    tiled = Algorithm(
        lambda key, tile, start=None: base.init(key, tile.values, start),
        lambda key, state, tile: base.step(key, state, tile.values),
        lambda key, state, tile: base.readout(key, state, tile.values),
    )
    source = HostSource(part, 6)
    wanted = fit(tiled, key, source, max_steps=8)
    fit(tiled, key, source, max_steps=3, checkpoint=tmp_path)
    found, begun = resume(tiled, key, source, directory=tmp_path, max_steps=8)
    assert begun == {"": 3}
    assert leaves_of(found) == leaves_of(wanted)
    table[0] += 1
    with pytest.raises(ValueError, match=r"Different: data \(there"):
        fit(tiled, key, source, max_steps=8, checkpoint=tmp_path)


def test_a_run_that_is_done_or_not_finite_stays_so(key, tmp_path):
    for folder, tolerance, status in (("done", 9.0, "done"), ("broken", 0.0, "not finite")):
        x, tolerance = data_of(0, tolerance=tolerance)
        data = (x * np.nan, tolerance) if status == "not finite" else (x, tolerance)
        for _ in range(2):
            if status == "done":
                found = fit(descent(), key, data, max_steps=5, checkpoint=tmp_path / folder)
            else:
                with pytest.warns(RuntimeWarning, match="not finite after 1 steps"):
                    found = fit(descent(), key, data, max_steps=5, checkpoint=tmp_path / folder)
            assert (found.steps, found.status) == (1, status)


@pytest.mark.parametrize("other", ["step", "data", "start", "key", "versions"])
def test_the_checkpoint_of_another_run_is_refused_and_the_difference_named(key, tmp_path, monkeypatch, other):
    """That difference and no other is in the message."""
    algorithm, data, start = descent(), data_of(0), np.zeros(2, np.float32)
    fit(algorithm, key, data, start=start, max_steps=3, checkpoint=tmp_path)
    if other == "step":
        algorithm = descent(rate=0.25)
    elif other == "data":
        data = (data[0] + 1, data[1])
    elif other == "start":
        start = start + 1
    elif other == "key":
        key = jax.random.key(1)
    else:
        monkeypatch.setattr(loop_module, "environment", lambda: {"versions": "jax 0.0.1", "device": "cpu"})
    with pytest.raises(ValueError, match="found one of another run") as caught:
        fit(algorithm, key, data, start=start, max_steps=6, checkpoint=tmp_path)
    named = str(caught.value).partition("Different: ")[2].partition(". Repeat that run")[0]
    assert named.startswith({"step": "step (code, options or shapes)"}.get(other, other) + " (there ")
    assert "; " not in named
    assert "resume=False" in str(caught.value)


def test_another_company_of_a_member_is_named(key, tmp_path):
    """Under ``vmap`` the bits of a member depend on the members beside it."""
    fit(descent(), key, members()[:2], max_steps=3, checkpoint=tmp_path, how="vmap")
    with pytest.raises(ValueError, match=r"place in the list \(there members 1, 2 of 2, here member 1 of 2\)"):
        fit(descent(), key, members()[:2], max_steps=3, checkpoint=tmp_path, how="map")


def test_starting_over_removes_the_checkpoints_and_nothing_else(key, tmp_path):
    fit(descent(), key, data_of(0), max_steps=3, checkpoint=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "running").mkdir()
    found = fit(descent(rate=0.25), key, data_of(0), max_steps=2, checkpoint=tmp_path, resume=False)
    assert leaves_of(found) == leaves_of(fit(descent(rate=0.25), key, data_of(0), max_steps=2))
    assert sorted(place.name for place in tmp_path.iterdir()) == ["notes.txt", "run", "running"]
    assert [place.name for place in (tmp_path / "run").iterdir()] == ["2"]


def test_a_write_cut_short_is_ignored_and_swept_away(key, tmp_path, monkeypatch):
    """The last write dies before it is whole; the run goes on from the one before."""
    import orbax.checkpoint as ocp

    fit(descent(), key, data_of(0), max_steps=2, checkpoint=tmp_path)
    save = ocp.Checkpointer.save

    def dies(self, directory, **arguments):
        save(self, directory, **arguments)
        half = directory.with_name(f"{directory.name}.orbax-checkpoint-tmp-7")
        directory.rename(half)
        shutil.rmtree(half / "arrays")
        raise OSError("no space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", dies)
    with pytest.raises(OSError, match="no space left"):
        fit(descent(), key, data_of(0), max_steps=5, checkpoint=tmp_path)
    monkeypatch.undo()
    (tmp_path / "run" / "5" / "arrays").mkdir(parents=True)
    assert len(list((tmp_path / "run").iterdir())) == 3
    for budget, goes_on_at in ((5, 2), (6, 5)):
        found, begun = resume(descent(), key, data_of(0), directory=tmp_path, max_steps=budget)
        assert begun == {"": goes_on_at}
        assert leaves_of(found) == leaves_of(fit(descent(), key, data_of(0), max_steps=budget))
        assert [place.name for place in (tmp_path / "run").iterdir()] == [str(budget)]


def test_long_runs_are_saved_on_the_way(key, tmp_path, monkeypatch):
    """By the clock, each replacing the one before."""
    monkeypatch.setattr(loop_module, "SAVE_SECONDS", 0.0)
    seen = []

    def look(report):
        folder = tmp_path / "run"
        seen.append(sorted(place.name for place in folder.iterdir()) if folder.is_dir() else [])

    fit(descent(), key, data_of(0), max_steps=6, chunk=2, checkpoint=tmp_path, progress=look)
    assert seen == [[], [], ["2"], ["4"]]


def test_no_steps_leave_no_checkpoint(key, tmp_path):
    fit(descent(), key, data_of(0), max_steps=0, checkpoint=tmp_path / "new")
    assert not (tmp_path / "new").exists()

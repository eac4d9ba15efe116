"""Ctrl-C at several moments of a run in a process of its own, and where Python drops the exception."""

from __future__ import annotations

import os
import signal
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from spatialjax.atlas.interrupted import heeding, remembered
from spatialjax.atlas.watch import Watch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals and process servers of a POSIX system")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import interruption  # noqa: E402

#: Lines of progress after which the signal is sent: input, features, pairs, domains, outputs.
MOMENTS = (2, 4, 6, 10, 16)


class Thing:
    """Something that a weak reference can point to."""


@pytest.fixture
def usual_answer() -> Any:
    """The usual answer to Ctrl-C, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def drop_ctrl_c() -> None:
    """Ctrl-C inside the callback of a weak reference, where Python drops the exception."""
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    assert reference() is None


@pytest.mark.usefixtures("usual_answer")
def test_ctrl_c_that_python_drops_ends_the_work_at_the_next_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is raised in the callback and nothing printed; the next event of the run raises."""
    heard: list[Any] = []
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    with remembered() as interrupted:
        watch = Watch(heeding(heard.append, interrupted))
        watch.say("before")
        drop_ctrl_c()
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            watch.say("after")
    assert [event.message for event in heard] == ["before"]
    assert capsys.readouterr().err == ""
    assert (sys.unraisablehook, signal.getsignal(signal.SIGINT)) == (hook, handler)


@pytest.mark.usefixtures("usual_answer")
def test_ctrl_c_acts_at_once_as_ever() -> None:
    """Where the exception is not dropped, it is raised on the spot."""
    with remembered() as interrupted:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted()


def _interruptible(words: list[str], log: str) -> None:
    """The command line with the usual answer to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interruption.command(words, log)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a run over two tiny sections, without its folder."""
    paths = interruption.write_sections(tmp_path_factory.mktemp("sections"), number=2)
    return ["reconstruct", *map(str, paths), "--units", "um", "--n-domains", "2", "--method", "moments"]


@pytest.mark.parametrize("lines", MOMENTS)
def test_an_interrupted_run_leaves_nothing_half_finished(words: list[str], lines: int, tmp_path: Path) -> None:
    """Exit code 130 without ``run.json``, or 0 with all files; whole files only, no traceback."""
    out, log = tmp_path / "out", tmp_path / "log"
    process = interruption.server().Process(target=_interruptible, args=([*words, "--out", str(out)], str(log)))
    process.start()
    while process.is_alive() and (not log.exists() or log.read_bytes().count(b"\n") < lines):
        time.sleep(0.01)
    if process.is_alive():
        os.kill(process.pid, signal.SIGINT)
    process.join(interruption.PATIENCE)
    said = log.read_text()
    assert process.exitcode in (130, 0), said
    assert "Traceback" not in said
    if process.exitcode == 0:
        assert interruption.looks_wrong(out) == ["run.json is there"] and interruption.left_behind(out) == []
    else:
        assert "interrupted" in said
        assert interruption.looks_wrong(out) in ([], ["run.json is there"])
        assert "holds a finished run" in said or not (out / "run.json").exists()

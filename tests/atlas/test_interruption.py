"""Whole processes that end badly: SIGKILL, Ctrl-C, a closed pipe, a disk without room."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals and process servers of a POSIX system")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import interruption  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Any:
    """Processes that start with the package imported."""
    return interruption.server()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a run over three tiny sections, without its folder."""
    paths = interruption.write_sections(tmp_path_factory.mktemp("sections"))
    return ["reconstruct", *map(str, paths), "--units", "um", "--n-domains", "3", "--method", "moments"]


def _with_closed_pipe(words: list[str], log: str) -> None:
    """The command line with both outputs in a pipe whose reader leaves after the first line, as ``head -1`` does."""
    reader, writer = os.pipe()
    for stream in (1, 2):
        os.dup2(writer, stream)
    os.close(writer)

    def read_one_line() -> None:
        with os.fdopen(reader, "rb", buffering=0) as lines:
            Path(log).write_bytes(lines.readline())

    threading.Thread(target=read_one_line).start()
    sys.argv = ["spatialjax", *words]
    from spatialjax import cli

    cli.main()


def _with_small_files(words: list[str], log: str) -> None:
    """The command line where no file may be larger than 40 kB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    interruption.command(words, log)


def _interruptible(words: list[str], log: str) -> None:
    """The command line with the usual answer to Ctrl-C, also where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interruption.command(words, log)


def _killed_inside_a_write(words: list[str], log: str) -> None:
    """The command line, killed when ``atlas.h5ad`` is written and has not got its name yet."""
    from spatialjax.atlas import files

    to_disk = files._to_disk

    def kill(path: Path) -> None:
        if path.suffix == ".h5ad":
            os.kill(os.getpid(), signal.SIGKILL)
        to_disk(path)

    files._to_disk = kill
    interruption.command(words, log)


@pytest.fixture(scope="module")
def whole(server: Any, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, str]:
    """A run left in peace, but for the reader of its output, who leaves: folder, seconds, and what was read."""
    home = tmp_path_factory.mktemp("whole")
    process = server.Process(
        target=_with_closed_pipe, args=([*words, "--out", str(home / "out"), "--keep-checkpoint"], str(home / "log"))
    )
    began = time.perf_counter()
    process.start()
    process.join(interruption.PATIENCE)
    assert process.exitcode == 0
    return home / "out", time.perf_counter() - began, (home / "log").read_text()


def test_closed_pipe_does_not_stop_the_work(whole: tuple[Path, float, str]) -> None:
    """The reader saw the first line only; the run is finished all the same, with exit code 0."""
    folder, _, read = whole
    assert read.startswith("spatialjax ")
    assert read.count("\n") == 1
    assert (folder / "run.json").exists()
    assert interruption.looks_wrong(folder) == ["run.json is there"]


def test_killed_runs_leave_nothing_that_looks_finished_and_end_with_the_same_bits(
    server: Any, words: list[str], whole: tuple[Path, float, str], tmp_path: Path
) -> None:
    """SIGKILL at four random moments: no ``run.json``, whole files only; resumed, the bits of the run left in peace."""
    folder, seconds, _ = whole
    rng = np.random.default_rng(3)
    rows, wrong = interruption.kill_and_resume(server, words, tmp_path / "out", kills=4, rng=rng, seconds=seconds)
    assert rows, "every run finished before it was killed"
    assert [row["wrong"] for row in rows] == [[] for _ in rows]
    assert wrong == []
    assert interruption.unlike(interruption.outcome(folder), interruption.outcome(tmp_path / "out")) == []


@pytest.fixture
def ready(whole: tuple[Path, float, str], tmp_path: Path) -> Path:
    """The folder of a run that was killed before its files were written."""
    shutil.copytree(whole[0] / ".steps", tmp_path / "out" / ".steps")
    return tmp_path / "out"


def test_kill_inside_a_write_leaves_no_file_under_its_name(
    server: Any, words: list[str], whole: tuple[Path, float, str], ready: Path
) -> None:
    """Killed between the last byte and the name: a temporary file alone, which the resumed run removes."""
    log = ready.with_suffix(".log")
    process = server.Process(target=_killed_inside_a_write, args=([*words, "--out", str(ready), "--resume"], str(log)))
    process.start()
    process.join(interruption.PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    (temporary,) = [p for p in ready.iterdir() if p.name != ".steps"]
    assert temporary.name.startswith(".atlas~")
    assert interruption.looks_wrong(ready) == []
    code, _ = interruption.run(server, [*words, "--out", str(ready), "--resume"], log)
    assert code == 0, log.read_text()
    assert interruption.left_behind(ready) == []
    assert interruption.unlike(interruption.outcome(whole[0]), interruption.outcome(ready)) == []


def test_disk_without_room_is_one_message_and_exit_code_1(server: Any, words: list[str], ready: Path) -> None:
    """The system refuses a large file: its name, the reason, how to go on; no traceback, no half file, no crash."""
    log = ready.with_suffix(".log")
    process = server.Process(target=_with_small_files, args=([*words, "--out", str(ready), "--resume"], str(log)))
    process.start()
    process.join(interruption.PATIENCE)
    said = log.read_text()
    assert process.exitcode == 1, said
    assert said.count("error:") == 1
    assert re.search(r"atlas\.h5ad.*larger than the system allows", said)
    assert said.rstrip().endswith("--resume")
    assert "Traceback" not in said
    assert {p.name for p in ready.iterdir()} == {".steps"}
    assert interruption.looks_wrong(ready) == []


def test_ctrl_c_says_how_to_go_on(server: Any, words: list[str], ready: Path) -> None:
    """Exit code 130 and a sentence with the very command that goes on; the steps are still there."""
    for name in ("couplings", "domains", "pairs-0-2"):
        (ready / ".steps" / f"step-{name}.npz").unlink()
    log = ready.with_suffix(".log")
    process = server.Process(target=_interruptible, args=([*words, "--out", str(ready), "--resume"], str(log)))
    process.start()
    while process.is_alive() and not (log.exists() and "pairs: 3 pairs" in log.read_text()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(interruption.PATIENCE)
    said = log.read_text()
    assert process.exitcode == 130, said
    assert "Traceback" not in said
    assert "interrupted" in said
    last = said.rstrip().splitlines()[-1]
    assert last.endswith("--resume")
    assert str(ready) in last
    assert interruption.looks_wrong(ready) == []
    assert (ready / ".steps" / "step-features.npz").exists()


def test_finished_run_has_nothing_to_resume(server: Any, words: list[str], whole: tuple[Path, float, str]) -> None:
    """``--resume`` of a finished run of the same sections and options: exit code 0, and nothing is written."""
    folder = whole[0]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    log = folder.with_suffix(".log")
    code, _ = interruption.run(server, [*words, "--out", str(folder), "--resume"], log)
    assert code == 0, log.read_text()
    assert "nothing is left to do" in log.read_text()
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    code, _ = interruption.run(server, [*words, "--out", str(folder), "--resume", "--seed", "5"], log)
    assert code == 2
    assert "option seed: 0 -> 5" in log.read_text()
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before

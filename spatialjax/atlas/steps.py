"""The steps of a run: each result is computed once, kept where asked for, and read back by a run that goes on.

A step is a name and a pure function of earlier results::

    placed = steps.run("pose graph", "all sections together", lambda: place(stack, results))

What it returns is anything that ``records`` can keep. Every result passes through the form that it has on disk, kept
or not, so that a run that reads it goes on with the same bits as the run that computed it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spatialjax.atlas import records
from spatialjax.atlas.files import atomically, folder_made, remove_temporaries
from spatialjax.atlas.fingerprint import differences, mark_of
from spatialjax.atlas.interrupted import remembered
from spatialjax.atlas.watch import Watch
from spatialjax.checks import InputError

#: Name of the folder with the results of the steps inside the output folder.
FOLDER = ".steps"
_FINGERPRINT = "fingerprint.json"
_LOCK = "lock"
_RESULT = re.compile(r"step-[a-z0-9-]+\.npz")


class Store:
    """The results of the steps of one run, one file each.

    Parameters
    ----------
    folder
        Where they are kept; made when the run begins.
    fingerprint
        What the bits of the run depend on, see ``fingerprint_of``.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = folder
        self.fingerprint = dict(fingerprint)
        self._mark = mark_of(self.fingerprint)
        self._fresh = True
        self._interrupted: Callable[[], bool] = lambda: False

    @contextlib.contextmanager
    def opened(self, *, resume: bool) -> Iterator[Store]:
        """Hold the folder for one run; a second run in it is refused.

        Without ``resume`` what another run left is replaced as soon as this one has a result of its own, and not
        before: who notices in time can still go back and resume.

        Parameters
        ----------
        resume
            Go on from the results in the folder; an empty or a missing folder simply starts.

        Raises
        ------
        InputError
            If another run works in the folder, or ``resume`` meets results of another run: the message names what
            differs, and nothing is touched.
        OutputError
            If the folder cannot be made.
        """
        found = kept_fingerprint(self.folder)
        if resume and found is not None:
            refuse_another(found, self.fingerprint, where=self.folder)
        made = not self.folder.is_dir()
        folder_made(self.folder)
        with _held(self.folder / _LOCK), remembered() as self._interrupted:
            self._fresh = not (resume and found is not None)
            try:
                yield self
            finally:
                if made and not kept(self.folder):
                    self.remove()

    def load(self, name: str) -> tuple[bool, Any]:
        """Whether there is a result of that name to go on from, and the result; a damaged one counts as none."""
        path = self._path(name)
        if self._fresh or not path.is_file():
            return False, None
        try:
            return True, records.read(path, mark=self._mark)
        except ValueError:
            return False, None

    def save(self, name: str, result: Any) -> None:
        """Keep a result, whole or not at all.

        Raises
        ------
        OutputError
            If the system refuses to write.
        TypeError
            If the result cannot be kept.
        KeyboardInterrupt
            When the result is kept, if a Ctrl-C came that the code of a library has swallowed.
        """
        if self._fresh:
            self._clear()
            text = json.dumps(self.fingerprint, indent=1)
            atomically(self.folder / _FINGERPRINT, lambda path: path.write_text(text + "\n", encoding="utf-8"))
            self._fresh = False
        atomically(self._path(name), lambda path: records.write(path, result, mark=self._mark))
        if self._interrupted():
            raise KeyboardInterrupt

    def remove(self) -> None:
        """Remove the results and, where nothing else is in it, the folder."""
        self._clear()
        (self.folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's is in it
            self.folder.rmdir()

    def _clear(self) -> None:
        (self.folder / _FINGERPRINT).unlink(missing_ok=True)
        remove_temporaries(self.folder)
        for path in kept(self.folder):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"step-{re.sub('[^a-z0-9]+', '-', name.lower())}.npz"


def kept(folder: Path) -> list[Path]:
    """The files with results in a folder, whosever they are."""
    return sorted(path for path in folder.iterdir() if _RESULT.fullmatch(path.name)) if folder.is_dir() else []


def kept_fingerprint(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of the run that the results in a folder belong to; None where there is nothing to go on from."""
    try:
        found = json.loads((folder / _FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def refuse_another(there: Mapping[str, Any], here: Mapping[str, Any], *, where: Path) -> None:
    """Refuse to go on from a run with other inputs or options.

    Parameters
    ----------
    there, here
        Fingerprint of the run that was begun, and of the one that is asked for.
    where
        The folder, for the message.

    Raises
    ------
    InputError
        If they differ; each difference with the value there and here.
    """
    different = differences(there, here)
    if different:
        raise InputError(
            f"Expected {str(where)!r} to hold a run of the same sections and options to resume, found another one "
            f"(there -> here): {different}. Repeat that run as it was, choose another folder, or start afresh: leave "
            "resume (--resume) out, and replace a run that has finished there with overwrite (--overwrite)."
        )


class Steps:
    """Runs steps, reports them, and keeps or reads back their results.

    Parameters
    ----------
    watch
        Measures and reports.
    store
        Where results are kept; None keeps nothing.
    """

    def __init__(self, watch: Watch, store: Store | None = None) -> None:
        self._watch = watch
        self._store = store

    def run(self, name: str, message: str, make: Callable[[], Any]) -> Any:
        """The result of one step.

        Parameters
        ----------
        name
            Name of the step, different from all others.
        message
            What it does, in words.
        make
            Computes the result.
        """
        with self._watch.step(name, message):
            return self._result(name, make)

    def run_each(self, name: str, message: str, makes: Mapping[str, Callable[[], Any]]) -> list[Any]:
        """The results of one step of many parts, each kept when it is there.

        Parameters
        ----------
        name, message
            As for :meth:`run`.
        makes
            Name of each part, different from all others of the step -> what computes it.
        """
        with self._watch.step(name, message):
            return [self._result(f"{name} {part}", make) for part, make in makes.items()]

    def _result(self, name: str, make: Callable[[], Any]) -> Any:
        there, result = (False, None) if self._store is None else self._store.load(name)
        if there:
            self._watch.count_restored()
            return result
        result = make()
        if self._store is not None:
            self._store.save(name, result)
        return records.settled(result)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends; none where the system or the disk has no locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        file = path.open("w")
    except OSError:  # a full disk says so when the first result is written
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Expected no other run in {str(path.parent)!r}, found one at work there. Wait for it, stop it, or "
                "choose another folder."
            ) from error
        except OSError:
            pass  # the file system has no locks
        yield

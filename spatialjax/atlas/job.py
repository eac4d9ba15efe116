"""The main job with its folder: where it may write, what it goes on from, and when it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialjax.atlas import files, outputs, run, steps
from spatialjax.atlas.fingerprint import differences, fingerprint_of
from spatialjax.atlas.intake import Intake
from spatialjax.atlas.reconstruction import Options, Reconstruction
from spatialjax.atlas.watch import Watch


@dataclass(frozen=True)
class Destination:
    """Where a run writes, and what it does with what it finds there.

    Attributes
    ----------
    out
        Folder of the files of the run; None for a result in memory only.
    checkpoint
        Folder where the result of each step is kept until the run is finished; ``.steps`` in ``out`` where left out.
    resume
        Go on from the results that an interrupted run kept; start where there are none.
    overwrite
        Replace the files of an earlier run in ``out``.
    keep_checkpoint
        Keep the results of the steps after the run, too.
    """

    out: Path | None = None
    checkpoint: Path | None = None
    resume: bool = False
    overwrite: bool = False
    keep_checkpoint: bool = False

    @property
    def steps(self) -> Path | None:
        """The folder with the results of the steps; None where nothing is kept."""
        if self.checkpoint is not None or self.out is None:
            return self.checkpoint
        return self.out / steps.FOLDER

    def check(self) -> None:
        """Refuse a folder that cannot be used; nothing is written, no data needed.

        Raises
        ------
        InputError
            If ``out`` holds what may not be replaced, or a folder cannot be written to.
        """
        if self.out is not None:
            outputs.check_directory(self.out, overwrite=self.overwrite, resume=self.resume)
        if self.checkpoint is not None:
            outputs.writable_directory(self.checkpoint)

    def waiting(self) -> int:
        """Number of results that wait for a run to go on from them."""
        if self.steps is None or steps.kept_fingerprint(self.steps) is None:
            return 0
        return len(steps.kept(self.steps))


def finished_before(entry: Intake, options: Options, destination: Destination) -> dict[str, Any] | None:
    """The run card where a run of the same sections and options has finished in ``out``; None where none has.

    Parameters
    ----------
    entry
        The opened sections.
    options
        Checked options.
    destination
        Where the run writes.
    """
    card = None if destination.out is None else files.finished_card(destination.out)
    if card is None or not card.get("fingerprint"):
        return None
    here = fingerprint_of(entry.stack, options, beside=entry.beside)
    return None if differences(card["fingerprint"], here) else card


def run_job(
    entry: Intake, options: Options, destination: Destination, *, watch: Watch | None = None, source: str = ""
) -> Reconstruction:
    """Reconstruct opened sections and write the files, going on from an interrupted run where asked to.

    The result of each step is kept in ``destination.steps`` as soon as it is there; ``run.json``, the sign of a
    finished run, is written last, and then the kept results are removed. A run that goes on from kept results ends
    with the same bits as one that was never interrupted.

    Parameters
    ----------
    entry
        The opened sections.
    options
        Checked options.
    destination
        Where the run writes, checked.
    watch
        Measures and reports the steps.
    source
        The command or call that made the run, for the record.

    Raises
    ------
    InputError
        If there is a run of other sections or options to go on from (nothing is touched then), or another process is
        at work in the folder.
    OutputError
        If the system refuses to write, e.g. on a full disk.
    """
    watch = Watch() if watch is None else watch
    if destination.steps is None:
        return run.reconstruct_stack(entry.stack, options, watch=watch, layout=entry.layout, beside=entry.beside)
    fingerprint = fingerprint_of(entry.stack, options, beside=entry.beside)
    waiting = destination.waiting()
    finished = None if destination.out is None else outputs.finished_fingerprint(destination.out)
    if destination.resume and not waiting and finished is not None:
        steps.refuse_another(finished, fingerprint, where=destination.out)
    store = steps.Store(destination.steps, fingerprint)
    with store.opened(resume=destination.resume):
        if waiting and not destination.resume:
            watch.note(
                f"{str(destination.steps)!r} holds {waiting} results of an interrupted run. This run starts afresh and "
                "replaces them at its first result; to go on from them instead, stop it now and repeat it with resume "
                "(--resume)."
            )
        if destination.out is not None:
            outputs.unfinish(destination.out)
        result = run.reconstruct_stack(
            entry.stack, options, watch=watch, layout=entry.layout, store=store, beside=entry.beside
        )
        if destination.out is not None:
            outputs.write(result, destination.out, watch=watch, source=source, fingerprint=fingerprint)
        if not destination.keep_checkpoint:
            store.remove()
    return result

"""A run that begins with the results of another one, as far as what differs between the two does not touch them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from spatialjax.atlas import steps
from spatialjax.atlas.fingerprint import differences, fingerprint_of
from spatialjax.atlas.hand import Decisions
from spatialjax.atlas.intake import Intake
from spatialjax.atlas.job import Destination
from spatialjax.atlas.pairs import pairs_of
from spatialjax.atlas.reconstruction import Options
from spatialjax.checks import InputError

#: Options that neither the features nor the alignment of a pair depends on, decisions about other pairs among them.
LATER = ("option decisions", "option anchor", "option reflection", "option n_domains")


def begun_from(earlier: str | Path | None, entry: Intake, options: Options, *, destination: Destination) -> Destination:
    """Where a run goes on once the features and the untouched pairs of an earlier one are in its folder.

    Parameters
    ----------
    earlier
        Output folder of a run that kept its steps (``keep_checkpoint``), or the folder of these steps; None to begin
        with nothing.
    entry
        The opened sections.
    options
        Checked options.
    destination
        Where the run writes, checked.

    Raises
    ------
    InputError
        If the earlier run kept nothing, or differs in more than what comes after the pairs; the difference is named.
    """
    if earlier is None or (destination.resume and destination.waiting()):
        return destination
    if destination.steps is None:
        raise InputError("Expected out= beside reuse=: the results of the steps are kept there. Give out=.")
    folder = Path(earlier)
    folder = folder / steps.FOLDER if (folder / steps.FOLDER).is_dir() else folder
    there = steps.kept_fingerprint(folder)
    if there is None:
        raise InputError(
            f"Expected the kept steps of an earlier run in {str(earlier)!r}, found none. Repeat that run with "
            "keep_checkpoint (--keep-checkpoint), or leave reuse (--reuse) out."
        )
    here = fingerprint_of(entry.stack, options, beside=entry.beside)
    other = differences(_early(there), _early(here))
    if other:
        raise InputError(
            f"Expected {str(earlier)!r} to hold a run of the same sections, features and method, found another one "
            f"(there -> here): {other}. Leave reuse (--reuse) out."
        )
    anew = _redone(there.get("option decisions"), options.decisions)
    names = [(f"pairs {a}-{b}", {entry.stack.names[a], entry.stack.names[b]}) for a, b in pairs_of(len(entry.layout))]
    wanted = ["features", *(name for name, ends in names if ends not in anew)]
    with steps.Store(folder, there).opened(resume=True) as old:
        found = [(name, *old.load(name)) for name in wanted]
    with steps.Store(destination.steps, here).opened(resume=False) as new:
        for name, is_there, result in found:
            if is_there:
                new.save(name, result)
    return replace(destination, resume=True)


def _early(fingerprint: dict[str, Any]) -> dict[str, Any]:
    here = {name: value for name, value in fingerprint.items() if name not in LATER}
    return {name: value for name, value in here.items() if not name.startswith("reference, ")}


def _redone(there: dict[str, Any] | None, here: Decisions | None) -> list[set[str]]:
    """Pairs that were aligned anew in one of the two runs and not in the same way in the other."""
    before = {(r["source"], r["target"], r["method"], r["seed"]) for r in (there or {}).get("redo", ())}
    now = {(r.source, r.target, r.method, r.seed) for r in (here.redo if here is not None else ())}
    return [{source, target} for source, target, _, _ in before ^ now]

"""What a method is, and the card that says where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from spatialjax.algorithm import Algorithm, Fit, fit


class Method(NamedTuple):
    """A published method: host work, the algorithm on the device, host work.

    Attributes
    ----------
    prepare
        ``(*slices) -> data`` on the host: graphs, features, searches whose shapes depend on the data.
    algorithm
        What ``fit`` runs on ``data``.
    finish
        ``(result, *slices) -> result`` on the host.
    max_steps
        Default number of steps.
    """

    prepare: Callable[..., Any]
    algorithm: Algorithm
    finish: Callable[..., Any]
    max_steps: int | tuple[int, ...]


@dataclass(frozen=True)
class Card:
    """Where a method comes from, what it needs and how faithful it is.

    Attributes
    ----------
    name
        Name of the method in the table.
    task
        Task of the method, a key of the table.
    summary
        One line.
    citation
        Key of the entry in ``docs/references.bib``, or None for a method of this package.
    expects
        What the features must be: ``"embedding"`` (shared by the sections), ``"counts"``, ``"log1p"``,
        ``"proportions"`` (of cell types), ``"labels"`` (one partition a column) or ``"none"``.
    returns
        Name of the result type.
    default_steps
        Default number of steps.
    fidelity
        ``"verified"`` (agrees with the authors' code or a published figure), ``"published"`` (follows the paper),
        ``"reconstruction"`` (no text or code beyond an abstract) or ``"ours"``.
    evidence
        What the fidelity rests on.
    licence
        Licence situation of the authors' code.
    notes
        Where paper and code differ, which one is followed and why.
    most_spots
        Largest section that the front door gives the method, where its memory grows with the square of the spots.
    """

    name: str
    task: str
    summary: str
    citation: str | None
    expects: Literal["embedding", "counts", "log1p", "proportions", "labels", "none"]
    returns: str
    default_steps: int | tuple[int, ...]
    fidelity: Literal["verified", "published", "reconstruction", "ours"]
    evidence: str
    licence: str
    notes: str = ""
    most_spots: int | None = None


def as_given(*slices: Any) -> tuple[Any, ...]:
    """The ``prepare`` of a method that works on the slices themselves."""
    return slices


def unchanged(result: Any, *slices: Any) -> Any:
    """The ``finish`` of a method whose read-out is its result."""
    del slices
    return result


def run(method: Method, key: Any, members: Sequence[tuple[Any, ...]], **options: Any) -> list[Fit]:
    """Apply ``method`` to each member (a tuple of slices); members of one shape share one compiled program.

    Parameters
    ----------
    method
        What a factory returned.
    key
        Random key.
    members
        One tuple of slices for each run, e.g. (source, target).
    options
        Passed to ``fit``.

    Returns
    -------
    list
        One ``Fit`` a member, with the finished result.
    """
    data = [method.prepare(*slices) for slices in members]
    options.setdefault("max_steps", method.max_steps)
    fits = fit(method.algorithm, key, data, **options)
    return [f._replace(result=method.finish(f.result, *slices)) for f, slices in zip(fits, members, strict=True)]

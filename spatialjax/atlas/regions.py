"""Spatial domains of one section or of many: what stands behind ``tl.domains``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spatialjax import graphs
from spatialjax.atlas.chosen import made, method_name
from spatialjax.atlas.region_number import chosen_number, number_stability
from spatialjax.atlas.region_values import Given, given_to
from spatialjax.atlas.watch import Event, Watch
from spatialjax.checks import InputError
from spatialjax.slices import bucket, make_slice

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.clustering import Stability

#: Members that agree less than this with the others (adjusted Rand index) make a partition of their own.
COMPETING = 0.6
#: Shrinkage of the mixture that divides an embedding. The authors of most methods take none, so that the scale of a
#: column does not matter; a little keeps the mixture from poor optima.
_SHRINKAGE = 0.1


@dataclass(frozen=True, eq=False)
class Regions:
    """Domains of a tissue.

    Attributes
    ----------
    adata
        A copy of the input with ``obs[key]`` (names ``"0"`` for the largest domain, ``"1"``, …), ``obs[key +
        "_confidence"]``, ``obsm[key + "_embedding"]`` where the method learns one, and ``uns[key]``.
    labels
        (n,) domain of each cell, in input order.
    confidence
        (n,) from 0 to 1: share of the members that agree for ``"consensus"``, else the probability of the domain.
    embedding
        (n, p) features that the domains were found in; None where the method has none.
    number
        Number of domains asked for or chosen.
    stability
        Agreement for each number that was tried; None where the number was given.
    competing
        Share of the members in each partition that the members fall into; more than one says that the tissue can be
        divided in several ways. Empty for methods without members.
    genes
        Domain -> its strongest genes, each with its fold change, adjusted p-value and the shares of cells that show it
        inside and outside; empty where the features are no genes.
    converged
        Whether the method met its own stopping rule.
    messages
        What was found, assumed or done.
    """

    adata: AnnData
    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    embedding: Float[np.ndarray, "n p"] | None
    number: int
    stability: Stability | None
    competing: tuple[float, ...]
    genes: dict[str, list[dict[str, Any]]]
    converged: bool
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RegionOptions:
    """What was asked for; see :func:`domains`."""

    n_domains: int | None
    method: str
    key_added: str
    seed: int
    method_options: Mapping[str, Any]
    refine: int = 0


def domains(
    adata: AnnData | Sequence[AnnData],
    n_domains: int | None = None,
    method: str = "auto",
    *,
    slice_key: str | None = None,
    key_added: str = "domain",
    feature_key: str | None = None,
    layer: str | None = None,
    spatial_key: str = "spatial",
    duplicates: str = "error",
    method_options: Mapping[str, Any] | None = None,
    refine: int = 0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | Callable[[Event], None] = True,
) -> Regions:
    """Divide tissue sections into spatial domains.

    Parameters
    ----------
    adata
        One section; or several, in one object with ``slice_key`` or in a list. Coordinates may be in any unit.
    n_domains
        Number of domains; the most stable one of 2 to 15 where left out, and the others are in the result.
    method
        ``"auto"`` for the consensus of this package, or a method of ``METHODS["domains"]``.
    slice_key
        Column of ``obs`` that names the section of each cell. Cells of different sections are never neighbours;
        features are centred and scaled in each section, and the domains are common to all.
    key_added
        Under which name the result is stored.
    feature_key
        ``obsm[feature_key]`` (components, proportions, …) or the categories ``obs[feature_key]`` instead of genes.
    layer
        Layer with the values of the genes; ``X`` where left out. Counts are normalised, log values and floats taken as
        they are.
    spatial_key
        Where the coordinates are, ``obsm[spatial_key]``.
    duplicates
        ``"error"`` refuses several cells at one place, ``"allow"`` accepts them.
    method_options
        Options of the method's factory.
    refine
        Where above 0, so many nearest spots of the section vote, and a spot takes the domain that most of them have
        where it is more than have the spot's own; its confidence is then their share. GraphST's authors take 50.
    seed
        Seed of every random choice.
    checkpoint
        Folder where a method that trains keeps its state, so that an interrupted run can go on.
    resume
        Go on from there; where False the folder is begun anew.
    progress
        Whether to show the steps, or a function that is called with every ``Event``.

    Returns
    -------
    Regions
        The input is not changed: ``.adata`` is a copy with the result.

    Raises
    ------
    InputError
        If the input or an option cannot be used; before any long work.

    Examples
    --------
    >>> import spatialjax as sj
    >>> result = sj.tl.domains(adata, n_domains=7)  # doctest: +SKIP
    >>> result.adata.obs["domain"].value_counts()  # doctest: +SKIP
    """
    from spatialjax.atlas.console import listening
    from spatialjax.atlas.region_output import assembled
    from spatialjax.io import open_sections

    options = RegionOptions(
        n_domains, method_name("domains", method), key_added, seed, dict(method_options or {}), _voters(refine)
    )
    if resume and checkpoint is None:
        raise InputError("Expected a folder to go on from with resume, found none. Give checkpoint=.")
    with listening(progress) as listener:
        watch = Watch(listener)
        with watch.step("input", "reading the sections"):
            stack = open_sections(
                adata, slice_key=slice_key, feature_key=feature_key, layer=layer, spatial_key=spatial_key,
                duplicates=duplicates, at_least=1, lengths=False,
            )  # fmt: skip
            given = given_to(stack, options.method)
            _check_number(options.n_domains, stack)
        result, stability, number = divided(stack, given, options, watch=watch, checkpoint=checkpoint, resume=resume)
        with watch.step("genes", "genes of the domains"):
            return assembled(adata, stack, result, options=options, stability=stability, number=number)


def divided(
    stack: Any,
    given: Given,
    options: RegionOptions,
    *,
    watch: Watch,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> tuple[Any, Stability | None, int]:
    """Domains of an opened stack: the method's result, the stability over numbers, and the number.

    Parameters
    ----------
    stack
        What ``io.open_sections`` returned.
    given
        Features of the method.
    options
        Checked options.
    watch
        Reports the steps.
    checkpoint, resume
        As in :func:`domains`.
    """
    from spatialjax import methods

    key = jax.random.key(options.seed)
    section = np.repeat(np.arange(len(stack.sections)), [len(s.xy) for s in stack.sections])
    xy = np.concatenate([_in_spacings(s.xy) for s in stack.sections])
    member = make_slice(given.values, xy, capacity=bucket(len(xy)), extra={"section": section.astype(np.int32)})
    number, stability = options.n_domains, None
    if number is None:
        with watch.step("number", "how many domains"):
            near = graphs.adjacency(graphs.within_sections(member, graphs.delaunay).edges)[: len(xy), : len(xy)]
            stability = number_stability(jax.random.fold_in(key, 1), given.components(), near, section=section)
            number = chosen_number(stability)
    method = made("domains", options.method, options.method_options, known={"n_domains": number})
    with watch.step("domains", f"{number} domains by {options.method!r}"):
        told = None if watch.listener is None else lambda p: watch.say(f"step {p.steps} of {p.max_steps}")
        (fit,) = methods.run(
            method, jax.random.fold_in(key, 2), [(member,)], progress=told, checkpoint=checkpoint, resume=resume
        )
        if fit.status == "not finite":
            raise InputError(
                f"Expected finite numbers from method {options.method!r}, found NaN after {fit.steps} steps. Choose "
                "another method, or look for extreme values in the features."
            )
        result = _as_domains(fit.result, member, number, jax.random.fold_in(key, 3))
        return (_voted(result, member, options.refine) if options.refine else result), stability, number


def _as_domains(result: Any, member: Any, number: int, key: Any) -> Any:
    """Domains of an embedding, by a mixture; domains as they are."""
    from spatialjax import clustering
    from spatialjax.results import Domains

    if isinstance(result, Domains):
        return result
    found = clustering.regions(key, result.values, member.mask, number=number, by="mixture", shrinkage=_SHRINKAGE)
    return found.replace(converged=found.converged & result.converged)


def _voted(result: Any, member: Any, voters: int) -> Any:
    """The domains after one vote of the nearest spots of the same section."""
    from spatialjax import clustering

    number = result.probability.shape[1]
    nearest = lambda xy: graphs.knn(xy, max(1, min(voters, len(xy) - 1)))
    near = graphs.within_sections(member.replace(edges=None), nearest).edges
    labels = clustering.refine(result.labels, near, number=number, mask=member.mask)
    poll = clustering.votes(result.labels, near, number=number, mask=member.mask)
    share = poll / jnp.maximum(poll.sum(1, keepdims=True), 1.0)
    changed = labels != result.labels
    result = result.replace(probability=jnp.where(changed[:, None], share, result.probability))
    if result.agreement is None:
        return result
    return result.replace(agreement=jnp.where(changed, share.max(1), result.agreement))


def _voters(refine: int) -> int:
    if isinstance(refine, bool) or not isinstance(refine, int | np.integer) or refine < 0:
        raise InputError(f"Expected refine (--refine) as a whole number of at least 0, found {refine!r}.")
    return int(refine)


def _in_spacings(xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Coordinates about their mean, in units of the spacing of the section."""
    spacing = graphs.spacing(xy).pitch
    return (xy - xy.mean(0)) / (spacing if np.isfinite(spacing) and spacing > 0 else 1.0)


def _check_number(number: int | None, stack: Any) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise InputError(f"Expected n_domains (--n-domains) as a whole number of at least 1, found {number!r}.")
    if number > stack.n_cells:
        raise InputError(
            f"Expected at most as many domains as cells, found n_domains={number} (--n-domains) for {stack.n_cells} "
            "cells."
        )

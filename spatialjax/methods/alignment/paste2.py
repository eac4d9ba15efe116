"""PASTE2: pairwise alignment of sections that overlap in part."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.distance import cdist

from spatialjax.algorithm import Algorithm
from spatialjax.graphs import knn
from spatialjax.methods.card import Card, Method
from spatialjax.registration.procrustes import both_parities
from spatialjax.results import Alignment
from spatialjax.slices import Neighbors, Slice
from spatialjax.transport import (
    EDGES,
    FusedProblem,
    OverlapProblem,
    OverlapRule,
    conditional_gradient,
    expression_cost,
    factored_distances,
    fused_problem,
    host_collapsed,
    partial_with_overlap,
    pitch,
    real_spots,
    scattered,
    squared_distances,
)

_NEIGHBORS = 4
#: Shares whose poses are looked at: that of a small one is noisy, that of a large one pulled where there is no partner.
_SHARES = (0.95, 0.8, 0.65, 0.5, 0.35, 0.2)
#: An estimated overlap below this is warned of.
_SMALL_OVERLAP = 0.25


@cache
def paste2(
    *,
    overlap: float | None = None,
    alpha: float = 0.1,
    dissimilarity: Literal["residuals", "kl", "euclidean"] = "residuals",
    scaling: Literal["common", "each"] = "common",
    estimate: Literal["pose", "edges"] = "pose",
    exact: bool = True,
    max_iterations: int = 200,
) -> Method:
    r"""Match a share of the spots of two sections by expression and by the distances within each section.

    Minimises :math:`(1-\alpha)\sum_{ij} M_{ij} T_{ij} + \alpha \sum_{ijkl} (C_{ik} - D_{jl})^2\, T_{ij} T_{kl}` over
    plans of mass ``overlap`` whose marginals stay within uniform ones, ``C`` and ``D`` being Euclidean (not squared)
    distances within the sections. The pose is the weighted Procrustes fit of the plan.

    On the device an annealed proximal solver, with the distances as thin factors, estimates the overlap where it is
    not given (see ``transport.partial_with_overlap``) and goes from the product coupling to a nearly sparse plan. On
    the host, conditional gradient with exact linear programmes and exact steps, in float64 with the distances
    themselves, is started from that plan and from the product coupling, as the authors do; the lower objective wins.

    Parameters
    ----------
    overlap
        Share of the spots of each section that the other one shows, in (0, 1]; None to estimate it.
    alpha
        Weight of the distances within the sections, in [0, 1].
    dissimilarity
        ``"residuals"``: distance in 50 principal components of Poisson deviance residuals; ``"kl"``: divergence
        between the rows of (counts + 0.01), each divided by its sum; ``"euclidean"``: distance of the features.
    scaling
        Unit of the distances within the sections. ``"common"``: the larger of the two extents becomes the largest
        expression cost; ``"each"``: each extent does.
    estimate
        How the overlap is told from plans of several shares. ``"pose"``: of the poses of these plans, the one that
        brings most spots by a spot of like expression, says how many have any spot of the other section within a pitch.
        ``"edges"``: the authors' rule, see ``transport.EDGES``.
    exact
        Whether to finish on the host; without it the plan keeps a little entropy.
    max_iterations
        Largest number of linear programmes from each start.

    Returns
    -------
    Method
        For a pair (source, target) of slices with the same genes as features. Result: ``Alignment`` with both
        parities, the better first; ``evidence`` is minus the root mean squared distance (µm) of matched places.
        ``overlap`` is the share of each source spot that is matched; the sum of ``plan`` is the overlap that was given
        or estimated. ``converged`` is False where the plan is no better than the product of its marginals.

    Raises
    ------
    ValueError
        If an option is out of range; from ``prepare``: if the genes differ, a section is empty, or counts are negative
        where counts are needed.

    Warns
    -----
    RuntimeWarning
        If the plan collapsed to the product of its marginals: its pose says nothing. If the overlap was estimated at
        less than a quarter: most pairs of sections share more, and the pose rests on few spots.

    Notes
    -----
    *As published / as coded.* The paper's default expression cost is the distance of GLM-PCA factors, an iterative fit
    from a random start; its closed-form approximation is taken here. The code scales each section by its own extent,
    so that one and the same distance counts differently in a whole section and in a part of it: ``"each"`` does the
    same, the default does not. The code starts from ``a ⊗ b`` of mass 1, which no plan of a smaller mass may have; here
    it has the mass of the plan. The code's Procrustes fit reflects the section in silence where that fits better; here
    the same map comes first, the best one of the other parity second. The authors' rule for the overlap looks for the
    share at which matched and unmatched spots are mixed most; on whole sections (breast, 250 spots) the hull of a few
    matched spots is mixed more by chance, and the rule says .1 to .2 where the sections are one tissue, so that it is
    not the default. ``"edges"`` takes the edges of the whole section's 4-neighbour graph that lie in the hull of the
    matched spots, the code those of a new graph inside it; a spot counts as matched here when more than half of its
    mass is. The variant with histology is left out.

    References
    ----------
    Liu, Zeira, Raphael (2023), Genome Research 33.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected alpha in [0, 1], found {alpha}.")
    if dissimilarity not in ("residuals", "kl", "euclidean"):
        raise ValueError(f"Expected dissimilarity 'residuals', 'kl' or 'euclidean', found {dissimilarity!r}.")
    if scaling not in ("common", "each"):
        raise ValueError(f"Expected scaling 'common' or 'each', found {scaling!r}.")
    if estimate not in _RULES:
        raise ValueError(f"Expected estimate 'pose' or 'edges', found {estimate!r}.")

    def prepare(source: Slice, target: Slice) -> dict[str, Any]:
        problem = _problem(source, target, dissimilarity=dissimilarity, scaling=scaling)
        return {"overlap": _padded(problem, source, target, alpha=alpha), "points": (source.xy, target.xy)}

    def finish(result: Alignment, source: Slice, target: Slice) -> Alignment:
        if not exact:
            return result
        masks = np.asarray(source.mask), np.asarray(target.mask)
        plan = np.asarray(result.plan, np.float64)[np.ix_(*masks)]
        share = _told(round(float(plan.sum()), 3)) if overlap is None else overlap
        problem = _problem(source, target, dissimilarity=dissimilarity, scaling=scaling)
        problem |= {name: cdist(problem[name], problem[name]) for name in ("source", "target")}
        runs = [
            conditional_gradient(**problem, alpha=alpha, share=share, start=start, max_iterations=max_iterations)
            for start in (plan * (share / plan.sum()), None)
        ]
        best = min(runs, key=lambda run: run.objective)
        plan = best.plan.toarray()
        fused = FusedProblem(**problem, alpha=alpha)
        collapsed = host_collapsed(plan, fused, objective=best.objective, share=share)
        poses, residuals = both_parities(real_spots(source)[1], real_spots(target)[1], plan)
        excess = max(np.maximum(plan.sum(axis) - problem[name], 0).sum() for axis, name in ((1, "a"), (0, "b")))
        return Alignment(
            poses=poses,
            evidence=-residuals,
            overlap=scattered(np.clip(plan.sum(1) / problem["a"], 0, 1), masks[0]).astype(np.float32),
            plan=scattered(plan, *masks).astype(np.float32),
            objective=np.float64(best.objective),
            error=np.float64(max(excess, abs(plan.sum() - share)) / share),
            converged=np.bool_(best.converged and not collapsed),
            collapsed=collapsed,
        )

    return Method(prepare, _solver(overlap, estimate), finish, CARD.default_steps)


@cache
def _solver(overlap: float | None, estimate: str) -> Algorithm:
    solver = partial_with_overlap(overlap=overlap, rule=_RULES[estimate])

    def init(key: Any, data: dict[str, Any], start: Any = None) -> Any:
        return solver.init(key, data["overlap"], start)

    def step(key: Any, state: Any, data: dict[str, Any]) -> Any:
        return solver.step(key, state, data["overlap"])

    def readout(key: Any, state: Any, data: dict[str, Any]) -> Alignment:
        problem: OverlapProblem = data["overlap"]
        coupling = solver.readout(key, state, problem)
        poses, residuals = both_parities(*data["points"], coupling.plan)
        a = problem.fused.a
        return Alignment(
            poses=poses,
            evidence=-residuals,
            overlap=jnp.clip(coupling.plan.sum(1) / jnp.where(a > 0, a, 1), 0, 1),
            plan=coupling.plan,
            objective=coupling.objective,
            error=coupling.error,
            converged=coupling.converged,
            collapsed=coupling.collapsed,
        )

    return Algorithm(init, step, readout)


def _problem(source: Slice, target: Slice, *, dissimilarity: str, scaling: str) -> dict[str, np.ndarray]:
    """Linear cost, coordinates in the unit of the inner costs, and masses of the real spots, float64."""
    features, points = zip(*(real_spots(section) for section in (source, target)), strict=True)
    linear = expression_cost(*features, kind=dissimilarity)
    linear = linear if dissimilarity == "kl" else np.sqrt(linear)
    extents = [max(float(cdist(xy, xy).max()), 1e-12) for xy in points]
    extents = [max(extents)] * 2 if scaling == "common" else extents
    return {
        "linear": linear,
        "source": points[0] * (linear.max() / extents[0]),
        "target": points[1] * (linear.max() / extents[1]),
        "a": np.full(len(points[0]), 1 / len(points[0])),
        "b": np.full(len(points[1]), 1 / len(points[1])),
    }


def _padded(problem: dict[str, np.ndarray], source: Slice, target: Slice, *, alpha: float) -> OverlapProblem:
    """The problem as the device takes it: padded, with thin distances and neighbour tables."""
    masks = [np.asarray(section.mask) for section in (source, target)]
    inner = [factored_distances(problem[name], mask) for name, mask in zip(("source", "target"), masks, strict=True)]
    linear, a, b = (
        jnp.asarray(scattered(problem[name], *where), jnp.float32)
        for name, where in (("linear", masks), ("a", masks[:1]), ("b", masks[1:]))
    )
    fused = fused_problem(linear, *inner, a=a, b=b, alpha=alpha, normalise=False)
    edges = [_edges(problem[name], mask) for name, mask in zip(("source", "target"), masks, strict=True)]
    length = pitch(*(real_spots(section)[1] for section in (source, target)))
    return OverlapProblem(fused, source.xy, target.xy, *edges, pitch=jnp.float32(length))


def _edges(points: np.ndarray, mask: np.ndarray) -> Neighbors:
    """The nearest neighbours; an edge that both ends list counts half in each row, so that every edge counts once."""
    table, places = knn(points, _NEIGHBORS), np.flatnonzero(mask)
    mutual = (table.index[table.index] == np.arange(len(points))[:, None, None]).any(2)
    index = np.tile(np.arange(len(mask), dtype=np.int32)[:, None], (1, _NEIGHBORS))
    weight = np.zeros(index.shape, np.float32)
    index[places, : table.index.shape[1]] = places[table.index]
    weight[places, : table.index.shape[1]] = table.weight * np.where(mutual, 0.5, 1.0)
    return Neighbors(jnp.asarray(index), jnp.asarray(weight))


def _by_pose(plan: Float[Array, "n m"], data: OverlapProblem) -> Float[Array, "2"]:
    """What the pose of a plan gains in expression over random partners, and the overlap that it shows."""
    fused = data.fused
    poses, _ = both_parities(data.source, data.target, plan)
    middle = fused.b @ data.target
    squared = squared_distances(poses[0](data.source) - middle, data.target - middle)
    squared = jnp.where((fused.a > 0)[:, None] & (fused.b > 0)[None, :], squared, jnp.inf)
    near, seen = (squared.min(axis) <= data.pitch**2 for axis in (1, 0))
    cost = jnp.take_along_axis(fused.linear, squared.argmin(1)[:, None], axis=1)[:, 0]
    gain = jnp.sum(fused.a * near * (fused.linear @ fused.b - cost))
    return jnp.stack([gain, jnp.minimum(fused.a @ near, fused.b @ seen)])


def _of_best_pose(shares: Float[Array, " k"], notes: Float[Array, "2 k"]) -> Float[Array, ""]:
    """The overlap that the pose with the largest gain shows, not below half of the least share that was tried."""
    return jnp.clip(notes[1, jnp.argmax(notes[0])], 0.5 * shares[-1], 1)


_RULES = {"pose": OverlapRule(_by_pose, _of_best_pose, _SHARES), "edges": EDGES}


def _told(share: float) -> float:
    """The estimated overlap; says so where it is small."""
    if share < _SMALL_OVERLAP:
        warnings.warn(
            f"The overlap was estimated at {share:.0%} only, so that the pose rests on few spots: look at the aligned "
            "sections, or give overlap= if it is known to be larger.",
            RuntimeWarning,
            stacklevel=3,
        )
    return share


CARD = Card(
    name="paste2",
    task="alignment",
    summary="Partial fused Gromov–Wasserstein alignment; the overlap is given or estimated",
    citation="liu2023paste2",
    expects="counts",
    returns="Alignment",
    default_steps=1000,
    fidelity="published",
    evidence="conditional gradient with POT's linear programmes from the same start: same objective to 1e-6 (tests)",
    licence="BSD-3-Clause (authors' code)",
    notes=(
        "Overlap estimated from poses, by the authors' rule with estimate='edges'; closed-form deviance residuals in "
        "place of GLM-PCA; both sections in one unit of length; a feasible start; "
        "both parities returned; no histology."
    ),
    most_spots=10_000,
)

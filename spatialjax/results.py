"""What the methods return: pytrees with lazy methods and a ``converged`` field, never a silent failure."""

from __future__ import annotations

from typing import Any

from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.transforms import Affine


@struct.dataclass
class Alignment:
    """How a source section lies on a target section.

    Attributes
    ----------
    poses
        Candidate maps from source µm to target µm along a leading axis, the best first.
    evidence
        Score of each pose, larger is better (nats where the method has a likelihood); -inf on unused places.
    overlap
        For each source spot the probability that the target section shows the same place; 0 on padding.
    plan
        Transport plan between the spots where the method has one, else None.
    objective
        Final value of the method's own objective (smaller is better); NaN where it has none.
    error
        Largest marginal error of the plan in units of total mass; 0 where there is no plan.
    converged
        Whether the method met its own stopping rule, and the plan did not collapse.
    collapsed
        Whether the plan is, for all purposes, the product of its marginals, so that its pose says nothing; False where
        there is no plan.
    """

    poses: Affine
    evidence: Float[Array, "k"]
    overlap: Float[Array, "n"]
    plan: Float[Array, "n m"] | None
    objective: Float[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    collapsed: Bool[Array, ""] | bool = False

    @property
    def transform(self) -> Affine:
        """The best pose."""
        return self.poses[0]


@struct.dataclass
class Embedding:
    """Features learnt for each spot.

    Attributes
    ----------
    values
        (n, p); 0 on padding.
    converged
        Whether the method met its own stopping rule.
    """

    values: Float[Array, "n p"]
    converged: Bool[Array, ""]


@struct.dataclass
class DomainGenes:
    """Genes that the domains rest on.

    Attributes
    ----------
    score
        (K, g) how much each gene says of each domain, on a scale of the method's own; larger is more.
    false_discovery_rate
        (K, g) expected share of chance findings among the genes with at least this score.
    selected
        (K, g) whether the gene counts as one of the domain.
    """

    score: Float[Array, "k g"]
    false_discovery_rate: Float[Array, "k g"]
    selected: Bool[Array, "k g"]


@struct.dataclass
class Domains:
    """Regions of a tissue.

    Attributes
    ----------
    probability
        (n, K) share of each domain in each spot, each row sums to 1; 0 on padding.
    embedding
        (n, p) features that the domains were found in, 0 on padding; None where there are none.
    converged
        Whether the method met its own stopping rule.
    members
        (n, m) labels of each member, where the domains are a consensus of several partitions; 0 on padding.
    agreement
        (n,) share of the members that agree with the domain of the spot, 0 on padding; None without members.
    genes
        Genes of the domains, where the method finds them.
    """

    probability: Float[Array, "n k"]
    embedding: Float[Array, "n p"] | None
    converged: Bool[Array, ""]
    members: Int[Array, "n m"] | None = None
    agreement: Float[Array, "n"] | None = None
    genes: DomainGenes | None = None

    @property
    def labels(self) -> Int[Array, "n"]:
        """The domain with the largest share."""
        return self.probability.argmax(-1)

    @property
    def confidence(self) -> Float[Array, "n"]:
        """Share of the members that agree, where there are members; else the share of the domain."""
        return self.probability.max(-1) if self.agreement is None else self.agreement


@struct.dataclass
class CenterSlice:
    """One section that stands for several.

    Attributes
    ----------
    features
        Expression of its spots, ``left @ right``; 0 on padding.
    left, right
        Factors of the expression: how much of each part a spot has, and what the parts are.
    xy
        Coordinates of its spots (µm): those of the reference section.
    plans
        Transport plan from it to each section, padded like the sections.
    poses
        Map of each section into its frame, µm, along a leading axis.
    residuals
        Root mean squared distance of matched places of each section, µm.
    objective
        Weighted sum of the fused Gromov–Wasserstein objectives of the plans.
    error
        Largest marginal error of a plan.
    converged
        Whether the objective settled and no plan collapsed.
    collapsed
        Whether each plan is, for all purposes, the product of its marginals.
    """

    features: Float[Array, "n g"]
    left: Float[Array, "n r"]
    right: Float[Array, "r g"]
    xy: Float[Array, "n 2"]
    plans: tuple[Float[Array, "n m"], ...]
    poses: Affine
    residuals: Float[Array, " q"]
    objective: Float[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    collapsed: Bool[Array, " q"]


@struct.dataclass
class Proportions:
    """Composition of each spot.

    Attributes
    ----------
    values
        (n, K) share of the cells of each type, each row sums to 1; NaN in a spot without any count.
    abundance
        (n, K) number of cells of each type, on the scale of the reference's depth.
    converged
        Whether the method met its own stopping rule.
    sd
        (n, K) standard deviation of ``values``; None where the method states no uncertainty, like all that follows.
    low, high
        (n, K) ends of the 90 % interval of the share where the type is there; ``low`` is 0 where absence is likelier.
    present
        (n, K) probability that the type is there at all.
    """

    values: Float[Array, "n k"]
    abundance: Float[Array, "n k"]
    converged: Bool[Array, ""]
    sd: Float[Array, "n k"] | None = None
    low: Float[Array, "n k"] | None = None
    high: Float[Array, "n k"] | None = None
    present: Float[Array, "n k"] | None = None


@struct.dataclass
class CellMap:
    """Where each single cell of a reference lies among spots.

    Attributes
    ----------
    spots
        (m, t) rows of the most probable spots of each cell, the most probable first; -1 where there are fewer spots.
    probabilities
        (m, t) probability of each of these spots; those of all spots sum to 1.
    section
        (m,) number of the section with the largest probability.
    position
        (m, 2) expected place in that section, in the units of the spots' coordinates (µm where these are).
    sd
        (m,) root of the mean squared distance from that place, given the section, in the same units.
    confidence
        (m,) 1 - entropy / log(number of spots): 0 where all spots are alike, 1 where a single one is possible.
    converged
        Whether the method met its own stopping rule.
    evidence
        (m,) nats by which the profiles of the places where its type is explain the cell's counts better than the mean
        profile of the type: around 0, or below, where they tell nothing of its place. None where the method has no
        likelihood.
    placed
        (m,) probability that the cell is among those of the spots at all; None where every cell is placed.
    """

    spots: Int[Array, "m t"]
    probabilities: Float[Array, "m t"]
    section: Int[Array, " m"]
    position: Float[Array, "m 2"]
    sd: Float[Array, " m"]
    confidence: Float[Array, " m"]
    converged: Bool[Array, ""]
    evidence: Float[Array, " m"] | None = None
    placed: Float[Array, " m"] | None = None


#: Names of the fields of each result that have the spots first, and are cropped to the real spots on the host.
PER_SPOT: dict[type, tuple[str, ...]] = {
    Alignment: ("overlap",),
    Embedding: ("values",),
    Domains: ("probability", "embedding", "members", "agreement"),
    Proportions: ("values", "abundance", "sd", "low", "high", "present"),
}


def crop(result: Any, size: int) -> Any:
    """The result with its per-spot fields cropped to the first ``size`` spots; other fields stay whole.

    Raises
    ------
    TypeError
        If the per-spot fields of the result are not known.
    """
    if type(result) not in PER_SPOT:
        known = ", ".join(sorted(kind.__name__ for kind in PER_SPOT))
        raise TypeError(f"Expected one of the results {known}, found {type(result).__name__}: add it to PER_SPOT.")
    fields = {name: getattr(result, name) for name in PER_SPOT[type(result)]}
    return result.replace(**{name: value[:size] for name, value in fields.items() if value is not None})

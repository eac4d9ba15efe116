"""What the methods return: pytrees with lazy methods and a ``converged`` field, never a silent failure."""

from __future__ import annotations

from typing import Any

from flax import struct
from jaxtyping import Array, Bool, Float

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
        Whether the method met its own stopping rule.
    """

    poses: Affine
    evidence: Float[Array, "k"]
    overlap: Float[Array, "n"]
    plan: Float[Array, "n m"] | None
    objective: Float[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]

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


#: Names of the fields of each result that have the spots first, and are cropped to the real spots on the host.
PER_SPOT: dict[type, tuple[str, ...]] = {Alignment: ("overlap",), Embedding: ("values",)}


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
    return result.replace(**{name: getattr(result, name)[:size] for name in PER_SPOT[type(result)]})

"""Alignment methods of this package, by the steps of the front door.

The default method is run as the front door runs it, with the posterior that lets the edges of the sections have their
say; the others are what they are by themselves. A method that finds a map only gets its plan from the atlas' soft
matches of the sections that it brought together.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pair
import scipy.sparse as sp

from spatialjax.atlas import pairs
from spatialjax.atlas.assemble import in_input_order
from spatialjax.atlas.features import Prepared, prepare
from spatialjax.atlas.intake import open_in_order
from spatialjax.methods import DEFAULTS
from spatialjax.registration.coupling import soft_matches
from spatialjax.transforms import Affine

PAIR = (0, 1)
MATCHES = 6
MARGIN = 10.0


def call(source: Any, target: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The map and the plan."""
    method = options["method"]
    stack = open_in_order([source, target], names=["source", "target"], units="um").stack
    prepared = prepare(stack, method=method)
    if method == DEFAULTS["alignment"]:
        (found,) = pairs.align_pairs(prepared, [PAIR], method=method, key=jax.random.key(0))
        pose, plan, converged = found.poses[pairs.preferred(found, "auto")], None, found.status == "done"
    else:
        (fit,) = pairs.fit_pairs(prepared, [PAIR], method=method, key=jax.random.key(0))
        pose, plan = preferred(prepared, fit.result), fit.result.plan
        converged = bool(np.all(fit.result.converged))
    if plan is None:
        first, second = stack.sections
        plan = soft_matches(
            pose(first.xy),
            second.xy,
            features=prepared.embeddings[0],
            target_features=prepared.embeddings[1],
            bandwidth=max(first.pitch, second.pitch),
            k=MATCHES,
        )
    else:
        masks = [np.asarray(section.mask) for section in prepared.inputs]
        plan = sp.csr_matrix(np.asarray(plan)[np.ix_(*masks)])
    note = "" if converged else "reports that it did not converge"
    return {"plan": in_input_order(stack, PAIR, plan), "transform": (pose.matrix, pose.shift), "note": note}


def preferred(prepared: Prepared, result: Any) -> Affine:
    """The pose with the most evidence; a turned one only where it is clearly better."""
    poses, usable = pairs.fitted_poses(prepared, PAIR, result)
    evidence = pairs.scored(prepared, PAIR, poses).evidence
    evidence = np.where(usable & np.isfinite(evidence), evidence, -np.inf)
    return poses[int(np.argmax(evidence - MARGIN * np.asarray(poses.mirrored)))]


if __name__ == "__main__":
    pair.run(call, packages=("spatialjax", "jax", "numpy"))

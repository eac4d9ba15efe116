"""How long pairs take, warm and cold, and whether a second call compiles.

``python benchmarks/alignment_speed.py``

The default aligner on a simulated pair of 3,600 spots, features included, and on five pairs of 500 spots. Run on a
quiet machine; the load stands in the result. Fused Gromov–Wasserstein has a benchmark of its own
(``fused_gw_speed.py``).
"""

from __future__ import annotations

import resource
import time
from typing import Any

import jax
import numpy as np
import record

from spatialjax.methods import METHODS, run
from spatialjax.preprocess import shared_embedding
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import Slice, make_slice

TARGETS = {"one pair, 3,600 spots": "<= 10 s warm", "five pairs, 500 spots": "<= 1.5 s warm", "compiled": "0 warm"}


def prepared(stack: Any) -> list[Slice]:
    """Shared features and padding."""
    xy = [section.xy for section in stack.sections]
    embeddings = shared_embedding([section.counts for section in stack.sections], xy, kind="counts")
    return [make_slice(e, p - p.mean(0)) for e, p in zip(embeddings, xy, strict=True)]


def once(stacks: list[Any], seed: int) -> tuple[float, float]:
    """Seconds of features and of the alignment of one pair a stack."""
    start = time.perf_counter()
    members = [tuple(prepared(stack)[::-1]) for stack in stacks]
    middle = time.perf_counter()
    fits = run(METHODS["alignment"]["fields"](), jax.random.key(seed), members)
    jax.block_until_ready([fit.result.evidence for fit in fits])
    return middle - start, time.perf_counter() - middle


def main() -> None:
    """Time both cases."""
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    rows = []
    for case, spots, pairs in (("one pair, 3,600 spots", 3600, 1), ("five pairs, 500 spots", 500, 5)):
        key = jax.random.key(0)
        stacks = [
            simulate_tissue(jax.random.fold_in(key, i), n_sections=2, spots=spots, genes=1000) for i in range(pairs)
        ]
        cold = once(stacks, 0)
        before = len(compiled)
        warm = np.array([once(stacks, seed) for seed in range(1, 5)])
        features, alignment = warm[warm.sum(1).argmin()]
        rows.append(
            {
                "case": case,
                "spots": [section.counts.shape[0] for stack in stacks for section in stack.sections],
                "cold seconds": sum(cold),
                "warm seconds": features + alignment,
                "of these features": features,
                "compiled": len(compiled) - before,
                "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
        print(rows[-1])
    path = record.write("alignment_speed", rows, command="python benchmarks/alignment_speed.py", targets=TARGETS)
    print(path.name)


if __name__ == "__main__":
    main()

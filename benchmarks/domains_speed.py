"""How long STAGATE and GraphST take, an epoch and to the end of training.

``python benchmarks/domains_speed.py [--spots 3600] [--genes 3000] [--epochs 20] [--whole]``

One simulated section on a hexagonal lattice. Seconds an epoch are measured warm, on runs of ``--epochs`` epochs, and
multiplied by the published number of epochs; ``--whole`` trains to the end instead. The authors' code took 2.2 s
(STAGATE) and 4.2 s (GraphST) an epoch for 3,600 × 3,000 on two cores. Run on a quiet machine with two cores; the load
stands in the result.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import jax
import numpy as np
import record

from spatialjax.methods import METHODS
from spatialjax.methods.card import run
from spatialjax.preprocess import log_normalize
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import Slice, make_slice

#: Seconds an epoch of the authors' code, and how many times faster the method has to be.
AUTHORS = {"stagate": (2.2, 4.0), "graphst": (4.2, 10.0)}
TARGETS = {
    name: f">= {times:g} times as fast as the authors' {seconds} s an epoch"
    for name, (seconds, times) in AUTHORS.items()
}


def simulated(spots: int, genes: int) -> Slice:
    """A section of log1p expression."""
    stack = simulate_tissue(jax.random.key(0), n_sections=1, spots=spots, genes=genes, depth=4000.0)
    one = stack.sections[0]
    return make_slice(log_normalize(one.counts, target=1e4).toarray(), one.xy - one.xy.mean(0))


def seconds(name: str, section: Slice, steps: int) -> tuple[float, float]:
    """Seconds of a run with its preparation, and the last value of its loss."""
    start = time.perf_counter()
    fitted = run(METHODS["domains"][name](), jax.random.key(0), [(section,)], max_steps=steps)[0]
    jax.block_until_ready(fitted.result.values)
    return time.perf_counter() - start, float(fitted.history["loss"][-1])


def timed(name: str, section: Slice, *, epochs: int, whole: bool) -> dict[str, Any]:
    """Cold and warm times of one method."""
    published = METHODS["domains"][name]().max_steps
    cold, _ = seconds(name, section, 1)
    short = min(seconds(name, section, 1)[0] for _ in range(2))
    taken = published if whole else epochs
    warm, loss = seconds(name, section, taken + 1)
    an_epoch = (warm - short) / taken
    authors, _ = AUTHORS[name]
    return {
        "method": name,
        "spots": int(np.asarray(section.mask).sum()),
        "genes": section.features.shape[1],
        "epochs timed": taken,
        "seconds an epoch": an_epoch,
        "times the authors' speed": authors / an_epoch,
        "epochs": published,
        "seconds to the end": short + an_epoch * (published - 1),
        "of these preparation and read-out": short,
        "cold seconds before": cold - short,
        "last loss": loss,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Time the methods one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=3600)
    parser.add_argument("--genes", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=20, help="epochs that are timed")
    parser.add_argument("--whole", action="store_true", help="time all published epochs")
    parser.add_argument("--methods", nargs="+", choices=sorted(AUTHORS), default=sorted(AUTHORS))
    options = parser.parse_args()
    section = simulated(options.spots, options.genes)
    rows = []
    for name in options.methods:
        rows.append(timed(name, section, epochs=options.epochs, whole=options.whole))
        print(rows[-1])
    command = (
        f"python benchmarks/domains_speed.py --spots {options.spots} --genes {options.genes} "
        f"--epochs {options.epochs} --methods {' '.join(options.methods)}{' --whole' if options.whole else ''}"
    )
    print(record.write("domains_speed", rows, command=command, targets=TARGETS).name)


if __name__ == "__main__":
    main()

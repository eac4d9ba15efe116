"""Align a real stack and read the result: which section lies how, how sure that is, where each cell is.

Takes the four sections of a breast tumour (spatial arrays, pitch 200 µm) from the folder in ``$SPATIALJAX_DATA``.
Without that folder, or with ``--small``, it takes simulated sections.

    python examples/align_real_stack.py --out atlas/
    python examples/align_real_stack.py --small
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import spatialjax as sj


def sections(*, small: bool) -> list[Any]:
    """Sections in their order, one AnnData each; they carry the length of a unit of their coordinates."""
    if small:
        return sj.datasets.simulated(n_sections=3, spots=220, genes=80, crop=0.9)
    if sj.datasets.data_folder() is None:
        return sj.datasets.simulated()
    return sj.datasets.load("stahl")


def main(arguments: list[str] | None = None) -> Any:
    """Reconstruct the stack, print what was found, and write the atlas where ``--out`` says so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="three small simulated sections")
    parser.add_argument("--out", type=Path, help="folder to write the atlas, the report and the couplings to")
    options = parser.parse_args(arguments)

    result = sj.tl.reconstruct(sections(small=options.small), gap=10.0, out=options.out)

    print("Where the sections lie, in the frame of the anchor:")
    for name, placement in result.transforms.items():
        angle = np.degrees(placement.transform.angle)
        side = "turned over" if placement.transform.mirrored else "this side up"
        print(f"  {name}: " + (f"{angle:7.1f} degrees, {side}" if placement.placed else "not placed: no evidence"))
    print("What speaks for it (evidence in nats, and what unrelated sections reach by chance):")
    for pair in result.pairs:
        use = "used" if pair["used"] else "left out"
        print(f"  {pair['source']} on {pair['target']}: {pair['evidence']:.1f} against {pair['threshold']:.1f}, {use}")
    print("Do the pairs agree around each loop? (NaN: not even on which side is up)")
    for loop in result.metrics["loops"]:
        print(f"  {' - '.join(loop['sections'])}: {loop['angle_deg']:.2f} degrees, {loop['displacement_um']:.0f} µm")
    similarity = result.metrics["similarity"]
    print("Similarity of matched places: " + ", ".join(f"{name} {value:.3f}" for name, value in similarity.items()))
    for sentence in [*result.findings, *result.warnings]:
        print("Note:", sentence)

    atlas = result.atlas
    placed = atlas[atlas.obs["placed"].to_numpy(bool)]
    print(f"{placed.n_obs} of {atlas.n_obs} cells placed; the first one at {placed.obsm['spatial3d'][0].round(1)} µm")
    return result


if __name__ == "__main__":
    main()

"""What the golden cases share: a small section, reading single files of the authors' code, writing what came out.

It runs in an environment of the authors' code, so it needs numpy and torch only. Nothing of that code is kept here: it
is imported from the folder given by ``--source``.
"""

from __future__ import annotations

import argparse
import ast
import sys
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Distance of neighbouring spots, µm.
PITCH = 100.0
_GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "methods" / "golden"


def section(seed: int, *, rows: int = 6, columns: int = 10, genes: int = 30) -> dict[str, np.ndarray]:
    """Counts and log1p values of spots on a jittered hexagonal lattice, in three bands.

    Parameters
    ----------
    seed
        Of the generator.
    rows, columns
        Size of the lattice.
    genes
        Number of genes.
    """
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    xy = PITCH * np.stack([j + 0.5 * (i % 2), i * np.sqrt(3) / 2], -1).reshape(-1, 2)
    band = np.minimum(3 * j.ravel() // columns, 2)
    rate = rng.gamma(2.0, 1.0, (3, genes))[band]
    counts = rng.poisson(rate).astype(np.float32)
    xy = (xy + rng.uniform(-0.03, 0.03, xy.shape) * PITCH).astype(np.float32)
    depth = np.maximum(counts.sum(1, keepdims=True), 1.0)
    return {"xy": xy, "counts": counts, "x": np.log1p(counts / depth * 100.0).astype(np.float32), "band": band}


class Located:
    """What the authors' graph code asks of an AnnData: a length and coordinates."""

    def __init__(self, xy: np.ndarray) -> None:
        self.obsm = {"spatial": xy}

    def __len__(self) -> int:
        return len(self.obsm["spatial"])


def package(folder: Path, name: str) -> None:
    """Make the folder known as a package without running its ``__init__``, so that its files import each other.

    Parameters
    ----------
    folder
        Where the files are.
    name
        Name of the package.
    """
    shell = types.ModuleType(name)
    shell.__path__ = [str(folder)]
    sys.modules[name] = shell


def stand_in(name: str, **members: Any) -> None:
    """A module with some members, for an import that the code under test makes and does not use.

    Parameters
    ----------
    name
        Name of the module.
    members
        What it holds.
    """
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def part_of(folder: Path, file: str, *names: str, **known: Any) -> Any:
    """Some functions of a file whose imports are not at hand: only their definitions are run.

    Parameters
    ----------
    folder
        Where the file is.
    file
        Its name.
    names
        Functions and classes that are wanted; numpy and torch are known to them.
    known
        What else is known to them.
    """
    tree = ast.parse((folder / file).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    space: dict[str, Any] = {"np": np, "torch": torch, "nn": torch.nn, "F": torch.nn.functional, **known}
    exec(compile(tree, file, "exec"), space)
    return types.SimpleNamespace(**{name: space[name] for name in names})


def numbers(**tensors: Any) -> dict[str, np.ndarray]:
    """Arrays of float32 or as they are, from tensors.

    Parameters
    ----------
    tensors
        Tensors or arrays.
    """
    arrays = {k: v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for k, v in tensors.items()}
    return {k: np.array(v, np.float32) if v.dtype.kind == "f" else np.array(v) for k, v in arrays.items()}


def run(name: str, make: Callable[[Path], dict[str, Any]], *, packages: tuple[str, ...] = ("torch", "numpy")) -> None:
    """Make the case and write it.

    Parameters
    ----------
    name
        Name of the method.
    make
        From the folder of the authors' code to what is kept.
    packages
        Distributions whose versions are kept.
    """
    parser = argparse.ArgumentParser(description=f"Golden case of {name} from the authors' code.")
    parser.add_argument("--source", type=Path, required=True, help="folder with the authors' repository")
    parser.add_argument("--commit", default="", help="commit of that repository, kept with the case")
    parser.add_argument("--out", type=Path, default=_GOLDEN / f"{name}.npz")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    kept = numbers(**make(arguments.source.resolve()))
    kept["versions"] = np.array([f"{each} {version(each)}" for each in packages] + [f"commit {arguments.commit}"])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.out, **kept)
    sys.stdout.write(f"{arguments.out.name}: {arguments.out.stat().st_size / 1000:.1f} kB, {len(kept)} arrays\n")

"""Shared fixtures: CPU, one compilation cache for the session, tiny sections, the folder of real data."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Memory maps of a process from which on compiled programs are let go.
MANY_MAPS = 12_000
_OWN_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Set what JAX reads when it is imported, unless the caller has set it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("MPLBACKEND", "Agg")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.stash[_OWN_CACHE] = tempfile.mkdtemp(prefix="spatialjax-cache-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.stash[_OWN_CACHE]
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    if "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = _quick_flags()
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if config.option.durations is None:
        config.option.durations = 10


def _quick_flags() -> str:
    """Flags under which XLA compiles in less than half the time.

    Most of a test is the compilation of a program that then runs for a moment. Beside LLVM's passes, which are skipped,
    the emitters of fused loops by way of MLIR take longest. An unknown flag ends the process, and jaxlib 0.12 knows no
    other emitters.
    """
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cache that this session made."""
    if _OWN_CACHE in config.stash:
        shutil.rmtree(config.stash[_OWN_CACHE], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_let_go() -> Iterator[None]:
    """Each keeps several memory maps, of which a process may have 65,530 on Linux: a whole run would crash.

    Until they are many, what one module has compiled serves the next.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_text(encoding="utf-8").count("\n") > MANY_MAPS:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def optimized() -> Any:
    """``with optimized(): ...``: what is compiled in the block is compiled to run fast, for training of many steps."""
    import jax

    @contextlib.contextmanager
    def use() -> Iterator[None]:
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", False)
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", before)

    return use


@pytest.fixture(scope="module")
def optimized_module(optimized: Any) -> Iterator[None]:
    """What the tests of a module compile is compiled to run fast: where the same programs run many times."""
    with optimized():
        yield


@pytest.fixture
def key() -> Any:
    """A random key, the same in every test."""
    import jax

    return jax.random.key(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A numpy generator, the same in every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def compile_events() -> list[str]:
    """One entry for each program that XLA compiles (or takes from the cache on disk) from now on."""
    import jax

    events: list[str] = []

    def listen(event: str, duration: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return events


@pytest.fixture
def count_compilations(compile_events: list[str]) -> Any:
    """``with count_compilations() as compiled: ...; compiled()`` is the number of programs compiled in the block."""

    @contextlib.contextmanager
    def count() -> Iterator[Callable[[], int]]:
        before = len(compile_events)
        after: list[int] = []
        yield lambda: (after[0] if after else len(compile_events)) - before
        after.append(len(compile_events))

    return count


@pytest.fixture
def strict_numerics() -> Any:
    """Strict dtype and rank promotion inside the test: for code of this package that calls no other solver."""
    import jax

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def data_path() -> Path:
    """Folder of the real data sets: $SPATIALJAX_DATA, or ``../shared/data`` beside the source tree."""
    folder = Path(os.environ.get("SPATIALJAX_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: set $SPATIALJAX_DATA to a folder ({folder.name!r} was not found)")
    return folder


def tiny_section(
    n_spots: int = 120, n_genes: int = 40, *, seed: int = 0, angle: float = 0.0, mirrored: bool = False, name: str = "s"
) -> Any:
    """A section of a smooth tissue as AnnData: raw counts (csr), ``obsm['spatial']`` in µm on a grid of 100 µm.

    ``angle`` (radians) and ``mirrored`` move the coordinates only; ``seed`` draws the counts. All sections of equal
    sizes show the same tissue.
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    width = int(np.ceil(np.sqrt(n_spots * 1.6)))
    grid = np.stack(np.divmod(np.arange(n_spots), width)[::-1], 1) * 100.0
    unit = grid / grid.max()
    phase = np.random.default_rng(99).uniform(0, 2 * np.pi, (n_genes, 3))
    waves = np.sin(unit @ (phase[:, :2].T * 1.6 + 0.5) + phase[:, 2])
    counts = rng.poisson(6.0 * np.exp(1.2 * waves)).astype(np.int64)
    centre = grid.mean(0)
    xy = grid - centre
    if mirrored:
        xy = xy * np.array([1.0, -1.0])
    c, s = np.cos(angle), np.sin(angle)
    xy = xy @ np.array([[c, -s], [s, c]]).T + centre
    adata = anndata.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"{name}-{i}" for i in range(n_spots)]),
        var=pd.DataFrame(index=[f"gene{g}" for g in range(n_genes)]),
    )
    adata.obsm["spatial"] = xy
    adata.obs["layer"] = pd.Categorical(np.where(unit[:, 1] > np.median(unit[:, 1]), "upper", "lower"))
    return adata


@pytest.fixture(scope="session")
def make_adatas() -> Any:
    """Builder of tiny sections: ``make_adatas(count=2, *, n_spots, n_genes, angles, seed)`` gives a list of AnnData.

    Section ``i`` is named ``s{i}`` (the prefix of its cells), turned by ``angles[i]`` radians, with its own counts.
    """

    def build(count: int = 2, *, n_spots: int = 120, n_genes: int = 40, angles: Any = None, seed: int = 0) -> list[Any]:
        angles = [0.0] * count if angles is None else angles
        return [
            tiny_section(n_spots, n_genes, seed=seed + i, angle=angle, name=f"s{i}") for i, angle in enumerate(angles)
        ]

    return build

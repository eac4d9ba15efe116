"""Checkpoints of a run: written whole or not at all, continued only by the run that wrote them."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spatialjax.algorithm.sources import HostSource

_OURS = re.compile(r"(run|member-\d+)(-phase-\d+)?")
_CHECKPOINT = re.compile(r"\d+(\.orbax-checkpoint-tmp.*)?")

History = dict[str, np.ndarray]


def digest(tree: Any) -> str:
    """Digest of the values in a pytree; of a host source, of its first and last part."""
    total = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, HostSource):
            total.update(digest((leaf.at(0), leaf.at(leaf.sweep - 1), np.int64(leaf.sweep))).encode())
            continue
        values = np.ascontiguousarray(_plain(leaf))
        total.update(f"{jax.tree_util.keystr(path)}{values.dtype}{values.shape}".encode())
        total.update(values.reshape(-1).view(np.uint8))
    return total.hexdigest()


def environment() -> dict[str, str]:
    """Versions and kind of device that the bits of a run depend on."""
    import jaxlib

    from spatialjax import __version__

    versions = f"spatialjax {__version__}, jax {jax.__version__}, jaxlib {jaxlib.__version__}, numpy {np.__version__}"
    return {"versions": versions, "device": jax.devices()[0].device_kind}


def clear(directory: Path) -> None:
    """Remove the checkpoints in a directory, and nothing else."""
    for folder in directory.iterdir() if directory.is_dir() else ():
        if folder.is_dir() and _OURS.fullmatch(folder.name):
            shutil.rmtree(folder)


class Store:
    """The checkpoints of one run: a folder with the latest one, named by its number of steps.

    Parameters
    ----------
    folder
        Where this run is kept; made when the first checkpoint is written.
    fingerprint
        What the bits of the run depend on, by name.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, str]) -> None:
        self.folder = folder.absolute()
        self.fingerprint = fingerprint

    def load(self, target: Any) -> tuple[Any, list[History]] | None:
        """The latest run with its histories, or None where there is no checkpoint.

        Parameters
        ----------
        target
            Shapes and types of the run.

        Raises
        ------
        ValueError
            If the checkpoint was written by another run; the message names what differs.
        """
        import orbax.checkpoint as ocp

        latest = max(self._written(), default=None)
        if latest is None:
            return None
        place = self.folder / str(latest)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            meta = checkpointer.restore(place, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            self._refuse_another(meta["fingerprint"])
            leaves, tree = jax.tree.flatten(target)
            shapes = {_name(i): leaf for i, leaf in enumerate(leaves) if leaf.size}
            for member, columns in enumerate(meta["histories"]):
                for name, (length, kind) in columns.items():
                    if length:
                        shapes[f"{member}/{name}"] = jax.ShapeDtypeStruct((length,), np.dtype(kind))
            arrays = checkpointer.restore(place, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes)))
        arrays = arrays["arrays"]
        found = [
            _free(arrays[_name(i)]) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)
        ]
        histories = [
            {
                name: np.asarray(arrays[f"{member}/{name}"]) if length else np.zeros(0, np.dtype(kind))
                for name, (length, kind) in columns.items()
            }
            for member, columns in enumerate(meta["histories"])
        ]
        return jax.tree.unflatten(tree, found), histories

    def save(self, run: Any, histories: list[History]) -> None:
        """Write a checkpoint, then remove the older one and what a killed write left behind."""
        import orbax.checkpoint as ocp

        steps = int(np.max(run.steps))
        if steps in self._written():
            return
        place = self.folder / str(steps)
        shutil.rmtree(place, ignore_errors=True)
        arrays = {_name(i): leaf for i, leaf in enumerate(jax.tree.leaves(run)) if leaf.size}
        for member, columns in enumerate(histories):
            arrays |= {f"{member}/{name}": values for name, values in columns.items() if len(values)}
        columns = [{name: [len(v), v.dtype.name] for name, v in history.items()} for history in histories]
        meta = {"fingerprint": self.fingerprint, "histories": columns}
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
            checkpointer.save(place, args=items)
        for entry in list(self.folder.iterdir()):
            if entry != place and _CHECKPOINT.fullmatch(entry.name):
                shutil.rmtree(entry)

    def _written(self) -> list[int]:
        """Numbers of steps of the complete checkpoints: an unfinished one has another name until it is whole."""
        entries = list(self.folder.iterdir()) if self.folder.is_dir() else []
        whole = [entry for entry in entries if (entry / "meta").is_dir() and (entry / "arrays").is_dir()]
        return [int(entry.name) for entry in whole if entry.name.isdigit()]

    def _refuse_another(self, theirs: dict[str, str]) -> None:
        names = {**theirs, **self.fingerprint}
        differing = [name for name in names if theirs.get(name) != self.fingerprint.get(name)]
        if differing:
            shown = "; ".join(
                f"{name} (there {theirs.get(name)}, here {self.fingerprint.get(name)})" for name in differing
            )
            raise ValueError(
                f"Expected a checkpoint of this run in {str(self.folder)!r}, found one of another run. Different: "
                f"{shown}. Repeat that run, give another directory, or start over with resume=False."
            )


@contextlib.contextmanager
def deferred_interrupt(active: bool) -> Iterator[Callable[[], bool]]:
    """Hold back a first Ctrl-C until the caller asks for it, so that a chunk on the device is not lost.

    Parameters
    ----------
    active
        Whether to do so; never outside of the main thread, which signals do not reach, or where Ctrl-C is ignored.

    Yields
    ------
    callable
        Says whether Ctrl-C came. A second one interrupts at once, and so does one that nobody asked for at the end.
    """
    came: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    if not active or not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def hold(*_: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(True)

    signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _plain(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _free(leaf: Any) -> Any:
    """The same values bound to no device: those that orbax gives are, and would compile every program again."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(_plain(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.asarray(_plain(leaf))


def _name(position: int) -> str:
    return f"leaf{position}"

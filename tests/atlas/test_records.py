"""Results of steps on disk: every value back to the bit, no code in a file, damage noticed."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from spatialjax.atlas import records
from spatialjax.atlas.domains import Domains
from spatialjax.registration.pose_graph import Loop
from spatialjax.slices import make_slice
from spatialjax.transforms import Affine


class Foreign(NamedTuple):
    """A record that is not one of the package."""

    value: int


def _same(first: Any, second: Any) -> None:
    """Equal in type, shape, element type and every bit."""
    assert type(first) is type(second)
    if isinstance(first, (np.ndarray, np.generic, jax.Array)):
        assert first.dtype == second.dtype
        assert np.shape(first) == np.shape(second)
        assert np.asarray(first).tobytes() == np.asarray(second).tobytes()
    elif isinstance(first, sp.csr_matrix):
        assert first.shape == second.shape
        for name in ("data", "indices", "indptr"):
            _same(getattr(first, name), getattr(second, name))
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            _same(first[key], second[key])
    elif dataclasses.is_dataclass(first):
        for field in dataclasses.fields(first):
            _same(getattr(first, field.name), getattr(second, field.name))
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            _same(one, other)
    else:
        assert first == second or (first != first and second != second)


def _through_a_file(value: Any, folder: Path) -> Any:
    records.write(folder / "value.npz", value, mark="m")
    return records.read(folder / "value.npz", mark="m")


def test_every_kind_of_result_comes_back_to_the_bit(tmp_path: Path, rng: np.random.Generator) -> None:
    """Records of the package, arrays of both kinds, sparse rows, odd keys, NaN and infinity, empty and 0-d arrays."""
    value = {
        "affine": Affine(rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 2))),
        "slice": make_slice(rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(5, 2))),
        "loop": Loop((0, 1, 2), float("nan"), 3.5, True, False),
        "domains": Domains(np.arange(4), np.ones(4), 2, {2: -1.5, 3: float("inf")}),
        (0, 1): sp.random(6, 7, 0.4, format="csr", rng=rng),
        "scalars": [np.float32(0.1), np.int64(7), np.bool_(True), np.str_("ü"), 0.1, -0.0, None, True, "a/b\n"],
        "arrays": (np.zeros((0, 3)), np.array(2.5), np.array(["a", "ü<b>"]), jnp.arange(3), jnp.float32(0.25)),
    }
    _same(_through_a_file(value, tmp_path), records.settled(value))
    _same(records.settled(value), value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=3) | st.tuples(st.integers(), st.integers()), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_nesting_of_plain_values_survives_json(value: Any) -> None:
    """The tree is JSON, and plain values of any nesting come back equal."""
    tree, arrays = records.encode(value)
    _same(records.decode(json.loads(json.dumps(tree)), arrays), value)


def test_arrays_come_back_in_row_order_and_are_kept_once(tmp_path: Path, rng: np.random.Generator) -> None:
    """Column order and strides, which change the last bits of a sum, do not differ between a run and its resumption."""
    table = rng.normal(size=(40, 30))
    value = (np.asfortranarray(table), table[::2, ::3], table, table)
    back = _through_a_file(value, tmp_path)
    assert all(array.flags.c_contiguous for array in (*back, *records.settled(value)))
    assert back[2] is back[3]
    assert len(records.encode(value)[1]) == 3


@pytest.mark.parametrize(
    "value",
    [Foreign(1), np.array([object()]), object(), print, jax.random.key(0), {1, 2}, complex(1, 2)],
    ids=["foreign record", "objects", "object", "function", "random key", "set", "complex"],
)
def test_what_would_need_code_is_refused(value: Any) -> None:
    """One message that says what may be kept."""
    with pytest.raises(TypeError, match="Expected"):
        records.encode(value)


@pytest.mark.parametrize("name", ["os:system", "spatialjax.cli:app", "spatialjax.atlas.steps:Store", "builtins:dict"])
def test_a_file_cannot_name_what_is_no_record(name: str) -> None:
    """Only dataclasses and named tuples of the package are made from a file: no function, no other class."""
    with pytest.raises(ValueError, match="record of spatialjax"):
        records.decode({"record": {"type": name, "fields": {}}}, [])


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another run"])
def test_damage_is_noticed(tmp_path: Path, rng: np.random.Generator, damage: str) -> None:
    """A file cut short, with one bit turned over, empty, or of another run is refused and never half read."""
    path = tmp_path / "value.npz"
    records.write(path, rng.normal(size=1000), mark="m")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo("0.npy").header_offset
        content[start + 3000] ^= 1
    kept = {"cut": content[: len(content) // 2], "flipped": content, "empty": b"", "another run": content}[damage]
    path.write_bytes(bytes(kept))
    with pytest.raises(ValueError, match=r"value\.npz"):
        records.read(path, mark="other" if damage == "another run" else "m")

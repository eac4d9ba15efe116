"""Neighbourhoods of spots: built on the host with numpy and scipy, carried to the device as fixed-width tables.

Every builder returns a :class:`~spatialjax.slices.Neighbors` of numpy arrays with weight 1 on used places. An isolated
spot keeps an empty row, spots at the same place are neighbours at distance 0, and a section may have fewer spots than
``k``. A spot is never its own neighbour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import jraph
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.spatial import Delaunay, cKDTree

from spatialjax.slices import Neighbors, Slice


class Spacing(NamedTuple):
    """How far apart the spots of a section lie, in the unit of the coordinates.

    Attributes
    ----------
    nearest
        Median distance to the nearest spot elsewhere: the pitch of a lattice.
    pitch
        √(π/6) × the median distance of the 6th neighbour: the side of the square that one spot has for itself where
        spots lie at random, 0.72 lattice constants on a hexagonal lattice. Comparable between technologies.
    """

    nearest: float
    pitch: float


def spacing(xy: Float[np.ndarray, "n d"]) -> Spacing:
    """Robust distance between neighbouring spots.

    Spots at the same place count once. NaN where there are fewer than two places; with fewer than seven places the
    farthest neighbour takes the part of the 6th.

    Parameters
    ----------
    xy
        Coordinates, µm.

    Examples
    --------
    >>> x, y = np.meshgrid(np.arange(9.0), np.arange(9.0))
    >>> spacing(np.stack([x.ravel(), y.ravel()], 1)).nearest
    1.0
    """
    places = np.unique(_points(xy), axis=0)
    rank = min(6, len(places) - 1)
    if rank < 1:
        return Spacing(float("nan"), float("nan"))
    distance, _ = cKDTree(places).query(places, k=rank + 1)
    return Spacing(float(np.median(distance[:, 1])), float(np.sqrt(np.pi / rank) * np.median(distance[:, rank])))


def lattice_steps(xy: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " m"]:
    """Distance from each place to the nearest other one; spots at the same place count once.

    The median is ``Spacing.nearest``; the array is for medians over sections. Empty where there is one place.

    Parameters
    ----------
    xy
        Coordinates, any unit.

    Raises
    ------
    ValueError
        If there is no spot, or a coordinate is not finite.
    """
    places = np.unique(_points(xy), axis=0)
    return cKDTree(places).query(places, k=2)[0][:, 1] if len(places) > 1 else np.zeros(0)


def knn(
    xy: Float[np.ndarray, "n d"], k: int, *, max_distance: float | None = None, symmetric: bool = False
) -> Neighbors:
    """The ``k`` nearest other spots of each spot, the nearest first.

    Parameters
    ----------
    xy
        Coordinates in µm, or any features.
    k
        Number of neighbours; rows are shorter where fewer spots exist.
    max_distance
        Longest edge, µm; no limit where left out.
    symmetric
        Keep an edge in both directions when either end chose it; the table may then be wider than ``k``.
    """
    xy = _points(xy)
    n = len(xy)
    if k < 1:
        raise ValueError(f"Expected k of at least 1 neighbour, found {k}.")
    reach = np.inf if max_distance is None else float(max_distance)
    index, distance = _query(cKDTree(xy), xy, min(k + 1, n))
    own = index == np.arange(n)[:, None]
    distance = np.where(own, np.inf, distance)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    index, distance = np.take_along_axis(index, order, 1), np.take_along_axis(distance, order, 1)
    used = np.isfinite(distance) & (distance <= reach)
    if symmetric:
        rows, columns = np.nonzero(used)
        columns = index[rows, columns]
        return _table(np.concatenate([rows, columns]), np.concatenate([columns, rows]), xy)
    return _fixed_width(index, used, width=k, blank=np.arange(n))


def radius(xy: Float[np.ndarray, "n d"], r: float) -> Neighbors:
    """All other spots within ``r`` µm of each spot, the nearest first; the table is as wide as the largest row."""
    xy = _points(xy)
    if not r > 0:
        raise ValueError(f"Expected a radius above 0 µm, found {r}.")
    pairs = cKDTree(xy).query_pairs(float(r), output_type="ndarray")
    return _table(np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]]), xy)


def scaled_radius(xy: Float[np.ndarray, "n d"], reach: float) -> Neighbors:
    """All other spots within ``reach`` pitches (see :func:`spacing`) of each spot, the nearest first.

    A ``reach`` of 1.6 gives 6 neighbours on a hexagonal lattice, 8 on a square one, and 8 on average at random.
    """
    pitch = spacing(xy).pitch
    return radius(xy, reach * pitch) if np.isfinite(pitch) else _table(np.zeros(0, int), np.zeros(0, int), _points(xy))


def lattice(xy: Float[np.ndarray, "n d"], *, tolerance: float = 1.2) -> Neighbors:
    """The direct neighbours on a lattice: 6 on a hexagonal one, 4 on a square one, fewer at edges and holes.

    Parameters
    ----------
    xy
        Coordinates of spots on a regular lattice, µm.
    tolerance
        Longest edge in lattice constants; below √2, the diagonal of a square lattice.
    """
    pitch = spacing(xy).nearest
    if not np.isfinite(pitch):
        return _table(np.zeros(0, int), np.zeros(0, int), _points(xy))
    return radius(xy, tolerance * pitch)


def delaunay(
    xy: Float[np.ndarray, "n 2"], *, max_length: float | None = None, relative_length: float | None = 3.0
) -> Neighbors:
    """Neighbours in the Delaunay triangulation, without its long edges: no number of neighbours to choose.

    A spot at the place of an earlier spot is joined to that one. Spots on one line are joined along it.

    Parameters
    ----------
    xy
        Coordinates, µm.
    max_length
        Longest edge, µm; no limit where left out.
    relative_length
        Longest edge in units of the median edge at either end (the smaller of the two counts), which cuts the edges
        that bridge gaps and the outline; None keeps them.
    """
    xy = _points(xy)
    places, first, place = np.unique(xy, axis=0, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    pairs = _triangulation(places - places.mean(0)) if len(places) > 1 else np.zeros((0, 2), int)
    length = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    keep = np.ones(len(pairs), bool) if max_length is None else length <= max_length
    if relative_length is not None:
        typical = _median_by(np.concatenate([pairs[:, 0], pairs[:, 1]]), np.tile(length, 2), len(places))
        keep &= length <= relative_length * typical[pairs].min(1)
    pairs = first[pairs[keep]]
    copies = np.flatnonzero(first[place] != np.arange(len(xy)))
    pairs = np.concatenate([pairs, np.stack([copies, first[place[copies]]], 1)])
    return _table(np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]]), xy)


def cross_slice(
    source_xy: Float[np.ndarray, "n d"],
    target_xy: Float[np.ndarray, "m d"],
    k: int,
    *,
    max_distance: float | None = None,
) -> Neighbors:
    """For each spot of one section, the ``k`` nearest spots of another section in the same frame, the nearest first.

    Parameters
    ----------
    source_xy
        Coordinates of the spots that get neighbours, µm, in the frame of the target.
    target_xy
        Coordinates of the spots to choose from, µm; both may be three-dimensional.
    k
        Number of neighbours.
    max_distance
        Longest edge, µm; a spot without a counterpart gets an empty row.

    Returns
    -------
    Neighbors
        Rows of the target; unused places hold 0 with weight 0.
    """
    source, target = _points(source_xy), _points(target_xy)
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"Expected coordinates of equal dimension, found {source.shape[1]} and {target.shape[1]}: give both "
            "sections in the plane, or both with z."
        )
    reach = np.inf if max_distance is None else float(max_distance)
    index, distance = _query(cKDTree(target), source, min(k, len(target)))
    used = np.isfinite(distance) & (distance <= reach)
    return _fixed_width(index, used, width=k, blank=np.zeros(len(source), int))


def within_sections(section: Slice, build: Callable[[Float[np.ndarray, "n d"]], Neighbors]) -> Slice:
    """The section with a graph: the one that it has, or one built for its spots.

    Where ``extra["section"]`` numbers the sections that were put together, each gets a graph of its own and no edge
    joins two of them. Padding has no edges.

    Parameters
    ----------
    section
        One section, or several in one slice.
    build
        Coordinates (µm) of one section to its neighbours, e.g. ``lambda xy: graphs.knn(xy, 6)``; weights are kept.

    Returns
    -------
    Slice
        With ``edges``; the table is as wide as the widest one that ``build`` gave.
    """
    if section.edges is not None:
        return section
    real = np.flatnonzero(np.asarray(section.mask))
    xy = np.asarray(section.xy, np.float64)
    number = section.extra.get("section")
    group = np.zeros(len(xy), int) if number is None else np.asarray(number)
    parts = [real[group[real] == each] for each in np.unique(group[real])]
    tables = [build(xy[rows]) for rows in parts]
    width = max((table.index.shape[1] for table in tables), default=1)
    index = np.repeat(np.arange(len(xy), dtype=np.int32)[:, None], width, 1)
    weight = np.zeros((len(xy), width), np.float32)
    for rows, table in zip(parts, tables, strict=True):
        places = np.s_[rows, : table.index.shape[1]]
        index[places], weight[places] = rows[np.asarray(table.index)], table.weight
    return section.replace(edges=Neighbors(jnp.asarray(index), jnp.asarray(weight)))


def adjacency(neighbors: Neighbors, *, columns: int | None = None) -> sp.csr_matrix:
    """The table as a sparse matrix of weights: row ``i`` holds the neighbours of spot ``i``.

    Parameters
    ----------
    neighbors
        A table of one section, or of :func:`cross_slice`.
    columns
        Number of spots that the table points to; the number of rows where left out.
    """
    index, weight = np.asarray(neighbors.index), np.asarray(neighbors.weight)
    used = weight != 0
    rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)[used]
    shape = (len(index), len(index) if columns is None else columns)
    return sp.csr_matrix((weight[used].astype(np.float64), (rows, index[used])), shape)


def smoothing_matrix(neighbors: Neighbors, *, self_weight: float = 1.0) -> sp.csr_matrix:
    """Row-stochastic matrix that averages each spot with its neighbours; powers of it smooth further.

    Parameters
    ----------
    neighbors
        Neighbours with weights of at least 0.
    self_weight
        Weight of the spot itself, above 0, so that an isolated spot keeps its own value.
    """
    if not self_weight > 0:
        raise ValueError(f"Expected a weight above 0 for the spot itself, found {self_weight}.")
    matrix = adjacency(neighbors)
    matrix = (matrix + self_weight * sp.identity(matrix.shape[0], format="csr")).tocsr()
    total = np.asarray(matrix.sum(1)).ravel()
    return (sp.diags(1.0 / total) @ matrix).tocsr()


def to_graphs_tuple(section: Slice) -> jraph.GraphsTuple:
    """A section as a jraph graph, padded the way jraph expects: real nodes and edges first, then one padding graph.

    Messages run from the neighbours of a spot (senders) to the spot (receiver). Unused places of the table and edges
    of padding spots join the last padding spot to itself, so they never touch a real one. Works under ``jit``; a batch
    of sections goes through ``vmap``.

    Parameters
    ----------
    section
        One section with ``edges``.

    Returns
    -------
    jraph.GraphsTuple
        ``nodes``: dict of ``features``, ``xy`` and ``weights``; ``edges``: dict of ``weight`` and ``offset`` (µm,
        sender minus receiver).
    """
    if section.edges is None:
        raise ValueError("Expected a section with a neighbour table, found edges=None: build one with graphs.knn.")
    if section.xy.ndim != 2:
        raise ValueError(f"Expected one section, found a batch of shape {section.xy.shape}: use jax.vmap.")
    capacity, width = section.edges.index.shape
    last = capacity - 1
    receivers = jnp.repeat(jnp.arange(capacity, dtype=jnp.int32), width)
    senders = section.edges.index.reshape(-1).astype(jnp.int32)
    weight = section.edges.weight.reshape(-1)
    real = (weight != 0) & section.mask[senders] & section.mask[receivers]
    order = jnp.argsort(~real, stable=True)
    real = real[order]
    senders = jnp.where(real, senders[order], last)
    receivers = jnp.where(real, receivers[order], last)
    edges = {
        "weight": jnp.where(real, weight[order], 0),
        "offset": section.xy[senders] - section.xy[receivers],
    }
    n_node, n_edge = section.mask.sum(dtype=jnp.int32), real.sum(dtype=jnp.int32)
    return jraph.GraphsTuple(
        nodes={"features": section.features, "xy": section.xy, "weights": section.weights},
        edges=edges,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=jnp.stack([n_node, capacity - n_node]),
        n_edge=jnp.stack([n_edge, capacity * width - n_edge]),
    )


def _points(xy: Any) -> np.ndarray:
    xy = np.asarray(xy, np.float64)
    if xy.ndim != 2 or len(xy) == 0:
        raise ValueError(f"Expected coordinates of at least one spot as an (n, d) array, found shape {xy.shape}.")
    if not np.isfinite(xy).all():
        bad = int((~np.isfinite(xy).all(1)).sum())
        raise ValueError(f"Expected finite coordinates, found NaN or infinity in {bad} spots: remove those spots.")
    return xy


def _query(tree: cKDTree, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distance, index = tree.query(points, k=np.arange(1, k + 1))
    return index, distance


def _fixed_width(index: np.ndarray, used: np.ndarray, *, width: int, blank: np.ndarray) -> Neighbors:
    """A table of ``width`` places whose unused ones hold ``blank`` (n,)."""
    missing = width - index.shape[1]
    index = np.pad(index, ((0, 0), (0, missing)))
    used = np.pad(used, ((0, 0), (0, missing)))
    index = np.where(used, index, blank[:, None])
    return Neighbors(index.astype(np.int32), used.astype(np.float32))


def _table(rows: np.ndarray, columns: np.ndarray, xy: np.ndarray) -> Neighbors:
    """Directed edges (repeats allowed) as a table, each row sorted by distance, then by number."""
    n = len(xy)
    rows, columns = np.unique(np.stack([rows, columns], 1).reshape(-1, 2), axis=0).T
    length = np.linalg.norm(xy[rows] - xy[columns], axis=1)
    order = np.lexsort((columns, length, rows))
    rows, columns = rows[order], columns[order]
    degree = np.bincount(rows, minlength=n)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(degree) - degree, degree)
    width = max(1, int(degree.max(initial=0)))
    index = np.broadcast_to(np.arange(n, dtype=np.int32)[:, None], (n, width)).copy()
    weight = np.zeros((n, width), np.float32)
    index[rows, place] = columns
    weight[rows, place] = 1.0
    return Neighbors(index, weight)


def _triangulation(places: np.ndarray) -> np.ndarray:
    """Edges (a < b) between distinct places; consecutive ones where all lie on a line."""
    _, extent, axes = np.linalg.svd(places - places.mean(0), full_matrices=False)
    if len(extent) < places.shape[1] or extent[-1] <= 1e-9 * extent[0]:
        order = np.argsort(places @ axes[0], kind="stable")
        return np.sort(np.stack([order[:-1], order[1:]], 1), axis=1)
    simplices = Delaunay(places).simplices
    corners = [(a, b) for b in range(simplices.shape[1]) for a in range(b)]
    pairs = np.concatenate([simplices[:, [a, b]] for a, b in corners])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _median_by(group: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Median of the values of each group; infinite where a group is empty."""
    order = np.lexsort((values, group))
    values, count = values[order], np.bincount(group, minlength=size)
    start = np.cumsum(count) - count
    result = np.full(size, np.inf)
    some = count > 0
    low, high = start + (count - 1) // 2, start + count // 2
    result[some] = 0.5 * (values[low[some]] + values[high[some]])
    return result

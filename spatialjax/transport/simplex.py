"""The network simplex method for transport, from a basis that may come from a similar problem.

A basis is a spanning tree of rows and columns with a mass on every edge. It is kept as the parents of the nodes: a
pivot changes one path and one subtree. The masses carry a small perturbation, so that no edge of a tree is ever empty
and the method cannot cycle (Charnes 1952, Econometrica 20); the plan that comes out is that of the tree without it.
"""

from __future__ import annotations

from copy import copy

import numpy as np
from jaxtyping import Float, Int

#: Perturbation of the masses, in units of the mean mass over the number of nodes.
_PERTURBATION = 1e-7


class Basis:
    """A spanning tree that carries a plan; the root is the last column.

    Parameters
    ----------
    a, b
        Positive masses of rows and columns with equal sums.
    pairs
        Rows and columns of pairs to build the first tree of, the preferred ones first.

    Attributes
    ----------
    prices
        Prices of the rows, then of the columns: they add up to the cost of every pair of the tree.
    """

    def __init__(
        self,
        a: Float[np.ndarray, " n"],
        b: Float[np.ndarray, " m"],
        *,
        pairs: tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]],
    ) -> None:
        self.masses, self.rows = (a, b), len(a)
        size = len(a) + len(b)
        self.parent, self.depth = [-1] * size, [0] * size
        self.flow, self.cost, self.prices = [0.0] * size, [0.0] * size, [0.0] * size
        self.children: list[set[int]] = [set() for _ in range(size)]
        joined: list[list[tuple[int, float]]] = [[] for _ in range(size)]
        for row, column, mass in _greedy(a, b, pairs):
            joined[row].append((self.rows + column, mass))
            joined[self.rows + column].append((row, mass))
        stack = [size - 1]
        while stack:
            node = stack.pop()
            for other, mass in joined[node]:
                if other != self.parent[node]:
                    self.parent[other], self.flow[other] = node, mass
                    self.children[node].add(other)
                    stack.append(other)

    def copy(self) -> Basis:
        """The same tree; pivots of one do not reach the other."""
        other = copy(self)
        for name in ("parent", "depth", "flow", "cost", "prices"):
            setattr(other, name, getattr(self, name).copy())
        other.children = [each.copy() for each in self.children]
        return other

    @property
    def duals(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
        """Prices of the rows and of the columns."""
        prices = np.asarray(self.prices)
        return prices[: self.rows], prices[self.rows :]

    def fits(self, a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> bool:
        """Whether it is a basis of a problem with these masses."""
        return all(np.array_equal(own, mass) for own, mass in zip(self.masses, (a, b), strict=True))

    def pairs(self) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"]]:
        """Rows and columns of the edges, in the order of the nodes below them."""
        ends = np.stack([np.arange(len(self.parent) - 1), np.asarray(self.parent[:-1])])
        return ends.min(0), ends.max(0) - self.rows

    def reprice(self, cost: Float[np.ndarray, "n m"]) -> None:
        """Take other costs; the tree stays."""
        self.cost[:-1] = cost[self.pairs()].tolist()
        self._settle(len(self.parent) - 1)

    def improve(
        self,
        pairs: tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]],
        cost: Float[np.ndarray, " k"],
        *,
        tolerance: float,
    ) -> None:
        """Pivot until none of these pairs has a reduced cost below ``-tolerance``."""
        rows, ends = pairs[0], pairs[1] + self.rows
        batch, prices = max(len(self.parent) // 16, 8), self.prices
        while True:
            known = np.asarray(prices)
            reduced = cost - known[rows] - known[ends]
            chosen = np.argpartition(reduced, batch)[:batch] if len(reduced) > batch else np.arange(len(reduced))
            chosen = chosen[reduced[chosen] < -tolerance]
            if not len(chosen):
                return
            chosen = chosen[np.argsort(reduced[chosen], kind="stable")]
            for row, end, value in zip(*(each[chosen].tolist() for each in (rows, ends, cost)), strict=True):
                if value - prices[row] - prices[end] < -tolerance:
                    self._pivot(row, end, value)

    def plan(self) -> Float[np.ndarray, " e"]:
        """Mass on each of ``pairs()`` without the perturbation."""
        left = np.concatenate(self.masses).tolist()
        order, flow = np.argsort(self.depth, kind="stable")[:0:-1].tolist(), [0.0] * len(left)
        for node in order:
            flow[node] = left[node]
            left[self.parent[node]] -= left[node]
        return np.maximum(flow[:-1], 0)

    def _pivot(self, row: int, end: int, value: float) -> None:
        """Bring in the pair of this cost, let the first pair go that its cycle empties."""
        parent, depth, flow, rows = self.parent, self.depth, self.flow, self.rows
        x, y, least, leaving, with_end = end, row, float("inf"), -1, True
        gaining, losing = [], []
        while x != y:
            if depth[x] >= depth[y]:
                if x >= rows:
                    losing.append(x)
                    if flow[x] < least:
                        least, leaving, with_end = flow[x], x, True
                else:
                    gaining.append(x)
                x = parent[x]
            else:
                if y < rows:
                    losing.append(y)
                    if flow[y] < least:
                        least, leaving, with_end = flow[y], y, False
                else:
                    gaining.append(y)
                y = parent[y]
        for node in losing:
            flow[node] -= least
        for node in gaining:
            flow[node] += least
        node, above = (end, row) if with_end else (row, end)
        self._hang(node, above, leaving=leaving, mass=least, value=value)

    def _hang(self, node: int, above: int, *, leaving: int, mass: float, value: float) -> None:
        """Cut the subtree of ``leaving`` off and hang it below ``above`` by ``node``."""
        parent, flow, cost, children, first = self.parent, self.flow, self.cost, self.children, node
        while True:
            old = parent[node], flow[node], cost[node]
            parent[node], flow[node], cost[node] = above, mass, value
            children[above].add(node)
            children[old[0]].discard(node)
            if node == leaving:
                break
            above, (node, mass, value) = node, old
        self._settle(first)

    def _settle(self, node: int) -> None:
        """Depths and prices of a node and all below it."""
        parent, depth, cost, prices, children = self.parent, self.depth, self.cost, self.prices, self.children
        stack = [node] if parent[node] >= 0 else list(children[node])
        while stack:
            x = stack.pop()
            above = parent[x]
            depth[x] = depth[above] + 1
            prices[x] = cost[x] - prices[above]
            stack.extend(children[x])


def _greedy(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"], pairs: tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]
) -> list[tuple[int, int, float]]:
    """Pairs of a spanning tree and their perturbed masses: the given pairs in turn, then what is left."""
    small = _PERTURBATION * float(a.mean()) / (len(a) + len(b))
    supply, demand = (a + small).tolist(), [*b[:-1].tolist(), float(b[-1]) + small * len(a)]
    rows, columns = dict.fromkeys(range(len(a))), dict.fromkeys(range(len(b)))
    found = []

    def take(row: int, column: int) -> None:
        mass = min(supply[row], demand[column])
        found.append((row, column, mass))
        # One of the two is spent; rounding must not spend the last row before the last columns.
        if len(columns) == 1 or (len(rows) > 1 and supply[row] <= demand[column]):
            del rows[row]
        else:
            del columns[column]
        supply[row], demand[column] = supply[row] - mass, demand[column] - mass

    for row, column in zip(*(index.tolist() for index in pairs), strict=True):
        if row in rows and column in columns:
            take(row, column)
    while rows:
        take(next(iter(rows)), next(iter(columns)))
    return found

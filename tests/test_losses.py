"""Every loss: value and slope against plain numpy, blind to padding, linear in the weights, finite on rows of zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from spatialjax import losses
from spatialjax.algorithm.adaptors import weighted_mean
from spatialjax.slices import Neighbors

N, P, K = 11, 4, 3
RNG = np.random.default_rng(5)
WEIGHT = RNG.uniform(0.5, 1.5, N)
WEIGHT[4] = 0.0
LABELS = RNG.integers(0, K, N)
COUNTS = RNG.poisson(2.0, (N, P)).astype(float)
CENTRES = RNG.normal(size=(K, P))
TARGET = RNG.dirichlet(np.ones(K), N)
KERNEL = RNG.normal(size=(P, 2))
INDEX = np.array([[(i + 1) % N, (i + 3) % N] for i in range(N)])
EDGES = RNG.uniform(0.5, 1.5, (N, 2))
EDGES[2, 1] = 0.0


class Case(NamedTuple):
    """Arrays with the spots first, the loss of them and of a weight, and the same in numpy, sum only.

    ``reference(base)`` gives a function of the arrays in which all that has no gradient is taken from ``base``.
    """

    arrays: tuple[np.ndarray, ...]
    loss: Callable[..., Any]
    reference: Callable[..., Callable[..., float]]


def plain(rows: Callable[..., np.ndarray]) -> Callable[..., Callable[..., float]]:
    """Reference of a loss that is a weighted sum of a function of each spot."""
    return lambda base: lambda *arrays: float((WEIGHT * rows(*arrays)).sum())


def size_up(values: np.ndarray, n: int) -> np.ndarray:
    """Zeros below."""
    return np.concatenate([values, np.zeros((n - len(values), *values.shape[1:]), values.dtype)])


def fitted(values: np.ndarray, weight: Any) -> np.ndarray:
    """A constant of the tests with as many rows as the weight has."""
    return size_up(np.asarray(values), len(weight))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def softmax(x: np.ndarray) -> np.ndarray:
    return scipy.special.softmax(x, axis=1)


def student(z: np.ndarray, c: np.ndarray, alpha: float, power: float) -> np.ndarray:
    q = (1 + ((z[:, None] - c) ** 2).sum(-1) / alpha) ** -power
    return q / q.sum(1, keepdims=True)


def negative_binomial(mean: np.ndarray, log_size: np.ndarray) -> np.ndarray:
    size = np.exp(log_size)
    return -scipy.stats.nbinom.logpmf(COUNTS, size, size / (size + mean)).sum(1)


def zero_inflated(mean: np.ndarray, log_size: np.ndarray, zero: np.ndarray) -> np.ndarray:
    size, share = np.exp(log_size), scipy.special.expit(zero)
    usual = scipy.stats.nbinom.pmf(COUNTS, size, size / (size + mean))
    return -np.log((1 - share) * usual + share * (COUNTS == 0)).sum(1)


def contrast(a: np.ndarray, b: np.ndarray, temperature: float, within: bool) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    real = WEIGHT > 0

    def one(view: np.ndarray, other: np.ndarray) -> np.ndarray:
        total = np.exp(view @ other.T / temperature)[:, real].sum(1)
        if within:
            inside = np.exp(view @ view.T / temperature) * ~np.eye(N, dtype=bool)
            total = total + inside[:, real].sum(1)
        return np.log(total) - (view * other).sum(1) / temperature

    return 0.5 * (one(a, b) + one(b, a))


def twins(a: np.ndarray, b: np.ndarray) -> float:
    share = WEIGHT / WEIGHT.sum()
    a, b = ((x - share @ x) / np.sqrt(share @ (x - share @ x) ** 2) for x in (a, b))
    c = (share[:, None] * a).T @ b
    off = (c**2).sum() - (np.diag(c) ** 2).sum()
    return WEIGHT.sum() * (((1 - np.diag(c)) ** 2).sum() + 0.005 * off)


def balanced(scores: np.ndarray, epsilon: float = 0.3, steps: int = 5) -> np.ndarray:
    """Sinkhorn steps in plain numbers: columns to equal mass, rows to 1."""
    q = np.exp(scores / epsilon)
    q /= q.sum(1, keepdims=True)
    for _ in range(steps):
        q /= WEIGHT @ q
        q /= q.sum(1, keepdims=True)
    return q


def swapped(base: Any) -> Callable[..., float]:
    first, second = (balanced(part) for part in base)

    def value(a: np.ndarray, b: np.ndarray) -> float:
        rows = -(first * np.log(softmax(b / 0.2))).sum(1) - (second * np.log(softmax(a / 0.2))).sum(1)
        return float(0.5 * (WEIGHT * rows).sum())

    return value


def discrepancy(base: Any) -> Callable[..., float]:
    x, y = base
    share = WEIGHT / WEIGHT.sum()
    mix, mass = np.concatenate([x, y]), 0.5 * np.concatenate([share, share])
    between = ((mix[:, None] - mix[None]) ** 2).sum(-1)
    scale = mass @ between @ mass

    def value(x: np.ndarray, y: np.ndarray) -> float:
        both, charge = np.concatenate([x, y]), np.concatenate([share, -share])
        square = ((both[:, None] - both[None]) ** 2).sum(-1)
        kernel = sum(np.exp(-square / (2 * b * scale)) for b in (0.25, 0.5, 1, 2, 4)) / 5
        return float(2 * WEIGHT.sum() * (charge @ kernel @ charge))

    return value


def rough(norm: str) -> Callable[..., Callable[..., float]]:
    def value(z: np.ndarray) -> float:
        gap = z[:, None] - z[INDEX]
        size = (gap**2).sum(-1) if norm == "squared" else np.abs(gap).sum(-1)
        return float((WEIGHT[:, None] * EDGES * size).sum())

    return lambda base: value


def table(weight: Any) -> Neighbors:
    """The edges of the tests with the rows of padding pointing to themselves."""
    index = np.concatenate([INDEX, np.repeat(np.arange(N, len(weight))[:, None], 2, 1)])
    return Neighbors(jnp.asarray(index, jnp.int32), jnp.asarray(fitted(EDGES, weight), jnp.float32))


def triplets(z: Any, weight: Any) -> Any:
    rows = jnp.arange(len(weight))
    return losses.triplet(z, (rows, jnp.roll(rows[:N], 1)[rows % N], jnp.roll(rows[:N], 3)[rows % N]), weight)


def triplet_rows(z: np.ndarray) -> np.ndarray:
    near, far = (np.linalg.norm(z - np.roll(z, shift, 0), axis=1) for shift in (1, 3))
    return np.maximum(near - far + 1, 0)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


def scalar_constants(weight: Any, values: np.ndarray) -> Any:
    return jnp.asarray(fitted(values, weight), jnp.float32)


CASES = {
    "mse": Case((normal(N, P), normal(N, P)), losses.mse, plain(lambda a, b: ((a - b) ** 2).mean(1))),
    "tied reconstruction": Case(
        (normal(N, P), normal(N, 2)),
        lambda x, h, w: losses.tied_reconstruction(x, h, jnp.asarray(KERNEL, jnp.float32), weight=w),
        plain(lambda x, h: ((x - h @ KERNEL.T) ** 2).mean(1)),
    ),
    "scaled cosine": Case(
        (normal(N, P), normal(N, P)),
        lambda a, b, w: losses.scaled_cosine(a, b, w, exponent=2.0),
        plain(lambda a, b: (1 - cosine(a, b)) ** 2),
    ),
    "log cosine": Case(
        (normal(N, P), normal(N, P)), losses.log_cosine, plain(lambda a, b: -2 * np.log(0.5 * (1 + cosine(a, b))))
    ),
    "gaussian kl": Case(
        (normal(N, P), 0.3 * normal(N, P)),
        losses.gaussian_kl,
        plain(lambda m, s: (0.5 * (m**2 + np.exp(2 * s) - 1) - s).sum(1)),
    ),
    "negative binomial": Case(
        (RNG.uniform(0.5, 4, (N, P)), normal(N, P)),
        lambda m, s, w: losses.negative_binomial(scalar_constants(w, COUNTS), m, s, weight=w),
        plain(negative_binomial),
    ),
    "zero-inflated negative binomial": Case(
        (RNG.uniform(0.5, 4, (N, P)), normal(N, P), normal(N, P)),
        lambda m, s, z, w: losses.zero_inflated_negative_binomial(
            scalar_constants(w, COUNTS), m, s, zero_logit=z, weight=w
        ),
        plain(zero_inflated),
    ),
    "local infomax": Case(
        (normal(N), normal(N)), losses.local_infomax, plain(lambda p, n: 0.5 * (softplus(-p) + softplus(n)))
    ),
    "InfoNCE by blocks": Case(
        (normal(N, P), normal(N, P)),
        lambda a, b, w: losses.info_nce(a, b, w, temperature=0.7, block=4),
        plain(lambda a, b: contrast(a, b, 0.7, within=False)),
    ),
    "NT-Xent by blocks": Case(
        (normal(N, P), normal(N, P)),
        lambda a, b, w: losses.info_nce(a, b, w, within=True, block=4),
        plain(lambda a, b: contrast(a, b, 0.5, within=True)),
    ),
    "barlow": Case((normal(N, P), normal(N, P)), losses.barlow, lambda base: twins),
    "triplet": Case((normal(N, P),), triplets, plain(triplet_rows)),
    "DEC": Case(
        (normal(N, P),),
        lambda z, w: losses.assignment_kl(
            losses.student_t(z, jnp.asarray(CENTRES, jnp.float32)), scalar_constants(w, TARGET), w
        ),
        plain(lambda z: (TARGET * np.log(TARGET / student(z, CENTRES, 1.0, 1.0))).sum(1)),
    ),
    "DEC as SpaGCN codes it": Case(
        (normal(N, P),),
        lambda z, w: losses.assignment_kl(
            losses.student_t(z, jnp.asarray(CENTRES, jnp.float32), alpha=0.2, exponent=1.2),
            scalar_constants(w, TARGET),
            w,
        ),
        plain(lambda z: (TARGET * np.log(TARGET / student(z, CENTRES, 0.2, 1.2))).sum(1)),
    ),
    "swapped prototypes": Case(
        (normal(N, K), normal(N, K)),
        lambda a, b, w: losses.swapped_assignment((a, b), w, temperature=0.2, epsilon=0.3, steps=5),
        swapped,
    ),
    "cross entropy": Case(
        (normal(N, K),),
        lambda x, w: losses.cross_entropy(x, jnp.asarray(fitted(LABELS, w)), w),
        plain(lambda x: -np.log(softmax(x))[np.arange(N), LABELS]),
    ),
    "MMD by blocks": Case(
        (normal(N, P), 0.5 + normal(N, P)), lambda x, y, w: losses.mmd((x, y), (w, w), block=4), discrepancy
    ),
    "smoothness": Case((normal(N, P),), lambda z, w: losses.smoothness(z, table(w), w), rough("squared")),
    "smoothness, absolute": Case(
        (normal(N, P),), lambda z, w: losses.smoothness(z, table(w), w, norm="absolute"), rough("absolute")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_what_numpy_says_and_blind_to_padding(name: str) -> None:
    """Value, slope along a random way, weights doubled, and value and slope again with six more rows of zeros."""
    case = CASES[name]
    way = [np.random.default_rng(7).normal(size=part.shape) for part in case.arrays]
    reference = case.reference(case.arrays)
    wanted = reference(*case.arrays)
    ends = [reference(*(a + s * b for a, b in zip(case.arrays, way, strict=True))) for s in (1e-5, -1e-5)]
    numbers = tuple(range(len(case.arrays)))

    @jax.jit
    def measure(arrays: Any, weight: Any) -> Any:
        def total(*arrays: Any) -> Any:
            value, size = case.loss(*arrays, weight)
            return value, size

        (value, size), slopes = jax.value_and_grad(total, numbers, has_aux=True)(*arrays)
        return value, size, slopes, case.loss(*arrays, 2.0 * weight)

    found = {}
    for n in (N, N + 6):
        arrays = tuple(jnp.asarray(size_up(part, n), jnp.float32) for part in case.arrays)
        with jax.numpy_dtype_promotion("strict"):
            value, size, slopes, doubled = measure(arrays, jnp.asarray(size_up(WEIGHT, n), jnp.float32))
        np.testing.assert_allclose(value, wanted, rtol=1e-4)
        np.testing.assert_allclose(doubled[0], 2 * value, rtol=1e-4)
        np.testing.assert_allclose(doubled[1], 2 * size, rtol=1e-5)
        assert all(np.isfinite(slope).all() and not np.asarray(slope[N:]).any() for slope in slopes)
        along = sum((np.asarray(slope[:N]) * part).sum() for slope, part in zip(slopes, way, strict=True))
        np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2e-5, rtol=2e-3, atol=2e-3)
        found[n] = size
    np.testing.assert_allclose(found[N], found[N + 6], rtol=1e-5)


def test_the_mean_of_a_section_without_spots_is_zero() -> None:
    """Nothing real: 0 with finite, zero slopes, through ``weighted_mean``."""

    def mean(x: Any) -> Any:
        weight = jnp.zeros(4)
        return sum(
            weighted_mean(*loss)
            for loss in (
                losses.mse(x, x + 1, weight),
                losses.scaled_cosine(x, x + 1, weight),
                losses.info_nce(x, x + 1, weight),
                losses.barlow(x, x + 1, weight),
                losses.mmd((x, x + 1), (weight, weight)),
            )
        )

    value, slope = jax.jit(jax.value_and_grad(mean))(jnp.zeros((4, 3)))
    assert float(value) == 0 and not np.asarray(slope).any()


def test_the_gram_identity_has_the_gradients_of_the_dense_product(rng: np.random.Generator) -> None:
    """Value and slopes of encoder and decoder weights, with XW shared, at the shape of an auto-encoder."""
    x = jnp.asarray(rng.poisson(0.5, (40, 60)), jnp.float32)
    kernel = jnp.asarray(0.1 * rng.normal(size=(60, 8)), jnp.float32)
    weight = jnp.asarray(np.arange(40) < 33, jnp.float32)

    def loss(kernel: Any, *, dense: bool) -> Any:
        projected = x @ kernel
        decoded = jnp.tanh(projected)
        if dense:
            return losses.mse(decoded @ kernel.T, x, weight)[0]
        return losses.tied_reconstruction(x, decoded, kernel, weight=weight, projected=projected)[0]

    found, wanted = (jax.value_and_grad(lambda k, d=d: loss(k, dense=d))(kernel) for d in (False, True))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-3, atol=1e-5)


def test_counts_are_stable_at_the_ends(rng: np.random.Generator) -> None:
    """A large size is the Poisson likelihood; means of 0, logits and sizes far out stay finite with their slopes."""
    counts = jnp.asarray([[0.0, 3.0, 50.0]])
    mean = jnp.asarray([[0.5, 3.0, 40.0]])
    one = jnp.ones(1)
    found = losses.negative_binomial(counts, mean, jnp.full(3, 7.0), weight=one)[0]
    wanted = -scipy.stats.poisson.logpmf(np.asarray(counts), np.asarray(mean)).sum()
    np.testing.assert_allclose(found, wanted, rtol=3e-2)

    def total(mean: Any, log_size: Any, zero: Any) -> Any:
        return losses.zero_inflated_negative_binomial(counts, mean, log_size, zero_logit=zero, weight=one)[0]

    for size in (-30.0, 30.0):
        for zero in (-200.0, 200.0):
            out = jax.value_and_grad(total, (0, 1, 2))(jnp.zeros((1, 3)), jnp.full(3, size), jnp.full((1, 3), zero))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_sharpened_shares_are_those_of_dec(rng: np.random.Generator) -> None:
    """q² over the weighted size of the cluster, rows summing to 1, no gradient."""
    q = rng.dirichlet(np.ones(4), 9)
    weight = np.concatenate([np.ones(7), np.zeros(2)])
    wanted = q**2 / (weight @ q)
    wanted /= wanted.sum(1, keepdims=True)
    found = losses.sharpened(jnp.asarray(q, jnp.float32), weight)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    slope = jax.grad(lambda q: losses.sharpened(q, weight)[:, 0].sum())(jnp.asarray(q, jnp.float32))
    assert not np.asarray(slope).any()


def test_balanced_assignment_uses_every_prototype(rng: np.random.Generator) -> None:
    """Columns come to equal mass over real spots even where one prototype is nearest to all."""
    scores = jnp.asarray(rng.normal(size=(300, 4)) + np.array([3.0, 0, 0, 0]), jnp.float32)
    weight = jnp.arange(300) < 240
    found = np.asarray(losses.balanced_assignment(scores, weight, epsilon=0.5, steps=50))
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found[:240].sum(0), 60.0, rtol=1e-2)


def test_an_unknown_norm_is_refused() -> None:
    """The message says what is known."""
    with pytest.raises(ValueError, match="'squared' or 'absolute'"):
        losses.smoothness(jnp.ones((N, 2)), table(WEIGHT), jnp.ones(N), norm="cubed")


def test_discrepancy_is_small_between_equal_groups_and_grows_with_their_distance(rng: np.random.Generator) -> None:
    """Equal distributions near 0; shifted ones ordered by the shift."""
    x, y = rng.normal(size=(2, 100, 2)).astype(np.float32)
    ones = jnp.ones(100)
    found = [float(losses.mmd((x, y + shift), (ones, ones))[0]) / 200 for shift in (0.0, 1.0, 2.0)]
    assert found[0] < 0.03 and found[0] < found[1] < found[2]

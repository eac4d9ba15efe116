"""The sampler of presence and abundance: against exact integrals, and the prior that it learns."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from spatialjax.composition import NormalEquations, Prior, empirical_prior, sampled

PRIOR = Prior(jnp.array([0.5, 0.3]), jnp.array([2.0, 1.0]))


def exact(gram: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of presence, mean and second moment of the abundances of two types, by numerical integration."""
    weight, first, second, present = 0.0, np.zeros(2), np.zeros(2), np.zeros(2)
    odds, size = np.asarray(PRIOR.present, float), np.asarray(PRIOR.size, float)

    def density(w: np.ndarray) -> float:
        return float(np.exp(target @ w - 0.5 * w @ gram @ w))

    for held in itertools.product([False, True], repeat=2):
        prior = np.prod([o if h else 1 - o for o, h in zip(odds, held, strict=True)])
        at = np.flatnonzero(held)
        ranges = [(0.0, 12.0)] * len(at)

        def value(*x: float, power: int = 0, which: int = 0, at: np.ndarray = at) -> float:
            w = np.zeros(2)
            w[at] = x
            slab = np.prod(np.exp(-w[at] / size[at]) / size[at])
            return density(w) * slab * w[which] ** power

        def mass(power: int = 0, which: int = 0, ranges: list = ranges, value: object = value) -> float:
            if not ranges:
                return value() if power == 0 else 0.0
            return integrate.nquad(lambda *x: value(*x, power=power, which=which), ranges, opts={"epsabs": 1e-7})[0]

        weight += prior * mass()
        present += prior * mass() * np.array(held)
        first += prior * np.array([mass(1, k) for k in range(2)])
        second += prior * np.array([mass(2, k) for k in range(2)])
    return present / weight, first / weight, second / weight


@pytest.mark.parametrize(
    ("gram", "target"),
    [
        ([[3.0, 1.0], [1.0, 2.0]], [4.0, 1.0]),
        ([[2.0, 1.8], [1.8, 2.0]], [0.5, 2.5]),
        ([[0.0, 0.0], [0.0, 1.0]], [0.0, -1.0]),
    ],
)
def test_draws_agree_with_the_integral(gram: list, target: list) -> None:
    """Presence and mean abundance; with types that look alike, and with a type of which nothing is known."""
    gram, target = np.array(gram), np.array(target)
    spots = 400
    equations = NormalEquations(
        jnp.asarray(np.tile(gram, (spots, 1, 1)), jnp.float32), jnp.asarray(np.tile(target, (spots, 1)), jnp.float32)
    )
    found = sampled(jax.random.key(0), jnp.ones((spots, 2)), equations, prior=PRIOR, power=1.0, warmup=50, draws=200)
    present, mean, _ = exact(gram, target)
    np.testing.assert_allclose(found.present.mean(0), present, atol=0.01)
    np.testing.assert_allclose(found.abundance.mean(0), mean, rtol=0.03, atol=0.01)


def test_intervals_of_what_is_present_leave_out_the_other_draws() -> None:
    """Over all draws a quantile may be 0; over those that hold the type it is not, and is NaN where none does."""
    target = jnp.array([0.4, -60.0, 12.0])
    equations = NormalEquations(jnp.tile(2.0 * jnp.eye(3), (64, 1, 1)), jnp.tile(target, (64, 1)))
    prior = Prior(jnp.array([0.5, 1e-6, 0.9]), jnp.array([1.0, 1.0, 5.0]))
    found = sampled(jax.random.key(1), jnp.ones((64, 3)), equations, prior=prior, power=1.0)
    assert (found.low[:, 0] == 0).all() and (found.low_present[:, 0] > 0).all()
    assert jnp.isnan(found.low_present[:, 1]).all() and (found.abundance[:, 1] == 0).all()
    np.testing.assert_allclose(found.mean.sum(1), 1.0, atol=1e-5)


def test_the_prior_of_many_spots_is_learnt() -> None:
    """Presence and size of three types over 2,000 spots drawn from the model itself; padding does not count."""
    rng = np.random.default_rng(3)
    present, size = np.array([0.8, 0.3, 0.15]), np.array([1.0, 4.0, 2.0])
    truth = (rng.uniform(size=(2000, 3)) < present) * rng.exponential(size, (2000, 3))
    gram = np.tile(20.0 * np.eye(3), (2000, 1, 1))
    target = truth * 20.0 + rng.normal(size=truth.shape) * np.sqrt(20.0)
    padded = jnp.concatenate([jnp.asarray(gram), jnp.zeros((500, 3, 3))])
    equations = NormalEquations(padded, jnp.concatenate([jnp.asarray(target), jnp.zeros((500, 3))]))
    start = jnp.concatenate([jnp.asarray(truth), jnp.zeros((500, 3))])
    used = jnp.arange(2500) < 2000
    found = empirical_prior(jax.random.key(2), start, equations, used=used, power=1.0)
    np.testing.assert_allclose(found.present, present, atol=0.06)
    np.testing.assert_allclose(found.size, size, rtol=0.2)

"""Script a method in JAX: an ``Algorithm`` in twenty lines, a list of sections, and the same model by gradients.

The method is non-negative matrix factorisation of raw counts under a Poisson likelihood: spots × genes ≈ scores ×
loadings. First by multiplicative updates (Lee and Seung, 2001), then by gradients with optax: both are run by the same
``fit``, which groups the sections by shape, gives each its own key and stops each by itself.

    python examples/script_a_method.py            # a few thousand spots
    python examples/script_a_method.py --small    # seconds
"""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spatialjax import Algorithm, Model, Slice, fit
from spatialjax.algorithm import minimize
from spatialjax.results import Embedding
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import make_slice

SMALL = 1e-6


class Factors(NamedTuple):
    """State of the factorisation: (n, k) scores, (k, g) loadings, loss of the last step."""

    scores: jax.Array
    loadings: jax.Array
    loss: jax.Array


def poisson_loss(scores: jax.Array, loadings: jax.Array, section: Slice) -> tuple[jax.Array, jax.Array]:
    """Sum over the real spots of mean − counts·log(mean), and the number of spots: padding has weight 0."""
    mean = scores @ loadings + SMALL
    per_spot = jnp.sum(mean - section.features * jnp.log(mean), axis=1)
    return jnp.sum(section.weights * per_spot), jnp.sum(section.weights)


@cache
def nmf(*, rank: int = 6, tolerance: float = 1e-5) -> Algorithm:
    """Factorise the counts of one section by multiplicative updates; cached, so that it compiles once a shape."""

    def init(key: jax.Array, section: Slice, start: Factors | None = None) -> Factors:
        spots, genes = section.features.shape
        left, right = jax.random.split(key)
        level = jnp.sqrt(section.features.sum() / (section.weights.sum() * genes * rank))
        scores = level * jax.random.uniform(left, (spots, rank), minval=0.5, maxval=1.5) * section.mask[:, None]
        loadings = level * jax.random.uniform(right, (rank, genes), minval=0.5, maxval=1.5)
        return Factors(scores, loadings, jnp.float32(jnp.inf)) if start is None else start

    def step(_key: jax.Array, state: Factors, section: Slice) -> tuple[Factors, dict[str, jax.Array]]:
        scores, loadings, before = state
        ratio = section.features / (scores @ loadings + SMALL)
        scores = scores * (ratio @ loadings.T) / (loadings.sum(1) + SMALL)
        ratio = section.features / (scores @ loadings + SMALL)
        loadings = loadings * (scores.T @ ratio) / (scores.sum(0)[:, None] + SMALL)
        total, weight = poisson_loss(scores, loadings, section)
        loss = total / weight
        done = jnp.abs(before - loss) < tolerance * jnp.abs(loss)
        return Factors(scores, loadings, loss), {"loss": loss, "done": done}

    def readout(_key: jax.Array, state: Factors, _section: Slice) -> Embedding:
        share = state.scores * state.loadings.sum(1)
        return Embedding(share / (share.sum(1, keepdims=True) + SMALL), jnp.isfinite(state.loss))

    return Algorithm(init, step, readout)


@cache
def nmf_by_gradients(*, rank: int = 6, learning_rate: float = 0.05) -> Algorithm:
    """The same factorisation as a ``Model``: what is trained by gradients is a dict of named groups."""

    def init(key: jax.Array, section: Slice) -> tuple[dict[str, jax.Array], None]:
        spots, genes = section.features.shape
        left, right = jax.random.split(key)
        level = jnp.log(section.features.sum() / (section.weights.sum() * genes * rank)) / 2
        params = {
            "scores": level + 0.3 * jax.random.normal(left, (spots, rank)),
            "loadings": level + 0.3 * jax.random.normal(right, (rank, genes)),
        }
        return params, None

    def loss(params: dict[str, jax.Array], aux: None, _key: jax.Array, section: Slice) -> Any:
        return poisson_loss(jnp.exp(params["scores"]), jnp.exp(params["loadings"]), section), (aux, {})

    def readout(_key: jax.Array, params: dict[str, jax.Array], _aux: None, section: Slice) -> Embedding:
        scores, loadings = jnp.exp(params["scores"]) * section.mask[:, None], jnp.exp(params["loadings"])
        share = scores * loadings.sum(1)
        return Embedding(share / (share.sum(1, keepdims=True) + SMALL), jnp.bool_(True))

    return minimize(Model(init, loss, readout), optax.adam(learning_rate))


def sections(key: jax.Array, *, small: bool) -> list[Slice]:
    """Three sections of unequal size of one simulated tissue, raw counts, coordinates in µm."""
    spots, genes = (150, 40) if small else (1500, 200)
    stack = simulate_tissue(key, n_sections=3, spots=spots, genes=genes, crop=0.6)
    return [make_slice(section.counts.toarray(), section.xy) for section in stack.sections]


def telling_genes(loadings: jax.Array, section: Slice, *, spot: int) -> jax.Array:
    """Gradient of one spot's loss with respect to its counts: which genes the factors explain worst there."""

    def loss(counts: jax.Array) -> jax.Array:
        scores = jnp.linalg.lstsq(loadings.T, counts)[0]
        mean = jnp.maximum(scores @ loadings, SMALL)
        return jnp.sum(mean - counts * jnp.log(mean))

    return jax.grad(loss)(section.features[spot])


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    """Run both factorisations on a list of sections and say how well they fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a run of a few seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    data_key, run_key = jax.random.split(jax.random.key(options.seed))
    members = sections(data_key, small=options.small)
    steps = 100 if options.small else 300

    updates = fit(nmf(), run_key, members, max_steps=steps)
    gradients = fit(nmf_by_gradients(), run_key, members, max_steps=steps)

    print("section  spots  updates: steps, loss a spot   gradients: steps, loss a spot")
    fitted: dict[str, list[float]] = {"updates": [], "gradients": []}
    for number, (section, a, b) in enumerate(zip(members, updates, gradients, strict=True)):
        fitted["updates"].append(float(a.history["loss"][-1]))
        fitted["gradients"].append(float(b.history["loss"][-1]))
        print(
            f"{number:7d} {int(section.mask.sum()):6d} {a.steps:15d}, {fitted['updates'][-1]:10.2f} ({a.status})"
            f" {b.steps:16d}, {fitted['gradients'][-1]:10.2f} ({b.status})"
        )
    gradient = telling_genes(updates[0].state.loadings, members[0], spot=0)
    print("genes that the factors explain worst in the first spot:", jnp.argsort(-jnp.abs(gradient))[:5].tolist())
    return fitted


if __name__ == "__main__":
    main()

"""Auto-encoders of counts: what they are told, what their draws are, and that they train."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spatialjax import losses, nn
from spatialjax.algorithm import Model, fit, minimize

GENES, KINDS, LATENT = 12, 2, 3
ENCODER, DECODER = nn.CountEncoder(LATENT, (16,)), nn.CountDecoder(GENES, (16,))


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """Counts of two kinds of rows with profiles of their own."""
    rng = np.random.default_rng(0)
    kind = np.arange(64) % KINDS
    profile = rng.gamma(0.5, size=(KINDS, GENES))
    counts = rng.poisson(60 * profile[kind] / profile.sum(1)[kind][:, None])
    return {"counts": jnp.asarray(counts, jnp.float32), "member": jnp.eye(KINDS)[kind]}


def test_without_a_key_nothing_is_dropped_or_drawn(key: Any, rows: dict[str, Any]) -> None:
    """The sample is the mean, twice the same; with a key it is not."""

    @jax.jit
    def both(key: Any) -> Any:
        variables = ENCODER.init(key, rows["counts"], rows["member"])
        plain = ENCODER.apply(variables, rows["counts"], rows["member"])
        return plain, ENCODER.apply(variables, rows["counts"], rows["member"], key=key)

    (first, drawn), (again, _) = both(key), both(key)
    assert np.array_equal(first.sample, first.mean) and np.array_equal(first.mean, again.mean)
    assert float(np.abs(np.asarray(drawn.sample) - np.asarray(drawn.mean)).max()) > 0


def test_rows_do_not_see_each_other(key: Any, rows: dict[str, Any]) -> None:
    """A row alone gives what it gives among others: read-outs by tiles are those of the whole."""

    @jax.jit
    def both(key: Any) -> Any:
        variables = ENCODER.init(key, rows["counts"], rows["member"])
        parts = (slice(None), slice(7, 8))
        return [ENCODER.apply(variables, rows["counts"][part], rows["member"][part]).mean for part in parts]

    together, alone = both(key)
    np.testing.assert_allclose(alone[0], together[7], rtol=1e-5, atol=1e-6)


def test_the_decoder_gives_the_library_to_the_genes(key: Any, rows: dict[str, Any]) -> None:
    """Means sum to the library, and hang on the condition."""
    library = np.asarray(rows["counts"].sum(1))

    @jax.jit
    def decoded(key: Any) -> Any:
        place = jnp.zeros((64, LATENT))
        variables = DECODER.init(key, place, rows["member"], library=library)
        return DECODER.apply(variables, place, rows["member"], library=library).mean

    made = np.asarray(decoded(key))
    np.testing.assert_allclose(made.sum(1), library, rtol=1e-4)
    assert np.abs(made[0] / library[0] - made[1] / library[1]).max() > 1e-4


def test_the_stack_ends_in_a_linear_layer_where_asked(key: Any) -> None:
    """Widths of the outputs; rectified values without, values of both signs with it."""
    stacks = [nn.DenseStack((9, 7), features=features) for features in (None, 4)]

    @jax.jit
    def both(key: Any) -> Any:
        x = jax.random.normal(key, (20, 5))
        return [stack.apply(stack.init(key, x), x) for stack in stacks]

    bare, linear = map(np.asarray, both(key))
    assert bare.shape == (20, 7) and linear.shape == (20, 4)
    assert bare.min() >= 0 > linear.min()


def test_an_auto_encoder_learns_the_profiles_of_its_kinds(key: Any, rows: dict[str, Any]) -> None:
    """After some steps decoded shares are those of the rows; at the start they are not."""

    def init(key: Any, data: Any) -> Any:
        place = jnp.zeros((1, LATENT))
        decoded = DECODER.init(key, place, data["member"][:1], library=jnp.ones(1))
        return {"encoder": ENCODER.init(key, data["counts"], data["member"]), "decoder": decoded}, ()

    def decoded(params: Any, data: Any, key: Any = None) -> Any:
        z = ENCODER.apply(params["encoder"], data["counts"], data["member"], key=key)
        return z, DECODER.apply(params["decoder"], z.sample, data["member"], library=data["counts"].sum(1), key=key)

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        z, made = decoded(params, data, key)
        weight = jnp.ones(len(data["counts"]))
        counted, size = losses.negative_binomial(data["counts"], made.mean, made.log_size, weight=weight)
        return (counted + losses.gaussian_kl(z.mean, z.log_sd, weight)[0], size), (aux, {})

    def readout(key: Any, params: Any, aux: Any, data: Any) -> Any:
        return decoded(params, data)[1].mean

    algorithm = minimize(Model(init, loss, readout), optax.adam(1e-2))
    gaps = []
    for steps in (0, 200):
        found = fit(algorithm, key, rows, max_steps=steps)
        mean = np.stack([np.asarray(rows["counts"])[k::KINDS].mean(0) for k in range(KINDS)])
        made = np.stack([np.asarray(found.result)[k::KINDS].mean(0) for k in range(KINDS)])
        gaps.append(np.abs(made - mean).sum() / mean.sum())
    assert gaps[1] < 0.15 < 0.4 < gaps[0]

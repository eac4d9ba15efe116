"""Dense blocks, weighted batch normalisation, dropout, gradient reversal, heads, corruption."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax import nn


def test_batch_norm_is_that_of_the_weighted_spots(rng: np.random.Generator, key: Any) -> None:
    """Weighted mean and variance of the real spots, whatever the padding holds; running statistics follow."""
    h = rng.normal(2.0, 3.0, (12, 4)).astype(np.float32)
    weights = np.concatenate([rng.uniform(0.5, 2, 9), np.zeros(3)]).astype(np.float32)
    layer = nn.BatchNorm()
    state = layer.init(key, h, weights)
    out, moved = layer.apply(state, h, weights, train=True, mutable=["batch_stats"])
    share = weights / weights.sum()
    mean = share @ h
    variance = share @ (h - mean) ** 2
    np.testing.assert_allclose(out[:9], ((h - mean) / np.sqrt(variance + 1e-5))[:9], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(moved["batch_stats"]["variance"], 0.9 + 0.1 * variance, rtol=1e-4)
    still = layer.apply({**state, **moved}, h, weights)
    wanted = (h - 0.1 * mean) / np.sqrt(0.9 + 0.1 * variance + 1e-5)
    np.testing.assert_allclose(still, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "layer", None])
def test_dense_block_is_blind_to_padding(norm: Any, rng: np.random.Generator, key: Any) -> None:
    """Values and gradients with more padding; finite on rows of zeros; the same spots are dropped."""
    h = rng.normal(size=(10, 4)).astype(np.float32)
    layer = nn.DenseBlock(3, norm=norm, dropout=0.3)
    params = layer.init(key, h, np.ones(10, np.float32))

    def loss(variables: Any, h: Any, weights: Any) -> Any:
        out, _ = layer.apply(variables, h, weights, train=True, key=key, mutable=["batch_stats"])
        return (weights[:, None] * out**2).sum()

    found = []
    for extra in (1, 7):
        padded = np.pad(h, ((0, extra), (0, 0)))
        weights = np.pad(np.ones(10, np.float32), (0, extra))
        value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, padded, weights)
        assert np.isfinite(slopes[1]).all() and not np.asarray(slopes[1][10:]).any()
        found.append((value, slopes[0]["params"], slopes[1][:10]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *found)


def test_dropout_keeps_the_mean_and_asks_for_what_it_needs(key: Any) -> None:
    """A quarter dropped, the rest scaled up; a missing key, a wrong rate and a wrong norm are refused."""
    out = np.asarray(nn.drop(jnp.ones((200, 200)), 0.25, key))
    assert set(np.unique(out).round(4)) == {0.0, np.float32(4 / 3).round(4)}
    assert abs(out.mean() - 1.0) < 0.02
    assert nn.drop(jnp.ones(3), 0.0, None).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="key"):
        nn.drop(jnp.ones(3), 0.5, None)
    with pytest.raises(ValueError, match="rate"):
        nn.drop(jnp.ones(3), 1.0, key)
    with pytest.raises(ValueError, match="norm"):
        nn.DenseBlock(2, norm="group").init(key, jnp.ones((3, 2)), jnp.ones(3))


def test_reversed_gradient_pushes_the_encoder_the_other_way() -> None:
    """Forward the identity, backward −strength × gradient, also under jit with a traced strength."""
    h = jnp.arange(3.0)
    value, slope = jax.jit(jax.value_and_grad(lambda h, s: (nn.reverse_gradient(h, s) ** 2).sum()))(h, 0.5)
    assert float(value) == 5.0
    np.testing.assert_allclose(slope, -0.5 * 2 * h)


def test_gaussian_head_draws_what_it_says(key: Any) -> None:
    """The mean without a key; with one, the right mean and deviation; the same real rows whatever the padding."""
    mean, log_sd = jnp.full((4000, 2), 3.0), jnp.full((4000, 2), -1.0)
    drawn = nn.draw(mean, log_sd, key).sample
    np.testing.assert_allclose(drawn.mean(), 3.0, atol=0.03)
    np.testing.assert_allclose(drawn.std(), np.exp(-1.0), rtol=0.03)
    np.testing.assert_array_equal(nn.draw(mean[:100], log_sd[:100], key).sample, drawn[:100])
    head = nn.GaussianHead(2)
    out, _ = head.init_with_output(key, jnp.ones((5, 3)))
    np.testing.assert_array_equal(out.sample, out.mean)
    assert np.isfinite(nn.draw(mean, 1e9 * log_sd, key).sample).all()


@pytest.mark.parametrize(("dispersion", "zeros"), [("gene", False), ("spot", True)])
def test_count_head(dispersion: Any, zeros: bool, key: Any, rng: np.random.Generator) -> None:
    """Expected counts sum to the library size; shapes of the other parameters."""
    library = np.array([100.0, 2000.0, 0.0], np.float32)
    head = nn.CountHead(6, dispersion=dispersion, zeros=zeros)
    out, _ = head.init_with_output(key, rng.normal(size=(3, 4)).astype(np.float32), library)
    np.testing.assert_allclose(out.mean.sum(1), library, rtol=1e-5)
    assert out.log_size.shape == ((6,) if dispersion == "gene" else (3, 6))
    assert (out.zero_logit is None) != zeros
    with pytest.raises(ValueError, match="dispersion"):
        nn.CountHead(6, dispersion="cell").init(key, jnp.ones((3, 4)), library)


def test_pairs_of_spots(key: Any, rng: np.random.Generator) -> None:
    """Inner products of numbered pairs; the bilinear form of each row."""
    z = rng.normal(size=(6, 3)).astype(np.float32)
    first, second = np.array([[0], [2]]), np.array([[1, 3], [4, 5]])
    wanted = (z @ z.T)[first, second]
    np.testing.assert_allclose(nn.inner_product(z, first, second), wanted, rtol=1e-5, atol=1e-6)
    layer = nn.Bilinear()
    out, params = layer.init_with_output(key, z, z[:, :2])
    wanted = np.diag(z @ np.asarray(params["params"]["kernel"]) @ z[:, :2].T)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def test_shuffled_rows_permute_the_real_spots_only(key: Any) -> None:
    """A permutation, not the identity, with padding in its place, the same for a larger capacity and a gap."""
    mask = np.arange(20) < 15
    found = np.asarray(nn.shuffled_rows(key, jnp.asarray(mask)))
    assert sorted(found[:15]) == list(range(15)) and found[15:].tolist() == list(range(15, 20))
    assert (found[:15] != np.arange(15)).any()
    larger = np.asarray(nn.shuffled_rows(key, jnp.arange(40) < 15))
    np.testing.assert_array_equal(larger[:15], found[:15])
    gap = np.ones(10, bool)
    gap[[2, 7]] = False
    found = np.asarray(nn.shuffled_rows(key, jnp.asarray(gap)))
    assert found[2] == 2 and found[7] == 7 and sorted(found) == list(range(10))


def test_hidden_rows(key: Any) -> None:
    """About the asked share of real spots, none of the padding; hidden ones hold the token and get no gradient."""
    mask = jnp.arange(4000) < 3000
    hidden = nn.masked_rows(key, mask, 0.3)
    assert not np.asarray(hidden[3000:]).any() and abs(float(hidden.sum()) / 3000 - 0.3) < 0.03
    h, token = jnp.ones((4000, 2)), jnp.array([5.0, 6.0])
    out = np.asarray(nn.hide_rows(h, hidden, token))
    assert (out[np.asarray(hidden)] == [5, 6]).all() and (out[~np.asarray(hidden)] == 1).all()
    slope, token_slope = jax.grad(lambda h, t: nn.hide_rows(h, hidden, t).sum(), (0, 1))(h, token)
    assert float(slope[:, 0].sum()) == 4000 - float(hidden.sum()) == 4000 - float(token_slope[0])
    with pytest.raises(ValueError, match="rate"):
        nn.masked_rows(key, mask, 1.5)

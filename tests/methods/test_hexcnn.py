"""HexCNN: supervised, with weights that know directions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax import nn
from spatialjax.algorithm import fit
from spatialjax.methods import METHODS, run
from spatialjax.metrics import ari
from spatialjax.preprocess import log_normalize
from spatialjax.propagation import principal_components
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import Slice, make_slice

LAYERS = 4


@pytest.fixture(scope="module")
def stack() -> Any:
    """Three sections of one layered tissue on one lattice frame: joint components, coordinates, layers, section."""
    found = simulate_tissue(
        jax.random.key(7), n_sections=3, spots=250, genes=80, layers=LAYERS, rotate=False, mirror_probability=0.0
    ).sections
    number = np.repeat(np.arange(3, dtype=np.int32), [len(s.xy) for s in found])
    values = np.concatenate([log_normalize(s.counts, target=1500.0).toarray() for s in found])
    embedding = principal_components(values, 15, section=number)
    return embedding, np.concatenate([s.xy for s in found]), np.concatenate([s.domain for s in found]), number


def sliced(stack: Any, label: np.ndarray) -> Slice:
    embedding, xy, _, number = stack
    return make_slice(embedding, xy, capacity=1024, extra={"section": number, "label": label.astype(np.int32)})


@pytest.fixture(scope="module")
def left_out(stack: Any) -> tuple[Slice, Any]:
    """The middle section without labels, and the fit."""
    *_, domain, number = stack
    section = sliced(stack, np.where(number == 1, -1, domain))
    return section, run(METHODS["domains"]["hexcnn"](n_domains=LAYERS), jax.random.key(0), [(section,)])[0]


def test_a_left_out_section_gets_the_layers_of_the_others(stack: Any, left_out: Any) -> None:
    """Accuracy above 0.85 by name, not only as a partition; converged after its epochs."""
    *_, domain, number = stack
    result = left_out[1].result
    found = np.asarray(result.labels)[: len(domain)]
    held = number == 1
    assert (found[held] == domain[held]).mean() > 0.85
    assert ari(found[held], domain[held]) > 0.7
    assert bool(result.converged)


def test_labels_of_the_left_out_section_are_not_read(stack: Any, left_out: Any) -> None:
    """With labels shuffled in the section that is left out by -1, nothing can leak: a few steps agree to the bit, and
    with one more labelled spot they do not.
    """
    *_, domain, number = stack
    method = METHODS["domains"]["hexcnn"](n_domains=LAYERS)
    hidden = np.where(number == 1, -1, domain)
    one_more = hidden.copy()
    one_more[np.flatnonzero(number == 1)[0]] = 0
    first, second = (
        fit(method.algorithm, jax.random.key(1), method.prepare(sliced(stack, label)), max_steps=5)
        for label in (hidden, one_more)
    )
    assert not bool(first.result.converged)
    assert not np.array_equal(first.result.probability, second.result.probability)
    weight = jax.grad(lambda logits: label_loss(logits, jnp.asarray(hidden)))(jnp.zeros((len(hidden), LAYERS)))
    assert not np.asarray(weight)[number == 1].any() and np.asarray(weight)[number == 0].any(1).all()


def label_loss(logits: Any, label: Any) -> Any:
    from spatialjax.losses import cross_entropy

    total, weight = cross_entropy(logits, jnp.maximum(label, 0), label >= 0)
    return total / weight


def test_directions_matter() -> None:
    """Classes that only the side of a neighbour tells apart: spots left and right of a bright row are told apart."""
    column, row = np.meshgrid(np.arange(16), np.arange(14))
    xy = np.stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2], -1).reshape(-1, 2)
    bright = np.random.default_rng(0).uniform(size=len(xy)) < 0.12
    table = nn.xy_directions(xy)
    east = np.asarray(bright[table.index[:, 0]] & (table.weight[:, 0] > 0))
    west = np.asarray(bright[table.index[:, 3]] & (table.weight[:, 3] > 0))
    keep = east != west
    label = np.where(keep, east, -1)
    taught = np.where(np.arange(len(xy)) % 2, label, -1)
    section = make_slice(bright[:, None], xy, capacity=256, extra={"label": taught.astype(np.int32)})
    method = METHODS["domains"]["hexcnn"](n_domains=2, learning_rate=1e-2)
    found = np.asarray(run(method, jax.random.key(0), [(section,)])[0].result.labels)[: len(xy)]
    asked = keep & (taught < 0)
    assert asked.sum() > 15
    assert (found[asked] == label[asked]).mean() > 0.9


def test_a_section_that_was_not_fitted_can_be_read_out(stack: Any, left_out: Any) -> None:
    """The trained network on one section of its own: nearly the classes it has in the joint slice."""
    embedding, xy, domain, number = stack
    method = METHODS["domains"]["hexcnn"](n_domains=LAYERS)
    own = number == 2
    alone = make_slice(embedding[own], xy[own], capacity=384, extra={"label": domain[own].astype(np.int32)})
    result = method.algorithm.readout(jax.random.key(0), left_out[1].state, method.prepare(alone))
    assert (np.asarray(result.labels)[: own.sum()] == domain[own]).mean() > 0.85


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "extra\\['label'\\].*supervised"),
        (np.full(30, -1), "at least one labelled spot"),
        (np.full(30, LAYERS), f"from -1 \\(unknown\\) to {LAYERS - 1}, found {LAYERS}"),
    ],
)
def test_missing_or_wrong_labels_are_refused(label: Any, message: str) -> None:
    """Before anything is trained."""
    rng = np.random.default_rng(0)
    extra = {} if label is None else {"label": label.astype(np.int32)}
    section = make_slice(rng.normal(size=(30, 3)), rng.uniform(size=(30, 2)), extra=extra)
    with pytest.raises(ValueError, match=message):
        METHODS["domains"]["hexcnn"](n_domains=LAYERS).prepare(section)

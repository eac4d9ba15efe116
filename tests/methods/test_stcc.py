"""STCC: the consensus of label vectors in its four variants."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from spatialjax import clustering
from spatialjax.methods import METHODS, run
from spatialjax.metrics import ari
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import make_slice

LAYERS, MEMBERS = 4, 8
VARIANTS = ("average", "hypergraph", "one-hot", "wnmf")


@pytest.fixture(scope="module")
def labelled() -> Any:
    """A simulated section and members that see its layers with 30 to 45 % errors, under names of their own."""
    section = simulate_tissue(jax.random.key(4), n_sections=1, spots=400, genes=10, layers=LAYERS).sections[0]
    rng = np.random.default_rng(2)
    names = np.stack([rng.permutation(LAYERS)[section.domain] for _ in range(MEMBERS)], 1)
    wrong = rng.uniform(size=names.shape) < np.linspace(0.3, 0.45, MEMBERS)
    return np.where(wrong, rng.integers(0, LAYERS, names.shape), names), section.xy, section.domain


def join(labels: Any, xy: Any, **options: Any) -> Any:
    section = make_slice(labels, xy, capacity=512)
    return run(METHODS["domains"]["stcc"](n_domains=LAYERS, **options), jax.random.key(5), [(section,)])[0].result


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_consensus_is_better_than_every_member(labelled: Any, variant: str) -> None:
    """Layers above 0.75, and above the best member by 0.2; the confident half is right more often."""
    labels, xy, domain = labelled
    result = join(labels, xy, variant=variant)
    found = np.asarray(result.labels)[: len(domain)]
    score = ari(found, domain)
    assert score > 0.75, score
    assert score > 0.2 + max(ari(member, domain) for member in labels.T)
    sure = np.asarray(result.confidence)[: len(domain)]
    assert ari(found[sure >= np.median(sure)], domain[sure >= np.median(sure)]) > score


def test_average_linkage_draws_nothing_and_is_the_block(labelled: Any) -> None:
    """The probabilities of the block, whatever the key; on the real spots alone."""
    labels, xy, _ = labelled
    expected = clustering.co_association(labels, number=LAYERS)
    result = join(labels, xy)
    np.testing.assert_array_equal(np.asarray(result.probability)[: len(xy)], expected.probability)


def test_renaming_the_labels_changes_nothing(labelled: Any) -> None:
    """Names are no numbers: 0, 1, 2 may be called 40, -3, 7."""
    labels, xy, _ = labelled
    names = np.array([40, -3, 7, 1000])
    first, second = (np.asarray(join(each, xy).labels)[: len(xy)] for each in (labels, names[labels]))
    assert ari(first, second) > 0.9


def test_fewer_distinct_rows_than_domains_leave_shares_of_zero() -> None:
    """Two kinds of rows and four domains: two are used, the others are empty."""
    labels = np.repeat([[0, 1], [1, 0]], 10, axis=0)
    result = join(labels, np.random.default_rng(0).uniform(size=(20, 2)))
    assert sorted(np.bincount(np.asarray(result.labels)[:20], minlength=LAYERS)) == [0, 0, 10, 10]
    np.testing.assert_allclose(np.asarray(result.probability)[:20].sum(1), 1.0, rtol=1e-5)


def test_a_variant_that_does_not_exist_is_refused() -> None:
    """With the names of the four."""
    with pytest.raises(ValueError, match="average, hypergraph, one-hot, wnmf, found 'majority'"):
        METHODS["domains"]["stcc"](variant="majority")


def test_labels_of_other_methods_can_be_joined(labelled: Any) -> None:
    """The intended use: k-means with other seeds and numbers of domains on noisy values joins to something better."""
    _, xy, domain = labelled
    rng = np.random.default_rng(3)
    values = np.eye(LAYERS)[domain] + rng.normal(scale=0.7, size=(len(domain), LAYERS))
    members = [
        np.asarray(clustering.kmeans(jax.random.key(i), values.astype(np.float32), number=LAYERS, starts=1).labels)
        for i in range(6)
    ]
    found = np.asarray(join(np.stack(members, 1), xy).labels)[: len(domain)]
    assert ari(found, domain) > np.mean([ari(member, domain) for member in members]) - 0.02

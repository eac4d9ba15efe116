"""Consensus of partitions, its tables of tuples, and the number of clusters by stability."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score, fowlkes_mallows_score

from spatialjax import clustering as cl
from spatialjax.clustering.linkage import balanced_cut, weighted_average_linkage
from spatialjax.metrics import ari

K, N, M = 4, 400, 9
WAYS = {
    "latent class": lambda key, table: cl.latent_class(key, table, number=K),
    "one-hot": lambda key, table: cl.one_hot(key, table, number=K),
    "average": lambda key, table: cl.co_association(table, number=K),
    "hypergraph": lambda key, table: cl.hypergraph(key, table, number=K),
    "wnmf": lambda key, table: cl.wnmf(key, table, number=K)[0],
}


@pytest.fixture(scope="module")
def members():
    """Members that see the truth with errors, under names of their own; the last one is noise."""
    rng = np.random.default_rng(5)
    truth = rng.choice(K, N, p=[0.4, 0.3, 0.2, 0.1])
    wrong = rng.uniform(size=(N, M)) < np.linspace(0.3, 0.5, M)
    table = np.where(wrong, rng.integers(0, K, (N, M)), np.stack([rng.permutation(K)[truth] for _ in range(M)], 1))
    table[:, -1] = rng.integers(0, 6, N)
    return truth, table


@pytest.mark.parametrize("way", WAYS)
def test_a_consensus_is_better_than_its_members(key, members, way):
    """Accuracy far above every member, probabilities, largest cluster first, errors are unsure."""
    truth, table = members
    found = WAYS[way](key, table)
    assert ari(found.labels, truth) > 0.1 + max(ari(column, truth) for column in table.T)
    np.testing.assert_allclose(found.probability.sum(1), 1.0, rtol=1e-5)
    assert (np.diff(np.bincount(found.labels, minlength=K)) <= 0).all()
    right = np.array([np.bincount(truth[found.labels == k]).argmax() for k in range(K)])[found.labels] == truth
    assert found.confidence[right].mean() > found.confidence[~right].mean() + 0.1


@pytest.mark.parametrize("way", WAYS)
def test_a_permutation_of_rows_permutes_the_consensus(key, members, way):
    """Exactly."""
    _, table = members
    order = np.random.default_rng(1).permutation(N)
    first, second = WAYS[way](key, table), WAYS[way](key, table[order])
    np.testing.assert_array_equal(first.labels[order], second.labels)
    np.testing.assert_array_equal(first.probability[order], second.probability)


def test_weights_of_wnmf_turn_away_from_noise(key, members):
    """The random member weighs least; the weights add up to 1."""
    _, weights = cl.wnmf(key, members[1], number=K)
    assert weights.sum() == pytest.approx(1.0) and weights[-1] < weights[:-1].min()


def test_latent_classes_from_a_start_and_with_weights(key, members):
    """A given start is used, silenced members do not matter, and a wrong number of weights is refused."""
    truth, table = members
    started = cl.latent_class(key, table, number=K, start=cl.co_association(table, number=K).labels)
    assert started.converged and ari(started.labels, truth) > 0.85
    only = cl.latent_class(key, table, number=K, start=truth, member_weight=[1.0] + [0.0] * (M - 1))
    assert ari(only.labels, table[:, 0]) == 1.0
    with pytest.raises(ValueError, match="each of 9 members"):
        cl.latent_class(key, table, number=K, start=truth, member_weight=[1.0, 2.0])


def test_a_single_shared_label_gives_one_cluster(key):
    """More clusters than tuples: only as many as there are."""
    table = np.zeros((20, 3), int)
    for way in WAYS.values():
        found = way(key, table)
        assert not found.labels.any() and found.confidence.min() == 1.0
    with pytest.raises(ValueError, match="one column for each member"):
        cl.latent_class(key, np.zeros(20), number=2)


def test_landmarks_and_splinters_join_the_clusters(members):
    """Fewer landmarks than tuples, and clusters under the smallest size, still give K balanced clusters."""
    truth, table = members
    found = cl.co_association(table, number=K, landmarks=60)
    assert ari(found.labels, truth) > 0.8 and np.bincount(found.labels).min() > 0.1 * N / K


def test_weighted_average_linkage_is_that_of_repeated_points(rng):
    """Cuts of the weighted tree against scipy's on the points written out."""
    points = rng.normal(size=(25, 2))
    weight = rng.integers(1, 4, 25)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    merges = weighted_average_linkage(distance, weight)
    rows = np.repeat(np.arange(25), weight)
    tree = linkage(squareform(distance[np.ix_(rows, rows)], checks=False), "average")
    from scipy.cluster.hierarchy import fcluster

    for number in (2, 5, 9):
        ours = balanced_cut(merges, weight, number=number, least=0.0)
        assert adjusted_rand_score(fcluster(tree, number, "maxclust"), ours[rows]) == 1.0


def test_a_balanced_cut_leaves_splinters_out():
    """Two groups and a lone point far away: the point is no cluster."""
    points = np.concatenate([np.linspace(0, 1, 10), np.linspace(5, 6, 10), [50.0]])
    merges = weighted_average_linkage(np.abs(points[:, None] - points), np.ones(21))
    found = balanced_cut(merges, np.ones(21), number=2, least=2.0)
    assert found[-1] == -1 and len(set(found[:10])) == len(set(found[10:20])) == 1 and found[0] != found[10]


def test_pairwise_indices_agree_with_scikit_learn(members):
    """All pairs at once from one product."""
    _, table = members
    rand, fowlkes = cl.rand_matrix(table), cl.fowlkes_mallows_matrix(table)
    for a, b in ((0, 1), (2, 8), (4, 4)):
        assert rand[a, b] == pytest.approx(adjusted_rand_score(table[:, a], table[:, b]), abs=1e-12)
        assert fowlkes[a, b] == pytest.approx(fowlkes_mallows_score(table[:, a], table[:, b]), abs=1e-12)
    assert cl.rand_matrix(np.zeros((9, 2)))[0, 1] == 1.0


def test_stability_peaks_at_the_number_of_groups(key, rng):
    """Members by k-means of noisy copies of four groups: four is the first candidate, the whole curve is returned."""
    import jax
    import jax.numpy as jnp

    centres = np.array([[0.0, 0], [6, 0], [0, 6], [6, 7]])
    points = centres[rng.integers(0, 4, 160)] + rng.normal(size=(160, 2))
    copies = [jnp.asarray((points + rng.normal(size=points.shape) * 0.8).astype(np.float32)) for _ in range(6)]
    keys = jax.random.split(key, 6)
    partitions = {
        k: np.stack([cl.kmeans(a, v, number=k, starts=1).labels for a, v in zip(keys, copies, strict=True)], 1)
        for k in (3, 4, 6)
    }
    curve = cl.stability(partitions)
    assert curve.candidates[0] == 4 and list(curve.number) == [3, 4, 6]
    assert curve.rand[1] > 0.8 and curve.rand.shape == curve.spread.shape == curve.fowlkes_mallows.shape
    with pytest.raises(ValueError, match="at least two members for 3"):
        cl.stability({3: partitions[3][:, :1]})


def test_labels_by_size():
    """0 for the largest, any names."""
    np.testing.assert_array_equal(cl.by_size(["b", "a", "b", "c", "c", "c"]), [1, 2, 1, 0, 0, 0])

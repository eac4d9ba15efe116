"""The authors' own code on the same input and weights: methods for several sections, ensembles, consensus, wavelets.

See ``test_golden.py``; the cases are made by ``benchmarks/authors``.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
from golden_case import (
    CAPACITY,
    before_normalisation,
    begun,
    golden,
    joined,
    padded,
    pairs,
    same,
    torch_block,
)

from spatialjax import graphs, losses, propagation
from spatialjax.clustering import co_association
from spatialjax.graphs import knn, scaled_radius
from spatialjax.methods import METHODS
from spatialjax.methods.domains import splane, stamarker, stcc, stg3net
from spatialjax.metrics import ari
from spatialjax.nn import ChebyshevConvolution, TiedAttentionAutoencoder, propagate
from spatialjax.slices import make_slice


class TestStg3net:
    """STG3Net (wenwenmin): their two turns with dropout off, hidden spots, token and anchors fixed; two sections.

    Their adversary gives the encoder no gradient, so ours has the factor 0 here; that it reaches the encoder
    otherwise is tested elsewhere. The plain graph is given to their layers: their training gives them one that is
    normalised already, which the layer joins with the identity and normalises again (``test_graph``), so that half of
    each layer's input is the spot's own; ours follows the published graph convolution.
    """

    @pytest.fixture
    def case(self, monkeypatch):
        case = golden("stg3net")
        order, within = case["order"], case["order_hidden"]
        rows = order[:30]
        blank, copied = rows[within[:27]], rows[within[-3:]]

        def corrupted(section, token, key, *, rates):
            seen = section.features.at[blank].set(token).at[copied].set(section.features[order[:3]])
            return seen, jnp.zeros(CAPACITY, bool).at[rows].set(True)

        monkeypatch.setattr(stg3net, "corrupted", corrupted)
        monkeypatch.setattr(stg3net, "_anchor_search", self.kept_anchors)
        method = stg3net.stg3net.__wrapped__(k=6, dropout=0.0, adversary=0.0)
        numbers = padded(case["number"][:, None].astype(np.int32))[:, 0]
        section = make_slice(case["x"], case["xy"], extra={"section": case["number"]}, capacity=CAPACITY)
        edges = graphs.within_sections(section, lambda xy: knn(xy, 6, symmetric=True)).edges
        member = jax.nn.one_hot(numbers, 2) * section.mask[:, None]
        data = stg3net.Joined(section.replace(edges=edges), member, jnp.arange(CAPACITY))
        state = begun(method, data, self.weights(case, "start"))
        anchor, positive, negative = (jnp.asarray(each) for each in case["triples"])
        blank_row = jnp.arange(CAPACITY)
        anchors = losses.Anchors(
            blank_row.at[anchor].set(positive),
            blank_row.at[anchor].set(negative),
            jnp.zeros(CAPACITY).at[anchor].set(1.0),
        )
        return case, method, data, state._replace(aux={**state.aux, "anchors": anchors})

    @staticmethod
    def kept_anchors(options, params, aux, key, data):
        """No search before step 500: left out, so that its mixture is not compiled."""
        return losses.of_all(jnp.float32(0.0), data.section.weights), (aux, {})

    @staticmethod
    def loss(state, data):
        """The encoder's loss as a function of the parameters."""
        encoder = stg3net.Encoder((64, 32, 64), 16, 0.0)
        factors = {"reconstruction": 0.7, "triplet": 1.0, "adversary": 0.0}
        options = stg3net.Options(encoder, 3, 0.0, (0.5, 0.1), **factors, first_anchors=500, candidates=50)

        def value(params):
            total, weight = stg3net._encoder_loss(options, params, state.aux, jax.random.key(0), data)[0]
            return total / weight

        return value

    @staticmethod
    def weights(case, start):
        def convolved(name):
            own = {
                part: jnp.asarray(case[f"{start} {name}.{part}"])
                for part in ("conv.lin.weight", "conv.bias", "bn.weight", "bn.bias")
            }
            return {
                "GraphConvolution_0": {"kernel": own["conv.lin.weight"].T, "bias": own["conv.bias"]},
                "BatchNorm_0": {"scale": own["bn.weight"], "bias": own["bn.bias"]},
            }

        encoder = {
            f"DenseBlock_{i}": torch_block(case, f"encoder.encoder.encoder_L{i + 1}", start=start) for i in range(2)
        }
        encoder |= {f"Convolved_{i}": convolved(f"encoder.gc{i + 1}") for i in range(2)}
        bridge = jnp.asarray(case[f"{start} encoder_to_decoder.weight"]).T
        decoder = {"Dense_0": {"kernel": bridge}, "Convolved_0": convolved("decoder.layer1")}
        return {"encoder": encoder, "decoder": decoder, "token": jnp.asarray(case[f"{start} enc_mask_token"][0])}

    def told(self, data, state):
        """Embedding in training."""

        def run(params):
            seen, _ = stg3net.corrupted(data.section, params["token"], None, rates=None)
            variables = {"params": params["encoder"], "batch_stats": state.aux["statistics"]["encoder"]}
            encoder = stg3net.Encoder((64, 32, 64), 16, 0.0)
            return encoder.apply(variables, seen, data.section, key=jax.random.key(0), mutable=["batch_stats"])[0]

        return jax.jit(run)(state.params)

    def test_graph(self, case):
        """Neighbours within each section, weights of one normalisation, and what a second one makes of them."""
        case, _, data, _ = case
        np.testing.assert_array_equal(joined(data.section.edges, 60), case["adjacency"])
        passed = propagate(jnp.eye(CAPACITY), data.section.edges)[:60, :60]
        same(passed, case["passed"])
        lazy = passed + jnp.eye(60)
        same(lazy / jnp.sqrt(lazy.sum(1, keepdims=True) * lazy.sum(0)), case["twice"])

    def test_pass_and_gradients(self, case):
        """Embedding, losses, and gradients of encoder, decoder and token."""
        case, method, data, state = case
        same(self.told(data, state)[:60], case["z"], tolerance=1e-4)
        info = jax.jit(method.algorithm.step)(jax.random.key(0), state, data)[1]
        for name in ("hidden", "triplet", "loss"):
            same(info[name], case[name])
        found = jax.jit(jax.grad(self.loss(state, data)))(state.params)
        wanted = self.weights(case, "slope")
        for name, parts in wanted.items():
            for (path, other), part in zip(jax.tree.leaves_with_path(parts), jax.tree.leaves(found[name]), strict=True):
                if not before_normalisation(path):
                    same(part, other, tolerance=2e-4)

    def test_training(self, case):
        """Twenty of their steps: losses and embedding."""
        case, method, data, state = case
        step = jax.jit(lambda state, _: (method.algorithm.step(jax.random.key(0), state, data)[0], None))
        last = jax.jit(lambda state: jax.lax.scan(step, state, length=20)[0])(state)
        same(self.told(data, last)[:60], case["trained_z"], tolerance=1e-3)
        info = jax.jit(method.algorithm.step)(jax.random.key(0), last, data)[1]
        for name in ("hidden", "triplet"):
            same(info[name], case[f"trained_{name}"], tolerance=1e-3)


class TestStamarker:
    """STAMarker (zhanglabtools): an ensemble of two of their encoders, their saliency of a perceptron on top.

    Their scores of pairs pass a LeakyReLU (``score="leaky_relu"``). Their classifier has no activation, so a perceptron
    is given to their saliency; six of the thirty genes stand for ours' shadows, which theirs lacks. Their rule selects
    by the root of the sum of squares of the saliency over a domain; ours by the logarithm of its mean, as published:
    compared are the means of theirs, put through that formula.
    """

    @pytest.fixture
    def case(self):
        return golden("stamarker")

    @staticmethod
    def members(case):
        return {name: jnp.asarray(case[name]) for name in ("kernel", "narrow", "receiver", "sender")}

    def test_encoders(self, case):
        """Embedding and loss of each member."""
        method = METHODS["domains"]["stagate"](hidden=16, latent=5, score="leaky_relu")
        data = method.prepare(make_slice(case["x"], case["xy"], capacity=CAPACITY))
        np.testing.assert_array_equal(joined(data.edges, 60), pairs(case["edges"], 60))

        @jax.jit
        def told(own):
            state = method.algorithm.init(jax.random.key(0), data, {"network": own})
            info = method.algorithm.step(jax.random.key(0), state, data)[1]
            return info["loss"], method.algorithm.readout(jax.random.key(0), state, data).values

        for number in range(2):
            loss, z = told({name: value[number] for name, value in self.members(case).items()})
            same(loss, case["loss"][number])
            same(z[:60], case["z"][number], tolerance=5e-5)

    def test_saliency(self, case):
        """Scores of the genes in the domains, and those that the published rule takes."""
        network = TiedAttentionAutoencoder(16, 5, "leaky_relu")
        select = partial(stamarker._outliers, deviations=1.5)
        model = stamarker._classifiers(network, stamarker._Classifier(5, 3), rule="deviations", select=select)
        section = make_slice(case["x"][:, :24], case["xy"], capacity=CAPACITY)
        section = section.replace(edges=graphs.within_sections(section, lambda xy: scaled_radius(xy, 1.6)).edges)
        layers = {"Dense_1": "first", "Dense_0": "second"}
        own = {
            ours: {part: jnp.asarray(case[f"{name}_{part}"]) for part in ("kernel", "bias")}
            for ours, name in layers.items()
        }
        data = {"section": section, "labels": padded(case["labels"]), "encoders": self.members(case)}
        data |= {"shadow": padded(case["x"][:, 24:]), "epoch": jnp.int32(1000)}
        data["embedding"] = jnp.stack([padded(z) for z in case["z"]])
        found = jax.jit(model.readout)(jax.random.key(0), {"classifiers": own}, jnp.int32(300), data).genes
        saliency = case["saliency"].astype(np.float64)
        mean = np.stack([saliency[:, case["labels"] == domain].mean((0, 1)) for domain in range(3)])
        score = np.log(mean + 1e-3 * mean.mean(1, keepdims=True))
        same(found.score, score[:, :24], tolerance=1e-4)
        high = score[:, :24] > score[:, :24].mean(1, keepdims=True) + 1.5 * score[:, :24].std(1, keepdims=True)
        np.testing.assert_array_equal(found.selected, high)

    def test_consensus(self, case):
        """The clusters that five partitions with 15 % of wrong labels have in common."""
        probability = np.asarray(co_association(case["partitions"].T, number=3).probability)
        assert ari(probability.argmax(1), case["consensus_labels"]) == 1.0


class TestSplane:
    """Splane of SPACEL (QuKunLab): their graph, network and loss without dropout; two sections.

    Equal by intent: weights of the types, Chebyshev terms, network, cosine, likeness of neighbours. Not equal: their
    divergence divides standardised columns by sums that are 0 (ours turns them into shares by a softmax and
    sums over the spots instead of averaging), their discriminator is told labels as logits and normalises after its
    rectifier, ours before it. Divergence and adversary are therefore left out of loss, gradient and training. They ask
    a solver for symmetric matrices for the largest eigenvalue of one that is not, and get 1.5883 for 1.5831: theirs is
    given to ours.
    """

    @pytest.fixture
    def case(self):
        case = golden("splane")
        section = make_slice(case["shares"], case["xy"], extra={"section": case["number"]}, capacity=CAPACITY)
        data = splane.compose(section, least=0.01)
        # The diagonal of their first term is 2 / λ - 1.
        return case, data._replace(top=jnp.float32(2.0 / (case["term1"][0, 0] + 1.0))), np.asarray(data.place)

    @staticmethod
    def weights(case, start):
        layers = ("encode_gc1", "encode_gc2", "decode_gc1", "decode_gc2")
        found = {}
        for i, name in enumerate(layers):
            kernels = jnp.split(jnp.asarray(case[f"{start} {name}.weight"]), 3)
            bias = {"bias": jnp.asarray(case[f"{start} {name}.bias"])}
            found[f"layers_{i}"] = {f"kernel{power}": each for power, each in enumerate(kernels)} | bias
        return {"params": found}

    @staticmethod
    def loss(data, rows):
        """Ours without the divergence."""
        network = splane.Autoencoder(8, 10, 6, 2, 0.0)

        def value(weights):
            z, decoded = network.apply(weights, data)
            x = data.section.features
            wanted, found = (jax.nn.log_softmax(jnp.where(rows[:, None], v, -1e30), axis=0) for v in (x, decoded))
            terms = jnp.where(rows[:, None], jnp.exp(wanted) * (wanted - found), 0.0)
            return splane.fit_loss(z, decoded, data, rows=rows) - (data.weights * terms.sum(0)).sum()

        return value

    def test_preparation(self, case):
        """Standardised proportions, graph, weights of the types, and the Chebyshev terms of the Laplacian."""
        case, data, place = case
        adjacency = case["adjacency"].astype(float)
        exact = np.linalg.eigvals(np.eye(60) - adjacency / adjacency.sum(1, keepdims=True)).real.max()
        section = make_slice(case["shares"], case["xy"], extra={"section": case["number"]}, capacity=CAPACITY)
        same(splane.compose(section, least=0.01).top, exact)
        same(data.section.features[place[:60]], case["x"])
        np.testing.assert_array_equal(
            joined(data.section.edges, CAPACITY)[np.ix_(place[:60], place[:60])], case["adjacency"]
        )
        same(data.weights, case["weights"])
        same(data.pull, case["pull"])
        for power in (1, 2):
            layer = ChebyshevConvolution(CAPACITY, order=2, normalisation="left", use_bias=False)
            one = {f"kernel{i}": jnp.eye(CAPACITY) * (i == power) for i in range(3)}
            term = jax.jit(layer.apply)({"params": one}, jnp.eye(CAPACITY), data.section.edges, data.top)
            same(term[np.ix_(place[:60], place[:60])], case[f"term{power}"], tolerance=1e-4)

    def test_pass_and_gradients(self, case):
        """Embedding, decoded proportions, cosine and likeness of neighbours with their gradients."""
        case, data, place = case
        weights = self.weights(case, "start")
        z, decoded = jax.jit(splane.Autoencoder(8, 10, 6, 2, 0.0).apply)(weights, data)
        same(z[place[:60]], case["z"], tolerance=1e-4)
        same(decoded[place[:60]], case["decoded"], tolerance=1e-4)
        rows = jnp.zeros(CAPACITY, bool).at[place[:60]].set(case["train"])
        value, found = jax.jit(jax.value_and_grad(self.loss(data, rows)))(weights)
        same(value, case["losses"][0])
        jax.tree.map(lambda ours, theirs: same(ours, theirs, tolerance=2e-4), found, self.weights(case, "slope"))
        scatter = splane.davies_bouldin(
            z, jnp.zeros(CAPACITY, int).at[place[:60]].set(case["labels"]), data.section.weights, number=3
        )
        same(scatter, case["scatter"], tolerance=1e-4)

    def test_training(self, case):
        """Twenty steps of RMSprop: losses and embedding."""
        case, data, place = case
        rows = jnp.zeros(CAPACITY, bool).at[place[:60]].set(case["train"])
        optimizer = optax.rmsprop(3e-3, decay=0.99, eps=1e-8, eps_in_sqrt=False)
        loss = jax.value_and_grad(self.loss(data, rows))

        def step(carried, _):
            weights, moments = carried
            value, gradient = loss(weights)
            moved, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(weights, moved), moments), value

        weights = self.weights(case, "start")
        (last, _), told = jax.jit(lambda carried: jax.lax.scan(step, carried, length=20))(
            (weights, optimizer.init(weights))
        )
        same(told, case["losses"], tolerance=1e-3)
        z, _ = jax.jit(splane.Autoencoder(8, 10, 6, 2, 0.0).apply)(last, data)
        same(z[place[:60]], case["trained_z"], tolerance=1e-2)


class TestStcc:
    """STCC (package 1.0.3): eight partitions, each with a quarter of its labels drawn at random.

    Their average variant clusters the rows of the co-association by k-means where ours cuts a tree of average linkage;
    their factorisation takes elementwise roots for matrix roots. Compared is the partition, not the way to it.
    """

    @pytest.mark.parametrize("variant", ["average", "one-hot", "wnmf"])
    def test_same_partition(self, variant):
        """The same domains, which no member has."""
        case = golden("stcc")
        found = stcc.consensus(jax.random.key(0), case["labels"], number=3, variant=variant)
        assert ari(found.labels, case[variant]) == 1.0
        assert max(ari(member, case[variant]) for member in case["labels"].T) < 0.7


class TestHypergraphWavelets:
    """KrishnaswamyLab: wavelet coefficients of the walk over neighbourhoods on the same hypergraph.

    Their walk is not lazy, ours is: 2P - I is put into our wavelets. Their pipeline gives the signals to the
    hyperedges, diffuses over the dual hypergraph by the transposed walk (in whose code the sizes divide twice) and
    keeps signed coefficients; ours follows the equations of the abstract, so nothing beyond coefficients is compared.
    """

    def test_coefficients(self):
        """Five scales of the walk from a spot to one of its hyperedges and on to one of its spots."""
        case = golden("hypergraph_wavelets")
        spot, edge = case["members"]
        incidence = sp.csr_matrix((np.ones(len(spot)), (spot, edge)), shape=(60, 60))
        lazy = propagation.hypergraph_diffusion(incidence)
        found = propagation.wavelets(lambda values: 2.0 * lazy(values) - values, case["x"], scales=4)
        same(found, case["coefficients"][:5])

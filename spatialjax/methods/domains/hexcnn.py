"""HexCNN: hexagonal convolutions trained on labelled spots."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from spatialjax import graphs, losses, nn, propagation
from spatialjax.algorithm import Model, minimize
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Domains
from spatialjax.slices import Neighbors, Slice


class _Network(linen.Module):
    """Hexagonal convolutions with ReLU, and a dense head."""

    widths: tuple[int, ...]
    classes: int

    @linen.compact
    def __call__(
        self, h: Float[Array, "n p"], directions: Neighbors
    ) -> tuple[Float[Array, "n q"], Float[Array, "n k"]]:
        for width in self.widths:
            h = linen.relu(nn.HexagonalConvolution(width)(h, directions))
        return h, linen.Dense(self.classes)(h)


@functools.cache
def hexcnn(
    *,
    n_domains: int = 7,
    widths: tuple[int, ...] = (64, 32),
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    epochs: int = 200,
) -> Method:
    """Learn the domains of labelled spots and name those of the others. **Supervised**: it needs labels.

    Each convolution has seven taps, the spot and its neighbours in six directions,
    ``y_i = W_0 h_i + Σ_t W_t h_(neighbour t of i) + b``, so that it knows where a neighbour lies, unlike a graph
    convolution. Two of them with ReLU and a dense layer give the classes; the cross entropy over the labelled spots is
    minimised. Spots without a label take part as neighbours only.

    A section is left out by putting it together with the labelled ones in one slice (``extra["section"]``) with label
    −1: its spots then get domains from what the other sections taught. Sections must agree on directions, so give
    ``edges`` of :func:`spatialjax.nn.array_directions` where array positions are known; else directions are those of
    :func:`spatialjax.nn.xy_directions`.

    Parameters
    ----------
    n_domains
        Number of classes; labels are 0 … n_domains − 1.
    widths
        Widths of the convolutions.
    learning_rate, weight_decay
        Of AdamW.
    epochs
        Number of steps, each over all spots.

    Returns
    -------
    Method
        Data: one section on a hexagonal lattice with ``extra["label"]`` (n,), −1 where unknown. Result: ``Domains``
        whose embedding is the last convolution; ``converged`` after ``epochs`` steps.

    Raises
    ------
    ValueError
        When prepared, if there are no labels, one is out of range, or the spots lie on no hexagonal lattice.

    References
    ----------
    Gao et al. (2022), Proceedings of IEEE BIBM.
    """
    network = _Network(widths, n_domains)

    def prepare(section: Slice) -> Slice:
        _check_labels(section, n_domains)
        directions = graphs.within_sections(section, nn.xy_directions).edges
        return propagation.from_real_spots(section, _standardised).replace(edges=directions)

    def init(key: Any, data: Slice) -> tuple[dict[str, Any], Any]:
        return {"network": network.init(key, data.features, data.edges)["params"]}, jnp.int32(0)

    def apply(params: Any, data: Slice) -> tuple[Any, Any]:
        return network.apply({"params": params["network"]}, data.features, data.edges)

    def loss(params: Any, steps: Any, key: Any, data: Slice) -> tuple[Any, Any]:
        del key
        label = data.extra["label"]
        known = data.weights * (data.mask & (label >= 0))
        total = losses.cross_entropy(apply(params, data)[1], jnp.maximum(label, 0), known)
        return total, (steps + 1, {})

    def readout(key: Any, params: Any, steps: Any, data: Slice) -> Domains:
        del key
        hidden, logits = apply(params, data)
        real = data.mask[:, None]
        return Domains(jax.nn.softmax(logits, 1) * real, hidden * real, steps >= epochs)

    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
    return Method(prepare, minimize(Model(init, loss, readout), optimizer), unchanged, max_steps=epochs)


def _check_labels(section: Slice, n_domains: int) -> None:
    if "label" not in section.extra:
        raise ValueError(
            "Expected extra['label'] with the domain of labelled spots and -1 for the others, found none: HexCNN is "
            "supervised. Choose another method where no spot is labelled."
        )
    label = np.asarray(section.extra["label"])[np.asarray(section.mask)]
    if label.max(initial=-1) >= n_domains or label.min(initial=0) < -1:
        raise ValueError(
            f"Expected labels from -1 (unknown) to {n_domains - 1}, found {label.min()} to {label.max()}: number them "
            "from 0, or raise n_domains."
        )
    if not (label >= 0).any():
        raise ValueError("Expected at least one labelled spot, found only -1: HexCNN is supervised.")


def _standardised(spots: Slice) -> Float[np.ndarray, "m p"]:
    """Columns of mean 0 in each section, all divided by one number, so that the leading components stay the loudest."""
    values = propagation.centred_by_section(spots.features, spots.extra.get("section"))
    scale = np.sqrt((values**2).mean(0).max(initial=0.0))
    return values / scale if scale > 0 else values


CARD = Card(
    name="hexcnn",
    task="domains",
    summary="Hexagonal convolutions trained on labelled spots (supervised: needs labels).",
    citation="gao2022hexcnn",
    expects="embedding",
    returns="Domains",
    default_steps=200,
    fidelity="reconstruction",
    evidence="names the layers of a simulated section that was left out (tests)",
    licence="no authors' code found",
    notes="From the abstract. Assumed: two convolutions of 64 and 32 channels, ReLU, AdamW, 200 epochs. Supervised, so "
    "its accuracy does not compare with that of the other methods of the task.",
)

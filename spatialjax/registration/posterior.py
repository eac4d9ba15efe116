"""How sure the pose of a pair is: modes with probabilities, a covariance of each, and the spread of every cell."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.special import ndtr, ndtri

from spatialjax.keys import generator
from spatialjax.registration.calibration import CALIBRATION, Calibration, mode_weights, widening
from spatialjax.registration.curvature import inverse, pull, temperature, warp_variance
from spatialjax.registration.evidence import look
from spatialjax.registration.pairs import FieldPair, from_affine, place
from spatialjax.registration.scale import ScaleSpread, scale_spread
from spatialjax.transforms import Affine, rigid

#: A runner-up at least this probable makes a pair ambiguous.
AMBIGUOUS = 0.1
#: A spot sees the target's tissue where its cover is above this; at a straight edge the cover is one half.
EDGE_COVER = 0.25
#: What cells show of the edge of their tissue: standard deviation of its place, pitches.
EDGE_SD = 0.5
#: A mode within this many standard deviations of a better one is the same mode.
SAME_MODE = 2.5


@struct.dataclass
class PosePosterior:
    """Where one section may lie on another: a mixture of normal distributions of rigid poses.

    The perturbation of a mode is ``x -> R(angle) (T x - center) + center + (x, y)`` in the target's frame, as in the
    pose graph.

    Attributes
    ----------
    poses
        Modes along a leading axis, the most probable first: rigid maps from source µm to target µm.
    evidence
        Nats; -inf on unused places and on repeated modes.
    probability
        Of each mode; sums to 1 (all 0 where there is no mode).
    covariance
        Of (angle in rad, shift x, shift y in µm) of each mode.
    center
        What the angle of each mode turns about, µm, in the target's frame.
    warp
        Variance of each cell's place along each axis that no rigid pose explains, µm².
    mirrored
        Probability that the source is turned over.
    determined
        Whether the pair says where the source lies: enough spots, and a mode above chance.
    ambiguous
        Whether two modes have comparable weight; then the first two poses and their probabilities are the answer.
    temperature
        How much wider than its curvature each mode was found to spread, before clipping.
    spots
        Number of source spots, weighed, that each mode matches.
    similarity
        Mean correlation of the components in the overlap, weighed by their variance.
    scale
        How much larger the target shows the tissue, where that was asked for.
    """

    poses: Affine
    evidence: Float[Array, "k"]
    probability: Float[Array, "k"]
    covariance: Float[Array, "k 3 3"]
    center: Float[Array, "k 2"]
    warp: Float[Array, ""]
    mirrored: Float[Array, ""]
    determined: Bool[Array, ""]
    ambiguous: Bool[Array, ""]
    temperature: Float[Array, "k"]
    spots: Float[Array, "k"]
    similarity: Float[Array, "k"]
    scale: ScaleSpread | None = None


class OverlapInterval(NamedTuple):
    """Share of the source's spots that lie on the target's tissue: its posterior mean and an interval."""

    mean: float
    low: float
    high: float


class _Mode(NamedTuple):
    pose: Affine
    evidence: Any
    covariance: Any
    center: Any
    warp: Any
    temperature: Any
    spots: Any
    similarity: Any


@partial(jax.jit, static_argnames="scale")
def pose_posterior(
    pair: FieldPair, poses: Affine, threshold: Any, *, calibration: Calibration = CALIBRATION, scale: bool = False
) -> PosePosterior:
    r"""Posterior of the pose of a pair from its refined hypotheses.

    The samples that the evidence :math:`L` of a pose counts are not independent, so that its curvature :math:`H` alone
    would not give regions that cover. Around each mode

    .. math:: V = \operatorname{clip}(T)^{q}\,(c_0 + c_1 / n)\,H^{-1}, \qquad
        C_i = J_i V J_i^{\mathsf T} + \sigma_u^2 I,

    for the pose and for the place of cell :math:`i`. :math:`H` is had by differences over half a pitch, the temperature
    :math:`T` from how far halves of the tissue disagree (``curvature.temperature``), :math:`\sigma_u^2` from what
    neighbouring cells agree on and no rigid pose explains (``curvature.warp_variance``), shrunk by its error towards
    ``warp_prior``. Modes weigh :math:`\exp(L_k / t)`, with :math:`t` in proportion to the evidence that unrelated
    tissue reaches (a tissue that resembles itself elsewhere is not believed as easily) and to the same
    :math:`\operatorname{clip}(T)^{q}`: evidence that halves of the tissue contradict can no more choose between poses
    than it can place one.

    One set of constants serves all technologies. They were settled on the fitting halves of earlier seeds of the
    tissues of ``benchmarks/pose_posterior.py``, with an eye on the other halves; its results judge them on pairs of new
    seeds (not of new tissues), and its row ``fitted`` says what the present features ask for.

    Parameters
    ----------
    pair
        The two sections, see ``field_pair``.
    poses
        Refined hypotheses from source µm to target µm along a leading axis, in any order; not finite where unused.
    threshold
        Evidence that unrelated sections reach (``null_evidence``), nats.
    calibration
        Constants.
    scale
        Whether to estimate an isotropic scale of each mode too (sections shrink as they are fixed); the rest of the
        posterior is the same with and without.

    Returns
    -------
    PosePosterior
        Modes sorted by their probability.

    References
    ----------
    Huber (1967), Proc. Fifth Berkeley Symp. 1, for the spread of estimates where the likelihood is not the true one;
    Bissiri, Holmes & Walker (2016), J. R. Stat. Soc. B 78, for posteriors from a likelihood that is tempered.
    """
    poses = Affine(jnp.asarray(poses.matrix, jnp.float32), jnp.asarray(poses.shift, jnp.float32))
    real = jnp.isfinite(poses.matrix).all((1, 2)) & jnp.isfinite(poses.shift).all(1)
    poses = Affine(jnp.where(real[:, None, None], poses.matrix, jnp.eye(2)), jnp.where(real[:, None], poses.shift, 0.0))
    modes = jax.lax.map(lambda pose: _mode(pair, pose, calibration), poses)
    modes = _ranked(modes._replace(evidence=jnp.where(real, modes.evidence, -jnp.inf)))
    modes = _ranked(modes._replace(evidence=jnp.where(_repeated(modes), -jnp.inf, modes.evidence)))
    poses, evidence = modes.pose, modes.evidence
    any_mode = jnp.isfinite(evidence[0])
    probability = mode_weights(evidence, modes.temperature[0], threshold, constants=calibration)
    return PosePosterior(
        poses=poses,
        evidence=evidence,
        probability=probability,
        covariance=modes.covariance,
        center=modes.center,
        warp=modes.warp[0],
        mirrored=jnp.where(poses.mirrored, probability, 0.0).sum(),
        determined=any_mode & (evidence[0] > threshold) & (modes.spots[0] >= calibration.least_spots),
        ambiguous=probability[1:].max(initial=0.0) >= AMBIGUOUS,
        temperature=modes.temperature,
        spots=modes.spots,
        similarity=modes.similarity,
        scale=scale_spread(pair, poses, calibration=calibration) if scale else None,
    )


def _mode(pair: FieldPair, pose: Affine, constants: Calibration) -> _Mode:
    local = from_affine(pair, pose)
    found = pull(pair, local)
    heat = temperature(found)
    spots = found.weights.sum()
    scale = jnp.stack([1.0 / found.arm, pair.unit, pair.unit])
    raw, error = (constants.warp_gain * value for value in warp_variance(pair, found))
    raw = jnp.maximum(raw, 0.0)
    known = jnp.maximum(constants.warp_sd, raw) ** 2
    trust = known / (known + error**2)
    warp = trust * raw + (1.0 - trust) * constants.warp_prior
    return _Mode(
        pose,
        jnp.where(jnp.isfinite(found.evidence), found.evidence, -jnp.inf),
        widening(heat, spots, constants) * inverse(found.information.sum(0)) * scale[:, None] * scale[None, :],
        found.center * pair.unit + pair.centers[1],
        warp * pair.unit**2,
        heat,
        spots,
        found.similarity,
    )


def _difference(pose: Affine, other: Affine, center: Any) -> Any:
    """The perturbation (angle, x, y) about ``center`` that takes ``other`` to ``pose``, rigid maps of one parity."""
    back = other.matrix.swapaxes(-1, -2)
    turn = pose.compose(Affine(back, -(back @ other.shift[..., None])[..., 0]))
    return jnp.concatenate([turn.angle[..., None], turn(center[..., None, :])[..., 0, :] - center], -1)


def _ranked(modes: _Mode) -> _Mode:
    order = jnp.argsort(-modes.evidence)
    return jax.tree.map(lambda leaf: leaf[order], modes)


def _repeated(modes: _Mode) -> Any:
    """Which modes lie within ``SAME_MODE`` of one before them."""
    number = modes.evidence.shape[0]
    one, two = (Affine(jnp.expand_dims(modes.pose.matrix, k), jnp.expand_dims(modes.pose.shift, k)) for k in (1, 0))
    apart = _difference(one, two, jnp.broadcast_to(modes.center[None], (number, number, 2)))
    joint = modes.covariance[:, None] + modes.covariance[None]
    # The adjugate: three numbers in three units need no decomposition, which would take long to compile.
    adjugate = jnp.stack([jnp.cross(joint[..., k - 2, :], joint[..., k - 1, :]) for k in range(3)], -2)
    determinant = (joint[..., 0, :] * adjugate[..., 0, :]).sum(-1)
    distance = jnp.einsum("ija,ijab,ijb->ij", apart, adjugate, apart) / determinant
    same = (distance < SAME_MODE**2) & (one.mirrored == two.mirrored) & jnp.isfinite(modes.evidence)[None]
    return (same & jnp.tri(number, k=-1, dtype=bool)).any(1)


def sample_poses(key: Key[Array, ""], posterior: PosePosterior, *, draws: int) -> tuple[Affine, Int[Array, "d"]]:
    """Draw poses from the mixture.

    Parameters
    ----------
    key
        Random key.
    posterior
        Modes with a probability.
    draws
        Number of poses.

    Returns
    -------
    tuple
        ``draws`` maps from source µm to target µm, and the mode of each.
    """
    rng, found = generator(key), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), posterior)
    mode = rng.choice(len(found.probability), draws, p=found.probability / found.probability.sum())
    motion = np.einsum("dab,db->da", np.linalg.cholesky(found.covariance[mode]), rng.normal(size=(draws, 3)))
    turn = rigid(motion[:, 0], motion[:, 1:], center=found.center[mode])
    return turn.compose(found.poses[mode]), mode


def log_density(posterior: PosePosterior, poses: Affine) -> Float[Array, "d"]:
    """Log density of the mixture at poses (µm), by (angle in rad, shift in µm) about each mode's center."""

    def one(pose: Affine) -> Any:
        many = Affine(jnp.broadcast_to(pose.matrix, posterior.poses.matrix.shape), pose.shift[None])
        apart = _difference(many, posterior.poses, posterior.center)
        root = jnp.linalg.cholesky(posterior.covariance)
        scaled = jax.scipy.linalg.solve_triangular(root, apart[..., None], lower=True)[..., 0]
        volume = jnp.log(jnp.diagonal(root, axis1=1, axis2=2)).sum(1) + 1.5 * jnp.log(2 * jnp.pi)
        height = jnp.log(posterior.probability) - 0.5 * (scaled**2).sum(1) - volume
        return jax.nn.logsumexp(jnp.where(many.mirrored == posterior.poses.mirrored, height, -jnp.inf))

    return jax.vmap(one)(Affine(jnp.asarray(poses.matrix), jnp.asarray(poses.shift)))


def overlap_interval(
    key: Key[Array, ""], pair: FieldPair, posterior: PosePosterior, *, draws: int = 64, level: float = 0.9
) -> OverlapInterval:
    """Share of the source's spots on the target's tissue, over draws of the posterior and of the tissue's edge.

    Where the edge lies is not known better than by half a spacing (``EDGE_SD``) and by the warp between the sections:
    each draw has it further in or out.

    Parameters
    ----------
    key
        Random key.
    pair
        The two sections.
    posterior
        Of their pose.
    draws
        Number of poses drawn.
    level
        Probability of the interval, equal tails.
    """
    # The cover falls off an edge like a normal distribution of about a pitch.
    spread = np.sqrt(EDGE_SD**2 + float(posterior.warp) / float(pair.unit) ** 2)
    edges = ndtr(ndtri(EDGE_COVER) + spread * generator(jax.random.fold_in(key, 1)).normal(size=draws))
    poses = jax.tree.map(np.float32, sample_poses(key, posterior, draws=draws)[0])
    shares = np.asarray(_shares(pair, poses, np.float32(edges)), np.float64)
    return OverlapInterval(shares.mean(), *np.quantile(shares, [0.5 - level / 2, 0.5 + level / 2]))


@jax.jit
def _shares(pair: FieldPair, poses: Affine, edges: Any) -> Any:
    def one(drawn: tuple[Affine, Any]) -> Any:
        pose, edge = drawn
        inside = look(pair.field, place(pair.spots, from_affine(pair, pose))).cover > edge
        return (pair.weights * inside).sum() / jnp.maximum(pair.weights.sum(), 1.0)

    return jax.lax.map(one, (poses, edges))


def cell_covariance(
    covariance: Float[Array, "3 3"], center: Float[Array, "2"], places: Float[Array, "n 2"], *, warp: Any = 0.0
) -> Float[Array, "n 2 2"]:
    """Covariance of the place of each cell, µm²: what the pose does to it, and the warp that no pose explains.

    Parameters
    ----------
    covariance
        Of (angle in rad, shift x, shift y in µm) about ``center``, of a mode or of a section.
    center
        What the angle turns about, µm.
    places
        Where the pose puts the cells, µm, in the frame of ``center``.
    warp
        Variance of the warp along each axis, µm².
    """
    arm = jnp.asarray(places - center, jnp.float32)
    one, none = jnp.ones(len(arm)), jnp.zeros(len(arm))
    jacobian = jnp.stack([jnp.stack([-arm[:, 1], one, none], -1), jnp.stack([arm[:, 0], none, one], -1)], 1)
    return jnp.einsum("nia,ab,njb->nij", jacobian, covariance, jacobian) + warp * jnp.eye(2)

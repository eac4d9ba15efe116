"""The rigid map that labels would choose: the yardstick of benchmarks, never a method."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize

from spatialjax.metrics.alignment import encode
from spatialjax.transforms import Affine, rigid


def label_optimal_rigid(
    source_xy: Float[np.ndarray, "n 2"],
    target_xy: Float[np.ndarray, "m 2"],
    *,
    labels: Any,
    target_labels: Any,
    pitch: float,
    mirrored: bool | None = None,
    angle_step: float = 5.0,
    candidates: int = 6,
) -> Affine:
    """Search every angle and shift for the rigid map under which labels agree best.

    The score is the sum over labelled source spots inside the target of *share of own label around the place - chance*,
    where chance is the agreement of two random labelled spots; so a partial overlap needs no parameter. Angles and
    shifts are searched at once on rasters of two pitches, the best maps then refined on rasters of half a pitch.

    Parameters
    ----------
    source_xy, target_xy
        Spots, µm.
    labels, target_labels
        Label of each spot; None, NaN and the empty string mean no label.
    pitch
        Distance between neighbouring spots, µm.
    mirrored
        Parity of the map; both are tried where left out.
    angle_step
        Step of the coarse search, degrees.
    candidates
        Number of coarse maps that are refined.

    Raises
    ------
    ValueError
        If a section has no labelled spot or no label is shared.
    """
    source, target = np.asarray(source_xy, np.float64), np.asarray(target_xy, np.float64)
    codes, target_codes, size = encode(labels, target_labels)
    source, codes = source[codes >= 0], codes[codes >= 0]
    target, target_codes = target[target_codes >= 0], target_codes[target_codes >= 0]
    if not np.intersect1d(codes, target_codes).size:
        raise ValueError("Expected labels that both sections carry, found none in common.")
    frequency = [np.bincount(values, minlength=size) / len(values) for values in (codes, target_codes)]
    chance = float(frequency[0] @ frequency[1])
    center = source.mean(0)
    parities = (False, True) if mirrored is None else (bool(mirrored),)
    turns = [(np.radians(angle), parity) for parity in parities for angle in np.arange(0.0, 360.0, angle_step)]
    starts = _coarse(
        source - center, codes, _Fields.of(target, target_codes, size=size, pixel=2 * pitch), turns, chance
    )
    fields = _Fields.of(target, target_codes, size=size, pixel=pitch / 2, sigma=0.7 * pitch)
    found = [
        _refine(start, source - center, codes, fields=fields, chance=chance, pitch=pitch)
        for start in _distinct(starts, candidates, pitch=pitch)
    ]
    _, angle, shift, parity = max(found, key=lambda item: item[0])
    return rigid(angle, shift - center, parity, center=center)


class _Fields(NamedTuple):
    """Rasters of the share of each label and of where there is tissue."""

    share: np.ndarray
    tissue: np.ndarray
    origin: np.ndarray
    pixel: float

    @staticmethod
    def of(xy: np.ndarray, codes: np.ndarray, *, size: int, pixel: float, sigma: float = 0.0) -> _Fields:
        blur, pad = sigma / pixel, int(np.ceil(3 * sigma / pixel)) + 1
        origin = xy.min(0) - pad * pixel
        shape = tuple((np.floor((xy.max(0) - origin) / pixel).astype(int) + 1 + pad).tolist())
        cell = np.rint((xy - origin) / pixel).astype(int)
        count = np.zeros((size, *shape))
        np.add.at(count, (codes, cell[:, 0].clip(0, shape[0] - 1), cell[:, 1].clip(0, shape[1] - 1)), 1.0)
        if blur:
            count = np.stack([gaussian_filter(layer, blur, mode="constant") for layer in count])
        total = count.sum(0)
        tissue = np.minimum(total / np.median(total[total > 0.25 * total.max()]), 1.0)
        return _Fields(count / np.maximum(total, 1e-12), tissue, origin, pixel)


def _coarse(
    source: np.ndarray, codes: np.ndarray, fields: _Fields, turns: list[tuple[float, bool]], chance: float
) -> list[tuple[float, float, np.ndarray, bool]]:
    """For each turn, the shifts with the best scores: (score, angle, shift µm, mirrored)."""
    reach = int(np.ceil(np.linalg.norm(source, axis=1).max() / fields.pixel)) + 1
    shape = [next_fast_len(2 * reach + 1 + length, real=True) for length in fields.tissue.shape]
    gain = (fields.share - chance) * fields.tissue
    spectrum = rfft2(gain, shape)
    results = []
    for angle, parity in turns:
        cell = np.rint(rigid(angle, np.zeros(2), parity)(source) / fields.pixel).astype(int) + reach
        count = np.zeros((len(gain), *shape))
        np.add.at(count, (codes, cell[:, 0], cell[:, 1]), 1.0)
        score = irfft2((spectrum * np.conj(rfft2(count))).sum(0), shape)
        for flat in np.argsort(-score, axis=None)[:3]:
            lag = np.array(np.unravel_index(flat, score.shape))
            lag = np.where(lag >= fields.tissue.shape, lag - shape, lag)
            shift = fields.origin + (lag + reach) * fields.pixel
            results.append((float(score.flat[flat]), angle, shift, parity))
    return sorted(results, key=lambda item: -item[0])


def _distinct(
    starts: list[tuple[float, float, np.ndarray, bool]], count: int, *, pitch: float
) -> list[tuple[float, float, np.ndarray, bool]]:
    """The best starts that are not neighbours of a better one (within 12° and six pitches)."""
    kept: list[tuple[float, float, np.ndarray, bool]] = []
    for start in starts:
        near = [
            start[3] == other[3]
            and np.cos(start[1] - other[1]) > np.cos(np.radians(12.0))
            and np.linalg.norm(start[2] - other[2]) < 6 * pitch
            for other in kept
        ]
        if not any(near):
            kept.append(start)
        if len(kept) == count:
            break
    return kept


def _refine(
    start: tuple[float, float, np.ndarray, bool],
    source: np.ndarray,
    codes: np.ndarray,
    *,
    fields: _Fields,
    chance: float,
    pitch: float,
) -> tuple[float, float, np.ndarray, bool]:
    """Simplex search on (angle, shift) from a coarse map, twice, the second time with a small simplex."""
    _, angle, shift, parity = start
    arm = np.sqrt((source**2).sum(1).mean()) + pitch

    def loss(step: np.ndarray) -> float:
        moved = rigid(angle + step[0] / arm, shift + step[1:], parity)(source)
        place = (moved - fields.origin).T / fields.pixel
        share = map_coordinates(fields.share, [codes, *place], order=1, mode="constant", prefilter=False)
        tissue = map_coordinates(fields.tissue, place, order=1, mode="constant", prefilter=False)
        return -float(((share - chance) * tissue).sum())

    best = np.zeros(3)
    for size in (2.0 * pitch, 0.5 * pitch):
        simplex = best + np.concatenate([np.zeros((1, 3)), size * np.eye(3)])
        options = {"initial_simplex": simplex, "xatol": 0.005 * pitch, "fatol": 1e-4, "maxiter": 300}
        result = minimize(loss, best, method="Nelder-Mead", options=options)
        best = result.x
    return -float(result.fun), angle + best[0] / arm, shift + best[1:], parity

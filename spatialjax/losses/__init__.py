"""Losses: each gives a sum and a weight, and does not see spots of weight 0."""

from spatialjax.losses.anchors import Anchors, find_anchors
from spatialjax.losses.assignment import (
    assignment_kl,
    balanced_assignment,
    cross_entropy,
    sharpened,
    student_t,
    swapped_assignment,
)
from spatialjax.losses.composition import composition_kl, kl_minus_cosine
from spatialjax.losses.contrast import barlow, info_nce, local_infomax, triplet
from spatialjax.losses.counts import negative_binomial, zero_inflated_negative_binomial
from spatialjax.losses.discrepancy import mmd
from spatialjax.losses.edges import Pairs, edge_cross_entropy, sampled_pairs, smoothness
from spatialjax.losses.reconstruction import gaussian_kl, log_cosine, mse, scaled_cosine, tied_reconstruction
from spatialjax.losses.spots import Loss, Weight, of_all, over_spots

__all__ = [
    "Anchors",
    "Loss",
    "Weight",
    "Pairs",
    "assignment_kl",
    "balanced_assignment",
    "barlow",
    "composition_kl",
    "cross_entropy",
    "edge_cross_entropy",
    "find_anchors",
    "gaussian_kl",
    "info_nce",
    "kl_minus_cosine",
    "local_infomax",
    "log_cosine",
    "mmd",
    "mse",
    "negative_binomial",
    "of_all",
    "over_spots",
    "sampled_pairs",
    "scaled_cosine",
    "sharpened",
    "smoothness",
    "student_t",
    "swapped_assignment",
    "tied_reconstruction",
    "triplet",
    "zero_inflated_negative_binomial",
]

"""Scores of alignments, domains and expression; labels and truth are for scoring only."""

from spatialjax.metrics.alignment import (
    PoseError,
    held_out_correlation,
    label_accuracy,
    loop_error,
    ltari,
    nearest_matches,
    overlap,
    permuted_matches,
    plan_accuracy,
    pose_error,
    position_error,
)
from spatialjax.metrics.clustering import ari, chaos, neighbour_mixing, nmi, pas, section_mixing
from spatialjax.metrics.expression import gene_correlation
from spatialjax.metrics.label_map import label_optimal_rigid

__all__ = [
    "PoseError",
    "ari",
    "chaos",
    "gene_correlation",
    "held_out_correlation",
    "label_accuracy",
    "label_optimal_rigid",
    "loop_error",
    "ltari",
    "nearest_matches",
    "neighbour_mixing",
    "nmi",
    "overlap",
    "pas",
    "permuted_matches",
    "plan_accuracy",
    "pose_error",
    "position_error",
    "section_mixing",
]

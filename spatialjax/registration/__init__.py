"""Rigid poses: global search, evidence and refinement; pose graphs; couplings; order of sections."""

from spatialjax.registration.pairs import FieldPair, PoseScore, field_pair, null_evidence, score_poses

__all__ = ["FieldPair", "PoseScore", "field_pair", "null_evidence", "score_poses"]

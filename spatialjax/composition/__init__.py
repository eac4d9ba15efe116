"""What methods that find the composition of spots are made of: signatures, fits, samplers, calibration."""

from spatialjax.composition.calibration import Correction, Stated, corrected, learnt_correction
from spatialjax.composition.nnls import nnls
from spatialjax.composition.poisson import NormalEquations, normal_equations, poisson_abundance
from spatialjax.composition.presence import Prior, Sampled, empirical_prior, sampled
from spatialjax.composition.pseudospots import (
    PATTERNS,
    PseudoSpots,
    drawn_cells,
    region_frequencies,
    scaled_counts,
    summed_cells,
)
from spatialjax.composition.rehearsal import calibration_spots, held_out
from spatialjax.composition.signatures import Signatures, gene_information, informative_genes, mean_signatures
from spatialjax.composition.tilewise import (
    capacity,
    count_source,
    in_cells,
    table_tiles,
    tile_rows,
    without_counts,
)

__all__ = [
    "PATTERNS",
    "Correction",
    "NormalEquations",
    "Prior",
    "PseudoSpots",
    "Sampled",
    "Signatures",
    "Stated",
    "calibration_spots",
    "capacity",
    "corrected",
    "count_source",
    "drawn_cells",
    "empirical_prior",
    "gene_information",
    "held_out",
    "in_cells",
    "informative_genes",
    "learnt_correction",
    "mean_signatures",
    "nnls",
    "normal_equations",
    "poisson_abundance",
    "region_frequencies",
    "sampled",
    "scaled_counts",
    "summed_cells",
    "table_tiles",
    "tile_rows",
    "without_counts",
]

"""What methods that find the composition of spots are made of: signatures, fits, samplers, calibration."""

from spatialjax.composition.calibration import Correction, Stated, corrected, learnt_correction
from spatialjax.composition.lognormal import Likelihood, lognormal_abundance, poisson_lognormal, pooled_composition
from spatialjax.composition.nnls import nnls
from spatialjax.composition.overdispersion import MOST_TILES, gene_overdispersion
from spatialjax.composition.poisson import (
    LEAST_MEAN,
    NormalEquations,
    half_tables,
    normal_equations,
    poisson_abundance,
    weighted_gram,
    whole_equations,
)
from spatialjax.composition.presence import Prior, Sampled, empirical_prior, sampled
from spatialjax.composition.profiles import Profiles, fold_genes, mean_profiles, pooled_counts, top_genes
from spatialjax.composition.pseudospots import (
    PATTERNS,
    PseudoSpots,
    drawn_cells,
    region_frequencies,
    scaled_counts,
    summed_cells,
)
from spatialjax.composition.rehearsal import calibration_spots, held_out
from spatialjax.composition.rowwise import ROW_STEPS, composed, row_tables
from spatialjax.composition.signatures import (
    Signatures,
    differing_genes,
    gene_information,
    informative_genes,
    mean_signatures,
    type_sums,
)
from spatialjax.composition.softmap import Predicted, predicted
from spatialjax.composition.tilewise import (
    capacity,
    count_source,
    in_cells,
    table_tiles,
    tile_rows,
    without_counts,
)
from spatialjax.composition.weighted import Spread, cell_spread, weighted_nnls

__all__ = [
    "LEAST_MEAN",
    "MOST_TILES",
    "PATTERNS",
    "ROW_STEPS",
    "Correction",
    "Likelihood",
    "NormalEquations",
    "Predicted",
    "Prior",
    "Profiles",
    "PseudoSpots",
    "Sampled",
    "Signatures",
    "Spread",
    "Stated",
    "calibration_spots",
    "capacity",
    "cell_spread",
    "composed",
    "corrected",
    "count_source",
    "differing_genes",
    "drawn_cells",
    "empirical_prior",
    "fold_genes",
    "gene_information",
    "gene_overdispersion",
    "half_tables",
    "held_out",
    "in_cells",
    "informative_genes",
    "learnt_correction",
    "lognormal_abundance",
    "mean_profiles",
    "mean_signatures",
    "nnls",
    "normal_equations",
    "poisson_abundance",
    "poisson_lognormal",
    "pooled_composition",
    "pooled_counts",
    "predicted",
    "region_frequencies",
    "row_tables",
    "sampled",
    "scaled_counts",
    "summed_cells",
    "table_tiles",
    "tile_rows",
    "top_genes",
    "type_sums",
    "weighted_gram",
    "weighted_nnls",
    "whole_equations",
    "without_counts",
]

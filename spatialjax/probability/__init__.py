"""Models written in numpyro, fitted by the one training loop: point estimate, mean field, Laplace, NUTS."""

from spatialjax.probability.approximate import elbo, laplace, map_fit
from spatialjax.probability.counts import count_histogram, negative_binomial_log_likelihood
from spatialjax.probability.density import Density, density
from spatialjax.probability.predictive import Check, Misfit, Predictive, gene_total_misfit, predictive_check
from spatialjax.probability.sampling import nuts
from spatialjax.probability.summaries import Posterior, summarized

__all__ = [
    "Check",
    "Density",
    "Misfit",
    "Posterior",
    "Predictive",
    "count_histogram",
    "density",
    "elbo",
    "gene_total_misfit",
    "laplace",
    "map_fit",
    "negative_binomial_log_likelihood",
    "nuts",
    "predictive_check",
    "summarized",
]

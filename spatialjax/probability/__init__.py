"""Models written in numpyro, fitted by the one training loop; families of distributions and summaries of posteriors."""

from typing import Any

from spatialjax.probability.approximate import elbo, laplace, map_fit
from spatialjax.probability.counts import count_histogram, negative_binomial_log_likelihood
from spatialjax.probability.density import Density, density
from spatialjax.probability.dirichlet import (
    DirichletFit,
    beta_quantile,
    dirichlet_posterior,
    expected_log_shares,
    fit_dirichlet,
    fit_dirichlet_multinomial,
    symmetric_step,
)
from spatialjax.probability.lognormal import Likelihood, poisson_lognormal, poisson_lognormal_log_prob
from spatialjax.probability.predictive import Check, Misfit, Predictive, gene_total_misfit, predictive_check
from spatialjax.probability.sampling import nuts
from spatialjax.probability.summaries import Posterior, summarized

__all__ = [
    "Check",
    "Density",
    "DirichletFit",
    "Likelihood",
    "Misfit",
    "PoissonLogNormal",
    "Posterior",
    "Predictive",
    "beta_quantile",
    "count_histogram",
    "density",
    "dirichlet_posterior",
    "elbo",
    "expected_log_shares",
    "fit_dirichlet",
    "fit_dirichlet_multinomial",
    "gene_total_misfit",
    "laplace",
    "map_fit",
    "negative_binomial_log_likelihood",
    "nuts",
    "poisson_lognormal",
    "poisson_lognormal_log_prob",
    "predictive_check",
    "summarized",
    "symmetric_step",
]


def __getattr__(name: str) -> Any:
    # A subclass of numpyro's needs numpyro, which is slow to import.
    if name == "PoissonLogNormal":
        from spatialjax.probability.families import PoissonLogNormal

        return PoissonLogNormal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

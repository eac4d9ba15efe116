"""Anything iterative, and the only training loop of the package."""

from spatialjax.algorithm.core import Algorithm, Fit, Model, fit

__all__ = ["Algorithm", "Fit", "Model", "fit"]

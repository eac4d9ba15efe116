"""What each method of the task ``domains`` is given of the features of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax import preprocess, propagation
from spatialjax.checks import InputError
from spatialjax.methods import CARDS

#: Variable genes that a method with dense expression gets.
VARIABLE_GENES = 3000
#: Elements of a dense table that a method may ask for; beyond it the message says what to do instead.
DENSE = 2**30


@dataclass(frozen=True, eq=False)
class Given:
    """Features of all cells, sections one after the other.

    Attributes
    ----------
    values
        (n, p) float32, what the method takes.
    stack
        The sections.
    """

    values: Float[np.ndarray, "n p"]
    stack: Any

    def components(self) -> Float[np.ndarray, "n q"]:
        """Standardised principal components of all cells."""
        return _components(self.stack)


def given_to(stack: Any, method: str) -> Given:
    """Features as ``method`` expects them.

    Parameters
    ----------
    stack
        What ``io.open_sections`` returned.
    method
        Name of a method of the task ``domains``.

    Raises
    ------
    InputError
        If the features of the stack are not what the method needs, do not vary, or are too large for it.
    """
    expects = CARDS["domains"][method].expects
    if expects == "embedding":
        values = _components(stack)
    elif expects in ("log1p", "counts"):
        values = _expression(stack, method, counts=expects == "counts")
    elif expects == "proportions":
        values = _proportions(stack, method)
    else:
        raise InputError(
            f"Method {method!r} needs {expects!r} beside the features, which this call does not take: use "
            "spatialjax.methods.run with a Slice that holds them."
        )
    if not (np.ptp(values, axis=0) > 0).any() and len(values) > 1:
        raise InputError(
            "Expected features that differ between cells, found the same values in all of them. Choose another layer= "
            "(--layer) or feature_key= (--features-key)."
        )
    return Given(values, stack)


def _components(stack: Any) -> Float[np.ndarray, "n q"]:
    parts = propagation.standardized_components([s.values for s in stack.sections], kind=stack.kind)
    return np.concatenate(parts)


def _expression(stack: Any, method: str, *, counts: bool) -> Float[np.ndarray, "n g"]:
    tables = [section.values for section in stack.sections]
    if counts:
        stack.require_counts(f"method {method!r}")
    if stack.kind in ("counts", "log1p"):
        logged = [preprocess.log_normalize(t) for t in tables] if stack.kind == "counts" else tables
        genes = preprocess.variable_genes(tables, number=VARIABLE_GENES, kind=stack.kind)
        tables = [table[:, genes] for table in (tables if counts else logged)]
    if sum(t.shape[0] for t in tables) * tables[0].shape[1] > DENSE:
        raise InputError(
            f"Expected at most {DENSE // tables[0].shape[1]} cells for method {method!r}, which needs a dense table of "
            f"{tables[0].shape[1]} genes, found {stack.n_cells}. Use method 'auto', or fewer genes."
        )
    dense = [t.toarray() if sp.issparse(t) else np.asarray(t) for t in tables]
    return np.concatenate(dense).astype(np.float32)


def _proportions(stack: Any, method: str) -> Float[np.ndarray, "n k"]:
    if stack.kind not in ("embedding", "categories"):
        raise InputError(
            f"Method {method!r} needs the proportions of cell types, found values of kind {stack.kind!r}. Give "
            "feature_key= (--features-key): a key of obsm with proportions, or a column of obs with cell types."
        )
    values = np.concatenate([s.values.toarray() if sp.issparse(s.values) else s.values for s in stack.sections])
    total = values.sum(1, keepdims=True)
    if (values < 0).any():
        raise InputError(f"Expected proportions of at least 0 for method {method!r}, found {values.min():.3g}.")
    return (values / np.where(total > 0, total, 1.0)).astype(np.float32)

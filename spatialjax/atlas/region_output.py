"""Domains brought back to the cells of the input, with their genes and what is known of their certainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from spatialjax import clustering, markers
from spatialjax.atlas.regions import COMPETING, RegionOptions, Regions
from spatialjax.preprocess import log_normalize

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.clustering import Stability

#: Share of the members from which on a second partition is worth a sentence.
RIVAL = 0.2
#: Genes that are listed for a domain, and cells that they are judged on, at the most.
LISTED_GENES, MOST_CELLS = 10, 20_000


def assembled(
    adata: AnnData | Sequence[AnnData],
    stack: Any,
    result: Any,
    *,
    options: RegionOptions,
    stability: Stability | None,
    number: int,
) -> Regions:
    """The result in the order of the input.

    Parameters
    ----------
    adata
        What the user gave; objects of a list are put one after the other.
    stack
        The opened sections.
    result
        A ``results.Domains`` of all cells, sections one after the other.
    options, stability, number
        What was asked for, tried and chosen.
    """
    objects = [adata] if hasattr(adata, "obs") else list(adata)
    starts = np.concatenate([[0], np.cumsum([a.n_obs for a in objects])]).astype(int)
    rows = np.concatenate([starts[s.source] + s.rows[s.order] for s in stack.sections])
    n = len(rows)
    labels, share = np.asarray(result.labels)[:n], np.asarray(result.confidence)[:n]
    order = clustering.by_size(labels)
    back = np.argsort(rows, kind="stable")
    embedding = None if result.embedding is None else np.asarray(result.embedding)[:n][back]
    messages = list(stack.messages)
    competing = _competing(None if result.members is None else np.asarray(result.members)[:n])
    if len(competing) > 1 and competing[1] >= RIVAL:
        messages.append(
            "The members fall into partitions that disagree (shares "
            + ", ".join(f"{part:.2f}" for part in competing)
            + "): this tissue can be divided in several ways."
        )
    if stability is not None:
        messages.append(
            f"{number} domains are the most stable number; candidates: "
            f"{', '.join(str(candidate) for candidate in stability.candidates)}."
        )
    if not bool(result.converged):
        messages.append(f"Method {options.method!r} did not converge: look at the result with care.")
    genes = _genes(stack, order)
    found = Regions(
        adata=_copied(objects),
        labels=order[back],
        confidence=share[back].astype(np.float32),
        embedding=embedding,
        number=number,
        stability=stability,
        competing=competing,
        genes=genes,
        converged=bool(result.converged),
        messages=messages,
    )
    _store(found, options)
    return found


def _competing(members: Int[np.ndarray, "n m"] | None) -> tuple[float, ...]:
    """Share of the members in each group of members that agree, the largest first."""
    if members is None or members.shape[1] < 2:
        return ()
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = np.clip(1.0 - clustering.rand_matrix(members), 0.0, None)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform((distance + distance.T) / 2, checks=False), method="average")
    group = fcluster(tree, 1.0 - COMPETING, criterion="distance")
    return tuple(sorted((np.bincount(group)[1:] / len(group)).tolist(), reverse=True))


def _genes(stack: Any, labels: Int[np.ndarray, " n"]) -> dict[str, list[dict[str, Any]]]:
    """The strongest genes of each domain against all other cells."""
    import scipy.sparse as sp

    if stack.kind not in ("counts", "log1p") or labels.max(initial=0) == 0:
        return {}
    step = max(1, int(np.ceil(stack.n_cells / MOST_CELLS)))
    start = np.cumsum([0, *(len(s.xy) for s in stack.sections)])
    tables = [s.values[::step] for s in stack.sections]
    kept = np.concatenate([labels[a:b][::step] for a, b in zip(start[:-1], start[1:], strict=True)])
    values = sp.vstack([log_normalize(t) for t in tables] if stack.kind == "counts" else tables).tocsr()
    if len(np.unique(kept)) < 2:
        return {}
    found = markers.each_domain_genes(values, kept, seen=0.1, ratio=1.0, fold_change=1.2)
    return {
        str(domain): [_described(test, gene, stack.genes) for gene in test.ranked[:LISTED_GENES]]
        for domain, test in found.items()
    }


def _described(test: Any, gene: int, names: Any) -> dict[str, Any]:
    return {
        "gene": str(names[gene]),
        "fold_change": float(test.fold_change[gene]),
        "p_adjusted": float(test.adjusted[gene]),
        "seen_inside": float(test.inside[gene]),
        "seen_outside": float(test.outside[gene]),
    }


def _copied(objects: Sequence[AnnData]) -> AnnData:
    import anndata

    if len(objects) == 1:
        return objects[0].copy()
    return anndata.concat(objects, merge="same", uns_merge="same", index_unique=None)


def _store(found: Regions, options: RegionOptions) -> None:
    """Write the result into the copy, in the scverse vocabulary."""
    import pandas as pd

    from spatialjax import __version__

    adata, key = found.adata, options.key_added
    names = [str(each) for each in range(int(found.labels.max(initial=0)) + 1)]
    adata.obs[key] = pd.Categorical.from_codes(found.labels, categories=names)
    adata.obs[f"{key}_confidence"] = found.confidence
    if found.embedding is not None:
        adata.obsm[f"{key}_embedding"] = found.embedding
    about: dict[str, Any] = {
        "method": options.method,
        "n_domains": found.number,
        "chosen": options.n_domains is None,
        "refine": options.refine,
        "seed": options.seed,
        "version": __version__,
        "converged": found.converged,
        "messages": np.array(found.messages, dtype=str),
    }
    if found.stability is not None:
        about["stability"] = {
            "n_domains": found.stability.number,
            "rand": found.stability.rand,
            "spread": found.stability.spread,
            "candidates": np.array(found.stability.candidates, int),
        }
    if found.competing:
        about["competing"] = np.array(found.competing)
    if found.genes:
        rows = [{"domain": domain, **gene} for domain, listed in found.genes.items() for gene in listed]
        about["genes"] = pd.DataFrame(rows, index=[str(i) for i in range(len(rows))])
    adata.uns[key] = about

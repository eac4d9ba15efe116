"""What marks a domain: genes higher inside than around it, combinations of genes, and genes with a spatial pattern."""

from spatialjax.markers.autocorrelation import morans_i
from spatialjax.markers.domains import MarkerGenes, around, domain_genes, each_domain_genes, neighbouring_domains
from spatialjax.markers.metagene import MetaGene, meta_gene
from spatialjax.markers.ranks import RankTest, each_rank_sum, rank_sum

__all__ = [
    "MarkerGenes",
    "MetaGene",
    "RankTest",
    "around",
    "domain_genes",
    "each_domain_genes",
    "each_rank_sum",
    "meta_gene",
    "morans_i",
    "neighbouring_domains",
    "rank_sum",
]

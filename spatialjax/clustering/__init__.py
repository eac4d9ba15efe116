"""From features to labels: k-means, mixtures, communities, votes, Potts fields and consensus of partitions."""

from spatialjax.clustering.communities import Communities, leiden
from spatialjax.clustering.consensus import Consensus, co_association, hypergraph, latent_class, one_hot
from spatialjax.clustering.factorization import wnmf
from spatialjax.clustering.kmeans import KMeans, kmeans, nearest_centre
from spatialjax.clustering.labels import by_size, distinct, fowlkes_mallows_matrix, rand_matrix
from spatialjax.clustering.mixture import Mixture, member_labels, responsibilities, tied_mixture, tied_mixtures
from spatialjax.clustering.potts import Field, potts, pseudo_likelihood_beta
from spatialjax.clustering.refinement import refine, votes
from spatialjax.clustering.regions import kmeans_probability, regions
from spatialjax.clustering.stability import Stability, stability

__all__ = [
    "Communities",
    "Consensus",
    "Field",
    "KMeans",
    "Mixture",
    "Stability",
    "by_size",
    "co_association",
    "distinct",
    "fowlkes_mallows_matrix",
    "hypergraph",
    "kmeans",
    "kmeans_probability",
    "latent_class",
    "leiden",
    "member_labels",
    "nearest_centre",
    "one_hot",
    "potts",
    "pseudo_likelihood_beta",
    "rand_matrix",
    "refine",
    "regions",
    "responsibilities",
    "stability",
    "tied_mixture",
    "tied_mixtures",
    "votes",
    "wnmf",
]

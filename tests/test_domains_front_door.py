"""``tl.domains``, ``pl.domains`` and the command: simulated layers are found, the input stays, bad input is refused."""

from __future__ import annotations

from typing import Any

import anndata
import jax
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from typer.testing import CliRunner

import spatialjax as sj
from spatialjax.atlas.region_number import chosen_number, number_stability
from spatialjax.checks import InputError
from spatialjax.cli import app

LAYERS = 4


def layered(seed: int, *, cells: int = 360, genes: int = 60, shift: float = 0.0) -> anndata.AnnData:
    """A square tissue of four layers, each with genes of its own; ``shift`` makes all genes of a section louder."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0.0, 1000.0, (cells, 2))
    layer = np.minimum((xy[:, 1] / 1000.0 * LAYERS).astype(int), LAYERS - 1)
    profile = np.random.default_rng(7).gamma(1.0, 1.0, (LAYERS, genes)) + 0.2
    mean = profile[layer] * np.exp(shift * np.arange(genes) / genes) * rng.gamma(5.0, 0.03, (cells, 1))
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)))
    adata.var_names = [f"gene{i}" for i in range(genes)]
    adata.obs_names = [f"{seed}-{i}" for i in range(cells)]
    adata.obsm["spatial"] = xy
    adata.obs["layer"] = layer.astype(str)
    return adata


@pytest.fixture(scope="module")
def section() -> anndata.AnnData:
    return layered(1)


@pytest.fixture(scope="module")
def found(section: anndata.AnnData) -> Any:
    """One run that most tests look at."""
    return sj.tl.domains(section, LAYERS, progress=False)


def test_layers_are_found_with_a_confidence_that_means_something(section: anndata.AnnData, found: Any) -> None:
    """Nearly all cells, better than without space, and the surer half is better than the other."""
    truth = section.obs["layer"].to_numpy()
    plain = sj.tl.domains(section, LAYERS, "kmeans", progress=False)
    assert sj.metrics.ari(truth, found.labels) > max(0.85, sj.metrics.ari(truth, plain.labels) + 0.05)
    assert found.confidence.min() >= 0.0 and found.confidence.max() <= 1.0
    sure = found.confidence >= np.median(found.confidence)
    assert sj.metrics.ari(truth[sure], found.labels[sure]) > sj.metrics.ari(truth[~sure], found.labels[~sure])


def test_a_vote_of_the_nearest_changes_lone_labels_only_and_within_a_section() -> None:
    """Fewer cells differ from most of their neighbours, the layers stay, and other sections have no vote."""
    pair = [layered(1), layered(2)]
    plain = sj.tl.domains(pair, LAYERS, "kmeans", progress=False)
    voted = sj.tl.domains(pair, LAYERS, "kmeans", refine=12, progress=False)
    section = np.repeat([0, 1], [each.n_obs for each in pair])
    truth = np.concatenate([each.obs["layer"] for each in pair])
    assert sj.metrics.ari(truth, voted.labels) > sj.metrics.ari(truth, plain.labels) + 0.05
    for number, each in enumerate(pair):
        rows = section == number
        near = cKDTree(each.obsm["spatial"]).query(each.obsm["spatial"], k=13)[1][:, 1:]
        poll = np.stack([(plain.labels[rows][near] == k).sum(1) for k in range(LAYERS)], 1)
        own = np.take_along_axis(poll, plain.labels[rows][:, None], 1)[:, 0]
        names = linear_sum_assignment(-np.histogram2d(plain.labels, voted.labels, LAYERS)[0])[1]
        expected = np.where(poll.max(1) > own, poll.argmax(1), plain.labels[rows])
        np.testing.assert_array_equal(names[expected], voted.labels[rows])
    changed = names[plain.labels] != voted.labels
    assert changed.any() and voted.confidence[changed].max() <= 1.0
    assert voted.adata.uns["domain"]["refine"] == 12
    every = sj.tl.domains(pair, LAYERS, "kmeans", refine=10**9, progress=False)
    assert all(len(np.unique(every.labels[section == number])) == 1 for number in (0, 1))


@pytest.mark.parametrize("refine", [-1, 2.5, True])
def test_a_vote_of_no_whole_number_is_refused(section: anndata.AnnData, refine: Any) -> None:
    """Before any work, and the message names the option."""
    with pytest.raises(InputError, match="--refine"):
        sj.tl.domains(section, LAYERS, refine=refine, progress=False)


def test_the_copy_holds_the_result_and_the_input_nothing(section: anndata.AnnData, found: Any) -> None:
    """In the scverse vocabulary, and it can be written and read again."""
    assert "domain" not in section.obs and "domain" not in section.uns
    assert list(found.adata.obs_names) == list(section.obs_names)
    np.testing.assert_array_equal(found.adata.obs["domain"].astype(int), found.labels)
    np.testing.assert_array_equal(found.adata.obs["domain_confidence"], found.confidence)
    assert np.all(np.diff(np.bincount(found.labels)) <= 0), "the largest domain is number 0"
    about = found.adata.uns["domain"]
    assert about["method"] == "consensus" and about["n_domains"] == LAYERS and not about["chosen"]


def test_the_result_can_be_written_and_read(found: Any, tmp_path: Any) -> None:
    """Tables and texts in ``uns`` included."""
    found.adata.write_h5ad(tmp_path / "domains.h5ad")
    again = anndata.read_h5ad(tmp_path / "domains.h5ad")
    assert list(again.uns["domain"]["genes"].columns)[:2] == ["domain", "gene"]


def test_genes_of_a_domain_are_loud_in_its_layer(section: anndata.AnnData, found: Any) -> None:
    """The first gene of each domain has its largest mean in that domain."""
    values = sj.preprocess.log_normalize(section.X).toarray()
    for domain, genes in found.genes.items():
        column = values[:, section.var_names.get_loc(genes[0]["gene"])]
        means = [column[found.labels == each].mean() for each in range(LAYERS)]
        assert int(np.argmax(means)) == int(domain)


def test_permuted_cells_and_units_change_nothing(section: anndata.AnnData, found: Any) -> None:
    """The order of the rows and the unit of the coordinates are no information."""
    order = np.random.default_rng(0).permutation(section.n_obs)
    other = section[order].copy()
    other.obsm["spatial"] = other.obsm["spatial"] * 0.325
    again = sj.tl.domains(other, LAYERS, progress=False)
    np.testing.assert_array_equal(again.labels, found.labels[order])


def test_sections_share_domains_in_spite_of_a_shift(section: anndata.AnnData) -> None:
    """Two sections, one of them with other depths of the genes: common labels, whichever way they are given."""
    pair = [section, layered(2, shift=1.5)]
    result = sj.tl.domains(pair, LAYERS, progress=False)
    truth = np.concatenate([a.obs["layer"] for a in pair])
    assert sj.metrics.ari(truth, result.labels) > 0.8
    both = anndata.concat(pair, label="slice")
    again = sj.tl.domains(both, LAYERS, slice_key="slice", progress=False)
    np.testing.assert_array_equal(again.labels, result.labels)


def test_the_number_is_among_the_candidates(section: anndata.AnnData) -> None:
    """Stability peaks at the true number of layers, and what is chosen is the peak above two."""
    (values,) = sj.propagation.standardized_components([section.X], kind="counts")
    near = sj.graphs.adjacency(sj.graphs.delaunay(section.obsm["spatial"]))
    curve = number_stability(jax.random.key(0), values, near, section=np.zeros(len(values), int))
    assert LAYERS in curve.candidates
    assert chosen_number(curve) in curve.candidates


def test_one_domain_and_a_constant_gene(section: anndata.AnnData) -> None:
    """A section of one domain is one domain, and a gene without variance is no trouble."""
    constant = section.copy()
    constant.X = sp.csr_matrix(
        constant.X.toarray() * (np.arange(constant.n_vars) != 3) + (np.arange(constant.n_vars) == 3)
    )
    assert set(sj.tl.domains(constant, 1, progress=False).labels) == {0}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a, {"n_domains": 0}, "at least 1"),
        (lambda a: a, {"n_domains": 10**6}, "as many domains as cells"),
        (lambda a: a, {"method": "stagat"}, "stagate"),
        (lambda a: a, {"feature_key": "X_pca"}, "X_pca"),
        (lambda a: a, {"method_options": {"scale": 3}}, "scales"),
        (lambda a: a, {"resume": True}, "checkpoint"),
        (lambda a: [a, _renamed(a)], {"n_domains": 3}, "gene"),
        (lambda a: _set(a, "X", sp.csr_matrix(np.ones(a.shape, np.float32))), {"n_domains": 3}, "differ between cells"),
        (lambda a: _set(a, "X", a.X.astype(float) * np.nan), {"n_domains": 3}, "NaN|finite"),
    ],
)
def test_bad_input_is_refused_at_the_door(
    section: anndata.AnnData, change: Any, options: dict[str, Any], message: str
) -> None:
    """One message that names what was found."""
    with pytest.raises(InputError, match=message):
        sj.tl.domains(change(section.copy()), progress=False, **{"n_domains": 3, **options})


def _renamed(adata: anndata.AnnData) -> anndata.AnnData:
    other = adata.copy()
    other.var_names = [f"other{i}" for i in range(other.n_vars)]
    return other


def _set(adata: anndata.AnnData, name: str, value: Any) -> anndata.AnnData:
    setattr(adata, name, value)
    return adata


def test_the_picture_has_domains_beside_their_confidence(found: Any) -> None:
    """Two panels for a section; a missing key is named."""
    figure = sj.pl.domains(found.adata)
    assert [panel.get_title(loc="left") for panel in figure.axes[:2]] == ["domains", "confidence"]
    with pytest.raises(InputError, match="other"):
        sj.pl.domains(found.adata, "other")


def test_the_command_writes_what_the_function_gives(section: anndata.AnnData, found: Any, tmp_path: Any) -> None:
    """The same labels; an existing file is not replaced."""
    given, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    section.write_h5ad(given)
    words = ["domains", str(given), "--n-domains", str(LAYERS), "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(anndata.read_h5ad(out).obs["domain"].astype(int), found.labels)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2

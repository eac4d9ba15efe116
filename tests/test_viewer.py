"""The interactive page: what it holds, and that nothing in it is loaded or run from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialjax.checks import InputError
from spatialjax.viewer import choose_genes, page, write_viewer
from spatialjax.viewer.packing import LEVELS, MISSING, deflated_codes, quantise

EVIL = "</script><img src=x onerror=window.hit=1>"
NAMES = (EVIL, "\"quotes' & <b>", "Schnitt ü 切片 \u2028", "plain")


def tissue(
    *, cells: int = 60, genes: int = 12, unplaced: tuple[int, ...] = (), names: tuple[str, ...] = NAMES, frames: int = 1
) -> Any:
    """An atlas as a run writes it: sections of one tissue 100 µm apart, given turned and in units of half a µm."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(3)
    number = len(names)
    n = cells * number
    section = np.tile(np.arange(number), cells)  # sections interleaved: the page sorts them
    xy = np.stack(np.divmod(np.arange(cells), 10), 1).repeat(number, 0) * 50.0 + 1000
    domain = (xy[:, 0] > np.median(xy[:, 0])).astype(int)
    counts = rng.poisson(1.0, (n, genes)).astype(np.float32)
    if genes:
        counts[:, 0] = 8 * domain
    c, s = np.cos(0.7 * section), np.sin(0.7 * section)
    turned = np.stack([c * xy[:, 0] - s * xy[:, 1], s * xy[:, 0] + c * xy[:, 1]], 1)
    placed = np.array([i not in unplaced for i in range(number)])
    component = np.where(placed, np.arange(number) * frames // number, -1)
    obs = pd.DataFrame(index=[f"{EVIL} {i}" if i % 43 == 0 else f"cell {i}" for i in range(n)])
    obs["slice"] = pd.Categorical.from_codes(section, list(names))
    obs["placed"] = placed[section]
    obs["overlap"] = rng.uniform(0, 1, n)
    obs["domain3d"] = pd.Categorical.from_codes(domain, ["1", "2"])
    obs["kind"] = pd.Categorical.from_codes(np.arange(n) % 3 - 1, [EVIL, "b"])
    atlas = anndata.AnnData(sp.csr_matrix(counts), obs=obs)
    atlas.var_names = [EVIL if g == 1 else f"Gene{g}" for g in range(genes)]
    atlas.obsm["spatial"] = turned / 0.5
    atlas.obsm["spatial3d"] = np.where(placed[section][:, None], np.c_[xy, 100.0 * section], np.nan)
    atlas.obsm["spatial3d_sd"] = np.c_[5.0 * section, 5.0 * section, 0.0 * section]
    atlas.uns["spatialjax"] = {
        "sections": np.array(names, dtype=object),
        "placed": placed,
        "component": component,
        "z_um": 100.0 * np.arange(number),
        "um_per_unit": np.full(number, 0.5),
    }
    return atlas


class Elements(HTMLParser):
    """Tags with their attributes, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

        self.inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data

    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[1])


def inflated(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def floats(packed: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(inflated(packed["xyz"]), "<f4").reshape(-1, 3) + np.asarray(packed["origin"])


def unpacked(packed: dict[str, Any], cells: int) -> np.ndarray:
    """Codes of all cells, read by the rule that the docstring of ``deflated_codes`` states."""
    stream = np.frombuffer(inflated(packed["codes"]), np.uint8)
    if "nonzero" not in packed:
        return stream
    gaps, values = np.split(stream, [len(stream) - packed["nonzero"]])
    result = np.zeros(cells, np.uint8)
    ends = np.flatnonzero(gaps != 255)
    zeros = np.array([int(part.sum()) for part in np.split(gaps.astype(int), ends[:-1] + 1)]) if len(ends) else []
    result[np.cumsum(np.asarray(zeros, int) + 1) - 1] = values
    return result


@pytest.fixture(scope="module")
def text() -> str:
    return page(tissue())


def test_everything_is_inside_and_nothing_points_elsewhere(text: str) -> None:
    """Licence, data and two scripts, all inside; no element loads anything; our own parts name no address."""
    found = Elements(text)
    assert [tag for tag, _ in found.tags].count("script") == 4
    assert not {"img", "link", "iframe", "base", "object"} & {tag for tag, _ in found.tags}
    assert not [attrs for _, attrs in found.tags if {"src", "href"} & set(attrs)]
    _, data, library, program = found.scripts
    assert "k3d" in library
    assert "http" not in data + program
    assert "http" not in re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.S).replace("http-equiv", "")


def test_the_browser_is_told_to_load_nothing_and_to_run_only_these_scripts(text: str) -> None:
    """The policy forbids every load; its hashes are those of the scripts in the page."""
    found = Elements(text)
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy and "http" not in policy and "connect-src" not in policy
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in found.scripts[2:]]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes


def test_names_cannot_leave_the_data(text: str) -> None:
    """No name of a section, gene, label or cell is markup, and each comes back as it was."""
    assert EVIL not in text and "onerror" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)[:3000]
    data = Elements(text).data()
    assert [s["name"] for s in data["sections"]] == list(NAMES)
    assert EVIL in [g["name"] for g in data["genes"]["held"]]
    assert EVIL in next(c for c in data["columns"] if c["name"] == "kind")["categories"]
    assert f"{EVIL} 0" in json.loads(inflated(data["names"]))


def test_same_atlas_same_bytes_and_input_untouched(tmp_path: Path) -> None:
    """Two pages of one atlas are equal, and the atlas is as before."""
    atlas = tissue()
    before = atlas.copy()
    first = write_viewer(atlas, tmp_path / "a.html").read_bytes()
    second = write_viewer(tissue(), tmp_path / "b.html").read_bytes()
    assert first == second
    assert (atlas.X != before.X).nnz == 0 and atlas.obs.equals(before.obs)
    assert np.array_equal(atlas.obsm["spatial3d"], before.obsm["spatial3d"])


def test_an_atlas_read_from_its_file_gives_the_same_page(tmp_path: Path, text: str) -> None:
    """Also after a journey through h5ad, which turns arrays of names and flags into others."""
    import anndata

    tissue().write_h5ad(tmp_path / "atlas.h5ad")
    assert page(anndata.read_h5ad(tmp_path / "atlas.h5ad")) == text
    assert page(anndata.read_h5ad(tmp_path / "atlas.h5ad", backed="r")) == text


def test_positions_values_and_names_are_those_of_the_atlas(text: str) -> None:
    """Sorted by section: places to a thousandth of a µm, the given ones in µm, genes to half a level."""
    atlas = tissue()
    data = Elements(text).data()
    section = atlas.obs["slice"].cat.codes.to_numpy()
    order = np.argsort(section, kind="stable")
    np.testing.assert_allclose(floats(data["placed"]), atlas.obsm["spatial3d"][order], atol=1e-3)
    given_um = np.c_[atlas.obsm["spatial"] * 0.5, 100.0 * section]
    np.testing.assert_allclose(floats(data["given"]), given_um[order], atol=1e-3)
    assert json.loads(inflated(data["names"])) == list(atlas.obs_names[order])
    assert data["spacing"] == 50.0
    for gene in data["genes"]["held"]:
        codes = unpacked(gene, atlas.n_obs)
        expected = np.log1p(atlas[order, gene["name"]].X.toarray().ravel())
        step = (gene["high"] - gene["low"]) / LEVELS
        np.testing.assert_allclose(gene["low"] + codes * step, expected, atol=0.51 * step + 1e-6)
    kind = next(c for c in data["columns"] if c["name"] == "kind")
    codes = np.frombuffer(inflated(kind["codes"]), np.uint8)
    assert np.array_equal(codes, np.where(order % 3 == 0, MISSING, order % 3 - 1))
    uncertainty = next(c for c in data["columns"] if c["name"].startswith("uncertainty"))
    assert uncertainty["unit"] == "µm, one sd" and uncertainty["high"] == pytest.approx(15 * np.sqrt(2))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(np.nan) | st.just(np.inf), min_size=1, max_size=40))
def test_quantised_values_are_near_and_missing_ones_marked(values: list[float]) -> None:
    """Every finite value within half a level, every other one code 255, colours over a range of some width."""
    array = np.array(values)
    packed = quantise(array)
    finite = np.isfinite(array)
    assert np.array_equal(packed.codes == MISSING, ~finite)
    step = (packed.high - packed.low) / LEVELS
    assert np.all(np.abs(packed.low + packed.codes[finite] * step - array[finite]) <= 0.5 * step * (1 + 1e-6) + 1e-9)
    assert packed.limits[1] > packed.limits[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 255)), max_size=8), st.integers(0, 600))
def test_codes_with_few_values_come_back(runs: list[tuple[int, int]], end: int) -> None:
    """Any gaps, also of exactly 254, 255 and 510 zeros, and none at all."""
    for extra in ([], [(254, 9), (255, 8), (510, 7), (0, 6)]):
        codes = np.concatenate(
            [*(np.append(np.zeros(gap, np.uint8), code) for gap, code in runs + extra), np.zeros(end)]
        )
        codes = codes.astype(np.uint8)
        assert np.array_equal(unpacked(deflated_codes(codes), len(codes)), codes)
    mostly = np.zeros(1000, np.uint8)
    mostly[::50] = 7
    assert "nonzero" in deflated_codes(mostly) and "nonzero" not in deflated_codes(mostly + 1)


def expression(genes: int = 30) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Two domains; gene 7 marks the second one, gene 3 varies most and marks nothing."""
    rng = np.random.default_rng(0)
    domain = np.repeat([0, 1], 100)
    values = rng.poisson(2.0, (200, genes)).astype(float)
    values[:, 7] = 3 * domain
    values[:, 3] = np.tile([0, 500], 100)
    return values, [f"g{i}" for i in range(genes)], domain


def test_genes_asked_for_come_first_then_markers_then_variable_ones() -> None:
    """The planted marker and the planted variable gene are chosen for what they are; the sentence adds up."""
    values, names, domain = expression()
    choice = choose_genes(values, names, domain, asked=["g20", "g11"], max_genes=25)
    why = {entry["name"]: entry["why"] for entry in choice.held}
    assert list(why)[:2] == ["g20", "g11"] and why["g20"] == "asked"
    assert list(why).index("g7") in (2, 3) and why["g7"] == "marker"
    assert why["g3"] == "variable"
    assert len(why) == 25 and set(choice.others) == set(names) - set(why)
    count = {reason: list(why.values()).count(reason) for reason in ("marker", "variable")}
    assert choice.sentence == (
        f"This page holds 25 of 30 genes (2 asked for, {count['marker']} markers of domains, "
        f"{count['variable']} most variable; 25 genes at the most)."
    )
    assert choose_genes(values, names, domain).sentence == "This page holds all 30 genes."


def test_the_size_limit_is_kept_and_said() -> None:
    """Values of the genes never exceed the megabytes, and those asked for are not dropped in silence."""
    values, names, domain = expression()
    choice = choose_genes(values, names, domain, max_megabytes=0.001)
    assert 0 < len(choice.held) < 30
    assert sum(len(entry["codes"]) for entry in choice.held) <= 1000
    assert "of 30 genes" in choice.sentence and "0.001 MB at the most" in choice.sentence
    with pytest.raises(InputError, match="max_megabytes"):
        choose_genes(values, names, domain, asked=names[:20], max_megabytes=0.001)
    with pytest.raises(InputError, match="max_genes"):
        choose_genes(values, names, domain, asked=names[:3], max_genes=2)
    with pytest.raises(InputError, match="Did you mean 'g21'"):
        choose_genes(values, names, domain, asked=["G21"])


def test_logarithms_and_negative_values_are_shown_as_they_are() -> None:
    """Counts get a logarithm, values that are logarithms or negative do not; NaN is missing."""
    values, names, domain = expression()
    assert choose_genes(values, names, domain).scale == "log(1 + value)"
    assert choose_genes(np.log1p(values), names, domain).scale == "value"
    values[0, 0] = np.nan
    shifted = choose_genes(values - 2.0, names, domain)
    codes = {e["name"]: unpacked(e, 200) for e in shifted.held}
    assert shifted.scale == "value" and codes["g0"][0] == MISSING and (codes["g1"] != MISSING).all()


def test_what_has_to_be_known_is_said_in_words() -> None:
    """Unplaced cells, separate frames, missing uncertainty and given coordinates, columns that cannot be shown."""
    atlas = tissue(unplaced=(1,), frames=2)
    del atlas.obsm["spatial3d_sd"], atlas.obsm["spatial"]
    atlas.obs["barcode"] = [f"b{i}" for i in range(atlas.n_obs)]
    data = Elements(page(atlas)).data()
    notes = " ".join(data["notes"])
    assert "60 of 240 cells have no place in the tissue" in notes and repr(NAMES[1]) in notes
    assert "2 groups that nothing joins" in notes
    assert "obsm['spatial3d_sd']" in notes and "obsm['spatial']" in notes
    assert data["given"] is None
    assert data["leftOut"] == []
    wide = tissue(cells=80)
    wide.obs["barcode"] = [f"b{i}" for i in range(wide.n_obs)]
    left_out = Elements(page(wide)).data()["leftOut"]
    assert left_out == ["'barcode' has 320 different values; at most 250 can be told apart."]


def test_something_else_than_an_atlas_is_refused() -> None:
    """The message names what is missing."""
    atlas = tissue()
    del atlas.obsm["spatial3d"], atlas.uns["spatialjax"]["z_um"]
    with pytest.raises(InputError, match=r"no uns\['spatialjax'\]\['z_um'\], no obsm\['spatial3d'\]"):
        page(atlas)
    renamed = tissue()
    renamed.obs["slice"] = renamed.obs["slice"].cat.rename_categories({"plain": "other"})
    with pytest.raises(InputError, match="'other'"):
        page(renamed)


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No k3d: what is needed and the command; no file is left."""
    module = sys.modules["spatialjax.viewer.page"]
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    module._library.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'k3d"):
        write_viewer(tissue(), tmp_path / "v.html")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A full disk in the middle: the earlier page stays, no piece of the new one is left."""
    target = tmp_path / "v.html"
    target.write_text("old")

    def full(self: Path, *args: Any, **kwargs: Any) -> None:
        self.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_viewer(tissue(), target)
    assert [p.name for p in tmp_path.iterdir()] == ["v.html"] and target.read_bytes() == b"old"

"""Do the H&E pictures of sections help their genes to align them? Genes alone, pictures alone, both, and a null.

``python benchmarks/alignment_histology.py``

DLPFC 151674 on 151673 with the low-resolution pictures: turned, turned over and turned, or cropped and turned; the
displacement of the spots from the map that their layers ask for, in pitches. HER2 sections C2 to C5 with their
pictures: a random half of the genes is held out, neighbours and next neighbours are aligned pair by pair, and the
held-out genes are correlated at matched places; angle by which loops of three pairs fail to close. The genes are all,
or few: 50 random ones of the seen genes (``few``; for DLPFC with 5 % of their counts as well). ``permuted`` gives each
spot the picture of another one; ``turned`` turns each picture about its section's centre by a random angle, so that it
is as smooth as before and wrong. One set of defaults for all rows; labels and held-out genes only score.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import alignment_dlpfc as dlpfc
import alignment_stacks as stacks
import anndata
import numpy as np
import record
import scipy.sparse as sp
from scipy.spatial import cKDTree

import spatialjax as sj
from spatialjax.metrics import label_optimal_rigid, loop_error
from spatialjax.transforms import Affine, rigid

KEY = "histology"
EVIDENCE = ("genes", "picture", "both", "permuted", "turned")
FEW, SHARE = 50, 0.05
HER2 = ("C2", "C3", "C4", "C5")
DATA = {"dlpfc": "displacement", "her2 C2-C5": "correlation"}
TARGETS = {
    "all genes": "both no worse than genes, within the spread of seeds or gene splits",
    "few genes": "both better than genes",
    "permuted": "as genes",
    "turned": "reported: what wrong pictures cost",
}


def described(adata: anndata.AnnData, path: str, **options: Any) -> anndata.AnnData:
    """The section with columns of its picture."""
    return sj.pp.histology_features(adata, image=record.data_folder() / path, key_added=KEY, **options)


def permuted(adata: anndata.AnnData, seed: int) -> anndata.AnnData:
    """The section with the columns of its picture dealt to other spots."""
    copy = adata.copy()
    copy.obsm[KEY] = copy.obsm[KEY][np.random.default_rng(seed).permutation(adata.n_obs)]
    return copy


def turned(adata: anndata.AnnData, seed: int) -> anndata.AnnData:
    """The section with its picture turned about the centre by a random angle, the spots where they were."""
    copy = adata.copy()
    xy = np.asarray(adata.obsm["spatial"], float)
    angle = np.random.default_rng(seed).uniform(0.25 * np.pi, 1.75 * np.pi)
    places = rigid(angle, np.zeros(2), center=xy.mean(0))(xy)
    copy.obsm[KEY] = copy.obsm[KEY][cKDTree(xy).query(np.asarray(places))[1]]
    return copy


NULLS = {"permuted": permuted, "turned": turned}


def options_of(evidence: str) -> dict[str, Any]:
    """How the aligner is asked to use the picture."""
    return {"genes": {}, "picture": {"feature_key": KEY}}.get(evidence, {"histology": KEY})


def few(adatas: list[anndata.AnnData], seed: int, *, among: np.ndarray, share: float = 1.0) -> list[anndata.AnnData]:
    """The sections with a few random genes, and a share of their counts where asked for."""
    rng = np.random.default_rng(seed)
    genes = rng.choice(among, FEW, replace=False)
    result = []
    for adata in adatas:
        part = adata[:, genes].copy()
        if share < 1.0:
            counts = sp.csr_matrix(part.X, copy=True)
            counts.data = rng.binomial(counts.data.astype(np.int64), share)
            counts.eliminate_zeros()
            part.X = counts
        result.append(part)
    return result


def cortex(seeds: int) -> list[dict[str, Any]]:
    """The two cortex sections."""
    sections = []
    for name in ("151673", "151674"):
        adata = dlpfc.load("dlpfc_visium_allspots", name)
        # The coordinates are µm here; the picture is 0.045 of the pixels, of which 1.37 are a µm.
        scale = 0.045004502 * 1.37
        sections.append(described(adata, f"dlpfc_images_labels/{name}_lowres.png", pixels_per_unit=scale))
    genes = np.intersect1d(*(s.var_names[np.asarray((s.X > 0).sum(0)).ravel() >= 60] for s in sections))
    fixed, other = sections
    best = label_optimal_rigid(
        other.obsm["spatial"],
        fixed.obsm["spatial"],
        labels=dlpfc.labels(other),
        target_labels=dlpfc.labels(fixed),
        pitch=dlpfc.PITCH,
    )
    rows = []
    for seed in range(seeds):
        for variant in dlpfc.VARIANTS[1:]:
            given, moved = dlpfc.vary(other, variant, seed)
            truth = best.compose(moved.inverse())
            for amount in ("all", "few"):
                pair = [given, fixed] if amount == "all" else few([given, fixed], seed, among=genes, share=SHARE)
                for evidence in EVIDENCE[:4] if amount == "few" else EVIDENCE[:3]:
                    if evidence == "picture" and amount == "few":
                        continue
                    found = cortex_row(pair, truth, evidence, seed=seed)
                    kind = "none" if evidence == "picture" else amount
                    rows.append({"data": "dlpfc", "variant": variant, "seed": seed, "genes": kind, **found})
                    print(rows[-1], flush=True)
    return rows


def cortex_row(pair: list[anndata.AnnData], truth: Affine, evidence: str, *, seed: int) -> dict[str, Any]:
    """One alignment of the cortex."""
    given, fixed = [NULLS[evidence](a, seed + i) for i, a in enumerate(pair)] if evidence in NULLS else pair
    start = time.perf_counter()
    found = sj.tl.align(given, fixed, units="um", **options_of(evidence))
    there = truth(given.obsm["spatial"])
    return {
        "evidence used": evidence,
        "parity right": bool(found.mirrored == bool(truth.mirrored)),
        "displacement": float(np.median(np.linalg.norm(found.coordinates - there, axis=1))) / dlpfc.PITCH,
        "evidence": found.evidence,
        "threshold": found.threshold,
        "supported": found.supported,
        "seconds": time.perf_counter() - start,
    }


def tumour(splits: int) -> list[dict[str, Any]]:
    """The four tumour sections that have pictures."""
    parts = [p for p in stacks.sections(*stacks.STACKS["her2 C"]) if p.obs["section"].iloc[0] in HER2]
    parts = [
        described(p, f"her2st/images/{name}_half.jpg", coordinates=("pixel_x", "pixel_y"), pixels_per_unit=0.5)
        for p, name in zip(parts, HER2, strict=True)
    ]
    seen = np.min([np.asarray((p.X > 0).sum(0)).ravel() for p in parts], axis=0) >= 20
    rows = []
    for split in range(splits):
        held = np.random.default_rng(split).random(parts[0].n_vars) < 0.5
        training = [part[:, ~held].copy() for part in parts]
        for part, whole in zip(training, parts, strict=True):
            part.obsm["held out"] = stacks.smooth_log(whole)[:, held & seen]
        names = training[0].var_names[seen[~held]].to_numpy()
        for amount in ("all", "few"):
            given = training if amount == "all" else few(training, split, among=names)
            for evidence in EVIDENCE:
                if split > 0 and evidence in ("picture", "turned") or evidence == "picture" and amount == "few":
                    continue
                kind = "none" if evidence == "picture" else amount
                found = tumour_row(given, evidence, seed=split)
                rows.append({"data": "her2 C2-C5", "split": split, "genes": kind, **found})
                print(rows[-1], flush=True)
    return rows


def tumour_row(parts: list[anndata.AnnData], evidence: str, *, seed: int) -> dict[str, Any]:
    """All pairs of the tumour at most two sections apart."""
    if evidence in NULLS:
        parts = [NULLS[evidence](part, 10 * seed + i) for i, part in enumerate(parts)]
    asked = {"units": "um", "duplicates": "allow", "allow_spacing_mismatch": True} | options_of(evidence)
    pairs = [(i, i + lag) for lag in (1, 2) for i in range(len(parts) - lag)]
    found = {(i, j): sj.tl.align(parts[i], parts[j], **asked) for i, j in pairs}
    poses = {pair: alignment.transform_um for pair, alignment in found.items()}
    loops = []
    for i in range(len(parts) - 2):
        chain = [poses[i, i + 1], poses[i + 1, i + 2], poses[i, i + 2].inverse()]
        error = loop_error(chain, parts[i].obsm["spatial"])
        loops.append(abs(error.angle) if error.parity_right else 180.0)
    return {
        "evidence used": evidence,
        "correlation": float(np.mean([stacks.correlation(parts[i], parts[j], poses[i, j]) for i, j in pairs])),
        "loops": loops,
        "evidence over threshold": [f.evidence - f.threshold for f in found.values()],
        "supported": sum(f.supported for f in found.values()),
        "pairs": len(pairs),
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds and variants, or over gene splits."""
    result = []
    for data, measure in DATA.items():
        kinds = [(g, e) for g in ("all", "few", "none") for e in EVIDENCE]
        for genes, evidence in kinds:
            chosen = [r for r in rows if (r["data"], r["genes"], r["evidence used"]) == (data, genes, evidence)]
            if chosen:
                values = [r[measure] for r in chosen]
                line = {"data": f"{data}, summary", "genes": genes, "evidence used": evidence, "rows": len(chosen)}
                line |= {f"mean {measure}": float(np.mean(values)), f"sd {measure}": float(np.std(values))}
                line |= {f"worst {measure}": float(max(values) if measure == "displacement" else min(values))}
                if "loops" in chosen[0]:
                    line["worst loop"] = max(max(r["loops"]) for r in chosen)
                result.append(line)
    return result


def kept(names: list[str]) -> list[dict[str, Any]]:
    """Rows of these data sets in the file that is there."""
    path = record.RESULTS / "alignment_histology.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if names and path.is_file() else []
    return [row for row in rows if row["data"] in names]


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="rows of others are kept")
    arguments = parser.parse_args()
    rows = kept([name for name in DATA if name not in arguments.data])
    rows += tumour(arguments.splits) if "her2 C2-C5" in arguments.data else []
    rows += cortex(arguments.seeds) if "dlpfc" in arguments.data else []
    rows = summary(rows) + rows
    path = record.write(
        "alignment_histology", rows, command="python benchmarks/alignment_histology.py", targets=TARGETS
    )
    print(path.name)


if __name__ == "__main__":
    main()

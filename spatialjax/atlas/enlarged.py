"""The files of an atlas that one section was added to; ``run.json`` comes last, as after a reconstruction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spatialjax import viewer
from spatialjax.atlas import coupled, outputs, quality, report
from spatialjax.atlas.files import atomically, folder_made, remove_temporaries
from spatialjax.atlas.reconstruction import Placement, Reconstruction
from spatialjax.atlas.watch import Watch
from spatialjax.io.writing import write_h5ad
from spatialjax.transforms import Affine

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.register import Registration


def placements_of(atlas: AnnData) -> list[Placement]:
    """Where each section lies, from the record that the atlas carries.

    Parameters
    ----------
    atlas
        An atlas with ``uns['spatialjax']``.
    """
    own = atlas.uns["spatialjax"]
    return [
        Placement(
            name=str(own["sections"][i]),
            transform=Affine(np.asarray(own["matrix"][i], np.float64), np.asarray(own["shift_um"][i], np.float64)),
            from_units=Affine(
                np.asarray(own["matrix_from_units"][i], np.float64), np.asarray(own["shift_from_units"][i], np.float64)
            ),
            z=float(own["z_um"][i]),
            placed=bool(own["placed"][i]),
            component=int(own["component"][i]),
            anchor=str(own["anchor"][i]) or None,
            um_per_unit=float(own["um_per_unit"][i]),
            units_source=str(own["units_source"][i]),
            covariance=np.asarray(own["pose_covariance"][i], np.float64),
            center=np.asarray(own["pose_center_um"][i], np.float64),
            warp=float(own["warp_um2"][i]),
        )
        for i in range(len(own["sections"]))
    ]


def write(
    atlas: AnnData,
    found: Registration,
    out: Path,
    *,
    couplings: Mapping[tuple[str, str], sp.csr_matrix],
    before: Mapping[str, Any],
    watch: Watch,
    source: str,
) -> Path:
    """Write ``atlas.h5ad``, ``couplings/``, ``report.html``, ``viewer.html`` and, after all of these, ``run.json``.

    Parameters
    ----------
    atlas
        The atlas with the section.
    found
        How the section came in.
    out
        Folder, checked.
    couplings
        Soft matches that the atlas had; those of the section are added to them.
    before
        ``run.json`` of the run that made the atlas, empty where there is none: its pairs, metrics and findings are
        carried over, because nothing of them has changed; the pairs and matched places of the section join them.
    watch
        Measures and reports the step.
    source
        The command, for the record.

    Raises
    ------
    OutputError
        If the system refuses to write; ``run.json`` is not there then.
    """
    with watch.step("outputs", f"writing to {out.name!r}"):
        folder_made(out)
        outputs.unfinish(out)
        for name in outputs.FILES:
            (out / name).unlink(missing_ok=True)
        remove_temporaries(out)
        watch.say("atlas.h5ad", share=0.1)
        atomically(out / "atlas.h5ad", lambda path: write_h5ad(atlas, path))
        watch.say("couplings", share=0.4)
        index = coupled.write({**couplings, **found.couplings}, out)
        record = _record(atlas, found, couplings=couplings, before=before, watch=watch)
        watch.say("report.html", share=0.6)
        page = report.page(record, source=source)
        atomically(out / "report.html", lambda path: path.write_text(page, encoding="utf-8"))
        watch.say("viewer.html", share=0.8)
        tissue = viewer.page(atlas)
        atomically(out / "viewer.html", lambda path: path.write_text(tissue, encoding="utf-8"))
    card = outputs.run_card(record, couplings=index, timings=watch.timings, source=source)
    text = json.dumps(card, indent=2, allow_nan=False)
    atomically(out / "run.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return out


def _record(
    atlas: AnnData,
    found: Registration,
    *,
    couplings: Mapping[tuple[str, str], sp.csr_matrix],
    before: Mapping[str, Any],
    watch: Watch,
) -> Reconstruction:
    """The larger atlas with what the first run found out, and what is known of the new section beside it."""
    metrics = dict(before.get("metrics", {}))
    rows = [*metrics.get("similarity_pairs", []), *outputs.plain(found.similarity)]
    metrics["similarity_pairs"] = rows
    metrics["similarity"] = {name: quality.mean_of(rows, name) for name in ("atlas", *quality.NULLS)}
    return Reconstruction(
        atlas=atlas,
        transforms={p.name: p for p in placements_of(atlas)},
        # The new ones first: the report shows no more than the first dozen.
        couplings={**found.couplings, **couplings},
        pairs=[*before.get("pairs", []), *outputs.plain(found.pairs)],
        metrics=metrics,
        findings=list(before.get("findings", [])),
        warnings=[str(w) for w in np.atleast_1d(atlas.uns["spatialjax"]["warnings"])],
        timings=list(watch.timings),
    )

"""An atlas and one section more, as one AnnData; see ``register.add_section``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialjax.atlas.assemble import describe, shared_names
from spatialjax.atlas.labelled import from_atlas
from spatialjax.atlas.labels import transfer
from spatialjax.atlas.outputs import plain
from spatialjax.checks import InputError
from spatialjax.viewer.contents import given_key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spatialjax.atlas.register import Registration

_DOMAIN, _CONFIDENCE = "domain3d", "domain3d_confidence"


def joined(atlas: AnnData, found: Registration, *, spatial_key: str = "spatial") -> AnnData:
    """The old cells first, in their order, then those of the section; both are left as they are.

    Parameters
    ----------
    atlas
        An atlas with ``uns['spatialjax']``.
    found
        The registered section.
    spatial_key
        Where its given coordinates are; they stand beside those of the atlas, under the key that these have there.

    Raises
    ------
    InputError
        If the atlas shares no gene with the section.
    """
    import anndata

    section = found.section
    genes = shared_names([atlas, section])
    if not genes:
        raise InputError("Expected genes that the atlas and the section share, found none.")
    old, new = atlas[:, genes].copy(), section[:, genes].copy()
    key = given_key(atlas)
    if key is not None and key not in new.obsm:
        width = atlas.obsm[key].shape[1]
        xy = np.asarray(new.obsm[spatial_key], np.float64)[:, :width]
        new.obsm[key] = np.pad(xy, ((0, 0), (0, width - xy.shape[1])))
    obs = _observations(old.obs, new.obs, name=found.placement.name)
    new.obs_names = obs.index[old.n_obs :]
    old.obs, new.obs = old.obs[[]], new.obs[[]]
    _unknown_tables(old, new)
    result = anndata.concat([old, new], join="inner", merge="same")
    result.obs = obs
    result.uns = {key: value for key, value in atlas.uns.items() if key != "spatialjax"}
    result.uns["spatialjax"] = _record(atlas.uns["spatialjax"], found)
    if _DOMAIN in atlas.obs.columns:
        _carry_domains(result, found.placement.name)
    return result


def _unknown_tables(old: AnnData, new: AnnData) -> None:
    """Tables of the old cells that nobody made for the new ones, e.g. their composition: NaN there."""
    import pandas as pd

    for name, table in old.obsm.items():
        if isinstance(table, pd.DataFrame) and name not in new.obsm:
            new.obsm[name] = pd.DataFrame(np.float32(np.nan), index=new.obs_names, columns=table.columns)


def _observations(old: pd.DataFrame, new: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """All columns of both; names of new cells that are taken get the section's name before them."""
    import pandas as pd

    taken = set(old.index)
    names = [str(cell) for cell in new.index]
    mark = f"{name}:"
    while any(f"{mark}{cell}" in taken for cell in names if cell in taken):
        mark += ":"
    new = new.set_axis([f"{mark}{cell}" if cell in taken else cell for cell in names], axis=0)
    columns = {}
    for column in dict.fromkeys([*old.columns, *new.columns]):
        parts = [
            frame[column] if column in frame.columns else pd.Series(np.nan, index=frame.index, dtype=object)
            for frame in (old, new)
        ]
        columns[column] = _column(parts, labels=[isinstance(p.dtype, pd.CategoricalDtype) for p in parts])
    return pd.DataFrame(columns, index=[*map(str, old.index), *new.index])


def _column(parts: list[pd.Series], *, labels: list[bool]) -> Any:
    import pandas as pd

    values = pd.concat([part.astype(object) for part in parts]).to_numpy()
    if any(labels):
        order = [str(c) for part, is_label in zip(parts, labels, strict=True) if is_label for c in part.cat.categories]
        order += [str(v) for v in values if not pd.isna(v)]
        return pd.Categorical([None if pd.isna(v) else str(v) for v in values], categories=list(dict.fromkeys(order)))
    if all(pd.api.types.is_bool_dtype(part.dtype) for part in parts):
        return values.astype(bool)
    numbers = [pd.api.types.is_numeric_dtype(part.dtype) or part.isna().all() for part in parts]
    if all(numbers):
        return pd.to_numeric(pd.Series(values)).to_numpy()
    return pd.Categorical([None if pd.isna(v) else str(v) for v in values]) if pd.isna(values).any() else values


def _record(own: Any, found: Registration) -> dict[str, Any]:
    """The record of the atlas with one row more for the section, and a note of how it came in."""
    options = json.loads(own["options"])
    pictures = json.loads(found.section.uns["spatialjax"].get("histology", "null"))
    entry = {"name": found.placement.name, "placed": found.placed, "histology": pictures}
    added = [*options.get("added", []), entry]
    new = [f"{found.placement.name!r}, added later: {message}" for message in found.messages]
    said = [*map(str, np.atleast_1d(own["warnings"])), *new]
    if found.placed:
        said.append(f"Section {found.placement.name!r} was added to the finished atlas, which was held still.")
    one = describe([found.placement], options=options | {"added": added}, method=str(own["method"]), warnings=said)
    result = dict(own)
    result["added_pairs"] = json.dumps([*json.loads(own.get("added_pairs", "[]")), *plain(found.pairs)])
    for key, value in one.items():
        rows = isinstance(value, np.ndarray) and key != "warnings" and key in own
        result[key] = np.concatenate([np.asarray(own[key]).astype(value.dtype), value]) if rows else value
    return result


def _carry_domains(atlas: AnnData, name: str) -> None:
    """Give the cells of the new section the domains that lie beside them."""
    sections, labels = from_atlas(atlas, _DOMAIN)
    source = [s.name for s in sections if s.name != name and (s.codes >= 0).any()]
    found = transfer(sections, labels, list(atlas.obs_names), source=source, target=[name])
    atlas.obs[_DOMAIN] = atlas.obs[_DOMAIN].fillna(found.table["label"].astype(object)).astype("category")
    if _CONFIDENCE in atlas.obs.columns:
        atlas.obs[_CONFIDENCE] = atlas.obs[_CONFIDENCE].fillna(found.table["confidence"])

"""Every published method behind one functional core, by task.

``METHODS[task][name]`` is a factory with keyword-only options, ``CARDS[task][name]`` says where the method comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources

from spatialjax.methods.alignment import fields, icp, moments, paste, paste2
from spatialjax.methods.card import Card, Method, run
from spatialjax.methods.deconvolution import card as card_
from spatialjax.methods.deconvolution import (
    cell2location,
    celldart,
    destvi,
    nnls,
    rctd,
    spike_slab,
    spoint,
    stdeconvolve,
    tangram,
)
from spatialjax.methods.domains import (
    banksy,
    consensus,
    graphst,
    hexcnn,
    hypergraph_wavelets,
    kmeans,
    neighbours,
    sedr,
    smoothed,
    spagcn,
    splane,
    stagate,
    stamarker,
    stcc,
    stg3net,
)
from spatialjax.methods.integration import paste_center
from spatialjax.methods.mapping import local_profiles
from spatialjax.methods.mapping import tangram as tangram_map

METHODS: dict[str, dict[str, Callable[..., Method]]] = {
    "alignment": {
        "fields": fields.fields,
        "paste": paste.paste,
        "paste2": paste2.paste2,
        "icp": icp.icp,
        "moments": moments.moments,
    },
    "deconvolution": {
        "card": card_.card,
        "cell2location": cell2location.cell2location,
        "celldart": celldart.celldart,
        "destvi": destvi.destvi,
        "nnls": nnls.nnls,
        "rctd": rctd.rctd,
        "spike_slab": spike_slab.spike_slab,
        "spoint": spoint.spoint,
        "stdeconvolve": stdeconvolve.stdeconvolve,
        "tangram": tangram.tangram,
    },
    "domains": {
        "banksy": banksy.banksy,
        "consensus": consensus.consensus,
        "graphst": graphst.graphst,
        "hexcnn": hexcnn.hexcnn,
        "hypergraph_wavelets": hypergraph_wavelets.hypergraph_wavelets,
        "kmeans": kmeans.kmeans,
        "neighbours": neighbours.neighbours,
        "sedr": sedr.sedr,
        "smoothed": smoothed.smoothed,
        "spagcn": spagcn.spagcn,
        "splane": splane.splane,
        "stagate": stagate.stagate,
        "stamarker": stamarker.stamarker,
        "stcc": stcc.stcc,
        "stg3net": stg3net.stg3net,
    },
    "integration": {
        "paste_center": paste_center.paste_center,
    },
    "mapping": {
        "local_profiles": local_profiles.local_profiles,
        "tangram": tangram_map.tangram,
    },
}

CARDS: dict[str, dict[str, Card]] = {
    "alignment": {
        "fields": fields.CARD,
        "paste": paste.CARD,
        "paste2": paste2.CARD,
        "icp": icp.CARD,
        "moments": moments.CARD,
    },
    "deconvolution": {
        "card": card_.CARD,
        "cell2location": cell2location.CARD,
        "celldart": celldart.CARD,
        "destvi": destvi.CARD,
        "nnls": nnls.CARD,
        "rctd": rctd.CARD,
        "spike_slab": spike_slab.CARD,
        "spoint": spoint.CARD,
        "stdeconvolve": stdeconvolve.CARD,
        "tangram": tangram.CARD,
    },
    "domains": {
        "banksy": banksy.CARD,
        "consensus": consensus.CARD,
        "graphst": graphst.CARD,
        "hexcnn": hexcnn.CARD,
        "hypergraph_wavelets": hypergraph_wavelets.CARD,
        "kmeans": kmeans.CARD,
        "neighbours": neighbours.CARD,
        "sedr": sedr.CARD,
        "smoothed": smoothed.CARD,
        "spagcn": spagcn.CARD,
        "splane": splane.CARD,
        "stagate": stagate.CARD,
        "stamarker": stamarker.CARD,
        "stcc": stcc.CARD,
        "stg3net": stg3net.CARD,
    },
    "integration": {
        "paste_center": paste_center.CARD,
    },
    "mapping": {
        "local_profiles": local_profiles.CARD,
        "tangram": tangram_map.CARD,
    },
}

#: The method that ``method="auto"`` means, by task.
DEFAULTS: dict[str, str] = {
    "alignment": "fields",
    "deconvolution": "spike_slab",
    "domains": "consensus",
    "mapping": "local_profiles",
}

__all__ = ["CARDS", "DEFAULTS", "METHODS", "Card", "Method", "citation", "run"]

#: Entry of ``docs/references.bib`` for the methods of this package.
_OURS = "spatialjax"


def citation(name: str) -> str:
    """BibTeX entry of a method of the table, or of the package for its own methods.

    Parameters
    ----------
    name
        Name of the method, e.g. ``"paste"``; ``"spatialjax"`` for the package.

    Raises
    ------
    KeyError
        If no method has that name.
    """
    cards = {n: c for table in CARDS.values() for n, c in table.items()}
    if name != _OURS and name not in cards:
        raise KeyError(f"Expected one of {', '.join(sorted(cards))} or {_OURS}, found {name!r}.")
    key = _OURS if name == _OURS else cards[name].citation or _OURS
    for entry in re.split(r"\n(?=@)", _references()):
        if re.match(rf"@\w+\{{\s*{re.escape(key)}\s*,", entry.strip()):
            return entry.strip()
    raise KeyError(f"Expected an entry {key!r} in references.bib, found none.")


def _references() -> str:
    """Text of the bibliography: beside the installed package, or in ``docs`` of a checkout."""
    inside = resources.files("spatialjax") / "references.bib"
    if inside.is_file():
        return inside.read_text(encoding="utf-8")
    return (resources.files("spatialjax") / ".." / "docs" / "references.bib").read_text(encoding="utf-8")

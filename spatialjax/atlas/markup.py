"""Parts of a page: sections, lists, tables and embedded pictures as HTML that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from spatialjax.checks import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def section(title: str, content: str) -> str:
    """A section with a heading; the content is HTML of ours."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def bullets(sentences: Iterable[str]) -> str:
    """A list of sentences; nothing where there are none."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a head; a word where it has no row."""
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def picture(draw: Callable[[], Figure], caption: str, alternative: str) -> str:
    """An embedded picture, or the reason why there is nothing to draw. The caption is HTML of ours."""
    try:
        figure = draw()
    except InputError as reason:
        return f"<p>{escape(str(reason))}</p>"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    image = f'<img alt="{escape(alternative)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"

"""Panels, dots, scale bars and colours that the pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#333333"


def panels_of(number: int, *, columns: int, size: float) -> tuple[Figure, list[Any]]:
    """A figure and its panels, each ``size`` inches wide and high."""
    from matplotlib.figure import Figure

    lines = -(-number // columns)
    figure = Figure(figsize=(size * columns, size * lines), layout="constrained")
    panels = [figure.add_subplot(lines, columns, i + 1) for i in range(number)]
    return figure, panels


def dots(
    panel: Any, xy: np.ndarray, *, color: Any, alpha: float = 1.0, count: int | None = None, **options: Any
) -> Any:
    """Cells as dots that touch; ``count`` is their number where several calls fill one panel."""
    limits = options.pop("limits", (None, None))
    size = dot_area(len(xy) if count is None else count)
    return panel.scatter(
        xy[:, 0],
        xy[:, 1],
        c=color,
        s=size,
        alpha=alpha,
        linewidths=0,
        vmin=limits[0],
        vmax=limits[1],
        rasterized=True,
        **options,
    )


def dot_area(number: int) -> float:
    """Marker area that lets neighbouring spots touch in a panel of three inches."""
    return float(np.clip(16000 / max(number, 1), 0.4, 40.0))


def map_frame(panel: Any) -> None:
    """A square window with y downwards, as in an image, and a scale bar."""
    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    half = 0.5 * max(right - left, top - bottom)
    panel.set_xlim((left + right) / 2 - half, (left + right) / 2 + half)
    panel.set_ylim((bottom + top) / 2 + half, (bottom + top) / 2 - half)
    panel.set_aspect("equal")
    quiet(panel)
    scale_bar(panel)


def quiet(panel: Any) -> None:
    """Fewer and paler lines round a panel."""
    for side in ("top", "right"):
        if side in panel.spines:
            panel.spines[side].set_visible(False)
    for spine in panel.spines.values():
        spine.set_color("#bbbbbb")
    panel.tick_params(labelsize=7, colors="#777777", length=2)


def scale_bar(panel: Any) -> None:
    """A bar of a round length in place of axes."""
    left, right = panel.get_xlim()
    bottom, top = panel.get_ylim()
    length = round_length(0.25 * abs(right - left))
    x, y = left + 0.04 * (right - left), bottom + 0.04 * (top - bottom)
    panel.plot([x, x + length], [y, y], color=INK, linewidth=2, solid_capstyle="butt")
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    panel.text(x, y + 0.02 * (top - bottom), text, fontsize=7, color=INK, va="bottom")
    panel.set_xlim(left, right)
    panel.set_ylim(bottom, top)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


def round_length(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``value``."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-12)))
    return float(max(f * power for f in (1, 2, 5) if f * power <= value * (1 + 1e-9)))


def palette(number: int) -> np.ndarray:
    """That many colours, neighbours far apart where there are at most twenty."""
    from matplotlib import colormaps

    if number <= 20:
        order = [*range(0, 20, 2), *range(1, 20, 2)]
        return np.asarray(colormaps["tab20"].colors)[order][:number]
    return colormaps["turbo"](np.linspace(0.03, 0.97, number))[:, :3]


def category_colors(column: Any) -> np.ndarray:
    """Colour of each row of a categorical column."""
    return palette(len(column.cat.categories))[np.asarray(column.cat.codes)]


def category_legend(figure: Figure, column: Any, *, title: str) -> None:
    """The colours of a categorical column, at the right of the figure."""
    from matplotlib.lines import Line2D

    labels = list(column.cat.categories)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=tuple(color), markersize=5, label=str(label))
        for label, color in zip(labels, palette(len(labels)), strict=True)
    ]
    figure.legend(
        handles=marks,
        title=title,
        loc="outside right upper",
        fontsize=7,
        title_fontsize=8,
        frameon=False,
        ncols=1 + len(labels) // 16,
    )


def short_name(name: str, *, limit: int = 24) -> str:
    """A name that fits over a panel, with no character that matplotlib reads as mathematics."""
    name = name if len(name) <= limit else f"{name[: limit - 1]}…"
    return name.replace("$", r"\$")

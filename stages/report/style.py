"""What all figures share: the look of a method, panels, lines with their bands, and legends.

Colours are of Okabe and Ito's palette (2008), which colour-blind people can tell apart, and are never alone: markers
and lines differ too. Whatever is not data (text, axes, grid) is drawn in INK, so that a page can exchange one colour.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

Line = Literal["-", "--", ":"]

INK = "#1f2328"
WIDTH = 8.0  # inches, of every figure: at 1000 pixels its text is as large as a page's
HEIGHTS = {1: 2.9, 2: 2.5, 3: 2.2, 4: 1.9, 5: 1.5}  # inches, of a panel in a row of so many
ROUND = [1, 2, 2.5, 5, 10]  # of which ticks are multiples
FAINT = 0.6  # opacity of ink that is not to be read first
LONG = 16  # places of a line; a longer one is thinner and has few markers
BAND = 0.18  # opacity of a standard deviation
SHADES = {
    "vanilla": ("#009e73",),
    "sft": ("#0072b2", "#56b4e9", "#5b6ee1"),
    "rl": ("#d55e00", "#c2255c", "#e58a5b"),
    "other": ("#cc79a7", "#7a4a8c", "#b8a1c9"),
}
# As many markers as have no divisor in common with the shades, so that 12 methods of a kind differ.
MARKERS = {"vanilla": "D", "sft": "sXp*", "rl": "o^vP", "other": "<>hd"}
NO_TRAINING = "No RL training is among these scores, so there is nothing to draw."
RC: Any = {  # matplotlib wants its keys as literals
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.unicode_minus": True,
    "figure.dpi": 150,
    "figure.facecolor": "none",
    "figure.titlesize": 11,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "lines.markeredgewidth": 0,
    "svg.fonttype": "path",
    "svg.hashsalt": "glassbox",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
}


@dataclass(frozen=True)
class Style:
    """The look of a method in every figure."""

    label: str
    colour: str
    marker: str
    line: Line


def styles(methods: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Style]:
    """The look of every method: hue and line tell the kind, shade and marker the method.

    Args:
        methods: kind by method, in the order of legends.
        labels: what a legend calls a method, by method.
    """
    found = {}
    seen = dict.fromkeys(SHADES, 0)
    for method, kind in methods.items():
        if kind not in SHADES:
            raise ValueError(f"method {method!r} is of kind {kind!r} (allowed: {', '.join(SHADES)})")
        place = seen[kind]
        seen[kind] += 1
        colour = SHADES[kind][place % len(SHADES[kind])]
        marker = MARKERS[kind][place % len(MARKERS[kind])]
        found[method] = Style(labels.get(method, method), colour, marker, "--" if kind == "vanilla" else "-")
    return found


# --- panels ----------------------------------------------------------------------------------------------------------


def panels(count: int, columns: int, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, row by row.

    Args:
        count: of panels; at least 1.
        columns: at most so many side by side.
        height: of a panel, in inches; None: what goes with its width.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    height = height or HEIGHTS[min(columns, max(HEIGHTS))]
    figure = Figure(figsize=(WIDTH, height * rows + 0.7), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def draw_panels(
    table: pd.DataFrame, styles: Mapping[str, Style], columns: int, *, from_zero: bool = True
) -> tuple[Figure, dict[str, Axes]]:
    """Means over seeds as lines, in bands of one standard deviation: one panel for each name in `panel`.

    Args:
        table: panel, series ("" or a key of SERIES), method, seed, over (what x is), x, unit (what y is; a share is
            printed in percent), y.
        styles: by method.
        columns: panels side by side.
        from_zero: axes begin at 0, but not those of sizes that are far above it.

    Returns:
        The figure, and the axes by the panel's name.
    """
    parts = {str(name): rows for name, rows in table.groupby("panel", sort=False)}
    figure, axes = panels(len(parts), columns)
    columns = min(columns, len(parts))
    told = [(rows["over"].iloc[0], rows["unit"].iloc[0]) for rows in parts.values()]
    for place, (ax, (panel, rows)) in enumerate(zip(axes, parts.items(), strict=True)):
        (over, unit) = told[place]
        ax.set_title(wrapped(panel, 76 // columns))
        below = place + columns
        if below >= len(told) or told[below][0] != over:
            ax.set_xlabel(over)
        if place % columns == 0 or told[place - 1][1] != unit:
            ax.set_ylabel(wrapped(capitalised(unit), 34 if columns < 4 else 26))
        draw_lines(ax, rows, styles)
        scale_axes(ax, unit, from_zero=from_zero)
        if not rows["y"].notna().any():
            note(ax, "no values")
        elif (rows["y"].dropna() == 0).all():
            note(ax, "0 throughout")
    return figure, dict(zip(parts, axes, strict=True))


SERIES: dict[str, Line] = {"": "-", "with a reflection word": "-", "without": ":"}


def draw_lines(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    """One line for every method and series, in the order of the styles; a gap where there is no value."""
    methods = present(styles, rows["method"])
    for method in methods:
        for series, line in SERIES.items():
            drawn = rows[(rows["method"] == method) & (rows["series"].fillna("") == series)]
            if not drawn.empty:
                style = styles[method]
                draw_curve(ax, drawn, style, style.line if line == "-" else line, alone=len(methods) == 1)


def draw_curve(ax: Axes, rows: pd.DataFrame, style: Style, line: Line, *, alone: bool) -> None:
    """Mean over the seeds that have a value, and a band of one standard deviation (n - 1) where several have one.

    Args:
        rows: seed, x, y.
        alone: there is no other method, so a long line needs no markers.
    """
    curve = rows.groupby("x")["y"].agg(["mean", "std"])
    x, mean, std = curve.index.to_numpy(), curve["mean"].to_numpy(), curve["std"].to_numpy()
    long = len(curve) > LONG
    marked = marked_places(curve["mean"].notna().tolist(), sparse=line == "--" or (long and alone))
    look: Any = {"linewidth": 1.1, "markersize": 4} if long else {}
    ax.plot(x, mean, color=style.colour, linestyle=line, marker=style.marker, markevery=marked, **look)
    if curve["std"].notna().any():
        low, high = mean - std, mean + std
        if rows["unit"].iloc[0].startswith("share"):  # none is below 0 or above 1
            low, high = low.clip(0, None), high.clip(None, 1)
        ax.fill_between(x, low, high, color=style.colour, alpha=BAND, linewidth=0)


def marked_places(has_value: Sequence[bool], *, sparse: bool = False) -> list[int]:
    """Where a line has a marker: about eight times, and wherever a value has no neighbour to draw a line to.

    Args:
        has_value: by place.
        sparse: only the lonely values.
    """
    step = math.ceil(len(has_value) / 8) if len(has_value) > LONG else 1
    padded = [False, *has_value, False]
    lonely = [not padded[place] and not padded[place + 2] for place in range(len(has_value))]
    return [
        place
        for place, value in enumerate(has_value)
        if value and (lonely[place] or (not sparse and place % step == step // 2))
    ]


def scale_axes(ax: Axes, unit: str, *, from_zero: bool) -> None:
    """Few round ticks; a share is in percent and never beyond 0 and 100.

    Args:
        unit: what y is.
        from_zero: begin at 0, but not for a size of which all values are far above it.
    """
    share, count = unit.startswith("share"), unit.startswith("responses")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=count, min_n_ticks=1 if count else 3))
    points = np.concatenate([np.asarray(line.get_xydata(), float) for line in ax.get_lines()])
    values = points[np.isfinite(points).all(axis=1), 1]
    bottom, top = ax.get_ylim()
    if not values.any():
        bottom, top = 0, 0.01 if share else 1
        ax.set_yticks([0] if values.size else [])
    elif from_zero and values.min() >= 0 and (share or count or values.min() <= 0.5 * values.max()):
        bottom = 0
    if share:
        bottom, top = max(bottom, 0), min(top, 1)
        ax.yaxis.set_major_formatter(percent)
    room = 0.03 * (top - bottom)  # a line along the edge is seen whole
    ax.set_ylim(bottom - room, top + room)
    first, last = points[:, 0].min(), points[:, 0].max()
    room = 0.03 * (last - first) or 1
    ax.set_xlim(first - room, last + room)
    if first == last:
        ax.set_xticks([first])


def percent(share: float, _: object = None) -> str:
    """0.125 as 12.5%."""
    return f"{100 * share:.4g}%"


def note(ax: Axes, text: str) -> None:
    """A word in the middle of a panel in which there is nothing to see."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", alpha=FAINT)


def empty_figure(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(WIDTH, 1.3), layout="constrained")
    figure.text(0.5, 0.4, wrapped(text, 90), ha="center", va="center", alpha=FAINT)
    return figure


# --- legends ---------------------------------------------------------------------------------------------------------


def present(styles: Mapping[str, Style], methods: "pd.Series[Any]") -> list[str]:
    """The methods of a table in the order of the styles."""
    found = set(methods)
    return [method for method in styles if method in found]


def method_handles(
    styles: Mapping[str, Style], methods: "pd.Series[Any]", *, points: bool = False
) -> dict[str, Artist]:
    """Lines of a legend for the methods of a table, by what they are called; or points."""
    found: dict[str, Artist] = {}
    for method in present(styles, methods):
        style = styles[method]
        look: Any = {"linestyle": ""} if points else {"linestyle": style.line}
        marker = style.marker if points or style.line == "-" else ""
        found[style.label] = Line2D([], [], color=style.colour, marker=marker, **look)
    return found


def series_handles(table: pd.DataFrame) -> dict[str, Artist]:
    """Lines of a legend for what the styles of line stand for, by what they are called."""
    names = [name for name in SERIES if name and (table["series"] == name).any()]
    return {name: Line2D([], [], color=INK, linestyle=SERIES[name]) for name in names}


def add_legend(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Below the panels, in as many columns as fit side by side."""
    texts = [wrapped(text, 60) for text in handles]
    longest = max((len(line) for text in texts for line in text.splitlines()), default=1)
    columns = max(1, min(len(texts), 100 // (longest + 7)))
    figure.legend(list(handles.values()), texts, loc="outside lower center", ncols=columns)


def wrapped(text: str, width: int) -> str:
    """A text in lines of at most so many characters; a longer word is cut."""
    return textwrap.fill(text, max(width, 8))


def capitalised(text: str) -> str:
    """The text with a capital first letter, and the rest as it is."""
    return text[:1].upper() + text[1:]

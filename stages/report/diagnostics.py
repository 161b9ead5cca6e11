"""Figures that the paper does not have: how certain differences are, what lies behind them, and how RL fared."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

from stages.report.cell import RUN, STEP, Cell, final, lines, together
from stages.report.names import ALL, label, setting_label, split_label
from stages.report.style import (
    INK,
    NO_TRAINING,
    ROUND,
    Style,
    add_legend,
    draw_panels,
    empty_figure,
    method_handles,
    note,
    panels,
    percent,
    present,
    wrapped,
)

# --- differences -----------------------------------------------------------------------------------------------------

BOTH = "seeds and problems"
DIFFERENCES = ["panel", "pair", "method", "row", "difference", "low", "high", "covers"]


def differences_table(cell: Cell) -> pd.DataFrame:
    """Differences of the last epoch, in percentage points: a panel a split, a group a pair, a row a setting."""
    found = cell["comparisons"]
    found = found[found["epoch"] == "final"]
    points = {column: 100 * found[column].astype(float) for column in ("difference", "low", "high")}
    table = found.assign(
        panel=found["split"].map(split_label),
        pair=found["method"].map(label) + " − " + found["over"].map(label),
        row=found["setting"],
        **points,
    )
    last = table.assign(last=table["row"] == ALL).sort_values("last", kind="stable")
    return last[DIFFERENCES].reset_index(drop=True)


def draw_differences(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """A forest plot."""
    if table.empty:
        return empty_figure("There are no two methods to compare, so there is nothing to draw.")
    places, names = forest_rows(table)
    splits = list(table["panel"].unique())
    figure, axes = panels(len(splits), len(splits), height=1.1 + 0.2 * max(places.values()))
    for ax in axes[1:]:
        ax.sharex(axes[0])
    for ax, split in zip(axes, splits, strict=True):
        for found in table[table["panel"] == split].to_dict("records"):
            draw_interval(ax, places[found["pair"], found["row"]], found, styles[found["method"]].colour)
        ax.axvline(0, color=INK, linewidth=1)
        ax.set_title(split)
        ax.set_xlabel("Percentage points")
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        ax.set_ylim(max(places.values()) + 0.5, -0.5)
        ax.set_yticks(list(places.values()), [""] * len(places))
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(list(places.values()), names)
    for text, (_, row) in zip(axes[0].get_yticklabels(), places, strict=True):
        text.set_fontweight("normal" if row else "bold")
    add_legend(figure, {text: handle for text, (there, handle) in interval_handles(table).items() if there.any()})
    return figure


def forest_rows(table: pd.DataFrame) -> tuple[dict[tuple[str, str], float], list[str]]:
    """Where the rows of a forest plot are, and what is written there.

    Returns:
        Height by pair and setting, where the setting "" is the pair's heading; and the text of each.
    """
    places: dict[tuple[str, str], float] = {}
    names: list[str] = []
    free = 0.0
    for pair in table["pair"].unique():
        for row in ("", *table[table["pair"] == pair]["row"].unique()):
            text = wrapped(setting_label(row) if row else pair, 36)
            needed = len(text.splitlines())
            places[pair, row] = free + (needed - 1) / 2
            names.append(text)
            free += needed
        free += 0.4
    return places, names


def interval_handles(table: pd.DataFrame) -> dict[str, tuple["pd.Series[bool]", Artist]]:
    """What a forest plot's symbols stand for: in which rows it is, and how it looks."""
    whole, both = table["row"] == ALL, table["covers"] == BOTH
    return {
        "one setting": (~whole, Line2D([], [], color=INK, marker="o", linestyle="")),
        "all settings": (whole, Line2D([], [], color=INK, marker="D", linestyle="")),
        "interval over seeds and problems": (both, Line2D([], [], color=INK)),
        "interval over problems only": (~both, Line2D([], [], color=INK, linestyle=":")),
    }


def draw_interval(ax: Axes, place: float, found: Mapping[Any, Any], colour: str) -> None:
    """One row of a forest plot.

    Args:
        place: its height.
        found: a row of the table.
        colour: of the first method.
    """
    line = "-" if found["covers"] == BOTH else ":"
    ax.plot([found["low"], found["high"]], [place, place], color=colour, linestyle=line, linewidth=1.6)
    whole = found["row"] == ALL
    ax.plot([found["difference"]], [place], color=colour, marker="D" if whole else "o", markersize=5.5)


# --- pass@k ----------------------------------------------------------------------------------------------------------


def pass_at_k_table(cell: Cell) -> pd.DataFrame:
    """Unbiased pass@k of the last epoch, where there are several samples."""
    found = cell["pass_at_k"]
    found = final(found[found["samples"] > 1])
    return together(
        [
            lines(
                rows,
                f"{split_label(str(split))}, {setting_label(str(setting))}",
                "k",
                "share of problems solved",
                "pass_at_k",
            )
            for (split, setting), rows in found.groupby(["split", "setting"], sort=False)
        ]
    )


def draw_pass_at_k(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """A panel for each split and generation setting with several samples."""
    if table.empty:
        return empty_figure("No generation setting has several responses to a problem, so there is no pass@k to draw.")
    figure, axes = draw_panels(table, styles, 2)
    for panel, ax in axes.items():
        most = table[table["panel"] == panel]["x"].max()
        ax.set_xscale("log", base=2)
        ax.set_xlim(0.9, 1.1 * most)
        ks = [2**power for power in range(int(np.log2(most)) + 1)]
        ax.xaxis.set_major_locator(FixedLocator(ks))
        ax.xaxis.set_major_formatter(lambda k, _: f"{k:.0f}")
        ax.xaxis.set_minor_locator(NullLocator())
    add_legend(figure, method_handles(styles, table["method"]))
    return figure


# --- types of problems -----------------------------------------------------------------------------------------------

TYPES = ["panel", "type", "problems", "method", "seed", "accuracy"]


def types_table(cell: Cell) -> pd.DataFrame:
    """Accuracy of the last epoch by type of problem, in one generation setting; empty if no problem has a type."""
    found = cell["types"]
    settings = found["setting"].unique()
    if found["type"].fillna("").eq("").all():
        return pd.DataFrame(columns=TYPES)
    setting = cell.setting or settings[-1]
    found = final(found[found["setting"] == setting])
    panel = found["split"].map(split_label) + f", {setting_label(setting)}"
    named = found["type"].fillna("").replace("", "without a type")
    return found.assign(panel=panel, type=named)[TYPES].reset_index(drop=True)


def draw_types(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """A dot plot: a panel a split, a row a type."""
    if table.empty:
        return empty_figure("The problems have no types, so there is nothing to draw.")
    methods = present(styles, table["method"])
    splits = list(table["panel"].unique())
    most = table.groupby("panel")["type"].nunique().max()
    figure, axes = panels(len(splits), 2, height=0.75 + (0.14 + 0.1 * len(methods)) * most)
    for ax, split in zip(axes, splits, strict=True):
        here = table[table["panel"] == split]
        types = list(here["type"].unique())
        draw_dots(ax, here, types, {method: styles[method] for method in methods})
        sizes = here.groupby("type", sort=False)["problems"].max()
        ax.set_yticks(range(len(types)), [f"{wrapped(kind, 30)} ({sizes[kind]:.0f})" for kind in types])
        ax.set_title(wrapped(split, 45))
        ax.set_xlabel("Share of problems solved")
    add_legend(figure, method_handles(styles, table["method"], points=True))
    return figure


def draw_dots(ax: Axes, rows: pd.DataFrame, types: list[str], styles: Mapping[str, Style]) -> None:
    """Each method's accuracy on every type: a large marker for the mean, small dots for the seeds."""
    look: Any = {"x": "accuracy", "y": "type", "hue": "method", "order": types, "hue_order": list(styles)}
    look |= {"palette": {method: style.colour for method, style in styles.items()}, "legend": False, "ax": ax}
    if len(set(rows["seed"])) > 1:
        sns.stripplot(rows, dodge=True, jitter=False, size=3, alpha=0.45, **look)
    apart = 0.8 * (len(styles) - 1) / len(styles)  # as stripplot has them
    markers = [style.marker for style in styles.values()]
    sns.pointplot(rows, dodge=apart or False, markers=markers, linestyle="none", errorbar=None, markersize=6, **look)
    ax.set_ylabel("")
    for between in range(1, len(types)):
        ax.axhline(between - 0.5, color=INK, alpha=0.15, linewidth=0.6)
    ax.set_ylim(len(types) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.xaxis.set_major_formatter(percent)
    ax.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


# --- length and reflection -------------------------------------------------------------------------------------------

SCATTER = ["panel", "method", "seed", "generation_step", "unit", "length", "reflection_ratio"]
SEED_MARKERS = "o^svDP*Xph"


def scatter_table(cell: Cell) -> pd.DataFrame:
    """Response length and reflection ratio of every generation step."""
    step = [*RUN, "epoch", "generation_step"]
    lengths, reflection = cell.training("responses"), cell.training("reflection")
    found = lengths[[*step, "unit", "length"]].merge(reflection[[*step, "reflection_ratio"]], on=step)
    return found.assign(panel=found["method"].map(label))[SCATTER]


def draw_scatter(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """A panel a method, a marker a seed."""
    if table.empty:
        return empty_figure(NO_TRAINING)
    methods = present(styles, table["method"])
    seeds = sorted(table["seed"].unique())
    markers = {seed: SEED_MARKERS[place % len(SEED_MARKERS)] for place, seed in enumerate(seeds)}
    figure, axes = panels(len(methods), 3 if len(methods) in (3, 5, 6) else 2, height=2.9)
    for ax, method in zip(axes, methods, strict=True):
        rows = table[table["method"] == method]
        look: Any = {"palette": shades(styles[method].colour, seeds), "markers": markers, "legend": False}
        sns.scatterplot(
            rows, x="length", y="reflection_ratio", hue="seed", style="seed", alpha=0.65, linewidth=0, ax=ax, **look
        )
        ax.set_title(wrapped(rows["panel"].iloc[0], 25))
        ax.set_xlabel(f"Mean length ({' or '.join(rows['unit'].unique())})")
        ax.set_ylabel("Reflection ratio")
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
        ax.yaxis.set_major_formatter(percent)
        if rows[["length", "reflection_ratio"]].dropna().empty:
            note(ax, "no values")
            ax.set_xticks([])
            ax.set_yticks([])
    colours = shades(styles[methods[0]].colour, seeds)
    look = {"linestyle": ""}
    add_legend(
        figure, {f"seed {seed}": Line2D([], [], marker=markers[seed], color=colours[seed], **look) for seed in seeds}
    )
    return figure


def shades(colour: str, seeds: Sequence[int]) -> dict[int, str]:
    """A colour for each seed, from darker than the given one to lighter."""
    if len(seeds) == 1:
        return {seeds[0]: colour}
    ends = sns.blend_palette(["black", colour, "white"], 7).as_hex()
    return dict(zip(seeds, sns.blend_palette([ends[2], colour, ends[4]], len(seeds)).as_hex(), strict=True))


# --- health ----------------------------------------------------------------------------------------------------------

FAR = 2.0  # a bound is drawn up to so many times as far as the data reaches
BOUND: Any = {"linewidth": 0.9, "linestyle": (0, (6, 2, 1, 2))}
RATIO, GAP, LARGEST_GAP = "First ratio − 1", "Sampler gap (mean)", "Sampler gap (max)"
LOGARITHMIC = {GAP, LARGEST_GAP}


def health_table(cell: Cell) -> pd.DataFrame:
    """What tells whether an RL training is sound, by generation step, with its bound where one is declared."""
    step = [*RUN, "epoch", "generation_step"]
    responses = cell.training("responses")
    updates = cell["updates"]
    updates = of_steps(updates[updates["ratio"].notna()], step)  # SFT has none
    bounds = cell["health"].groupby([*RUN, "check"])["bound"].first()
    parts = []
    for table, column, panel, unit, checked in (
        (updates, "kl_loss", "KL to base model", "nats a token", "kl"),
        (updates, "clip_fraction", "Clip fraction (max)", "share of tokens", "clip_fraction"),
        (updates, "entropy", "Entropy", "nats a token", "entropy_left"),
        (updates, "ratio", RATIO, "mean over tokens", "first_ratio"),
        (updates, "sampler_gap", GAP, "nats", "sampler_gap"),
        (updates, "sampler_gap_max", LARGEST_GAP, "nats", "sampler_gap_max"),
        (updates, "sampler_outside", "Sampler ratio outside 0.8–1.25", "share of tokens", "sampler_outside"),
        (responses, "truncated", "Cut-off responses", "share of responses", "truncated"),
        (responses, "timed_out", "Judge time-outs", "share of responses", "timed_out"),
    ):
        runs = table[RUN].itertuples(index=False, name=None)
        bound = np.asarray([bounds.get((*run, checked), np.nan) for run in runs], float)
        if checked == "entropy_left":
            bound = bound * table.groupby(RUN)[column].transform("first")
        parts.append(lines(table, panel, STEP, unit, column).assign(bound=bound))
    found = together(parts)
    return found if "bound" in found else found.assign(bound=[])


def of_steps(updates: pd.DataFrame, step: list[str]) -> pd.DataFrame:
    """Of a generation step's updates: means over tokens, the largest clip fraction and gap, the first ratio."""
    ordered = updates.sort_values([*step, "gradient_step"], kind="stable")
    means = ["kl_loss", "entropy", "sampler_gap", "sampler_outside"]
    weighted = ordered.assign(**{name: ordered[name] * ordered["tokens"] for name in means})
    groups = weighted.groupby(step, sort=False)
    sums = groups[[*means, "tokens"]].sum(min_count=1)
    rest = groups.agg(
        clip_fraction=("clip_fraction", "max"),
        sampler_gap_max=("sampler_gap_max", "max"),
        ratio=("ratio", "first"),
    )
    found = sums[means].div(sums["tokens"], axis="index").join(rest)
    return found.assign(ratio=found["ratio"] - 1).reset_index()


def draw_health(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """A panel a number, with its bound."""
    if table.empty:
        return empty_figure(NO_TRAINING)
    figure, axes = draw_panels(table, styles, 3)
    for panel, rows in table.groupby("panel", sort=False):
        ax = axes[str(panel)]
        if panel in LOGARITHMIC and (rows["y"] > 0).any():
            scale_logarithmically(ax, rows["y"])
        draw_bounds(ax, rows, styles)
    bound: dict[str, Artist] = {"bound": Line2D([], [], color=INK, **BOUND)}
    add_legend(figure, method_handles(styles, table["method"]) | (bound if table["bound"].notna().any() else {}))
    return figure


def scale_logarithmically(ax: Axes, values: "pd.Series[float]") -> None:
    """A logarithmic axis, which becomes linear below the least value where some are exactly 0."""
    least, largest = values[values > 0].min(), values.max()
    if (values == 0).any():
        ax.set_yscale("symlog", linthresh=least)
        ax.set_ylim(-0.1 * least, 2 * largest)
        ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=10 ** np.floor(np.log10(least))))
    else:
        ax.set_yscale("log")
        ax.set_ylim(least / 2, 2 * largest)
        ax.yaxis.set_major_locator(LogLocator(numticks=5))


def draw_bounds(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    """Thin lines at the bound of each method, or the bound in the title if it is far from all values."""
    bounds = {method: rows["bound"][rows["method"] == method].mean() for method in present(styles, rows["method"])}
    bounds = {method: bound for method, bound in bounds.items() if not np.isnan(bound)}
    if not bounds or not rows["y"].notna().any():
        return
    both = rows["panel"].iloc[0] == RATIO
    largest, reach = max(bounds.values()), rows["y"].abs().max()
    if ax.get_yscale() == "linear" and largest > FAR * reach:
        share = rows["unit"].iloc[0].startswith("share")
        said = percent(largest) if share else f"{'±' if both else ''}{largest:.3g}"
        ax.set_title(f"{ax.get_title()}\n(bound {said})")
        return
    for method, bound in bounds.items():
        colour = INK if len(set(bounds.values())) == 1 else styles[method].colour
        for place in (bound, -bound) if both else (bound,):
            ax.axhline(place, color=colour, **BOUND)
    bottom, top = ax.get_ylim()
    room = 1.1 if ax.get_yscale() == "linear" else 2.0
    lowest = -room * largest if both else min(bounds.values()) / room
    ax.set_ylim(min(bottom, lowest), max(top, room * largest))

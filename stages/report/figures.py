"""The paper's figures, for every model on every data set: `python -m stages.report.figures RUN.json`.

Each as PNG and SVG: accuracy_<model>_<dataset> (Fig. 5), training_... (Fig. 4), reflection_... (Fig. 6) and
words_... (Fig. 7-8). Lines are means over seeds, bands one standard deviation over seeds. Equal tables give equal
bytes.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from stages.config import FiguresRun, load_run
from stages.files import whole_folder
from stages.progress import progress
from stages.report.names import VANILLA, cells, label, model_label, of_cell

Line = Literal["-", ":"]

GREEN = "#2ca02c"
# From dark to light: RL red, SFT blue as in the paper; one method of a kind has the middle of its kind's shades.
SHADES = {"rl": ("#8c1515", "#d62728", "#f4975f"), "sft": ("#123a6b", "#1f77b4", "#6cc0e5")}
STYLE: Any = {  # matplotlib wants its keys as literals
    "axes.grid": True,
    "figure.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.5,
    "svg.hashsalt": "glassbox",
}
TITLES = {
    "reflection_ratio": "Reflection ratio",
    "reflection_ratio_in_correct_answers": "Reflection ratio in correct answers",
    "reflection_ratio_in_incorrect_answers": "Reflection ratio in incorrect answers",
    "correct_ratio_in_reflection_texts": "Correct ratio in reflection texts",
    "correct_ratio_in_no_reflection_texts": "Correct ratio in no-reflection texts",
}
WITH_AND_WITHOUT: dict[str, Line] = {"reflection": "-", "no_reflection": ":"}


@dataclass(frozen=True)
class Scores:
    """The score tables of one model on one data set, and the colour of each method in them."""

    accuracy: pd.DataFrame
    training: pd.DataFrame
    steps: pd.DataFrame
    words: pd.DataFrame
    colours: dict[str, str]


def colours(methods: Mapping[str, str]) -> dict[str, str]:
    """Colour by method; several methods of a kind share their kind's hue.

    Args:
        methods: kind by method, in the order of the legend.
    """
    found = dict.fromkeys(methods, GREEN)
    for kind, (dark, middle, light) in SHADES.items():
        names = [method for method, other in methods.items() if other == kind]
        shades = [middle] if len(names) == 1 else sns.blend_palette([dark, middle, light], len(names)).as_hex()
        found |= dict(zip(names, shades, strict=True))
    return found


# --- the four figures ------------------------------------------------------------------------------------------------


def draw_accuracy(scores: Scores) -> Figure:
    """Fig. 5: a row a split, a column a setting."""
    table = scores.accuracy
    splits, settings = list(table["split"].unique()), list(table["setting"].unique())
    figure, axes = panels(len(splits), len(settings))
    for row, split in enumerate(splits):
        for column, setting in enumerate(settings):
            ax = axes[row * len(settings) + column]
            here = table[(table["split"] == split) & (table["setting"] == setting)]
            draw_curves(ax, here, scores.colours)
            as_percent(ax)
            name(ax, title=setting if row == 0 else "", x="Epoch" if row == len(splits) - 1 else "")
            if column == 0:
                ax.set_ylabel(f"{str(split).capitalize()} accuracy")
    add_legend(figure, scores.colours, table)
    return figure


def draw_curves(ax: Axes, table: pd.DataFrame, palette: Mapping[str, str]) -> None:
    """Accuracy by epoch; every trained run begins at the base model of its seed."""
    base = table[table["method"] == VANILLA]
    trained = table[table["method"] != VANILLA]
    starts = [base[base["seed"].isin(runs["seed"])].assign(method=m) for m, runs in trained.groupby("method")]
    draw_lines(ax, pd.concat([*starts, trained]), "epoch", "accuracy", palette, marker="o")
    if not base.empty:
        ax.axhline(base["accuracy"].mean(), color=GREEN, linestyle="--", linewidth=1.6, zorder=1.5)
    if trained.empty:
        ax.set_xticks([0])


def draw_training(scores: Scores) -> Figure:
    """Fig. 4: accuracy of the training responses, length, reflection, and the two most frequent words."""
    if scores.steps.empty:
        return empty_figure()
    frequent = scores.words.groupby("word", sort=False)["count"].sum().sort_values(ascending=False, kind="stable")
    figure, axes = panels(2, 3)
    draw_lines(axes[0], scores.training, "epoch", "accuracy", scores.colours, marker="o")
    draw_lines(axes[1], scores.steps, "generation_step", "length", scores.colours)
    draw_lines(axes[2], scores.steps, "generation_step", "reflection_ratio", scores.colours)
    for text, line in WITH_AND_WITHOUT.items():
        draw_lines(axes[3], scores.steps, "generation_step", f"correct_ratio_in_{text}_texts", scores.colours, line)
    for ax, word in zip(axes[4:], frequent.index[:2], strict=False):
        draw_word(ax, scores, str(word))
        name(ax, f"Responses with “{word}”", x="Generation step", y=f"Responses, of {per_step(scores.steps)}")
    for ax in axes[4 + len(frequent) :]:
        ax.remove()
    name(axes[0], "Training accuracy", x="Epoch", y="Accuracy")
    name(axes[1], "Response length", x="Generation step", y="Tokens")
    name(axes[2], TITLES["reflection_ratio"], x="Generation step", y="Share of responses")
    name(axes[3], "Correct ratio", x="Generation step", y="Share of responses")
    for ax in (axes[0], axes[2], axes[3]):
        as_percent(ax)
    ratios = {TITLES[f"correct_ratio_in_{text}_texts"]: line for text, line in WITH_AND_WITHOUT.items()}
    add_legend(figure, scores.colours, scores.steps, ratios)
    return figure


def draw_reflection(scores: Scores) -> Figure:
    """Fig. 6: length and the five ratios."""
    if scores.steps.empty:
        return empty_figure()
    figure, axes = panels(2, 3)
    draw_lines(axes[0], scores.steps, "generation_step", "length", scores.colours)
    name(axes[0], "Response length", x="Generation step", y="Tokens")
    for ax, (ratio, title) in zip(axes[1:], TITLES.items(), strict=True):
        draw_lines(ax, scores.steps, "generation_step", ratio, scores.colours)
        as_percent(ax)
        name(ax, title, x="Generation step", y="Share of responses")
    add_legend(figure, scores.colours, scores.steps)
    return figure


def draw_words(scores: Scores) -> Figure:
    """Fig. 7-8: how many responses of a generation step have each word."""
    if scores.steps.empty:
        return empty_figure()
    words = [str(word) for word in scores.words["word"].unique()]
    columns = min(5, len(words))
    rows = math.ceil(len(words) / columns)
    figure, axes = panels(rows, columns, width=2.3, height=1.8)
    for i, (ax, word) in enumerate(zip(axes, words, strict=False)):
        draw_word(ax, scores, word)
        name(ax, f"“{word}”", x="Generation step" if i + columns >= len(words) else "")
        if i % columns == 0:
            ax.set_ylabel(f"Responses, of {per_step(scores.steps)}")
    for ax in axes[len(words) :]:
        ax.remove()
    add_legend(figure, scores.colours, scores.steps)
    return figure


FIGURES: dict[str, Callable[[Scores], Figure]] = {
    "accuracy": draw_accuracy,
    "training": draw_training,
    "reflection": draw_reflection,
    "words": draw_words,
}

# --- their parts -----------------------------------------------------------------------------------------------------


def panels(rows: int, columns: int, width: float = 3.2, height: float = 2.5) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, row by row; inches a panel."""
    figure = Figure(figsize=(width * columns, height * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure, list(axes.flat)


def draw_lines(
    ax: Axes, table: pd.DataFrame, x: str, y: str, palette: Mapping[str, str], line: Line = "-", marker: str = ""
) -> None:
    """Mean over seeds by method, and a band of one standard deviation where there are several seeds."""
    present = set(table["method"])
    methods = {method: colour for method, colour in palette.items() if method in present and method != VANILLA}
    if methods and table[y].notna().any():
        band = {"errorbar": "sd", "err_kws": {"linewidth": 0, "alpha": 0.15}}
        look = {"linestyle": line, "marker": marker, "markersize": 4, "markeredgewidth": 0}
        colour = {"hue": "method", "hue_order": methods, "palette": methods, "legend": False}
        sns.lineplot(table, x=x, y=y, ax=ax, **colour, **band, **look)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def draw_word(ax: Axes, scores: Scores, word: str) -> None:
    """How many responses have a word; "never" if none has it."""
    counts = scores.words[scores.words["word"] == word]
    draw_lines(ax, counts, "generation_step", "count", scores.colours)
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    ax.set_ylim(bottom=0, top=None if counts["count"].any() else 1)
    if not counts["count"].any():
        ax.set_yticks([0])
        ax.text(0.5, 0.5, "never", transform=ax.transAxes, ha="center", va="center", color="0.5")


def per_step(steps: pd.DataFrame) -> str:
    """Responses of a generation step: 128, or 64-128 where steps differ."""
    least, most = steps["N"].min(), steps["N"].max()
    return f"{most}" if least == most else f"{least}–{most}"


def name(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Write a panel's title and the names of its axes."""
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def as_percent(ax: Axes) -> None:
    """Write fractions of the vertical axis in percent; no band goes below 0 or above 100."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(bottom, -0.01), min(top, 1.01))
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")


def add_legend(
    figure: Figure, palette: Mapping[str, str], table: pd.DataFrame, styles: Mapping[str, Line] | None = None
) -> None:
    """Below the panels: the methods that are in the table, and what the styles of line stand for."""
    colours = {method: colour for method, colour in palette.items() if method in set(table["method"])}
    lines = [Line2D([], [], color=c, linewidth=2, linestyle="--" if m == VANILLA else "-") for m, c in colours.items()]
    texts = [f"{label(method)} (base model)" if method == VANILLA else label(method) for method in colours]
    lines += [Line2D([], [], color="0.25", linestyle=style) for style in (styles or {}).values()]
    figure.legend(lines, [*texts, *(styles or {})], loc="outside lower center", ncols=5, frameon=False)


def empty_figure() -> Figure:
    """For a study without RL, whose reflection is not recorded during training."""
    figure = Figure(figsize=(6, 1.5))
    figure.text(0.5, 0.5, "No method of this study is RL, so there is nothing to draw.", ha="center", va="center")
    return figure


def write(scores: Path, methods: Mapping[str, str], folder: Path) -> None:
    """Draw every figure of a study into `folder`.

    Args:
        scores: folder of the score tables.
        methods: kind by method.
        folder: an empty one.
    """
    tables = {table: pd.read_csv(scores / f"{table}.csv") for table in ("accuracy", "training", "steps", "words")}
    order = {method: methods[method] for method in tables["accuracy"]["method"].unique()}
    wanted = [(*cell, kind) for cell in cells(tables["accuracy"]) for kind in FIGURES]
    for model, dataset, kind in progress(wanted, "figures"):
        of_this = {table: of_cell(rows, model, dataset) for table, rows in tables.items()}
        with sns.axes_style("ticks"), mpl.rc_context(STYLE):
            figure = FIGURES[kind](Scores(**of_this, colours=colours(order)))
            figure.suptitle(f"{model_label(model)} on {dataset}", fontsize=12)
            path = folder / f"{kind}_{model}_{dataset}"
            figure.savefig(f"{path}.png", metadata={"Software": None})
            figure.savefig(f"{path}.svg", metadata={"Date": None})


def main(path: str) -> None:
    run = load_run(path, FiguresRun)
    with whole_folder(Path(run.out)) as folder:
        write(Path(run.scores), run.methods, folder)


if __name__ == "__main__":
    main(sys.argv[1])

"""Figures of a study's scores, for every model on every data set.

`python -m stages.report.figures RUN.json` for a study of the workflow, and
`python -m stages.report.figures SCORES --out FOLDER` for the score tables in any folder.

Every figure is drawn from one tidy table, which lies beside it: <kind>_<model>_<dataset>.csv, .png and .svg. This file
has the paper's figures (4 to 8), `stages.report.diagnostics` the others. Equal tables give equal bytes.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from stages.config import FiguresRun, load_run
from stages.files import whole_folder
from stages.progress import progress
from stages.report import diagnostics
from stages.report.cell import STEP, TABLES, Cell, Matching, length_lines, lines, of_cells, read_table, together
from stages.report.names import LABELS, RATIOS, VANILLA, model_label, setting_label, split_label
from stages.report.style import (
    NO_TRAINING,
    RC,
    Style,
    add_legend,
    draw_panels,
    empty_figure,
    method_handles,
    series_handles,
)
from stages.report.style import styles as styles_of

# --- the paper's figures ---------------------------------------------------------------------------------------------


def accuracy_table(cell: Cell) -> pd.DataFrame:
    """Accuracy by epoch; every trained run begins at the base model of its seed, which is drawn across."""
    parts = []
    for (split, setting), rows in cell["accuracy"].groupby(["split", "setting"], sort=False):
        base, trained = rows[rows["method"] == cell.base], rows[rows["method"] != cell.base]
        across = [base, base.assign(epoch=trained["epoch"].max())] if not trained.empty else [base]
        panel = f"{split_label(str(split))}, {setting_label(str(setting))}"
        parts.append(
            lines(
                pd.concat([*across, *starts(base, trained), trained]),
                panel,
                "Epoch",
                "share of problems solved",
                "accuracy",
            )
        )
    return together(parts)


def starts(base: pd.DataFrame, trained: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Epoch 0 of every trained run: the base model's accuracy with its seed, or over all seeds if that has none."""
    if base.empty:
        return
    by_seed = base.groupby("seed")["accuracy"].mean()
    for method, runs in trained[trained["epoch"] > 0].groupby("method"):
        own = runs[["seed"]].drop_duplicates()
        accuracy = own["seed"].map(by_seed).fillna(by_seed.mean())
        if not ((trained["method"] == method) & (trained["epoch"] == 0)).any():
            yield own.assign(method=method, epoch=0, accuracy=accuracy)


def draw_accuracy(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """Fig. 5: a panel for each split and generation setting."""
    if table.empty:
        return empty_figure("No evaluation is among these scores, so there is nothing to draw.")
    count = table["panel"].nunique()
    splits = table["panel"].str.split(",").str[0].nunique()
    side_by_side = count // splits if count % splits == 0 else 3
    figure, _ = draw_panels(table, styles, side_by_side if side_by_side <= 4 else 3, from_zero=False)
    add_legend(figure, method_handles(styles, table["method"]))
    return figure


def training_table(cell: Cell) -> pd.DataFrame:
    """Accuracy of the training responses, length, reflection, and the two most frequent words."""
    responses, reflection = cell.training("responses"), cell.training("reflection")
    counts = cell.training("words")
    frequent = counts.groupby("word", sort=False)["count"].sum().sort_values(ascending=False, kind="stable")
    of_responses = "share of responses"
    return together(
        [
            lines(cell["training"], "Training accuracy", "Epoch", "share of responses correct", "accuracy"),
            length_lines(responses),
            lines(reflection, RATIOS["reflection_ratio"], STEP, of_responses, "reflection_ratio"),
            *(
                lines(reflection, "Correct ratio", STEP, of_responses, f"correct_ratio_in_{texts}_texts", series)
                for texts, series in {"reflection": "with a reflection word", "no_reflection": "without"}.items()
            ),
            *(word_lines(counts, reflection, word) for word in frequent.index[:2]),
        ]
    )


def word_lines(counts: pd.DataFrame, reflection: pd.DataFrame, word: str) -> pd.DataFrame:
    """The panel of a reflection word."""
    least, most = reflection["N"].min(), reflection["N"].max()
    of = f"{most}" if least == most else f"{least}–{most}"
    return lines(counts[counts["word"] == word], f"“{word}”", STEP, f"responses, of {of}", "count")


def draw_training(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """Fig. 4, and panels of the same kind."""
    if table.empty:
        return empty_figure(NO_TRAINING)
    figure, _ = draw_panels(table, styles, 2 if table["panel"].nunique() == 4 else 3)
    add_legend(figure, method_handles(styles, table["method"]) | series_handles(table))
    return figure


def reflection_table(cell: Cell) -> pd.DataFrame:
    """Length and the five ratios."""
    reflection = cell.training("reflection")
    ratios = [lines(reflection, title, STEP, "share of responses", ratio) for ratio, title in RATIOS.items()]
    return together([length_lines(cell.training("responses")), *ratios])


def words_table(cell: Cell) -> pd.DataFrame:
    """How many responses of a generation step have each word."""
    counts, reflection = cell.training("words"), cell.training("reflection")
    return together([word_lines(counts, reflection, word) for word in counts["word"].unique()])


def draw_words(table: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """Fig. 7-8: a panel for each word."""
    if table.empty:
        return empty_figure("No reflection words of RL training are among these scores, so there is nothing to draw.")
    figure, _ = draw_panels(table, styles, 5)
    add_legend(figure, method_handles(styles, table["method"]))
    return figure


# --- all figures -----------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of figure.

    Attributes:
        table: what is drawn of the scores, and nothing else.
        draw: the figure of that table.
        caption: what a reader needs to know to read it right.
    """

    table: Callable[[Cell], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Mapping[str, Style]], Figure]
    title: str
    caption: str


MEANS = "Lines are means over seeds, bands one standard deviation over seeds; one seed has no band."
FIGURES: dict[str, Kind] = {
    "accuracy": Kind(
        accuracy_table,
        draw_accuracy,
        "Accuracy by epoch",
        f"{MEANS} Epoch 0 and the dashed line are the untrained base model. With several responses to a problem "
        "(pass@k), one correct response solves it. Axes do not begin at 0. The band tells how seeds differ, not how "
        "certain a difference between methods is: all answer the same problems, which the paired differences use.",
    ),
    "differences": Kind(
        diagnostics.differences_table,
        diagnostics.draw_differences,
        "Differences between methods after the last epoch",
        "Accuracy of the first method minus that of the second on the same problems, in percentage points: right of "
        "zero the first is better, and an interval that holds zero leaves open which is. A whole line covers what "
        "other seeds and other problems would give; a dotted one covers other problems only, because there are too "
        "few seeds, and says nothing of another training run. Diamonds take all generation settings together.",
    ),
    "pass_at_k": Kind(
        diagnostics.pass_at_k_table,
        diagnostics.draw_pass_at_k,
        "pass@k after the last epoch",
        "Probability that at least one of k responses to a problem is correct, mean over problems, estimated without "
        f"bias from all its responses. {MEANS} Where a method is ahead at k = 1 and not at the largest k, training has "
        "made likelier what the base model could answer too.",
    ),
    "types": Kind(
        diagnostics.types_table,
        diagnostics.draw_types,
        "Accuracy by type of problem after the last epoch",
        "Large markers are means over seeds, small ones the seeds. In brackets is the number of problems: that of few "
        "problems is uncertain, however close the seeds are.",
    ),
    "training": Kind(
        training_table,
        draw_training,
        "RL training",
        f"{MEANS} Accuracy is that of all training responses of an epoch together, so it lags behind the weights at "
        "the epoch's end. The correct ratio is drawn apart for responses with a reflection word and without: that the "
        "two differ does not say that reflecting causes it. Last, the two most frequent reflection words.",
    ),
    "reflection": Kind(
        reflection_table,
        draw_training,
        "Reflection in RL training",
        f"Of the responses of each generation step. {MEANS} A seed without a response to divide by is left out of a "
        "step's mean, and where no seed has one there is a gap.",
    ),
    "words": Kind(
        words_table,
        draw_words,
        "Reflection words in RL training",
        f"How many responses of a generation step have each word at least once. {MEANS} Each panel has its own axis.",
    ),
    "scatter": Kind(
        diagnostics.scatter_table,
        diagnostics.draw_scatter,
        "Response length and reflection",
        "One point a generation step of RL training, one marker a seed. Neighbouring steps are alike, so points are "
        "not independent; and both change with training, so that they go together does not say that one causes the "
        "other.",
    ),
    "health": Kind(
        diagnostics.health_table,
        diagnostics.draw_health,
        "Health of RL training",
        f"{MEANS} Of a generation step's updates: KL (k3 estimate) and entropy as means over tokens, the largest clip "
        "fraction, and how far the mean ratio of the first update is from 1, its value before any update. The sampler "
        "gap is that between the log-probabilities of the sampled tokens by sampler and by learner. Thin lines are "
        "the bounds of a sound run; one that is far from all values stands in the title instead. The bound of the "
        "entropy is a share of its value at the first generation step.",
    ),
}


def picture(kind: str, table: pd.DataFrame, styles: Mapping[str, Style], heading: str) -> Figure:
    """One figure under its heading.

    Args:
        kind: a key of FIGURES.
        table: what its `table` gives.
        styles: by method.
        heading: stands above the panels.
    """
    with mpl.rc_context(RC):
        figure = FIGURES[kind].draw(table, styles)
        figure.suptitle(heading)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # what is laid out once is the same in every format
        return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as path.png, on white, and as path.svg, without a ground and ready to stand in a page.

    Args:
        figure: from `picture`.
        path: without an ending.
    """
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    png, svg = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    with mpl.rc_context(RC):
        figure.savefig(png, facecolor="white", metadata={"Software": None})
        figure.savefig(svg, metadata=no_metadata)
    svg.write_text(for_a_page(svg.read_text(encoding="utf-8"), path.name), encoding="utf-8")


def for_a_page(svg: str, name: str) -> str:
    """An SVG that may stand in a page beside others, and whose coordinates are as fine as a screen shows.

    Ids are the figure's own, and no style reaches beyond it.

    Args:
        svg: from matplotlib, in points.
        name: of the figure.
    """
    own = "f" + hashlib.sha256(name.encode()).hexdigest()[:8]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to these
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}-", svg)
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    return re.sub(r' (?:d|x|y)="[^"]*"', lambda places: re.sub(r"-?\d+\.\d{3,}", rounded, places[0]), svg)


def rounded(number: re.Match[str]) -> str:
    """A number with two decimals."""
    return f"{float(number[0]):.2f}"


def draw_all(
    tables: Mapping[str, pd.DataFrame],
    methods: Mapping[str, str],
    folder: Path,
    *,
    matching: Matching = "word",
    setting: str | None = None,
) -> None:
    """Draw every kind of figure for every model on every data set.

    Args:
        tables: score tables by name, those of `stages.report.cell.TABLES`.
        methods: kind by method, in the order of legends.
        folder: an empty one.
        matching: how reflection words were looked for.
        setting: the generation setting of figures that show one; None: the last in the tables.
    """
    check(tables, methods, setting)
    styles = styles_of(methods, LABELS)
    base = next((method for method, kind in methods.items() if kind == "vanilla"), VANILLA)
    wanted = [(cell, kind) for cell in of_cells(tables) for kind in FIGURES]
    for (model, dataset, found), kind in progress(wanted, "figures"):
        path = folder / f"{kind}_{model}_{dataset}"
        written = path.with_name(f"{path.name}.csv")
        FIGURES[kind].table(Cell(found, matching, setting, base)).to_csv(written, index=False)
        # Read again, so that nothing is drawn that is not in the file.
        save(picture(kind, read_table(written), styles, f"{model_label(model)} on {dataset}"), path)


def check(tables: Mapping[str, pd.DataFrame], methods: Mapping[str, str], setting: str | None) -> None:
    """Stop at a method without a kind or a setting that nobody has evaluated.

    Raises:
        ValueError: naming it, and what is allowed.
    """
    for name, table in tables.items():
        if unknown := sorted(set(table["method"]) - set(methods)):
            raise ValueError(f"{name}.csv: method {unknown[0]!r} has no kind (methods: {', '.join(methods)})")
    known = list(tables["accuracy"]["setting"].unique())
    if setting is not None and known and setting not in known:
        raise ValueError(f"setting {setting!r} is not in accuracy.csv (allowed: {', '.join(map(repr, known))})")


def write(scores: Path, out: Path, setting: str | None) -> None:
    """Draw the score tables of one folder into another, reflection words as their scheme has them."""
    tables = {name: read_table(scores / f"{name}.csv") for name in TABLES}
    scheme = json.loads((scores / "scheme.json").read_text(encoding="utf-8"))
    matching: Matching = "word" if scheme["whole_words"] else "substring"
    methods = json.loads((scores / "methods.json").read_text(encoding="utf-8"))
    with whole_folder(out) as folder:
        draw_all(tables, methods, folder, matching=matching, setting=setting)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.report.figures", description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="run.json of the stage, or with --out a folder of score tables")
    parser.add_argument("--out", type=Path, help="folder for the figures of the score tables in PATH")
    parser.add_argument("--setting", help="generation setting of figures that show one (default: the last)")
    given = parser.parse_args(arguments)
    if given.out:
        write(given.path, given.out, given.setting)
    else:
        run = load_run(given.path, FiguresRun)
        write(Path(run.scores), Path(run.out), run.setting)


if __name__ == "__main__":
    main(sys.argv[1:])

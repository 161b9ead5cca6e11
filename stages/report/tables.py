"""Table 3 of the paper, from scores: `python -m stages.report.tables RUN.json`.

For scores from elsewhere: `python -m stages.report.tables SCORES_DIR --out DIR`.

Writes table3.csv, one number a row, accuracies in [0, 1]; table3.md and table3.tex, for people, in percent; and
gains.csv, accuracies as multiples of the base model's (docs/table3.md). metrics.json has final accuracies and findings
for programs that compare versions of a study, as `dvc metrics diff`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from stages.config import TablesRun, load_run
from stages.files import whole_folder
from stages.report.names import label, model_label

ROW = ["dataset", "model", "setting", "split"]
ROW_OF_METRICS = ["dataset", "model", "split", "setting"]
HEADINGS = {"base": "", "mean": "mean", "maximum": "max", "final": "final"}
KINDS = ("vanilla", "sft", "rl", "other")

# A change has the shade of the largest of these points that it reaches, and none below the first.
SCALE = (1.0, 5.0, 10.0)
# ColorBrewer's PiYG (Harrower & Brewer 2003), which colour-blind readers can tell apart; black text stays legible.
COLOURS = {-3: "#de77ae", -2: "#f1b6da", -1: "#fde0ef", 0: "", 1: "#e6f5d0", 2: "#b8e186", 3: "#7fbc41"}


# --- the numbers -----------------------------------------------------------------------------------------------------


def read_scores(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Accuracies, and the kind of each method in the study's order.

    Raises:
        ValueError: methods.json has a kind that is not known, several methods that are vanilla, or lacks a method of
            accuracy.csv.
    """
    path = folder / "methods.json"
    methods: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    for method, kind in methods.items():
        if kind not in KINDS:
            raise ValueError(f"{path}: {method} is of the kind {kind!r} (allowed: {', '.join(KINDS)})")
    if len(base := [method for method, kind in methods.items() if kind == "vanilla"]) > 1:
        raise ValueError(f"{path}: {', '.join(base)} are vanilla; changes are against one method")
    accuracy = pd.read_csv(folder / "accuracy.csv")
    if unknown := [str(method) for method in accuracy["method"].unique() if method not in methods]:
        raise ValueError(f"{path}: no {', '.join(unknown)}, which accuracy.csv has (methods: {', '.join(methods)})")
    return accuracy, methods


def by_seed(accuracy: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    """Each run's accuracy over its epochs, one number a row.

    Returns:
        statistic: "base" for what is not trained; "mean" and "maximum" over the evaluated epochs of training, and the
            "final" one. Epoch 0 of a trained method is the base model again and left out.
    """
    cell = [*ROW, "method", "seed"]
    ordered = accuracy.sort_values("epoch", kind="stable")
    untrained = ordered["method"].map(methods).isin(["vanilla", "other"])
    base = ordered[(ordered["epoch"] == 0) & untrained].assign(statistic="base")
    trained = ordered[ordered["epoch"] > 0].groupby(cell, sort=False)
    over_epochs = trained.agg(
        mean=("accuracy", "mean"),
        maximum=("accuracy", "max"),
        final=("accuracy", "last"),
        problems=("problems", "first"),
    )
    long = over_epochs.reset_index().melt([*cell, "problems"], var_name="statistic", value_name="accuracy")
    columns = [*cell, "statistic", "accuracy", "problems"]
    parts = [table[columns] for table in (base, long) if not table.empty]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def summary(accuracy: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    """Mean and standard deviation over seeds of each run's statistics; rows in the order of the scores.

    Args:
        accuracy: accuracy.csv.
        methods: kind by method, in the study's order.

    Returns:
        accuracy: mean over seeds; std: over seeds, with n - 1, NaN for one seed; seeds, problems: their number.
    """
    order = {column: list(accuracy[column].unique()) for column in ROW}
    order |= {"method": list(methods), "statistic": list(HEADINGS)}
    groups = by_seed(accuracy, methods).groupby([*order], sort=False)
    found = groups.agg(
        accuracy=("accuracy", "mean"), std=("accuracy", "std"), seeds=("seed", "size"), problems=("problems", "first")
    ).reset_index()
    return found.sort_values([*order], key=lambda column: column.map(order[str(column.name)].index), ignore_index=True)


def with_base(found: pd.DataFrame, vanilla: pd.DataFrame) -> pd.DataFrame:
    """Rows of the summary with `base`, the accuracy of the vanilla method in the same cell; NaN without one."""
    return found.merge(vanilla[[*ROW, "accuracy"]].rename(columns={"accuracy": "base"}), how="left", on=ROW)


def shades(found: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    """The summary with what colours a cell of Table 3, on a page or in LaTeX.

    Returns:
        change: against the vanilla method, in points; NaN for that method itself and where there is none.
        shade: 0, or 1 to 3 where better, -1 to -3 where worse (`SCALE`).
        colour: `COLOURS` of the shade.
    """
    vanilla = found["method"].map(methods) == "vanilla"
    table = with_base(found, found[vanilla])
    table["change"] = (100 * (table["accuracy"] - table.pop("base"))).mask(vanilla.to_numpy())
    points = table["change"].fillna(0).round(9)  # 0.35 - 0.30 is 5 points, whatever its last bit
    table["shade"] = np.sign(points).astype(int) * np.searchsorted(SCALE, points.abs(), side="right")
    table["colour"] = table["shade"].map(COLOURS)
    return table


def gains(found: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    """How many times the base model's accuracy a method has: the paper's headline numbers (Sec. 5).

    Returns:
        mean_gain, peak_gain: mean over splits and settings of (mean, maximum over epochs) / base; NaN if a base is 0
            or missing, since the mean of the other ratios would be of another set of cells.
        cells: how many splits and settings the mean is over.
    """
    kinds = found["method"].map(methods)
    table = with_base(found[kinds.isin(["sft", "rl"])], found[kinds == "vanilla"])
    table["ratio"] = table["accuracy"] / table["base"].where(table["base"] > 0)
    rows = []
    for names, trained in table.groupby(["dataset", "model", "method"], sort=False):
        ratios = trained.groupby("statistic")["ratio"]
        both = (ratios.get_group(statistic).mean(skipna=False) for statistic in ("mean", "maximum"))
        rows.append((*names, *both, trained.groupby(ROW).ngroups))
    return pd.DataFrame(rows, columns=["dataset", "model", "method", "mean_gain", "peak_gain", "cells"])


# --- for people ------------------------------------------------------------------------------------------------------


def percent(accuracy: float) -> str:
    return f"{accuracy:.1%}".removesuffix("%")


def printed(accuracy: float, std: float) -> str:
    """In percent: 46.8 ± 1.2, or 46.8 where there is one seed."""
    return percent(accuracy) + ("" if pd.isna(std) else f" ± {100 * std:.1f}")


def columns_of(found: pd.DataFrame, methods: Mapping[str, str]) -> list[tuple[str, str]]:
    """The columns as (method, statistic): Vanilla, the mean of every method, the maximum, the final epoch."""
    present = set(zip(found["method"], found["statistic"], strict=True))
    return [(method, statistic) for statistic in HEADINGS for method in methods if (method, statistic) in present]


def heading(method: str, statistic: str) -> str:
    return f"{label(method)} {HEADINGS[statistic]}".strip()


def markdown(found: pd.DataFrame, methods: Mapping[str, str]) -> str:
    """One table a split; what is as in the row above stays empty."""
    parts = []
    for split, rows in found.groupby("split", sort=False):
        columns = columns_of(rows, methods)
        lines, above = [], ("", "")
        for place, row in rows.groupby(["dataset", "model", "setting"], sort=False):
            dataset, model, setting = map(str, place)
            cells = row.set_index(["method", "statistic"])
            names = ["" if dataset == above[0] else dataset, "" if (dataset, model) == above else model_label(model)]
            numbers = [printed(*cells.loc[at, ["accuracy", "std"]]) if at in cells.index else "–" for at in columns]
            lines.append([*names, setting, *numbers])
            above = (dataset, model)
        titles = ["Data set", "Model", "Setting", *(heading(*at) for at in columns)]
        align = ["left"] * 3 + ["right"] * len(columns)
        text = tabulate(lines, titles, "pipe", colalign=align, disable_numparse=True)
        parts.append(f"### {str(split).capitalize()}: accuracy in %\n\n{text}\n")
    return "\n".join(parts)


# --- LaTeX -----------------------------------------------------------------------------------------------------------

Columns = Mapping[str, list[tuple[str, str]]]  # of each split, as (method, statistic)

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_TABLE = r"""%% Needs \usepackage{booktabs, multirow} and \usepackage[table]{xcolor}.
\begin{table*}
\centering\scriptsize
\setlength{\tabcolsep}{1.5pt}
%(colours)s
\caption[Accuracy in percent]{%(caption)s}
\label{tab:accuracy}
\smallskip
\begin{tabular}{l@{\hspace{5pt}}l@{\hspace{5pt}}l*{%(width)s}{c}}
\toprule
%(blocks)s
\bottomrule
\end{tabular}
\end{table*}
"""
PAGE = 115  # letters side by side that fit, about 4 pt each


def escaped(text: str) -> str:
    """A text in which LaTeX finds nothing to interpret."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex(found: pd.DataFrame, methods: Mapping[str, str]) -> str:
    """Table 3 in LaTeX, cells shaded by their change against Vanilla.

    Splits stand side by side as in the paper, or below each other where methods are too many for the page.
    """
    table = shades(found, methods)
    columns = {str(split): columns_of(rows, methods) for split, rows in table.groupby("split", sort=False)}
    names = (table["dataset"], table["model"].map(model_label), table["setting"])
    letters = sum(max(map(len, column)) for column in names)
    letters += sum(max(len(label(method)), 4) + 1 for of_split in columns.values() for method, _ in of_split)
    blocks = [columns] if letters <= PAGE else [{split: of_split} for split, of_split in columns.items()]
    defined = [(_colour(shade), colour[1:].upper()) for shade, colour in COLOURS.items() if colour]
    parts = {
        "colours": "\n".join(f"\\definecolor{{{name}}}{{HTML}}{{{colour}}}" for name, colour in defined),
        "caption": _caption(table),
        "width": max(sum(map(len, block.values())) for block in blocks),
        "blocks": "\n\\midrule\n".join(
            f"{_head(block)}\n\\midrule\n{_body(table[table['split'].isin(list(block))], block)}" for block in blocks
        ),
    }
    return _TABLE % parts


def _colour(shade: int) -> str:
    return f"{'better' if shade > 0 else 'worse'}{abs(shade)}"


def _caption(table: pd.DataFrame) -> str:
    def swatches(sign: int) -> str:
        boxes = [f"\\colorbox{{{_colour(sign * shade)}}}{{{points:g}}}" for shade, points in enumerate(SCALE, 1)]
        return f"{', '.join(boxes[:-1])} or {boxes[-1]}"

    final = " and the final epoch" if "final" in set(table["statistic"]) else ""
    spread = "" if table["std"].isna().all() else r"; mean over seeds, $\pm$ one standard deviation"
    return (
        "Accuracy in percent: the base model (Vanilla), and of each method the mean and the maximum over the "
        f"evaluated epochs{final}{spread}. "
        f"Shades tell by how many points a cell differs from Vanilla: green, better by at least {swatches(1)}; "
        f"pink, worse by at least {swatches(-1)} (ColorBrewer PiYG, safe for colour-blind readers)."
    )


def _head(columns: Columns) -> str:
    """Two rows: the splits, and under each its columns."""
    spans, rules, titles, first = [], [], ["Data set", "Model", "Setting"], 4
    for split, of_split in columns.items():
        last = first + len(of_split) - 1
        spans.append(f"\\multicolumn{{{len(of_split)}}}{{c}}{{{escaped(split.capitalize())}}}")
        rules.append(f"\\cmidrule(lr){{{first}-{last}}}")
        for method, statistic in of_split:
            name = escaped(label(method))
            titles.append(f"\\shortstack{{{name}\\\\{HEADINGS[statistic]}}}" if HEADINGS[statistic] else name)
        first = last + 1
    return f"& & & {' & '.join(spans)} \\\\\n{' '.join(rules)}\n{' & '.join(titles)} \\\\"


def _body(table: pd.DataFrame, columns: Columns) -> str:
    """Data sets between rules, models between thinner ones."""
    thin = f"\\cmidrule(l){{2-{3 + sum(map(len, columns.values()))}}}"
    lines: list[str] = []
    for dataset, of_dataset in table.groupby("dataset", sort=False):
        lines += [r"\midrule"] if lines else []
        for place, (model, rows) in enumerate(of_dataset.groupby("model", sort=False)):
            names = [_over(of_dataset, str(dataset)) if place == 0 else "", _over(rows, model_label(str(model)))]
            lines += [thin] if place else []
            for of_setting in _rows(rows, columns):
                lines.append(" & ".join([*names, *of_setting]).strip() + r" \\")
                names = ["", ""]
    return "\n".join(lines)


def _rows(rows: pd.DataFrame, columns: Columns) -> Iterator[list[str]]:
    """A model's settings; deviations stand below their accuracies, which keeps columns narrow."""
    for setting, row in rows.groupby("setting", sort=False):
        cells = row.set_index(["split", "method", "statistic"]).to_dict("index")
        accuracies, deviations = [], []
        for split, of_split in columns.items():
            for at in ((split, *column) for column in of_split):
                cell = cells.get(at, {"accuracy": None, "std": None, "shade": 0})
                colour = f"\\cellcolor{{{_colour(cell['shade'])}}}" if cell["shade"] else ""
                accuracies.append(colour + ("--" if cell["accuracy"] is None else percent(cell["accuracy"])))
                deviations.append(colour + ("" if pd.isna(cell["std"]) else f"\\tiny $\\pm${100 * cell['std']:.1f}"))
        yield [_over(row, str(setting)), *accuracies]
        if row["std"].notna().any():
            yield ["", *deviations]


def _over(rows: pd.DataFrame, name: str) -> str:
    """A name as high as its rows, each two lines with a deviation and else one."""
    deviations = rows.groupby(["model", "setting"])["std"].count()
    height = len(deviations) + int((deviations > 0).sum())
    return escaped(name) if height == 1 else f"\\multirow{{{height}}}{{*}}{{{escaped(name)}}}"


# --- for programs ----------------------------------------------------------------------------------------------------


def metrics(found: pd.DataFrame, findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracies of the base model and after the last epoch, and each finding's effect and verdict."""
    accuracies: dict[str, Any] = {}
    for row in found[found["statistic"].isin(["base", "final"])].to_dict("records"):
        place = accuracies
        for key in ROW_OF_METRICS:
            place = place.setdefault(row[key], {})
        place[row["method"]] = round(row["accuracy"], 6)
    told = {
        finding["id"]: {key: finding[key] for key in ("effect", "verdict") if finding[key] is not None}
        for finding in findings
    }
    return {"accuracy": accuracies, "findings": told}


# --- the stage -------------------------------------------------------------------------------------------------------


def write(scores: Path, folder: Path) -> None:
    """Write every table of the score tables in `scores` into `folder`."""
    accuracy, methods = read_scores(scores)
    found = summary(accuracy, methods)
    found.round(6).to_csv(folder / "table3.csv", index=False)
    gains(found, methods).round(6).to_csv(folder / "gains.csv", index=False)
    (folder / "table3.md").write_text(markdown(found, methods), encoding="utf-8")
    (folder / "table3.tex").write_text(latex(found, methods), encoding="utf-8")
    told = scores / "findings.json"
    findings = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else []
    (folder / "metrics.json").write_text(json.dumps(metrics(found, findings), indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.report.tables", description="Table 3 of the paper.")
    parser.add_argument("source", metavar="RUN.json | SCORES_DIR", type=Path)
    parser.add_argument("--out", type=Path, help="the folder to write, with SCORES_DIR (RUN.json names its own)")
    given = parser.parse_args(arguments)
    if given.out is None and given.source.is_dir():
        parser.error(f"{given.source} is a folder of scores: say with --out DIR where its tables go")
    if given.out is not None and not given.source.is_dir():
        parser.error(f"{given.source} is no folder of scores, which --out goes with")
    scores, out = given.source, given.out
    if out is None:
        run = load_run(given.source, TablesRun)
        scores, out = Path(run.scores), Path(run.out)
    with whole_folder(out) as folder:
        write(scores, folder)


if __name__ == "__main__":
    main(sys.argv[1:])

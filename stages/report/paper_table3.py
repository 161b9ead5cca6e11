"""The paper's own Table 3, and what its headline gains are averages of: `python -m stages.report.paper_table3`.

The numbers are those of paper_table3.csv, typed in from arXiv 2504.02587; what they show is in docs/table3.md.
"""

import itertools
from importlib.resources import files

import numpy as np
import pandas as pd
from tabulate import tabulate

from stages.report.tables import gains, with_base

METHODS = {"vanilla": "vanilla", "sft": "sft", "rl": "rl"}
AVERAGES = {  # of accuracies over those of the base model
    "mean": lambda accuracy, base: np.mean(accuracy / base),
    "geometric mean": lambda accuracy, base: np.exp(np.mean(np.log(accuracy / base))),
    "harmonic mean": lambda accuracy, base: 1 / np.mean(base / accuracy),
    "median": lambda accuracy, base: np.median(accuracy / base),
    "ratio of sums": lambda accuracy, base: np.sum(accuracy) / np.sum(base),
}
ROUNDED = 0.0005  # the paper prints accuracies to a tenth of a percent


def read() -> pd.DataFrame:
    """Table 3 as `tables.summary` gives a study's: accuracies in [0, 1].

    Returns:
        std: NaN, for the paper prints none; problems: the size of the split.
    """
    with files("stages.report").joinpath("paper_table3.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    return table.assign(accuracy=table["accuracy"] / 100, std=np.nan)


def averages(found: pd.DataFrame) -> pd.DataFrame:
    """RL's gains over the base model, averaged in every way that a reader might think of.

    Returns:
        A row for each data set, model (or both), split (or both), setting (or all) and average.
    """
    table = with_base(found[found["method"] == "rl"], found[found["method"] == "vanilla"])
    rows = []
    for dataset, of_dataset in table.groupby("dataset", sort=False):
        choices = {column: ["all", *of_dataset[column].unique()] for column in ("model", "split", "setting")}
        for choice in itertools.product(*choices.values()):
            part = of_dataset
            for column, wanted in zip(choices, choice, strict=True):
                part = part if wanted == "all" else part[part[column] == wanted]
            mean, peak = (part[part["statistic"] == statistic] for statistic in ("mean", "maximum"))
            for name, average in AVERAGES.items():
                both = (average(cells["accuracy"], cells["base"]) for cells in (mean, peak))
                rows.append((dataset, *choice, name, *both, len(mean)))
    return pd.DataFrame(rows, columns=["dataset", *choices, "average", "mean_gain", "peak_gain", "cells"])


def standard_errors(found: pd.DataFrame) -> "pd.Series[float]":
    """Of each accuracy, as another draw of as many problems would change it: sqrt(p (1 - p) / n)."""
    return (found["accuracy"] * (1 - found["accuracy"]) / found["problems"]) ** 0.5


def runs_that_fit(accuracy: "pd.Series[float]", problems: "pd.Series[int]", most: int = 6) -> list[int]:
    """How many runs' mean all these accuracies can be: a mean over r runs on n problems is a whole number of r n parts.

    The GRIM test (Brown & Heathers 2017). It is for accuracies of one epoch; means over epochs are finer.

    Args:
        accuracy: in [0, 1], rounded to a tenth of a percent.
        problems: of each accuracy.
        most: runs to try.
    """
    found = []
    for runs in range(1, most + 1):
        parts = problems * runs
        nearest = (accuracy * parts).round() / parts
        if ((nearest - accuracy).abs() <= ROUNDED + 1e-9).all():
            found.append(runs)
    return found


def main() -> None:
    found = read()

    def show(title: str, table: pd.DataFrame, digits: int) -> None:
        print(f"{title}\n\n{tabulate(table, 'keys', 'pipe', floatfmt=f'.{digits}f', showindex=False)}\n")

    show("Gains over the base model: means over splits and settings", gains(found, METHODS), 3)
    ways = averages(found)
    ways = ways[ways["setting"] == "all"].pivot_table(
        index=["dataset", "model", "split"], columns="average", values="peak_gain", sort=False
    )
    show("RL's peak gain, averaged in other ways, over all settings", ways.reset_index(), 3)
    single = found[~found["statistic"].eq("mean")].assign(error=100 * standard_errors(found))
    errors = single.groupby(["dataset", "split", "problems"], sort=False)["error"].agg(["min", "max"])
    show("Standard errors in points, of an accuracy on so many problems: smallest and largest", errors.reset_index(), 1)
    printed = single.groupby(["dataset", "model", "method", "statistic"], sort=False)
    fits = [(*names, ", ".join(map(str, runs_that_fit(c["accuracy"], c["problems"])))) for names, c in printed]
    columns = ["dataset", "model", "method", "statistic", "runs"]
    show("Of how many runs, up to six, the printed numbers can be means", pd.DataFrame(fits, columns=columns), 0)


if __name__ == "__main__":
    main()

"""The accuracy table (the paper's Table 3): `python -m stages.report.tables RUN.json`.

Writes accuracy.csv, one number a row, accuracies in [0, 1]; and accuracy.md, for people, in percent.
"""

import sys
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from stages.config import TablesRun, load_run
from stages.files import whole_folder
from stages.report.names import VANILLA, label, model_label

ROW = ["dataset", "model", "setting", "split"]
HEADINGS = {"mean": "mean", "maximum": "max", "final": "final"}


def by_seed(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Each run's accuracy over its epochs, one number a row.

    Returns:
        statistic: "base" for epoch 0; "mean" and "maximum" over the evaluated epochs of training, and the "final" one.
    """
    cell = [*ROW, "method", "seed"]
    ordered = accuracy.sort_values("epoch", kind="stable")
    base = ordered[ordered["epoch"] == 0].assign(statistic="base")
    trained = ordered[ordered["epoch"] > 0].groupby(cell, sort=False)
    over_epochs = trained.agg(
        mean=("accuracy", "mean"),
        maximum=("accuracy", "max"),
        final=("accuracy", "last"),
        problems=("problems", "first"),
    )
    long = over_epochs.reset_index().melt([*cell, "problems"], var_name="statistic", value_name="accuracy")
    columns = [*cell, "statistic", "accuracy", "problems"]
    return pd.concat([table[columns] for table in (base, long) if not table.empty], ignore_index=True)


def summary(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of each run's statistics, in the order of the scores.

    Returns:
        accuracy: mean over seeds; std: over seeds, with n - 1, NaN for one seed; seeds, problems: their number.
    """
    order = {column: list(accuracy[column].unique()) for column in [*ROW, "method"]}
    order["statistic"] = ["base", *HEADINGS]
    groups = by_seed(accuracy).groupby([*order], sort=False)
    found = groups.agg(
        accuracy=("accuracy", "mean"), std=("accuracy", "std"), seeds=("seed", "size"), problems=("problems", "first")
    ).reset_index()
    return found.sort_values([*order], key=lambda column: column.map(order[str(column.name)].index), ignore_index=True)


def printed(accuracy: float, std: float) -> str:
    """In percent: 46.8 ± 1.2, or 46.8 where there is one seed."""
    return f"{accuracy:.1%}".removesuffix("%") + ("" if pd.isna(std) else f" ± {100 * std:.1f}")


def wide(found: pd.DataFrame) -> pd.DataFrame:
    """The summary of one split as Table 3 has it: a row for each data set, model and setting, percent in the cells."""
    # Vanilla, then the mean of every method, then the maximum, then the final epoch.
    found = found.sort_values("statistic", key=lambda names: names.map(["base", *HEADINGS].index), kind="stable")
    method = found["method"].map(label)
    table = pd.DataFrame(
        {
            "Data set": found["dataset"],
            "Model": found["model"].map(model_label),
            "Setting": found["setting"],
            "heading": method.where(found["method"] == VANILLA, method + " " + found["statistic"].map(HEADINGS)),
            "cell": list(map(printed, found["accuracy"], found["std"])),
        }
    )
    rows = ["Data set", "Model", "Setting"]
    cells = table.pivot_table(index=rows, columns="heading", values="cell", aggfunc="first", sort=False)
    return cells[list(table["heading"].unique())].fillna("–").reset_index()


def markdown(found: pd.DataFrame) -> str:
    """One table a split; what is as in the row above stays empty."""
    parts = []
    for split, rows in found.groupby("split", sort=False):
        table = wide(rows)
        same = table[["Data set", "Model"]].eq(table[["Data set", "Model"]].shift())
        table["Model"] = table["Model"].mask(same["Data set"] & same["Model"], "")
        table["Data set"] = table["Data set"].mask(same["Data set"], "")
        align = ["left"] * 3 + ["right"] * (table.shape[1] - 3)
        text = tabulate(table.to_numpy().tolist(), list(table.columns), "pipe", colalign=align, disable_numparse=True)
        parts.append(f"### {str(split).capitalize()}: accuracy in %\n\n{text}\n")
    return "\n".join(parts)


def main(path: str) -> None:
    run = load_run(path, TablesRun)
    found = summary(pd.read_csv(Path(run.scores, "accuracy.csv")))
    with whole_folder(Path(run.out)) as folder:
        found.round(6).to_csv(folder / "accuracy.csv", index=False)
        (folder / "accuracy.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

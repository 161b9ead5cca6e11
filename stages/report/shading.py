"""The paper's Table 3 as the page has it: shaded by how far a number is from the untrained model's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stages.report.names import label, model_label
from stages.report.tables import shades

HEADINGS = {"base": "Base model", "mean": "Mean over epochs", "maximum": "Best epoch", "final": "Last epoch"}
ROW = ["dataset", "model", "setting"]


@dataclass(frozen=True)
class Cell:
    """A number of the table.

    Attributes:
        change: against Vanilla, in points.
        shade: a class of the page's style: gain2 is the second step above Vanilla, "" is not shaded.
    """

    accuracy: float
    std: float
    change: float
    shade: str


def shaded(table: pd.DataFrame, methods: Mapping[str, str]) -> list[dict[str, Any]]:
    """One table a split: column groups by statistic, row groups by data set and model, a row a setting.

    Args:
        table: table3.csv.
        methods: kind by method.
    """
    return [_of_split(str(split), rows) for split, rows in shades(table, methods).groupby("split", sort=False)]


def _of_split(split: str, table: pd.DataFrame) -> dict[str, Any]:
    methods = list(table["method"].unique())
    found = set(zip(table["statistic"], table["method"], strict=True))
    columns = {s: [m for m in methods if (s, m) in found] for s in [*HEADINGS, *table["statistic"].unique()]}
    columns = {statistic: names for statistic, names in columns.items() if names}
    numbers = table.set_index([*ROW, "statistic", "method"])[["accuracy", "std", "change", "shade"]]
    cells = {place: _cell(*row) for place, *row in numbers.itertuples(name=None)}
    groups = [
        {
            "dataset": dataset,
            "model": model_label(str(model)),
            "rows": {
                setting: [
                    cells.get((dataset, model, setting, statistic, method))
                    for statistic, names in columns.items()
                    for method in names
                ]
                for setting in rows["setting"].unique()
            },
        }
        for (dataset, model), rows in table.groupby(["dataset", "model"], sort=False)
    ]
    heads = [(HEADINGS.get(statistic, statistic), [label(m) for m in names]) for statistic, names in columns.items()]
    return {"split": split, "heads": heads, "groups": groups}


def _cell(accuracy: float, std: float, change: float, shade: int) -> Cell:
    return Cell(accuracy, std, change, f"{'gain' if shade > 0 else 'loss'}{abs(shade)}" if shade else "")

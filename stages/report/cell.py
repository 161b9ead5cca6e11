"""The score tables of one model on one data set, and the tidy tables that figures make of them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from stages.report.names import ALL, VANILLA, cells, of_cell

Matching = Literal["word", "substring"]
STEP = "Generation step"
COLUMNS = ["panel", "series", "method", "seed", "over", "x", "unit", "y"]
RUN = ["model", "dataset", "method", "seed"]
TABLES = (
    "accuracy",
    "training",
    "responses",
    "reflection",
    "words",
    "comparisons",
    "types",
    "updates",
    "health",
    "pass_at_k",
)
# What people name freely, and may name 7 or None.
_NAMES = (
    "model",
    "dataset",
    "method",
    "over",
    "phase",
    "split",
    "setting",
    "type",
    "unit",
    "matching",
    "word",
    "check",
)
_TEXTS = dict.fromkeys((*_NAMES, "panel", "series", "pair", "row"), str)


@dataclass(frozen=True)
class Cell:
    """The score tables of one model on one data set, and what of them is drawn.

    Attributes:
        tables: by name: "accuracy" for accuracy.csv.
        matching: how reflection words were looked for, where a table has several ways.
        setting: the generation setting of figures that show one; None: the last in the table.
        base: the method that is not trained.
    """

    tables: Mapping[str, pd.DataFrame]
    matching: Matching = "word"
    setting: str | None = None
    base: str = VANILLA

    def __getitem__(self, table: str) -> pd.DataFrame:
        return self.tables[table]

    def training(self, table: str) -> pd.DataFrame:
        """The rows of a table that are about RL training, with the reflection words looked for as wanted."""
        rows = self.tables[table]
        rows = rows[rows["phase"] == "train"]
        return rows[rows["matching"] == self.matching] if "matching" in rows else rows


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file whose texts stay texts: an empty field, and nothing else, is no value."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table (a folder of scores has {', '.join(TABLES)}, each a .csv)")
    return pd.read_csv(path, dtype=_TEXTS, keep_default_na=False, na_values=[""], float_precision="round_trip")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file; none without the file."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]


def of_cells(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str, dict[str, pd.DataFrame]]]:
    """Every model with every data set that any of the tables has, with its rows of all of them."""
    names = pd.concat([table[["model", "dataset"]] for table in tables.values()])
    names = names[(names != ALL).any(axis="columns")]  # what is averaged over them is no cell
    for model, dataset in cells(names):
        yield model, dataset, {name: of_cell(table, model, dataset) for name, table in tables.items()}


def final(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last epoch; the base model has no other than its own."""
    return table[table["epoch"] == table.groupby(RUN)["epoch"].transform("max")]


# --- tidy tables -----------------------------------------------------------------------------------------------------


def lines(table: pd.DataFrame, panel: str, over: str, unit: str, y: str, series: str = "") -> pd.DataFrame:
    """One panel of a tidy table.

    Args:
        table: method, seed, the column that `over` names, and `y`.
        panel: its title.
        over: what x is.
        unit: what y is.
        y: the column with the numbers.
        series: which of several lines of a method, a key of `stages.report.style.SERIES`.
    """
    x = table[over.lower().replace(" ", "_")]
    found = table[["method", "seed"]].assign(x=x, y=table[y])
    return found.assign(panel=panel, series=series, over=over, unit=unit)[COLUMNS]


def together(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """One tidy table of several panels."""
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COLUMNS)


def length_lines(responses: pd.DataFrame) -> pd.DataFrame:
    """The panel of the mean length of a generation step's responses."""
    return lines(responses, "Response length", STEP, " or ".join(responses["unit"].unique()), "length")

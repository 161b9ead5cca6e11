"""The study's figures with the tables behind them, for the page."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from stages.report.embedding import file_uri, inline_svg
from stages.report.figures import FIGURES
from stages.report.names import cells, model_label
from stages.report.style import INK

ROWS = 200  # of the table behind a figure that are printed


@dataclass(frozen=True)
class Behind:
    """The table that a figure is drawn from.

    Attributes:
        rows: its first ones.
        total: how many it has.
        uri: all of it.
    """

    name: str
    columns: list[str]
    rows: list[list[str]]
    total: int
    uri: str


@dataclass(frozen=True)
class Drawing:
    """A figure; as PNG where there is no SVG of it."""

    id: str
    title: str
    caption: str
    svg: Markup | None
    png: str
    behind: Behind | None


def drawings(folder: Path, accuracy: pd.DataFrame) -> list[dict[str, Any]]:
    """The figures that there are, by model and data set."""
    found = [
        {"model": model_label(model), "dataset": dataset, "figures": list(_of_cell(folder, model, dataset, place))}
        for place, (model, dataset) in enumerate(cells(accuracy))
    ]
    return [cell for cell in found if cell["figures"]]


def _of_cell(folder: Path, model: str, dataset: str, place: int) -> Iterator[Drawing]:
    for kind, entry in FIGURES.items():
        path = folder / f"{kind}_{model}_{dataset}"
        svg, png, table = (path.with_name(f"{path.name}.{form}") for form in ("svg", "png", "csv"))
        if not (svg.is_file() or png.is_file()):
            continue
        name = f"figure-{kind}-{place}"
        label = f"{entry.title}: {model_label(model)} on {dataset}"
        yield Drawing(
            name,
            entry.title,
            entry.caption,
            inline_svg(svg, f"{name}-", label, INK) if svg.is_file() else None,
            "" if svg.is_file() else file_uri(png, "image/png"),
            _behind(table) if table.is_file() else None,
        )


def _behind(path: Path) -> Behind:
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = list(csv.reader(file)) or [[]]
    return Behind(path.name, columns, rows[:ROWS], len(rows), file_uri(path, "text/csv"))

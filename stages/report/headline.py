"""What was compared, what came out, and what could have come out: the page's first section."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.report.names import label, model_label
from stages.report.page import Number, effect, is_missing, unit_name

WIDTH = 240  # of an interval's drawing, in its own units
EDGE = 8
ALL = "all"  # settings together, or models and data sets together
SYMBOLS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}


def compared(accuracy: pd.DataFrame) -> dict[str, Any]:
    """What was compared, from the accuracy scores."""
    sizes = accuracy.drop_duplicates(["dataset", "split"])[["dataset", "split", "problems"]]
    trained = accuracy[accuracy["epoch"] > 0]
    return {
        "models": [model_label(model) for model in accuracy["model"].unique()],
        "datasets": list(accuracy["dataset"].unique()),
        "methods": [label(method) for method in accuracy["method"].unique()],
        "seeds": sorted(accuracy["seed"].unique()),
        "epochs": _by_epochs(trained),
        "settings": accuracy.drop_duplicates("setting").set_index("setting")["samples"].to_dict(),
        "sizes": {
            name: dict(zip(rows["split"], rows["problems"], strict=True))
            for name, rows in sizes.groupby("dataset", sort=False)
        },
        "judged": _judged_responses(accuracy),
    }


def _by_epochs(trained: pd.DataFrame) -> dict[tuple[int, ...], list[Any]]:
    """Data sets by the epochs after which their runs were evaluated."""
    found: dict[tuple[int, ...], list[Any]] = {}
    for name, rows in trained.groupby("dataset", sort=False):
        found.setdefault(tuple(sorted(rows["epoch"].unique())), []).append(name)
    return found


def _judged_responses(accuracy: pd.DataFrame) -> dict[str, int | None]:
    """How many evaluated responses there are, and on how many the judge found no answer or ran out of time.

    None where somebody else judged and did not tell.
    """
    responses = accuracy["problems"] * accuracy["samples"]
    counts = {name: (accuracy[name] * responses).sum(skipna=False) for name in ("no_answer", "timed_out")}
    told = {name: None if pd.isna(count) else round(count) for name, count in counts.items()}
    return {"responses": int(responses.sum()), **told}


# --- intervals -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """Where an effect and its interval are drawn, from the left; None where there is nothing to draw.

    Attributes:
        zone: left and right end of the side of the threshold that the claim needs.
    """

    effect: Number
    low: Number
    high: Number
    threshold: float
    zone: tuple[float, float]
    text: str


def intervals(finding: Mapping[str, Any]) -> list[Interval]:
    """A finding's effect, then those of its details, all on one scale."""
    rows = [finding, *finding["details"]]
    values = [row[key] for row in rows for key in ("effect", "low", "high") if not is_missing(row[key])]
    threshold, unit, above = finding["threshold"], finding["unit"], finding["direction"] == "above"
    least, most = min([*values, threshold]), max([*values, threshold])
    span = (most - least) or 1.0

    def place(value: Number) -> Number:
        if is_missing(value):
            return None
        return round(EDGE + (WIDTH - 2 * EDGE) * (0.06 + 0.88 * (value - least) / span), 1)

    line = place(threshold)
    assert line is not None
    return [
        Interval(
            place(row["effect"]),
            place(row["low"]),
            place(row["high"]),
            line,
            (line, WIDTH) if above else (0, line),
            f"Effect {effect(row['effect'], unit)} {unit_name(unit)}, interval {effect(row['low'], unit)} to "
            f"{effect(row['high'], unit)}; the claim needs {finding['direction']} {effect(threshold, unit)}",
        )
        for row in rows
    ]


# --- findings --------------------------------------------------------------------------------------------------------


def findings(path: Path) -> list[dict[str, Any]]:
    """The findings with their drawings; last those that there was nothing to test on."""
    found = []
    for finding in json.loads(path.read_text(encoding="utf-8")):
        whole, *parts = intervals(finding)
        details = [
            detail | {"interval": part, "symbol": SYMBOLS.get(detail["verdict"], ""), "cell": _cell(detail)}
            for detail, part in zip(finding["details"], parts, strict=True)
        ]
        found.append(finding | {"interval": whole, "symbol": SYMBOLS[finding["verdict"]], "details": details})
    return sorted(found, key=lambda finding: finding["effect"] is None)


def _cell(detail: Mapping[str, Any]) -> str:
    """What a detail is about: a model, a data set, methods; whatever of it is told."""
    methods = " over ".join(label(detail[key]) for key in ("method", "over") if detail.get(key))
    model, dataset = detail["model"], detail["dataset"]
    where = ["everything together"] if model == ALL else [model_label(model) if model else "", dataset]
    return ", ".join(part for part in (*where, methods) if part)


def verdicts(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many findings have each verdict."""
    said = [finding["verdict"] for finding in found]
    return {verdict: said.count(verdict) for verdict in SYMBOLS}


# --- what could be detected ------------------------------------------------------------------------------------------


def detectable(comparisons: pd.DataFrame) -> list[dict[str, Any]]:
    """Smallest detectable differences in final accuracy, by comparison and split.

    Returns:
        least and greatest over models, data sets and settings (`one`), over models and data sets with all settings
        together (`settings`), and with everything together (`all`); None where nothing was compared so.
    """
    rows = comparisons[(comparisons["epoch"] == "final") & comparisons["detectable"].notna()]
    whole, together = rows["model"] == ALL, rows["setting"] == ALL
    kinds = {"one": rows[~whole & ~together], "settings": rows[~whole & together], "all": rows[whole & together]}
    return [
        {
            "method": label(str(method)),
            "over": label(str(over)),
            "split": split,
            **{kind: _range(of_kind, (method, over, split)) for kind, of_kind in kinds.items()},
            "seeds": sorted(cell["seeds"].unique()),
            "covers": sorted(cell["covers"].unique()),
        }
        for (method, over, split), cell in rows.groupby(["method", "over", "split"], sort=False)
    ]


def _range(rows: pd.DataFrame, comparison: tuple[Any, ...]) -> tuple[float, float] | None:
    found = rows[(rows[["method", "over", "split"]] == list(comparison)).all(axis="columns")]["detectable"]
    return None if found.empty else (found.min(), found.max())

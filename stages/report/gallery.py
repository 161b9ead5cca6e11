"""Responses to look at: those whose answer changed after a reflection, and the first ones, whatever they are."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from stages.data.problem import UNREADABLE
from stages.report.cell import read_rows
from stages.report.embedding import picture_uri
from stages.report.names import label, model_label
from stages.report.page import records

MOST = 12  # responses of a kind of change
AT_ONCE = 4  # of them that are not folded away
OUTCOMES = ["wrong_to_right", "right_to_wrong", "right_to_right", "wrong_to_wrong"]
CHANGES = ("wrong to right", "right to wrong")


# --- after a reflection ----------------------------------------------------------------------------------------------


def changed_answers(path: Path) -> list[dict[str, Any]]:
    """The best ranked responses of both kinds of change; a picture that is not there is left out."""
    rows = read_rows(path)
    groups = []
    for change in CHANGES:
        ranked = sorted((row for row in rows if row["change"] == change), key=lambda row: row["rank"])
        shown = [_changed_answer(row, path.parent) for row in ranked[:MOST]]
        groups.append({"change": change, "kept": len(ranked), "first": shown[:AT_ONCE], "more": shown[AT_ONCE:]})
    return groups


def _changed_answer(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    text, begin, end = row["text"], row["begin"], row["end"]
    parts = {"before": text[:begin], "reflection": text[begin:end], "after": text[end:]}
    return _labelled(row) | parts | {"picture": _picture(row, folder)}


def _labelled(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"method": label(row["method"]), "model": model_label(row["model"])}


def _picture(row: dict[str, Any], folder: Path) -> str:
    """A picture in a URL, empty where there is none: somebody else's responses may come without."""
    try:
        return picture_uri(folder / row["image"]) if row["image"] else ""
    except UNREADABLE:
        return ""


def outcomes(changes: pd.DataFrame) -> list[dict[str, Any]]:
    """How often each outcome is, by method and phase, over seeds, models and data sets, where it could be told."""
    counts = ["responses", "reflective", "stated", *OUTCOMES]
    rows = changes.dropna(subset=["stated"]).groupby(["method", "phase"], sort=False)[counts].sum().reset_index()
    return records(rows.assign(method=rows["method"].map(label)))


# --- whatever was answered -------------------------------------------------------------------------------------------


def samples(path: Path) -> list[dict[str, Any]]:
    """Problems with their responses, of one split and setting, as `stages.evaluation.shown` has chosen them."""
    found = []
    for _, group in groupby(read_rows(path), key=itemgetter("dataset", "problem")):
        rows = [_labelled(row) for row in group]
        found.append(rows[0] | {"picture": _picture(rows[0], path.parent), "responses": rows})
    return found

"""Responses to look at: those whose answer changed after a reflection, and the first ones, whatever they are."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.config import Evaluated, ReportRun
from stages.data.problem import UNREADABLE, Problem, read_problems
from stages.evaluation.rows import judged
from stages.report.embedding import picture_uri
from stages.report.names import label, model_label
from stages.report.page import records

SHOWN = 2  # problems of each data set whose responses are printed
MOST = 12  # responses of a kind of change
AT_ONCE = 4  # of them that are not folded away
OUTCOMES = ["wrong_to_right", "right_to_wrong", "right_to_right", "wrong_to_wrong"]
CHANGES = ("wrong to right", "right to wrong")


# --- after a reflection ----------------------------------------------------------------------------------------------


def changed_answers(path: Path) -> list[dict[str, Any]]:
    """The best ranked responses of both kinds of change; a picture that is not there is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    groups = []
    for change in CHANGES:
        ranked = sorted((row for row in rows if row["change"] == change), key=lambda row: row["rank"])
        shown = [_changed_answer(row) for row in ranked[:MOST]]
        groups.append({"change": change, "kept": len(ranked), "first": shown[:AT_ONCE], "more": shown[AT_ONCE:]})
    return groups


def _changed_answer(row: dict[str, Any]) -> dict[str, Any]:
    text, begin, end = row["text"], row["begin"], row["end"]
    parts = {"before": text[:begin], "reflection": text[begin:end], "after": text[end:]}
    names = {"method": label(row["method"]), "model": model_label(row["model"])}
    return row | parts | names | {"picture": _picture(row["image"])}


def _picture(path: str) -> str:
    """A picture in a URL, empty where there is none: somebody else's responses may come without."""
    try:
        return picture_uri(Path(path)) if path else ""
    except UNREADABLE:
        return ""


def outcomes(changes: pd.DataFrame) -> list[dict[str, Any]]:
    """How often each outcome is, by method and phase, over seeds, models and data sets, where it could be told."""
    counts = ["responses", "reflective", "stated", *OUTCOMES]
    rows = changes.dropna(subset=["stated"]).groupby(["method", "phase"], sort=False)[counts].sum().reset_index()
    return records(rows.assign(method=rows["method"].map(label)))


# --- whatever was answered -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    method: str
    model: str
    epoch: int
    correct: bool
    finished: bool
    text: str


@dataclass(frozen=True)
class Sample:
    """A problem and what each method answers."""

    dataset: str
    problem: Problem
    picture: str
    responses: list[Response]


def samples(run: ReportRun, split: str) -> Iterator[Sample]:
    """The first problems of each data set and every method's last word on them, by a rule that sees no result."""
    first_seeds: dict[tuple[str, ...], Evaluated] = {}
    for evaluated in run.evaluated:
        first_seeds.setdefault(Path(evaluated.responses).parts[-4:-1], evaluated)
    for dataset, data in run.data.items():
        problems = read_problems(Path(data, f"{split}.jsonl"))[:SHOWN]
        found: dict[str, list[Response]] = {problem.id: [] for problem in problems}
        for (model, other, method), evaluated in first_seeds.items():
            if other == dataset:
                for answered, response in last_responses(evaluated, split, run.setting, problems, model, method):
                    found[answered].append(response)
        for problem in problems:
            yield Sample(dataset, problem, picture_uri(problem.image), found[problem.id])


def last_responses(
    evaluated: Evaluated, split: str, setting: str, problems: list[Problem], model: str, method: str
) -> Iterator[tuple[str, Response]]:
    """The first response of a run's last epoch to each problem, with the problem's id."""
    rows = judged(Path(evaluated.responses), Path(evaluated.verdicts))
    wanted = (rows["split"] == split) & (rows["setting"] == setting) & (rows["sample"] == 0)
    rows = rows[wanted & (rows["epoch"] == rows["epoch"].max()) & rows["problem"].isin([p.id for p in problems])]
    for row in rows.to_dict("records"):
        answered = (row["epoch"], row["correct"], row["finished"], row["text"])
        yield row["problem"], Response(label(method), model_label(model), *answered)

"""Every run of the study: its settings, what it took, where it comes from, and whether its training was sound."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.config import ReportRun
from stages.evaluation.metrics import RUN
from stages.report.names import label, model_label
from stages.report.page import records

MARKS = {"sound": "✓", "suspicious": "!", "unknown": "?"}


@dataclass(frozen=True)
class Job:
    """A run's training or evaluation, from the files that it wrote.

    Attributes:
        settings: of its run.json, by key path.
        provenance: empty where there is none.
    """

    name: str
    folder: str
    settings: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class RunOfStudy:
    """One model on one data set with one method and seed.

    Attributes:
        seconds: of wall-clock, by job.
        tokens: by what they were for.
        health: rows of the checks.
        marks: how many checks have each verdict.
    """

    where: str
    who: str
    jobs: list[Job]
    seconds: dict[str, float | None]
    tokens: dict[str, int]
    health: list[dict[str, Any]]
    marks: dict[str, int]

    @property
    def tries(self) -> int:
        """Of its training, which may have been stopped and resumed."""
        return len(self.jobs[0].provenance.get("tries", []))


def runs(run: ReportRun, responses: pd.DataFrame, updates: pd.DataFrame, health: pd.DataFrame) -> list[RunOfStudy]:
    """The runs in the study's order."""
    trained = {cell_of(folder): folder for folder in run.trained}
    return [
        _run(cell, trained.get(cell), folder, responses, updates, health)
        for folder in (evaluated.responses for evaluated in run.evaluated)
        for cell in [cell_of(folder)]
    ]


def cell_of(folder: str) -> tuple[str, str, str, int]:
    """Model, data set, method and seed, from the end of a path."""
    model, dataset, method, seed = Path(folder).parts[-4:]
    return model, dataset, method, int(seed.removeprefix("seed"))


def _run(
    cell: tuple[str, str, str, int],
    trained: str | None,
    evaluated: str,
    responses: pd.DataFrame,
    updates: pd.DataFrame,
    health: pd.DataFrame,
) -> RunOfStudy:
    model, dataset, method, seed = cell
    jobs = [_job("Training", trained)] if trained else []
    jobs.append(_job("Evaluation", evaluated))
    checks = [row | {"mark": MARKS[row["verdict"]]} for row in records(_of(health, cell))]
    verdicts = [check["verdict"] for check in checks]
    return RunOfStudy(
        f"{model_label(model)} on {dataset}",
        f"{label(method)}, seed {seed}",
        jobs,
        {job.name: job.provenance.get("seconds") for job in jobs},
        _tokens(_of(responses, cell), _of(updates, cell)),
        checks,
        {verdict: verdicts.count(verdict) for verdict in MARKS if verdict in verdicts},
    )


def _of(table: pd.DataFrame, cell: tuple[str, str, str, int]) -> pd.DataFrame:
    return table[(table[RUN] == list(cell)).all(axis="columns")] if len(table) else table


def _tokens(responses: pd.DataFrame, updates: pd.DataFrame) -> dict[str, int]:
    """Tokens of all responses in training and in evaluation, and those that were learnt from."""
    written = responses[responses["unit"] == "tokens"]
    found = (written["responses"] * written["length"]).groupby(written["phase"]).sum()
    tokens = {name: found.get(phase) for name, phase in (("train", "train"), ("evaluate", "evaluate"))}
    if len(updates):
        tokens["updates"] = updates["tokens"].sum()
    return {name: round(float(total)) for name, total in tokens.items() if total is not None and total == total}


def _job(name: str, folder: str) -> Job:
    return Job(name, folder, flattened(_json(Path(folder, "run.json"))), _json(Path(folder, "provenance.json")))


def _json(path: Path) -> dict[str, Any]:
    """An object of a file; empty without the file, as in results that an earlier version wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def flattened(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Values by their key path."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{path}{key}.")
        else:
            found[f"{path}{key}"] = value
    return found


# --- all of them together --------------------------------------------------------------------------------------------


def by_place(found: list[RunOfStudy]) -> dict[str, list[RunOfStudy]]:
    """The runs of each model on each data set, in their order."""
    places: dict[str, list[RunOfStudy]] = {}
    for run in found:
        places.setdefault(run.where, []).append(run)
    return places


def totals(found: list[RunOfStudy]) -> dict[str, Any]:
    """Wall-clock, tokens and checks of all runs."""
    seconds = [value for run in found for value in run.seconds.values() if value is not None]
    return {
        "seconds": sum(seconds) if seconds else None,
        "tokens": {name: sum(run.tokens.get(name, 0) for run in found) for name in ("train", "updates", "evaluate")},
        "marks": {verdict: sum(run.marks.get(verdict, 0) for run in found) for verdict in MARKS},
    }


def versions(found: list[RunOfStudy]) -> dict[str, list[str]]:
    """Commit, Python, packages and machines; several values where runs differ."""
    told: dict[str, list[str]] = {}
    for name, value in (pair for run in found for job in run.jobs for pair in _versions(job.provenance)):
        if value not in told.setdefault(name, []):
            told[name].append(value)
    return told


def _versions(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("commit", "python"):
        if provenance.get(name):
            yield name, provenance[name]
    yield from ((name, version) for name, version in provenance.get("packages", {}).items() if version)
    if hardware := provenance.get("hardware"):
        parts = [hardware["processor"], f"{hardware['cores']} cores", f"{hardware['memory_gb']} GB"]
        yield "machine", ", ".join([*parts, *([hardware["gpus"].replace("\n", ", ")] if hardware["gpus"] else [])])

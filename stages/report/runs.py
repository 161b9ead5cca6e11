"""Every run of the study: its settings, what it took, where it comes from, and whether its training was sound."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.config import digest
from stages.evaluation.metrics import RUN
from stages.report.names import label, model_label
from stages.report.page import records

PHASES = {"train": "Training", "evaluate": "Evaluation"}
MARKS = {"sound": "✓", "suspicious": "!", "unknown": "?"}


@dataclass(frozen=True)
class Job:
    """A run's training or evaluation, as it wrote itself down.

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


def check_settings(jobs: Iterable[Mapping[str, Any]], asked: Mapping[str, str], scores: Path) -> None:
    """Check that scores are of the runs that a study asks for now.

    Args:
        jobs: rows of runs.jsonl.
        asked: digest of the settings of each job, by its folder.
        scores: their folder.

    Raises:
        ValueError: a job has other settings, is missing, or is no job of the study.
    """
    scored = {job["folder"]: digest(job["settings"]) for job in jobs}
    for folder in {**asked, **scored}:
        if folder not in scored:
            mistake = f"no {folder}, which the study has"
        elif folder not in asked:
            mistake = f"{folder} is no run of the study"
        elif scored[folder] != asked[folder]:
            mistake = f"{folder} ran with other settings than the study has now"
        else:
            continue
        raise ValueError(
            f"{scores}: {mistake} (scores of another study, or not made again since a setting changed); "
            "run `snakemake --cores all`, or give the study they are of"
        )


def runs(
    jobs: Iterable[Mapping[str, Any]], responses: pd.DataFrame, updates: pd.DataFrame, health: pd.DataFrame
) -> list[RunOfStudy]:
    """The runs in their order, from the rows of runs.jsonl and the score tables."""
    cells: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        told = Job(PHASES[job["phase"]], job["folder"], flattened(job["settings"]), job["provenance"])
        cells.setdefault(tuple(job[key] for key in RUN), []).append(told)
    return [
        _run(cell, found, *(_of(table, cell) for table in (responses, updates, health)))
        for cell, found in cells.items()
    ]


def _run(
    cell: tuple[Any, ...], jobs: list[Job], responses: pd.DataFrame, updates: pd.DataFrame, health: pd.DataFrame
) -> RunOfStudy:
    model, dataset, method, seed = cell
    checks = [row | {"mark": MARKS[row["verdict"]]} for row in records(health)]
    verdicts = [check["verdict"] for check in checks]
    return RunOfStudy(
        f"{model_label(model)} on {dataset}",
        f"{label(method)}, seed {seed}",
        jobs,
        {job.name: job.provenance.get("seconds") for job in jobs},
        _tokens(responses, updates),
        checks,
        {verdict: verdicts.count(verdict) for verdict in MARKS if verdict in verdicts},
    )


def _of(table: pd.DataFrame, cell: tuple[Any, ...]) -> pd.DataFrame:
    return table[(table[RUN] == list(cell)).all(axis="columns")] if len(table) else table


def _tokens(responses: pd.DataFrame, updates: pd.DataFrame) -> dict[str, int]:
    """Tokens of all responses in training and in evaluation, and those that were learnt from."""
    written = responses[responses["unit"] == "tokens"]
    found = (written["responses"] * written["length"]).groupby(written["phase"]).sum()
    tokens = {name: found.get(phase) for name, phase in (("train", "train"), ("evaluate", "evaluate"))}
    if len(updates):
        tokens["updates"] = updates["tokens"].sum()
    return {name: round(float(total)) for name, total in tokens.items() if total is not None and total == total}


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

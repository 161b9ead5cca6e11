"""Score a study's responses: `python -m stages.evaluation.score RUN.json`.

Writes accuracy.csv (evaluation, by epoch), training.csv (RL, by epoch), steps.csv and words.csv (RL, by generation
step) and updates.csv (RL, by optimiser step). Every row begins with model, dataset, method and seed.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from stages.config import ScoresRun, load_run
from stages.evaluation import metrics
from stages.files import whole_folder
from stages.progress import progress
from stages.records import read

# For tables without a row, which a study without RL has.
COLUMNS = {
    "training": ["epoch", "responses", "correct", "accuracy"],
    "steps": ["epoch", "generation_step", *metrics.COUNTS, "length", "truncated", "no_answer", "timed_out"],
    "words": ["generation_step", "word", "count"],
    "updates": ["epoch", "generation_step", "gradient_step"],
}


def of_run(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with the parts of a run's name, model/dataset/method/seedK, as its first columns."""
    model, dataset, method, seed = name.split("/")
    values = (model, dataset, method, int(seed.removeprefix("seed")))
    first = pd.DataFrame([values] * len(table), columns=metrics.RUN, index=table.index)
    return pd.concat([first, table], axis="columns")


def score_evaluation(run: ScoresRun) -> pd.DataFrame:
    """accuracy.csv."""
    parts = []
    for evaluated in progress(run.evaluated, "evaluations"):
        rows = metrics.judged(Path(evaluated.responses), Path(evaluated.verdicts))
        table = metrics.accuracy(rows, run.samples)
        order = table["setting"].map({setting: place for place, setting in enumerate(run.order)})
        table = table.assign(order=order).sort_values(["epoch", "order"], kind="stable").drop(columns="order")
        parts.append(of_run(rows["run"].iloc[0], table))
    return pd.concat(parts, ignore_index=True)


def score_training(run: ScoresRun) -> dict[str, pd.DataFrame]:
    """training.csv, steps.csv, words.csv and updates.csv."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    for folder in progress(run.trained, "trainings"):
        rows = metrics.judged(Path(folder))
        name = rows["run"].iloc[0]
        parts["training"].append(of_run(name, metrics.training(rows)))
        parts["steps"].append(of_run(name, metrics.steps(rows, run.settings)))
        parts["words"].append(of_run(name, metrics.words(rows, run.settings)))
        if (updates := Path(folder, "updates.jsonl")).is_file():
            parts["updates"].append(of_run(name, read(updates).drop(columns="run")))
    return {name: _stacked(tables, COLUMNS[name]) for name, tables in parts.items()}


def _stacked(tables: Iterable[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    found = list(tables)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*metrics.RUN, *columns])


def main(path: str) -> None:
    run = load_run(path, ScoresRun)
    with whole_folder(Path(run.out)) as folder:
        for name, table in {"accuracy": score_evaluation(run), **score_training(run)}.items():
            table.to_csv(folder / f"{name}.csv", index=False)


if __name__ == "__main__":
    main(sys.argv[1])

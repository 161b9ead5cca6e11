"""The jobs of a study: which there are of each rule, and the settings of each."""

import itertools
from collections.abc import Iterable
from typing import Any

from stages.config import DOWNLOADS, Recipe, Run, Study

Wildcards = dict[str, str]
# In the order in which their results follow from each other.
RULES = (
    *("download", "data", "pretrain", "base", "preflight", "data_report"),
    *("sft", "rl", "evaluate", "judge", "weights", "scores", "tables", "figures", "report"),
)


def runs(study: Study, *kinds: str) -> list[Wildcards]:
    """The runs of the grid of these kinds."""
    cells = [cell.replace("/seed", "/").split("/") for cell in study.cells(kinds)]
    return [dict(zip(("model", "dataset", "method", "seed"), cell, strict=True)) for cell in cells]


def each(**names: Iterable[str]) -> list[Wildcards]:
    """All combinations of names."""
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*names.values())]


def jobs(study: Study, rule: str) -> list[Wildcards]:
    """The wildcards of each job of a rule."""
    grid = study.study
    match rule:
        case "download":
            sources = [*map(study.sources, grid.datasets), *map(study.checkpoint_sources, grid.models)]
            needed = {path for paths in sources for path in paths}
            return each(name=[name for name in study.download if f"{DOWNLOADS}/{name}/download.json" in needed])
        case "pretrain":
            return each(model=[model for model in grid.models if isinstance(study.base[model], Recipe)])
        case "base":
            return each(model=grid.models)
        case "data" | "data_report":
            return each(dataset=grid.datasets)
        case "preflight":
            return each(model=grid.models, dataset=grid.datasets)
        case "sft" | "rl":
            return runs(study, rule)
        case "evaluate":
            return runs(study, "vanilla", "sft", "rl")
        case "judge":
            trained = [{"stage": "rl", **run} for run in runs(study, "rl")]
            return trained + [{"stage": "evaluate", **run} for run in jobs(study, "evaluate")]
        case "weights":
            kinds = ("sft", "rl") if study.keeps_some else ()
            return [{"stage": kind, **run} for kind in kinds for run in runs(study, kind)]
    return [{}]


def settings(study: Study, paper: Study, rule: str, wildcards: Wildcards) -> Run:
    """A job's settings.

    Args:
        study: of the job.
        paper: the paper's study, which the page compares this one with.
        rule: of the job.
        wildcards: of the job.
    """
    given: dict[str, Any] = {key: int(value) if key == "seed" else value for key, value in wildcards.items()}
    more = {"paper": paper} if rule == "report" else {}
    run: Run = getattr(study, f"{rule}_run")(**given, **more)
    return run

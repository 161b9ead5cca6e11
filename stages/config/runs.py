"""The settings of one job, as its `run.json` holds them: those that the job depends on and no others."""

import json
from typing import Any, Literal

from stages.config.sections import (
    RL,
    SFT,
    Compute,
    Count,
    Evaluate,
    JudgeRules,
    Name,
    Natural,
    Problems,
    PromptSettings,
    Recipe,
    Scores,
    SettingName,
    Settings,
)


class Run(Settings):
    """The settings of one job, as its `run.json` holds them.

    Attributes:
        out: the folder that the job writes.
    """

    out: str

    def canonical_json(self) -> str:
        """One line, keys sorted: equal runs have equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


class DownloadRun(Run):
    name: Name
    kind: Literal["dataset", "model"]
    repo: str
    revision: str
    files: tuple[str, ...]


class DataRun(Run):
    dataset: Name
    settings: Problems


class DataReportRun(Run):
    """Attributes: preflights: folder of the checks with each model."""

    dataset: Name
    data: str
    preflights: dict[Name, str]


class PretrainRun(Run):
    model: Name
    settings: Recipe
    compute: Compute


class BaseRun(Run):
    """Attributes: checkpoint: the folder to check and bring to its place."""

    model: Name
    checkpoint: str


class PreflightRun(Run):
    """Whether a model can take a data set.

    Attributes:
        base: folder of the base model's checkpoint.
        data: folder of the prepared data set.
    """

    model: Name
    dataset: Name
    base: str
    data: str
    prompt: PromptSettings


class ModelRun(Run):
    """A run of one model on one data set.

    Attributes:
        base: folder of the base model's checkpoint.
        data: folder of the prepared data set.
        preflight: folder of the lengths of its prompts.
        checkpoints: folder of its saved states, under the fingerprint of what they are of.
    """

    model: Name
    dataset: Name
    method: Name
    seed: Natural
    base: str
    data: str
    preflight: str
    checkpoints: str
    prompt: PromptSettings
    compute: Compute

    @property
    def name(self) -> str:
        return f"{self.model}/{self.dataset}/{self.method}/seed{self.seed}"


class TrainRun(ModelRun):
    """Attributes: save_epochs: epochs after which the trained weights are kept."""

    epochs: Count
    save_epochs: tuple[Count, ...]


class SFTRun(TrainRun):
    settings: SFT


class RLRun(TrainRun):
    judge: JudgeRules
    settings: RL


class EvaluateRun(ModelRun):
    """An evaluation.

    Attributes:
        weights: file of trained weights by epoch; without one (epoch 0) the base as it is.
        trained: folder of the training's saved states, which nobody needs after this; None without a training.
    """

    weights: dict[str, str]
    trained: str | None
    settings: Evaluate


class JudgeRun(Run):
    """Attributes: responses: folder of the evaluation. workers: processes side by side."""

    responses: str
    workers: Count
    settings: JudgeRules


class Evaluated(Settings):
    """The folders of an evaluation and of what the judge says of it."""

    responses: str
    verdicts: str


Kind = Literal["vanilla", "sft", "rl"]


class ScoresRun(Run):
    """What is scored, in the order of tables and figures.

    Attributes:
        trained: folders of RL runs, whose training is scored.
        tuned: folders of SFT runs, which have optimiser steps and no responses.
        samples: responses to each problem, by generation setting.
        order: the generation settings.
        methods: in their order, each with its kind.
        data: folders of the data sets.
        rules: when an answer is right, by data set.
        workers: processes of the judge.
    """

    trained: tuple[Evaluated, ...]
    tuned: tuple[str, ...]
    evaluated: tuple[Evaluated, ...]
    samples: dict[str, Count]
    order: tuple[str, ...]
    methods: tuple[tuple[Name, Kind], ...]
    data: dict[Name, str]
    rules: dict[Name, JudgeRules]
    workers: Count
    settings: Scores


class TablesRun(Run):
    scores: str


class FiguresRun(Run):
    """Attributes: setting: the generation setting of figures that show one."""

    scores: str
    setting: SettingName


class ReportRun(Run):
    """What the page tells of.

    Attributes:
        trained: folders of the runs that trained weights.
        setting: the generation setting of lowest temperature, whose responses are printed.
        settings: the study as its file has it.
        paper: the paper's study, which it is compared with.
    """

    study: str
    scores: str
    tables: str
    figures: str
    trained: tuple[str, ...]
    evaluated: tuple[Evaluated, ...]
    setting: str
    data: dict[Name, str]
    settings: dict[str, Any]
    paper: dict[str, Any]

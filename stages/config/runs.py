"""The settings of one job, as its `run.json` holds them: those that the job depends on and no others."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from stages.config.sections import (
    RL,
    SFT,
    Compute,
    Count,
    Engine,
    Evaluate,
    JudgeRules,
    LearnerSettings,
    LoRA,
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
        return _canonical(self.model_dump(mode="json"))

    def digest(self) -> str:
        return digest(self.model_dump(mode="json"))


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hex digits over the settings of a job, as its `run.json` holds them."""
    return hashlib.sha256(_canonical(settings).encode()).hexdigest()[:12]


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


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
    """A training.

    Attributes:
        save_epochs: epochs after which the trained weights are written.
        weights: folder that they are written to.
    """

    epochs: Count
    save_epochs: tuple[Count, ...]
    weights: str
    learner: LearnerSettings


class SFTRun(TrainRun):
    settings: SFT


class RLRun(TrainRun):
    judge: JudgeRules
    engine: Engine
    settings: RL


class EvaluateRun(ModelRun):
    """An evaluation.

    Attributes:
        weights: file of trained weights by epoch; without one (epoch 0) the base as it is.
        trained: folder of the training's saved states, which nobody needs after this; None without a training.
        lora: of the training, whose weights are adapters then.
    """

    weights: dict[str, str]
    trained: str | None
    lora: LoRA | None
    engine: Engine
    settings: Evaluate


class WeightsRun(Run):
    """Which of the trained weights are kept.

    Attributes:
        trained: file of trained weights by epoch.
        epochs: to keep, whatever they are worth.
        setting: the generation setting that tells which epoch is the best one.
        best: the validation that tells it; None if the best is not asked for.
    """

    trained: dict[str, str]
    epochs: tuple[Count, ...]
    setting: SettingName
    best: "Evaluated | None"


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
        setting: the one of lowest temperature, whose responses are shown.
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
    setting: SettingName
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
        runs: digest of the settings of each training and evaluation, by its folder.
        settings: the study as its file has it.
        paper: the paper's study, which it is compared with.
    """

    study: str
    scores: str
    tables: str
    figures: str
    runs: dict[str, str]
    settings: dict[str, Any]
    paper: dict[str, Any]

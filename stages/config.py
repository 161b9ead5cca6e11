"""The study as one typed file, and the settings of each of its runs. Nothing else in the project reads YAML.

`load_study` turns `config/<study>.yaml` into a frozen `Study`, or stops with every mistake named by its key's path.
A `Study` hands each job a `Run`: the settings that this job depends on and no others, written to its `run.json`, so
that a changed setting reruns what it touches and nothing else. Relative paths are relative to the working directory.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
SettingName = Annotated[str, Field(pattern=r"^[^|/\\]+$")]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]

VANILLA = "vanilla"
_DOWNLOADS = "results/download"


class Settings(BaseModel):
    """Frozen; unknown keys are errors; no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# --- downloads ---------------------------------------------------------------------------------------------------------


class Download(Settings):
    """A repository of the Hugging Face hub, fetched once by a rule of its own; what follows is offline.

    Attributes:
        repo: owner/name.
        revision: a whole commit hash, so that a study means the same files next year. A branch is taken as it stands on
            the day of the download; download.json tells its commit.
        files: which files, as patterns (`data/*.parquet`).
        gigabytes: about how much, to be known before it is fetched.
    """

    kind: Literal["dataset", "model"]
    repo: Annotated[str, Field(pattern=r"^[\w.\-]+/[\w.\-]+$")]
    revision: Annotated[str, Field(pattern=r"^[\w.\-/]+$")]
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    gigabytes: Positive


# --- data ------------------------------------------------------------------------------------------------------------


class Judge(Settings):
    """When an answer is right (`stages.evaluation.answers`).

    Attributes:
        where: only the last \\boxed{} counts (box), or without one an <answer> tag or what the text ends with (text).
        form: only a plain number can be right (number), or whatever equals the problem's answer (expression).
        relative_tolerance: how far a number may be from the answer, as a share of the answer.
        decimals: a number written with at least so many decimals is right if the answer, rounded to as many, is it;
            without (null) rounding is not allowed for.
        percent: a percent sign is a unit, 12 % is 12 (unit), or divides, 12 % is 0.12 (hundredth).
    """

    where: Literal["box", "text"]
    form: Literal["number", "expression"]
    relative_tolerance: NonNegative
    decimals: Natural | None
    percent: Literal["unit", "hundredth"]


class GeneratedProblems(Settings):
    """Generated geometry problems (`stages.data.geometry`).

    Attributes:
        mode: where the numbers stand: in the question too (text-dominant), or in the figure alone (vision-dominant).
        train, validation, test: number of problems of each split.
    """

    source: Literal["generated"]
    mode: Literal["text", "vision"]
    seed: Natural
    train: Count
    validation: Count
    test: Count


class Rows(Settings):
    """Rows of somebody else's, as a reader of `stages.data.readers` finds them.

    Attributes:
        folder: a name under `download`, or a folder of this machine that holds the same files.
        take: the first row to take and the one after the last, of those that are kept, in their order; null: all.
    """

    folder: str
    take: tuple[Natural, Count] | None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.take and self.take[0] >= self.take[1]:
            raise ValueError(f"take: [{self.take[0]}, {self.take[1]}] is empty; from the first row, to after the last")
        return self


class Geometry3KRows(Rows):
    """hiyouga/geometry3k: parquet files of the three splits."""

    reader: Literal["geometry3k"]
    split: Literal["train", "validation", "test"]


class MMMathRows(Rows):
    """THU-KEG/MM_Math: a JSONL file and a zip of images; the answer is the last box of the solution."""

    reader: Literal["mm_math"]


class MathVerseRows(Rows):
    """AI4Math/MathVerse, testmini.

    Attributes:
        versions: which of a problem's versions (the same problem with more or less of it in the picture).
        choices: multiple-choice problems: ask for the value of the right choice (value), or leave them out (drop).
    """

    reader: Literal["mathverse"]
    versions: Annotated[
        tuple[
            Literal["Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only"],
            ...,
        ],
        Field(min_length=1),
    ]
    choices: Literal["value", "drop"]


class MAYERows(Rows):
    """ManTle/MAYE, the paper's own release: JSONL files of three splits for each of its data sets."""

    reader: Literal["maye"]
    dataset: Literal["mm_math", "geometry3k"]
    split: Literal["train", "validation", "test"]


class InterGPSRows(Rows):
    """Geometry3K as InterGPS released it: one folder a problem, with data.json and img_diagram.png."""

    reader: Literal["intergps"]


class JsonlRows(Rows):
    """Problems in the paper's record: question, answer, solution, id, image.

    Attributes:
        file: in the folder; image paths in it are relative to it.
    """

    reader: Literal["jsonl"]
    file: str


AnyRows = Annotated[
    Geometry3KRows | MMMathRows | MathVerseRows | MAYERows | InterGPSRows | JsonlRows, Field(discriminator="reader")
]


class RealProblems(Settings):
    """Somebody else's problems, each split from a reader.

    Attributes:
        shuffle: seed of a row order that depends on nothing but it and the rows' ids; null: the order of the files.
        answers: leave out problems whose answer is no number (numeric, as the paper does), or keep them (any).
        allow_leaks: ids that may stand in a test or validation split although train has the same problem.
    """

    source: Literal["real"]
    shuffle: Natural | None
    answers: Literal["numeric", "any"]
    allow_leaks: tuple[str, ...]
    train: AnyRows
    validation: AnyRows
    test: AnyRows

    @property
    def splits(self) -> dict[str, AnyRows]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


Problems = Annotated[GeneratedProblems | RealProblems, Field(discriminator="source")]


class Data(Settings):
    """A data set.

    Attributes:
        epochs: times SFT and RL go through train.
    """

    epochs: Count
    judge: Judge
    problems: Problems


class PromptSettings(Settings):
    """How a problem is put to a model, the same for SFT, RL, evaluation and every sampler.

    Attributes:
        instruction: follows the question, on a line of its own; "" for none.
        min_pixels, max_pixels: the picture is scaled to between so many pixels, sides kept in proportion.
    """

    instruction: str
    min_pixels: Count
    max_pixels: Count

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels={self.min_pixels} must not be above max_pixels={self.max_pixels}")
        return self


# --- base models -----------------------------------------------------------------------------------------------------


class Checkpoint(Settings):
    """A base model that exists: a folder as `save_pretrained` writes it.

    Attributes:
        path: a name under `download`, or a folder of this machine.
    """

    source: Literal["checkpoint"]
    path: str


class Noise(Settings):
    """How imperfect the solutions in the pre-training corpus are; every value a probability.

    Attributes:
        slip: a step of a calculation comes out wrong (half of that when it is done again in a reflection).
        direct: only an answer is given, without a calculation.
        reflection: a right calculation is reflected on; a wrong one is three times as often.
        textbook: the numbers and the theorem are stated as the golden solutions state them.
    """

    slip: Share
    direct: Share
    reflection: Share
    textbook: Share


class Recipe(Settings):
    """A tiny base model, built and pre-trained from scratch (`stages.model.pretrain`).

    Attributes:
        architecture: the transformers class.
        pictures: distinct figures in the corpus.
        glyph_steps: updates of the vision tower on reading the glyph in every cell of the figure.
        steps: updates of the language model on captions, arithmetic and imperfect solutions.
        batch_size: rows of an update.
        read_share: the gate: share of held-out figures whose numbers the finished model must read without a mistake.
    """

    source: Literal["recipe"]
    architecture: Literal["qwen2_5_vl", "qwen2_vl"]
    hidden_size: Count
    layers: Count
    vision_size: Count
    vision_layers: Count
    seed: Natural
    noise: Noise
    pictures: Count
    glyph_steps: Count
    glyph_learning_rate: Positive
    steps: Count
    batch_size: Count
    learning_rate: Positive
    read_share: Share


Base = Annotated[Checkpoint | Recipe, Field(discriminator="source")]

# --- training --------------------------------------------------------------------------------------------------------


class Optimizer(Settings):
    """AdamW with linear warm-up and cosine decay to zero (paper, Appendix A).

    Attributes:
        learning_rate: at the end of the warm-up.
        warmup_ratio: share of all updates.
        clip_grad_norm: the gradient's largest 2-norm.
    """

    learning_rate: Positive
    warmup_ratio: Share
    betas: tuple[Beta, Beta]
    eps: Positive
    weight_decay: NonNegative
    clip_grad_norm: Positive


class SFT(Settings):
    """Supervised fine-tuning on the golden solutions.

    Attributes:
        batch_size: problems of an update.
        backward_batch_size: problems of a backward pass; only about memory.
    """

    optimizer: Optimizer
    batch_size: Count
    backward_batch_size: Count

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        _must_divide(self, "backward_batch_size", "batch_size")
        return self


class Sampling(Settings):
    """How responses are drawn.

    Attributes:
        max_new_tokens: tokens after which a response is cut off.
    """

    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_new_tokens: Count


class Rewards(Settings):
    """Weight of each reward in a response's score (0 leaves it out of the sum, not out of the records)."""

    accuracy: float
    language: float


class RL(Settings):
    """Reinforcement learning, under the paper's names (Sec. 3, Eq. 1, Appendix A).

    Attributes:
        algorithm: what a response is measured against: the batch (reinforce_plus_plus) or its siblings (grpo).
        batch_size: queries of a generation step.
        group_size: responses to each query.
        forward_batch_size: responses of a pass without gradient.
        ppo_batch_size: responses of an update.
        ppo_backward_batch_size: responses of a backward pass; only about memory.
        ppo_epochs: times a generation step's responses are gone through.
        epsilon: clipping range of the ratio.
        gamma: discount of a token's return.
        beta_rew: weight of the KL penalty in the reward.
        beta_loss: weight of the KL term in the loss.
        advantage_norm: divide advantages by their standard deviation.
        loss_average: mean within a response first (Eq. 1), or over all tokens of an update.
    """

    algorithm: Literal["reinforce_plus_plus", "grpo"]
    optimizer: Optimizer
    batch_size: Count
    group_size: Count
    forward_batch_size: Count
    ppo_batch_size: Count
    ppo_backward_batch_size: Count
    ppo_epochs: Count
    epsilon: Positive
    gamma: Share
    beta_rew: NonNegative
    beta_loss: NonNegative
    advantage_norm: bool
    loss_average: Literal["response", "token"]
    sampling: Sampling
    rewards: Rewards

    @property
    def responses(self) -> int:
        """Responses of a generation step."""
        return self.batch_size * self.group_size

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.responses % self.ppo_batch_size:
            raise ValueError(
                f"ppo_batch_size={self.ppo_batch_size} must divide the {self.responses} responses of a "
                f"generation step (batch_size={self.batch_size} x group_size={self.group_size})"
            )
        _must_divide(self, "ppo_backward_batch_size", "ppo_batch_size")
        if self.algorithm == "grpo" and self.group_size < 2:
            raise ValueError("group_size=1, but grpo compares a response with its siblings: at least 2")
        if self.algorithm == "grpo" and (self.gamma != 1 or self.beta_rew != 0):
            raise ValueError("grpo scores whole responses: gamma must be 1.0 and beta_rew 0.0")
        if self.sampling.temperature != 1 or self.sampling.top_p != 1:
            raise ValueError("sampling: temperature and top_p must be 1.0, so that the policy that is updated sampled")
        return self


def _must_divide(settings: Settings, part: str, whole: str) -> None:
    a, b = getattr(settings, part), getattr(settings, whole)
    if b % a:
        raise ValueError(f"{part}={a} must divide {whole}={b}")


# --- evaluation ------------------------------------------------------------------------------------------------------


class EvaluationSetting(Settings):
    """One generation setting of the evaluation scheme (Sec. 4).

    Attributes:
        samples: responses to each problem; with more than one, a problem counts as solved if any is correct.
    """

    samples: Count
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]


class Evaluate(Settings):
    """Which problems are answered, and how.

    Attributes:
        settings: by the name that tables and figures print.
        batch_size: responses that are sampled side by side.
    """

    splits: Annotated[tuple[Literal["validation", "test"], ...], Field(min_length=1)]
    settings: Annotated[dict[SettingName, EvaluationSetting], Field(min_length=1)]
    max_new_tokens: Count
    batch_size: Count


class Scores(Settings):
    """What is computed from the responses.

    Attributes:
        reflection_words: words that mark a response as reflective (Sec. 4).
        whole_words: match whole words; otherwise any substring, as the released code does.
    """

    reflection_words: Annotated[tuple[str, ...], Field(min_length=1)]
    whole_words: bool


# --- the study -------------------------------------------------------------------------------------------------------


class Grid(Settings):
    """Which runs there are: every model with every data set, method and seed.

    Attributes:
        name: printed on the report.
        methods: names from the sections `sft` and `rl`, and `vanilla` for the base model as it is.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
    """

    name: Name
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    methods: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Natural, ...], Field(min_length=1)]
    evaluate_every: Count


class Compute(Settings):
    """Where training and evaluation run.

    Attributes:
        threads: of each job. Two jobs of one thread are faster than one of two.
    """

    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    threads: Count


class Resources(Settings):
    """What schedulers are told; no result depends on it.

    Attributes:
        memory_mb: of each training or evaluation job.
    """

    memory_mb: Count


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
    settings: Download


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
        new_tokens: of the longest response that any run of the study may draw.
    """

    model: Name
    dataset: Name
    base: str
    data: str
    prompt: PromptSettings
    new_tokens: Count


class ModelRun(Run):
    """A run of one model on one data set.

    Attributes:
        base: folder of the base model's checkpoint.
        data: folder of the prepared data set.
    """

    model: Name
    dataset: Name
    method: Name
    seed: Natural
    base: str
    data: str
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
    judge: Judge
    settings: RL


class EvaluateRun(ModelRun):
    """Attributes: weights: file of trained weights by epoch; without one (epoch 0) the base as it is."""

    weights: dict[str, str]
    judge: Judge
    settings: Evaluate


class ScoresRun(Run):
    """What is scored, in the order of tables and figures.

    Attributes:
        trained, evaluated: the folders whose responses are scored.
        samples: responses to each problem, by generation setting.
        order: the generation settings.
        judge: when an answer is right, by data set.
    """

    trained: tuple[str, ...]
    evaluated: tuple[str, ...]
    judge: dict[Name, Judge]
    samples: dict[str, Count]
    order: tuple[str, ...]
    settings: Scores


class TablesRun(Run):
    scores: str


class FiguresRun(Run):
    """Attributes: methods: with the kind that decides the colour."""

    scores: str
    methods: dict[Name, Literal["vanilla", "sft", "rl"]]


class ReportRun(Run):
    """Attributes: setting: the generation setting of lowest temperature, whose responses are printed."""

    study: str
    scores: str
    tables: str
    figures: str
    responses: tuple[str, ...]
    setting: str
    data: dict[Name, str]


class Study(Settings):
    """A whole study: what is compared (`study`), and one section a stage."""

    study: Grid
    download: dict[Name, Download]
    data: dict[Name, Data]
    prompt: PromptSettings
    base: dict[Name, Base]
    sft: dict[Name, SFT]
    rl: dict[Name, RL]
    evaluate: Evaluate
    scores: Scores
    compute: Compute
    resources: Resources

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        if twice := set(self.sft) & set(self.rl):
            raise ValueError(f"rl.{min(twice)}: sft has a method of that name already")
        for key, names, allowed in (
            ("models", self.study.models, list(self.base)),
            ("datasets", self.study.datasets, list(self.data)),
            ("methods", self.study.methods, [VANILLA, *self.sft, *self.rl]),
        ):
            for name in names:
                if name not in allowed:
                    raise ValueError(f"study.{key}: {name!r} is not defined (allowed: {', '.join(allowed)})")
            if len(set(names)) < len(names):
                raise ValueError(f"study.{key}: a name stands there twice ({', '.join(names)})")
        sections: dict[str, dict[str, SFT] | dict[str, RL]] = {"sft": self.sft, "rl": self.rl}
        for section, methods in sections.items():
            for method in set(methods) & set(self.study.methods):
                for dataset in self.study.datasets:
                    self._check_batch(f"{section}.{method}", methods[method].batch_size, dataset)
        return self

    def _check_batch(self, method: str, batch: int, dataset: str) -> None:
        rows = self.rows(dataset, "train")
        if rows is not None and rows < batch:
            raise ValueError(f"{method}.batch_size: {batch} problems, but data.{dataset}.problems.train has {rows}")

    def rows(self, dataset: str, split: str) -> int | None:
        """Problems of a split; None where only its files can tell."""
        problems = self.data[dataset].problems
        if isinstance(problems, GeneratedProblems):
            count: int = getattr(problems, split)
            return count
        take = problems.splits[split].take
        return take[1] - take[0] if take else None

    # the grid

    def kind(self, method: str) -> Literal["vanilla", "sft", "rl"]:
        """What a method is: the section its settings stand in."""
        return "sft" if method in self.sft else "rl" if method in self.rl else "vanilla"

    def methods(self, kind: str) -> list[str]:
        """The grid's methods of a kind."""
        return [method for method in self.study.methods if self.kind(method) == kind]

    def save_epochs(self, dataset: str) -> tuple[int, ...]:
        """Epochs whose weights are kept and evaluated."""
        last = self.data[dataset].epochs
        return tuple(e for e in range(1, last + 1) if e % self.study.evaluate_every == 0 or e == last)

    def cells(self, kinds: Iterable[str]) -> list[str]:
        """`model/dataset/method/seedK` of every run of these kinds."""
        grid = self.study
        return [
            f"{model}/{dataset}/{method}/seed{seed}"
            for model in grid.models
            for dataset in grid.datasets
            for method in grid.methods
            for seed in grid.seeds
            if self.kind(method) in kinds
        ]

    def sources(self, dataset: str) -> list[str]:
        """Files that a data set is made from."""
        problems = self.data[dataset].problems
        if isinstance(problems, GeneratedProblems):
            return []
        found = set[str]()
        for rows in problems.splits.values():
            if (name := self._downloaded(rows.folder)) is not None:
                found.add(f"{_DOWNLOADS}/{name}/download.json")
            elif isinstance(rows, JsonlRows):
                found.add(os.path.join(rows.folder, rows.file))
            else:
                found |= {str(path) for path in Path(rows.folder).rglob("*") if path.is_file()}
        return sorted(found)

    def checkpoint_sources(self, model: str) -> list[str]:
        """Files that a base model is copied from, if it is given as a checkpoint."""
        base = self.base[model]
        if not isinstance(base, Checkpoint):
            return []
        if (name := self._downloaded(base.path)) is not None:
            return [f"{_DOWNLOADS}/{name}/download.json"]
        return sorted(str(path) for path in Path(base.path).glob("*") if path.is_file())

    def _downloaded(self, folder: str) -> str | None:
        """The name under `download` that a folder is of."""
        path = Path(folder)
        return path.name if str(path.parent) == _DOWNLOADS and path.name in self.download else None

    # the runs

    def download_run(self, name: str) -> DownloadRun:
        return DownloadRun(out=f"{_DOWNLOADS}/{name}", name=name, settings=self.download[name])

    def data_run(self, dataset: str) -> DataRun:
        return DataRun(out=f"results/data/{dataset}", dataset=dataset, settings=self.data[dataset].problems)

    def data_report_run(self, dataset: str) -> DataReportRun:
        return DataReportRun(
            out=f"results/data/{dataset}",
            dataset=dataset,
            data=f"results/data/{dataset}",
            preflights={model: f"results/preflight/{model}/{dataset}" for model in self.study.models},
        )

    def pretrain_run(self, model: str) -> PretrainRun:
        recipe = self.base[model]
        if not isinstance(recipe, Recipe):
            raise ValueError(f"base.{model}: a checkpoint, so there is nothing to pre-train")
        return PretrainRun(out=f"results/pretrain/{model}", model=model, settings=recipe, compute=self.compute)

    def base_run(self, model: str) -> BaseRun:
        base = self.base[model]
        path = base.path if isinstance(base, Checkpoint) else f"results/pretrain/{model}"
        return BaseRun(out=f"results/base/{model}", model=model, checkpoint=path)

    def preflight_run(self, model: str, dataset: str) -> PreflightRun:
        trained = [self.rl[method].sampling.max_new_tokens for method in self.methods("rl")]
        return PreflightRun(
            out=f"results/preflight/{model}/{dataset}",
            model=model,
            dataset=dataset,
            base=f"results/base/{model}/checkpoint",
            data=f"results/data/{dataset}",
            prompt=self.prompt,
            new_tokens=max(self.evaluate.max_new_tokens, *trained) if trained else self.evaluate.max_new_tokens,
        )

    def sft_run(self, model: str, dataset: str, method: str, seed: int) -> SFTRun:
        return SFTRun(**self._train_run("sft", model, dataset, method, seed), settings=self.sft[method])

    def rl_run(self, model: str, dataset: str, method: str, seed: int) -> RLRun:
        return RLRun(
            **self._train_run("rl", model, dataset, method, seed),
            judge=self.data[dataset].judge,
            settings=self.rl[method],
        )

    def evaluate_run(self, model: str, dataset: str, method: str, seed: int) -> EvaluateRun:
        kind = self.kind(method)
        epochs = () if kind == "vanilla" else self.save_epochs(dataset)
        folder = f"results/{kind}/{model}/{dataset}/{method}/seed{seed}"
        return EvaluateRun(
            **self._model_run("evaluate", model, dataset, method, seed),
            weights={str(epoch): f"{folder}/weights/epoch{epoch}.safetensors" for epoch in epochs},
            judge=self.data[dataset].judge,
            settings=self.evaluate,
        )

    def scores_run(self) -> ScoresRun:
        return ScoresRun(
            out="results/scores",
            trained=tuple(f"results/rl/{cell}" for cell in self.cells(["rl"])),
            evaluated=tuple(f"results/evaluate/{cell}" for cell in self.cells(["vanilla", "sft", "rl"])),
            samples={name: setting.samples for name, setting in self.evaluate.settings.items()},
            order=tuple(self.evaluate.settings),
            judge={dataset: self.data[dataset].judge for dataset in self.study.datasets},
            settings=self.scores,
        )

    def tables_run(self) -> TablesRun:
        return TablesRun(out="results/tables", scores="results/scores")

    def figures_run(self) -> FiguresRun:
        return FiguresRun(
            out="results/figures", scores="results/scores", methods={m: self.kind(m) for m in self.study.methods}
        )

    def report_run(self) -> ReportRun:
        return ReportRun(
            out="results/report",
            study=self.study.name,
            scores="results/scores",
            tables="results/tables",
            figures="results/figures",
            responses=tuple(f"results/evaluate/{cell}" for cell in self.cells(["vanilla", "sft", "rl"])),
            setting=min(self.evaluate.settings, key=lambda name: self.evaluate.settings[name].temperature),
            data={dataset: f"results/data/{dataset}" for dataset in self.study.datasets},
        )

    def _train_run(self, stage: str, model: str, dataset: str, method: str, seed: int) -> dict[str, Any]:
        epochs = {"epochs": self.data[dataset].epochs, "save_epochs": self.save_epochs(dataset)}
        return self._model_run(stage, model, dataset, method, seed) | epochs

    def _model_run(self, stage: str, model: str, dataset: str, method: str, seed: int) -> dict[str, Any]:
        return {
            "out": f"results/{stage}/{model}/{dataset}/{method}/seed{seed}",
            "model": model,
            "dataset": dataset,
            "method": method,
            "seed": seed,
            "base": f"results/base/{model}/checkpoint",
            "data": f"results/data/{dataset}",
            "prompt": self.prompt,
            "compute": self.compute,
        }


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 5e-4 is a number, and a key stands once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)

RunType = TypeVar("RunType", bound=Run)


def load_study(path: str | Path, root: str | Path = ".") -> Study:
    """Read a study.

    Args:
        path: the YAML file.
        root: what relative paths of checkpoints and data files in it are relative to (the repository).

    Raises:
        ValueError: with one line a mistake: the file, the key's path, the value and what is allowed.
    """
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    study = _validated(Study, raw, str(path))
    mistakes: list[str] = []

    def found(folder: str, key: str) -> str:
        """Where a folder that the file names is, seen from the working directory."""
        if folder in study.download:
            return f"{_DOWNLOADS}/{folder}"
        if not Path(root, folder).is_dir():
            names = ", ".join(study.download) or "none"
            mistakes.append(f"{path}: {key}: {folder!r} is neither a name under download ({names}) nor a folder")
        return os.path.relpath(Path(root, folder))

    base = {
        name: base.model_copy(update={"path": found(base.path, f"base.{name}.path")})
        if isinstance(base, Checkpoint)
        else base
        for name, base in study.base.items()
    }
    data = {
        name: data.model_copy(update={"problems": _with_folders(data.problems, f"data.{name}.problems", found)})
        for name, data in study.data.items()
    }
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return study.model_copy(update={"base": base, "data": data})


def _with_folders(
    problems: GeneratedProblems | RealProblems, key: str, found: Callable[[str, str], str]
) -> GeneratedProblems | RealProblems:
    if isinstance(problems, GeneratedProblems):
        return problems
    return problems.model_copy(
        update={
            split: rows.model_copy(update={"folder": found(rows.folder, f"{key}.{split}.folder")})
            for split, rows in problems.splits.items()
        }
    )


def load_run(path: str | Path, kind: type[RunType]) -> RunType:
    """Read a `run.json`.

    Raises:
        ValueError: it is not the run of such a job.
    """
    return _validated(kind, json.loads(Path(path).read_text(encoding="utf-8")), str(path))


Model = TypeVar("Model", bound=Settings)


def _validated(kind: type[Model], raw: Any, name: str) -> Model:
    try:
        # By way of JSON, whose lists are tuples too even where nothing else is converted.
        return kind.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        mistakes = error.errors()
        # Items that were refused are not also missing.
        refused = {mistake["loc"][:-1] for mistake in mistakes}
        told = [m for m in mistakes if not (m["type"] == "too_short" and m["loc"] in refused)]
        raise ValueError("\n".join(f"{name}: {_explained(kind, mistake)}" for mistake in told)) from None


def _explained(kind: type[Settings], mistake: Any) -> str:
    """One mistake in a line: path, what is wrong, what is allowed."""
    place, found = _walk(kind, mistake["loc"])
    path = ".".join(place)
    if mistake["type"] == "extra_forbidden":
        _, section = _walk(kind, mistake["loc"][:-1])
        allowed = list(section.model_fields)
        close = difflib.get_close_matches(place[-1], allowed, n=1)
        return f"{path}: unknown key{f', did you mean {close[0]!r}?' if close else ''} (allowed: {', '.join(allowed)})"
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if mistake["type"] == "too_short":
        message = f"should have at least {mistake['ctx']['min_length']} item"
    if mistake["type"].startswith("union_tag"):
        context = mistake["ctx"]
        said = "missing" if "tag" not in context else f"{context['tag']!r} is not known"
        return f"{path}.{context['discriminator'].strip(chr(39))}: {said} (allowed: {', '.join(tag for part in _parts(found) for tag in _tags(part))})"
    if mistake["type"] == "missing":
        return f"{path}: missing"
    if mistake["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message}, not {mistake['input']!r}"


def _walk(kind: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """A path as the file has it, and the type at its end.

    Where a section is of one of several classes, pydantic's location also says which, by the value of the key that
    tells them apart.
    """
    path: list[str] = []
    for key in location:
        if chosen := [part for part in _parts(kind) if key in _tags(part)]:
            kind = chosen[0]
            continue
        path.append(str(key))
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            kind = kind.model_fields[key].annotation if key in getattr(kind, "model_fields", {}) else None
    return path, kind


def _parts(annotation: Any) -> list[Any]:
    """The classes that a section may be of, where there are several."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    return list(get_args(annotation)) if isinstance(annotation, UnionType) else []


def _tags(kind: Any) -> tuple[str, ...]:
    fields = getattr(kind, "model_fields", {})
    return tuple(tag for key in ("source", "reader") if key in fields for tag in get_args(fields[key].annotation))

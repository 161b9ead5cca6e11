"""The study as one typed file, and the settings of each of its runs. Nothing else in the project reads YAML.

`load_study` turns `config/<study>.yaml` into a frozen `Study`, or stops with every mistake named by its key's path.
A `Study` hands each job a `Run`: the settings that this job depends on and no others, written to its `run.json`, so
that a changed setting reruns what it touches and nothing else. Relative paths are relative to the working directory.
"""

import difflib
import json
import os
import re
from collections.abc import Iterable
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


class Settings(BaseModel):
    """Frozen; unknown keys are errors; no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# --- data ------------------------------------------------------------------------------------------------------------


class GeneratedData(Settings):
    """Generated geometry problems (`stages.data.geometry`).

    Attributes:
        mode: where the numbers stand: in the question too (text-dominant), or in the figure alone (vision-dominant).
        train, validation, test: number of problems of each split.
        epochs: times SFT and RL go through train.
    """

    source: Literal["generated"]
    mode: Literal["text", "vision"]
    seed: Natural
    train: Count
    validation: Count
    test: Count
    epochs: Count


class JsonlData(Settings):
    """Problems of somebody else's in the paper's JSONL record: question, answer, solution, id, image.

    Attributes:
        train, validation, test: JSONL files; image paths in them are relative to the file.
        epochs: times SFT and RL go through train.
    """

    source: Literal["jsonl"]
    train: str
    validation: str
    test: str
    epochs: Count


Data = Annotated[GeneratedData | JsonlData, Field(discriminator="source")]

# --- base models -----------------------------------------------------------------------------------------------------


class Checkpoint(Settings):
    """A base model that exists: a folder as `save_pretrained` writes it."""

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


class DataRun(Run):
    dataset: Name
    settings: Data


class PretrainRun(Run):
    model: Name
    settings: Recipe
    compute: Compute


class BaseRun(Run):
    """Attributes: checkpoint: the folder to check and bring to its place."""

    model: Name
    checkpoint: str


class ModelRun(Run):
    """A run of one model on one data set.

    Attributes:
        base: folder of the base model.
        data: folder of the prepared data set.
    """

    model: Name
    dataset: Name
    method: Name
    seed: Natural
    base: str
    data: str
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
    settings: RL


class EvaluateRun(ModelRun):
    """Attributes: weights: file of trained weights by epoch; without one (epoch 0) the base as it is."""

    weights: dict[str, str]
    settings: Evaluate


class ScoresRun(Run):
    """What is scored, in the order of tables and figures.

    Attributes:
        trained, evaluated: the folders whose responses are scored.
        samples: responses to each problem, by generation setting.
        order: the generation settings.
    """

    trained: tuple[str, ...]
    evaluated: tuple[str, ...]
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
    data: dict[Name, Data]
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
        data = self.data[dataset]
        if isinstance(data, GeneratedData) and data.train < batch:
            raise ValueError(f"{method}.batch_size: {batch} problems, but data.{dataset}.train has {data.train}")

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
        data = self.data[dataset]
        if isinstance(data, GeneratedData):
            return []
        return sorted({path.split("[")[0] for path in (data.train, data.validation, data.test)})

    # the runs

    def data_run(self, dataset: str) -> DataRun:
        return DataRun(out=f"results/data/{dataset}", dataset=dataset, settings=self.data[dataset])

    def pretrain_run(self, model: str) -> PretrainRun:
        recipe = self.base[model]
        if not isinstance(recipe, Recipe):
            raise ValueError(f"base.{model}: a checkpoint, so there is nothing to pre-train")
        return PretrainRun(out=f"results/pretrain/{model}", model=model, settings=recipe, compute=self.compute)

    def base_run(self, model: str) -> BaseRun:
        base = self.base[model]
        path = base.path if isinstance(base, Checkpoint) else f"results/pretrain/{model}"
        return BaseRun(out=f"results/base/{model}", model=model, checkpoint=path)

    def sft_run(self, model: str, dataset: str, method: str, seed: int) -> SFTRun:
        return SFTRun(**self._train_run("sft", model, dataset, method, seed), settings=self.sft[method])

    def rl_run(self, model: str, dataset: str, method: str, seed: int) -> RLRun:
        return RLRun(**self._train_run("rl", model, dataset, method, seed), settings=self.rl[method])

    def evaluate_run(self, model: str, dataset: str, method: str, seed: int) -> EvaluateRun:
        kind = self.kind(method)
        epochs = () if kind == "vanilla" else self.save_epochs(dataset)
        folder = f"results/{kind}/{model}/{dataset}/{method}/seed{seed}"
        return EvaluateRun(
            **self._model_run("evaluate", model, dataset, method, seed),
            weights={str(epoch): f"{folder}/weights/epoch{epoch}.safetensors" for epoch in epochs},
            settings=self.evaluate,
        )

    def scores_run(self) -> ScoresRun:
        return ScoresRun(
            out="results/scores",
            trained=tuple(f"results/rl/{cell}" for cell in self.cells(["rl"])),
            evaluated=tuple(f"results/evaluate/{cell}" for cell in self.cells(["vanilla", "sft", "rl"])),
            samples={name: setting.samples for name, setting in self.evaluate.settings.items()},
            order=tuple(self.evaluate.settings),
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
            "base": f"results/base/{model}",
            "data": f"results/data/{dataset}",
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
    return study.model_copy(
        update={
            "base": {name: _from(root, base, "path") for name, base in study.base.items()},
            "data": {name: _from(root, data, "train", "validation", "test") for name, data in study.data.items()},
        }
    )


def load_run(path: str | Path, kind: type[RunType]) -> RunType:
    """Read a `run.json`.

    Raises:
        ValueError: it is not the run of such a job.
    """
    return _validated(kind, json.loads(Path(path).read_text(encoding="utf-8")), str(path))


def _from(root: str | Path, settings: Any, *keys: str) -> Any:
    """The same settings, paths relative to `root` made relative to the working directory."""
    paths = {key: getattr(settings, key, None) for key in keys}
    return settings.model_copy(
        update={key: os.path.relpath(Path(root, path)) for key, path in paths.items() if isinstance(path, str)}
    )


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
    place, source = list(mistake["loc"]), ""
    if place[:1] in (["data"], ["base"]) and len(place) > 2:
        source = place.pop(2)  # which source was chosen: in pydantic's path, but not in the file's
    path = ".".join(map(str, place))
    if mistake["type"] == "extra_forbidden":
        allowed = _keys(kind, place[:-1], source)
        close = difflib.get_close_matches(str(place[-1]), allowed, n=1)
        return f"{path}: unknown key{f', did you mean {close[0]!r}?' if close else ''} (allowed: {', '.join(allowed)})"
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if mistake["type"] == "too_short":
        message = f"should have at least {mistake['ctx']['min_length']} item"
    if mistake["type"] == "missing":
        return f"{path}: missing"
    if mistake["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message}, not {mistake['input']!r}"


def _keys(kind: Any, place: list[Any], source: str) -> list[str]:
    """The keys that are allowed at a place of a settings tree; where sources differ in theirs, those of `source`."""
    found: list[Any] = [kind]
    for key in place:
        # A section is a settings class or a dict of them by name.
        annotations = [get_args(k)[1] if get_origin(k) is dict else _annotation(k, key) for k in found]
        found = [part for annotation in annotations for part in _parts(annotation)]
    sections = [k for k in found if get_origin(k) is not dict]
    chosen = [k for k in sections if len(sections) == 1 or source in get_args(_annotation(k, "source"))]
    return [key for k in chosen for key in k.model_fields]


def _annotation(kind: type[Settings], key: Any) -> Any:
    field = kind.model_fields.get(key)
    return field.annotation if field else None


def _parts(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if isinstance(annotation, UnionType):
        return list(get_args(annotation))
    return [] if annotation is None else [annotation]

"""The sections of a study file: what may stand in it, and what each key means."""

import glob
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
SettingName = Annotated[str, Field(pattern=r"^[^|/\\]+$")]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """Frozen; unknown keys are errors; no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# --- downloads -------------------------------------------------------------------------------------------------------


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

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return re.fullmatch("[0-9a-f]{40}", self.revision) is not None


# --- data ------------------------------------------------------------------------------------------------------------


class JudgeRules(Settings):
    """When an answer is right (`stages.evaluation.answers`).

    Attributes:
        where: only the last \\boxed{} counts (box), or without one an <answer> tag or what the text ends with (text).
        form: only a plain number can be right (number), or whatever equals the problem's answer (expression).
        relative_tolerance: how far a number may be from the answer, as a share of the answer.
        decimals: a response may round: its number with at least so many decimals is right if the problem's answer,
            rounded to as many, is it. And where the problem's answer is itself a decimal, whatever is more exact and
            rounds to it is right. Without (null) neither is allowed for.
        percent: a percent sign is a unit, 12 % is 12 (unit), or divides, 12 % is 0.12 (hundredth).
    """

    where: Literal["box", "text"]
    form: Literal["number", "expression"]
    relative_tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
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
    """Rows of somebody else's, as a reader of `stages.data.readers` finds them; `patterns` are the files it reads.

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

    @property
    def patterns(self) -> tuple[str, ...]:
        return (f"data/{self.split}-*.parquet",)


class MMMathRows(Rows):
    """THU-KEG/MM_Math: a JSONL file and a zip of images; the answer is the last box of the solution."""

    reader: Literal["mm_math"]

    @property
    def patterns(self) -> tuple[str, ...]:
        return ("**/MM_Math.jsonl", "**/MM_Math.zip")


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

    @property
    def patterns(self) -> tuple[str, ...]:
        return ("**/testmini.parquet",)


class MAYERows(Rows):
    """ManTle/MAYE, the paper's own release: JSONL files of three splits for each of its data sets."""

    reader: Literal["maye"]
    dataset: Literal["mm_math", "geometry3k"]
    split: Literal["train", "validation", "test"]

    @property
    def patterns(self) -> tuple[str, ...]:
        tested = "math_verse" if self.dataset == "mm_math" else self.dataset
        names = {"train": f"{self.dataset}_rl", "validation": f"{self.dataset}_validation", "test": f"{tested}_test"}
        return (f"**/{self.dataset}/{names[self.split]}_v0.jsonl",)


class InterGPSRows(Rows):
    """Geometry3K as InterGPS released it: one folder a problem, with data.json and img_diagram.png."""

    reader: Literal["intergps"]

    @property
    def patterns(self) -> tuple[str, ...]:
        return ("*/data.json", "*/img_diagram.png")


class JsonlRows(Rows):
    """Problems in the paper's record: question, answer, solution, id, image.

    Attributes:
        file: in the folder; image paths in it are relative to it.
    """

    reader: Literal["jsonl"]
    file: Annotated[str, Field(pattern=r"^[^/]")]

    @property
    def patterns(self) -> tuple[str, ...]:
        return (glob.escape(self.file),)


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
    def splits(self) -> dict[Literal["train", "validation", "test"], AnyRows]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


Problems = Annotated[GeneratedProblems | RealProblems, Field(discriminator="source")]


class Data(Settings):
    """A data set.

    Attributes:
        epochs: times SFT and RL go through train.
    """

    epochs: Count
    judge: JudgeRules
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
    architecture: Literal["qwen3_vl", "qwen2_5_vl", "qwen2_vl"]
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


class LoRA(Settings):
    """Low-rank adapters instead of the weights themselves (Hu et al. 2021): A and B of W + alpha/r BA are trained.

    Attributes:
        rank: r.
        alpha: of the scale alpha/r.
        layers: linear layers of the language model that have one, by the name they have in every block.
    """

    rank: Count
    alpha: Positive
    layers: Annotated[
        tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...],
        Field(min_length=1),
    ]


class LearnerSettings(Settings):
    """What is trained, and how exactly it is kept.

    Attributes:
        dtype: of the trained weights and AdamW's moments. Passes compute in `compute.dtype`; with float32 here and
            bfloat16 there, small updates are not rounded away.
        lora: train adapters instead; the reference is then the base with its adapters off. None: all weights.
    """

    dtype: Literal["float32", "bfloat16"]
    lora: LoRA | None


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
        importance_cap: truncated importance sampling (Yao et al. 2025): a token's loss is weighted by how much likelier
            the learner finds it than the sampler did, at most by so much. None: not at all, as in the paper.
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
    importance_cap: Annotated[float, Field(ge=1)] | None
    sampling: Sampling
    rewards: Rewards

    @property
    def responses(self) -> int:
        """Responses of a generation step."""
        return self.batch_size * self.group_size

    @property
    def updates(self) -> int:
        """Optimiser steps of a generation step."""
        return self.ppo_epochs * (self.responses // self.ppo_batch_size)

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


Engine = Literal["native", "vllm"]


class CollectorSettings(Settings):
    """Who samples responses, in RL and in evaluation.

    Attributes:
        engine: transformers, in process (native); or vLLM, one engine in each process, which takes over the policy's
            weights at every step.
        largest_gap: between the log-probabilities that sampler and learner give a token, in nats, mean of a generation
            step; beyond it a training stops, because it would no longer learn from what its policy said.
    """

    engine: Engine
    largest_gap: Positive


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


class Statistics(Settings):
    """How uncertain numbers are said to be (docs/statistics.md).

    Attributes:
        confidence: of every interval.
        power: of the smallest difference that is said to be detectable.
        replicates: bootstrap samples.
        seed: of the bootstrap.
    """

    confidence: OpenShare
    power: OpenShare
    replicates: Annotated[int, Field(ge=100)]
    seed: Natural


class Hypothesis(Settings):
    """A claim with its test, to be declared before its verdict is known.

    Supported if the effect lies beyond the threshold in the direction that is claimed, contradicted if it lies on the
    other side, and undecided where chance could explain the distance: where p, corrected by Holm for all claims, is
    not below 1 - confidence.

    Attributes:
        claim: in words.
        source: where it is made.
    """

    claim: str
    source: str
    direction: Literal["above", "below"]
    threshold: Finite


class DifferenceTest(Hypothesis):
    """Effect: accuracy of one kind of method minus that of another, on the same problems.

    Attributes:
        epoch: the last, the mean over the evaluated ones, or the one that is best on validation.
        settings: the mean over generation settings (together), or each by itself, and all must agree (each).
    """

    test: Literal["difference"]
    method: Literal["sft", "rl"]
    over: Literal["vanilla", "sft"]
    split: Literal["validation", "test"]
    epoch: Literal["final", "mean", "best"]
    settings: Literal["together", "each"]


class TrendTest(Hypothesis):
    """Effect: by how much the difference between two methods grows from the first evaluated epoch to the last.

    It is the least-squares slope of the difference, times the epochs between the two.
    """

    test: Literal["trend"]
    method: Literal["rl"]
    over: Literal["sft"]
    split: Literal["validation", "test"]


class SeedVarianceTest(Hypothesis):
    """Effect: variance of response length between seeds, as a multiple of that within a seed, from step to step."""

    test: Literal["seed_variance"]


class CorrelationTest(Hypothesis):
    """Effect: correlation of reflection ratio and response length over a run's generation steps, mean over runs."""

    test: Literal["correlation"]


class ReflectionShareTest(Hypothesis):
    """Effect: share of the training responses with a reflection word, mean over runs."""

    test: Literal["reflection_share"]


class GainTest(Hypothesis):
    """Effect: rise of training accuracy through responses without a reflection word, minus that through those with one.

    Both are shares of all responses, of a run's last epoch minus its first.
    """

    test: Literal["gain_without_reflection"]


Hypotheses = Annotated[
    DifferenceTest | TrendTest | SeedVarianceTest | CorrelationTest | ReflectionShareTest | GainTest,
    Field(discriminator="test"),
]


class Health(Settings):
    """Bounds of a sound RL training; what lies outside is marked, and nothing is stopped.

    Attributes:
        first_ratio: how far the mean ratio of a generation step's first update may be from 1.
        sampler_gap, sampler_gap_max: between the sampler's and the learner's log-probabilities, mean and largest, nats.
        sampler_outside: share of tokens whose probability is, by the learner, less than 0.8 or more than 1.25 times the
            sampler's, mean of a generation step.
        kl: k3 estimate of the distance to the reference, nats a token, mean of a generation step.
        clip_fraction: of an update.
        entropy_left: the least that may be left at the end of the entropy at the beginning, as a share.
        truncated: share of a generation step's responses that is cut off.
        timed_out: share of all responses on which the judge ran out of time.
        rewarded_otherwise: share of all responses whose reward is not what the judge says now.
    """

    first_ratio: NonNegative
    sampler_gap: NonNegative
    sampler_gap_max: NonNegative
    sampler_outside: Share
    kl: NonNegative
    clip_fraction: Share
    entropy_left: Share
    truncated: Share
    timed_out: Share
    rewarded_otherwise: Share


class Scores(Settings):
    """The evaluation scheme: what is computed from the responses, and what is asked of it (`config/scores.yaml`).

    Attributes:
        reflection_words: words that mark a response as reflective (Sec. 4).
        whole_words: figures and findings are about whole words; otherwise any substring, as the released code does.
            The tables have both.
        gallery: responses that are kept of each kind of changed answer, for each method.
        findings: by their short name.
    """

    reflection_words: Annotated[tuple[str, ...], Field(min_length=1)]
    whole_words: bool
    gallery: Natural
    statistics: Statistics
    findings: dict[Name, Hypotheses]
    health: Health


# --- the study -------------------------------------------------------------------------------------------------------


class Kept(Settings):
    """The epochs whose trained weights are kept once they are evaluated; without one of these, none is.

    Attributes:
        every: every n-th epoch of those evaluated; None for no such epochs.
        best: the one of the highest accuracy in validation.
        last: the last one.
    """

    every: Count | None
    best: bool
    last: bool


class Grid(Settings):
    """Which runs there are: every model with every data set, method and seed.

    Attributes:
        name: printed on the report.
        methods: names from the sections `sft` and `rl`, and `vanilla` for the base model as it is.
        skip: dataset/method pairs that are left out, as SFT where there are no solutions.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        keep_weights: which of the trained weights are kept.
    """

    name: Name
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    methods: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Natural, ...], Field(min_length=1)]
    skip: tuple[str, ...]
    evaluate_every: Count
    keep_weights: Kept


class Compute(Settings):
    """Where training and evaluation run.

    Attributes:
        threads: of each job. Two jobs of one thread are faster than one of two.
    """

    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    threads: Count


class Job(Settings):
    """What a job asks of a scheduler.

    Attributes:
        memory_mb: on each node.
        minutes: after which a scheduler may stop it.
    """

    memory_mb: Count
    minutes: Count


class TrainingJob(Job):
    """What a training asks of a scheduler, and what it does in case it is stopped.

    Attributes:
        nodes: machines.
        processes: of all nodes together; with `compute.device: cuda` each has a GPU of its own.
        sharded: each process holds a part of weights and optimiser (FSDP2); otherwise each holds all of them (DDP).
        save_every: steps after which the state is saved, besides at the end of every epoch.
    """

    nodes: Count
    processes: Count
    sharded: bool
    save_every: Count

    @model_validator(mode="after")
    def _whole_nodes(self) -> Self:
        _must_divide(self, "nodes", "processes")
        return self


class Memory(Settings):
    """How training and evaluation live within their memory (`stages.model.memory` says whether they will).

    Attributes:
        gpu_mb: what a job may take of one GPU, for the check before anything runs; without one it is not checked.
        activation_checkpointing: keep each block's input only, and compute the rest again for the gradient.
        offload_reference: the reference model waits in the host's memory until it is asked.
        kv_cache_mb: of a vLLM sampler, on each process.
        feature_memory_mb, feature_disk_mb: of the pictures' features that are kept, each process its own in the host's
            memory, all of them one folder on the disk (0: none there).
    """

    gpu_mb: Count | None
    activation_checkpointing: bool
    offload_reference: bool
    kv_cache_mb: Count
    feature_memory_mb: Natural
    feature_disk_mb: Natural


class Resources(Settings):
    """What schedulers are told. No result depends on it, but for the rounding of sums over several processes.

    Attributes:
        memory: of every training and evaluation.
        other: every job that neither trains nor evaluates.
    """

    memory: Memory

    sft: TrainingJob
    rl: TrainingJob
    evaluate: Job
    other: Job

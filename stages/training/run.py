"""What the trainers of SFT and RL begin with."""

import argparse
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.config import Memory, Optimizer, TrainRun
from stages.data.problem import Problem, read_problems
from stages.model.context import check_responses, check_solutions
from stages.model.features import FeatureLimits
from stages.model.lora import add_adapters
from stages.model.vlm import VLM, load
from stages.seeds import seed_of
from stages.training.job import Job, job
from stages.training.learner import Learner


@dataclass(frozen=True)
class Means:
    """How a training or an evaluation goes about it; no result depends on it (`Resources` of the study).

    Attributes:
        sharded: of several processes, each holds a part of the weights (FSDP2).
        save_every: steps between saved states.
        activation_checkpointing: keep each block's input only, and compute the rest again for the gradient.
        offload_reference: the reference model waits in the host's memory.
        kv_cache_mb: of a vLLM sampler.
        feature_memory_mb, feature_disk_mb: of the pictures' features that are kept.
        largest_gap: nats between sampler and learner, beyond which a training stops.
    """

    sharded: bool = False
    save_every: int = 50
    activation_checkpointing: bool = False
    offload_reference: bool = False
    kv_cache_mb: int = 500
    feature_memory_mb: int = 2000
    feature_disk_mb: int = 0
    largest_gap: float = 0.1

    @property
    def memory(self) -> Memory:
        """As the study has it, but for the size of the GPU, which a job need not be told."""
        asked = {name: value for name, value in dataclasses.asdict(self).items() if name in Memory.model_fields}
        return Memory(gpu_mb=None, **asked)

    @property
    def features(self) -> FeatureLimits:
        """How many features are kept, on the disk in a folder of the working directory."""
        return FeatureLimits(self.feature_memory_mb, self.feature_disk_mb, Path("features"))


MEANS = Means()


@contextmanager
def training(
    run: TrainRun, module: str, new_tokens: int | None, means: Means
) -> Iterator[tuple[list[Problem], VLM, Job]]:
    """The train problems, the base model, and the job.

    Args:
        run: the run.
        module: the stage.
        new_tokens: of the longest response that it draws; None if it learns from solutions.
        means: how.
    """
    problems = Path(run.data, "train.jsonl")
    inputs = [problems, Path(run.base).with_name("base.json")]
    with job(run, module, inputs, means.memory, sharded=means.sharded, save_every=means.save_every) as of_run:
        if new_tokens is None:
            check_solutions(run.preflight)
        else:
            check_responses(run.preflight, ["train"], new_tokens)
        yield read_problems(problems), load(Path(run.base), run.compute, run.prompt, means.features), of_run


def keeps_other_weights(run: TrainRun, job: Job) -> bool:
    """Whether the native sampler cannot use the learner's weights: they are in parts, or of another type."""
    return run.learner.lora is None and (job.world.sharded or run.learner.dtype != run.compute.dtype)


def learner_of(run: TrainRun, vlm: VLM, optimizer: Optimizer, total_steps: int, job: Job, means: Means) -> Learner:
    """The policy as the run's `learner` wants it: all weights, or adapters."""
    dtype = getattr(torch, run.learner.dtype)
    if means.activation_checkpointing:
        vlm.model.gradient_checkpointing_enable({"use_reentrant": False})
    if run.learner.lora:
        add_adapters(vlm.model, run.learner.lora, dtype, seed_of("adapters", run.seed))
        return Learner(vlm.model, optimizer, total_steps, job.world)
    return Learner(vlm.model, optimizer, total_steps, job.world, kept_in=dtype)


def arguments() -> tuple[str, Means]:
    """Read a stage's command line: `RUN.json`, and a flag for each of `Means`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="run.json")
    for field in dataclasses.fields(Means):
        flag, default = f"--{field.name.replace('_', '-')}", getattr(MEANS, field.name)
        parse = float if isinstance(default, float) else int
        parser.add_argument(flag, type=parse, default=parse(default), help=f"default: {parse(default)}")
    found = vars(parser.parse_args())
    return found.pop("run"), Means(**{name: type(getattr(MEANS, name))(value) for name, value in found.items()})

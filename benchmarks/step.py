"""A generation step of RL by the loop's own functions, on a random model, for benchmarks that look at its phases.

`benchmarks.memory` builds the model and the problems. No response ends by itself, so that lengths are what is asked.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import ADAMW, Case
from stages.config import RL, Compute, PromptSettings, Rewards, Sampling
from stages.data.problem import Problem, read_problems
from stages.evaluation.answers import Verdict
from stages.model.architecture import Architecture, read_architecture
from stages.model.compute import set_up
from stages.model.features import IN_MEMORY
from stages.model.logprobs import Scorer
from stages.model.vlm import load
from stages.provenance import hardware, package_versions
from stages.rl.data_flow import Queries, make_queries
from stages.rl.policy_update import update_policy
from stages.rl.reference import Copy
from stages.rl.response_collection import NativeCollector
from stages.rl.trajectory_generation import fresh_rows, make_trajectory
from stages.training.learner import Learner
from stages.training.world import World

PHASES = ("looking", "sampling", "log-probabilities", "update")
Around = Callable[[str], AbstractContextManager[Any]]


def method_of(problems: int, group_size: int, new_tokens: int, pass_rows: int = 8, updates: int = 1) -> RL:
    """The settings of a step.

    Args:
        problems: of it.
        group_size: responses to each.
        new_tokens: of each.
        pass_rows: responses of a forward or backward pass, at most as many as an update has.
        updates: optimiser steps; one alone is of the policy that answered.
    """
    of_update = problems * group_size // updates
    rows = min(pass_rows, of_update)
    return RL(
        algorithm="grpo" if group_size > 1 else "reinforce_plus_plus",
        optimizer=ADAMW,
        batch_size=problems,
        group_size=group_size,
        forward_batch_size=rows,
        ppo_batch_size=of_update,
        ppo_backward_batch_size=rows,
        ppo_epochs=1,
        epsilon=0.2,
        gamma=1.0,
        beta_rew=0.0,
        beta_loss=0.01,
        advantage_norm=True,
        loss_average="response",
        importance_cap=None,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=new_tokens),
        rewards=Rewards(accuracy=1.0, language=1.0),
    )


class Clock:
    """The seconds of each phase, and those of CPU time: fewer where the machine is busy with something else."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start, used = time.perf_counter(), time.process_time()
        yield
        self.seconds[phase], self.cpu[phase] = time.perf_counter() - start, time.process_time() - used


class Loop:
    """All parts of the loop, in one process, in float32.

    Args:
        folder: of a case that `benchmarks.memory.build` has built.
        pixels: of every picture.
        keeps: what was made of pictures is kept, or else they are looked at in every step.
    """

    def __init__(self, folder: Path, pixels: int, *, keeps: bool = True) -> None:
        compute = Compute(device="cpu", dtype="float32", threads=1)
        set_up(compute)
        prompt = PromptSettings(instruction="", min_pixels=pixels, max_pixels=pixels)
        checkpoint = folder / "base/checkpoint"
        self.config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
        limits = IN_MEMORY if keeps else dataclasses.replace(IN_MEMORY, memory_mb=0)
        self.vlm = load(checkpoint, compute, prompt, limits)
        self.problems = read_problems(folder / "train.jsonl")
        self.reference = Copy(Scorer(self.vlm.model), World(), offload=False)
        self.learner = Learner(self.vlm.model, ADAMW, 1000, World())
        self.collector = NativeCollector(self.vlm, shared=True)

    @cached_property
    def architecture(self) -> Architecture:
        return read_architecture(self.config)

    def step(self, problems: Sequence[Problem], method: RL, around: Around) -> Queries:
        """Steps I to IV, each within what `around` gives for its name."""
        world = World()
        with around("looking"):
            queries = make_queries([*problems], self.vlm, method.group_size)
        with around("sampling"):
            responses = self.collector.collect(queries, [method.sampling] * len(queries), range(len(queries)))
        with around("log-probabilities"):
            base, fresh = self.reference.scoring(), fresh_rows(method, world.size)
            trajectory = make_trajectory(queries, responses, self.learner.policy, base, method, unjudged, fresh)
        with around("update"):
            update_policy(self.learner, trajectory, method, world.share(len(queries), block=method.ppo_batch_size))
        return queries

    def timed(self, problems: Sequence[Problem], method: RL) -> Clock:
        """A step, and how long it took."""
        clock = Clock()
        self.step(problems, method, clock)
        return clock


def unjudged(texts: list[str], answers: list[str]) -> list[Verdict]:
    """Every response is wrong: what it costs to say so is another benchmark's question."""
    return [Verdict("incorrect", None, answer) for answer in answers]


def case_of(size: str, problems: int, pixels: int) -> Case:
    """What `benchmarks.memory.build` takes for at least so many problems."""
    return Case(size, rows=(problems + 1) // 2, update=1, micro=1, pixels=pixels)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return hardware() | package_versions("torch", "transformers") | {"threads": torch.get_num_threads()}

"""A generation step of RL by the loop's own functions, on a random model, for benchmarks that look at its phases.

`benchmarks.models` builds the model and the problems. No response ends by itself, so that lengths are what is asked.
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

from benchmarks.runs import ADAMW, COMPUTE, prompt_of, unjudged
from stages.config import RL
from stages.data.problem import Problem, read_problems
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
        folder: that `benchmarks.models.build` has written.
        pixels: of every picture.
        keeps: what was made of pictures is kept, or else they are looked at in every step.
    """

    def __init__(self, folder: Path, pixels: int, *, keeps: bool = True) -> None:
        set_up(COMPUTE)
        checkpoint = folder / "base/checkpoint"
        self.config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
        limits = IN_MEMORY if keeps else dataclasses.replace(IN_MEMORY, memory_mb=0)
        self.vlm = load(checkpoint, COMPUTE, prompt_of(pixels), limits)
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


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return hardware() | package_versions("torch", "transformers") | {"threads": torch.get_num_threads()}

"""What the trainers of SFT and RL begin with."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.config import TrainRun
from stages.data.problem import Problem, read_problems
from stages.model.context import check_responses, check_solutions
from stages.model.vlm import VLM, load
from stages.training.job import Job, job


@contextmanager
def training(
    run: TrainRun, module: str, new_tokens: int | None, *, sharded: bool, save_every: int
) -> Iterator[tuple[list[Problem], VLM, Job]]:
    """The train problems, the base model, and the job.

    Args:
        run: the run.
        module: the stage.
        new_tokens: of the longest response that it draws; None if it learns from solutions.
        sharded: cut the weights into parts where there are several processes.
        save_every: steps between saved states.
    """
    problems = Path(run.data, "train.jsonl")
    inputs = [problems, Path(run.base).with_name("base.json")]
    with job(run, module, inputs, sharded=sharded, save_every=save_every) as of_run:
        if new_tokens is None:
            check_solutions(run.preflight)
        else:
            check_responses(run.preflight, ["train"], new_tokens)
        yield read_problems(problems), load(Path(run.base), run.compute, run.prompt), of_run


@dataclass(frozen=True)
class Arguments:
    """A trainer's command line: the run, and what no result depends on."""

    run: str
    sharded: bool
    save_every: int


def arguments() -> Arguments:
    """Read `RUN.json [--sharded 1] [--save-every STEPS]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="run.json")
    parser.add_argument("--sharded", type=int, choices=(0, 1), default=0, help="cut weights into parts (FSDP2)")
    parser.add_argument("--save-every", type=int, default=50, help="steps between saved states (default: 50)")
    found = parser.parse_args()
    return Arguments(found.run, bool(found.sharded), found.save_every)

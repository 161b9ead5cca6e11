"""How far a finished study is from what the machine can do: `python benchmarks/study_limit.py FOLDER [--cores 2]`.

FOLDER is where it was run. Counted is what its trainings and evaluations needed by their records, as
`benchmarks/flops.py` counts: a prompt is read once for all its responses, a token once. Prompts are taken to be as long
as the median of their split, solutions as their mean; looking at pictures, judging and figures are left out. The limit
is that, over the rate of products of matrices that one core has now; beside it, what Snakemake's `benchmark:` measured
then.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import flops
from benchmarks.common import positive
from benchmarks.limit import matrix_rate
from benchmarks.study import measured
from stages.model.architecture import Architecture, read_architecture

RULES = ("rl", "sft", "evaluate")
READ = ("split", "epoch", "generation_step", "problem")  # a prompt is read once for each of these
LEARNING = 3  # passes of an update: one forward, twice that backward
TOKENS = 2048  # of a product whose rate is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the study")
    parser.add_argument("--cores", type=positive, default=2, help="that shared the work")
    given = parser.parse_args()
    try:
        took, jobs = measured(given.folder), list(jobs_of(given.folder))
    except ValueError as mistake:
        parser.error(str(mistake))
    for rule in RULES:
        count, times = sum(job.rule == rule for job in jobs), int((took["rule"] == rule).sum())
        if count != times:
            parser.error(
                f"{given.folder}: results/{rule} has {count} jobs, logs/benchmarks/{rule} the seconds of {times}"
            )
    torch.set_num_threads(1)
    took = took.groupby("rule")["s"].sum()
    limits: dict[str, float] = defaultdict(float)
    rate = cache(lambda of: matrix_rate(of, TOKENS))
    for job in jobs:
        limits[job.rule] += job.operations() / rate(job.of)
    print(f"{'':10} {'limit, s':>10} {'took, s':>10} {'limit / took':>14}")
    for rule, limit in {**limits, "all jobs": sum(limits.values())}.items():
        seconds = took.sum() if rule == "all jobs" else took[rule]
        print(f"{rule:10} {limit:10.0f} {seconds:10.0f} {limit / seconds:14.2f}")
    minutes = sum(limits.values()) / 60, took.sum() / 60
    print(f"on {given.cores} cores: {minutes[0] / given.cores:.1f} minutes of {minutes[1] / given.cores:.1f}")


@dataclass(frozen=True)
class Job:
    """A training or an evaluation.

    Attributes:
        rule: rl, sft or evaluate.
        folder: its results.
        run: its settings.
        of: its model.
        prompts: median of tokens by split.
    """

    rule: str
    folder: Path
    run: dict[str, Any]
    of: Architecture
    prompts: dict[str, int]

    def operations(self) -> float:
        """That it needed."""
        if self.rule == "sft":
            return LEARNING * self._solutions()
        return (passes(self.run["settings"]) if self.rule == "rl" else 1) * self._responses()

    def _responses(self) -> float:
        """Of a forward pass over all prompts and responses."""
        lengths: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for row in rows(self.folder / "responses.jsonl"):
            lengths[tuple(row[key] for key in READ)].append(row["length"])
        return sum(forward(self.of, self.prompts[read[0]], siblings) for read, siblings in lengths.items())

    def _solutions(self) -> float:
        """Of a forward pass over all prompts and solutions."""
        updates = list(rows(self.folder / "updates.jsonl"))
        solutions = len(updates) * self.run["settings"]["batch_size"]
        length = round(sum(update["tokens"] for update in updates) / solutions)
        return solutions * forward(self.of, self.prompts["train"], [length])


def jobs_of(study: Path) -> Iterator[Job]:
    """The trainings and evaluations of a study."""
    for rule in RULES:
        for path in sorted(study.glob(f"results/{rule}/*/*/*/*/run.json")):
            run = json.loads(path.read_text())
            preflight = json.loads((study / run["preflight"] / "preflight.json").read_text())
            prompts = {split: tokens["median"] for split, tokens in preflight["prompt_tokens"].items()}
            yield Job(rule, path.parent, run, architecture(study / run["base"]), prompts)


@cache
def architecture(checkpoint: Path) -> Architecture:
    return read_architecture(json.loads((checkpoint / "config.json").read_text()))


def passes(method: dict[str, Any]) -> float:
    """Of RL over each response: sampled, scored by the reference, and by the policy for later updates; learnt from."""
    first = method["ppo_batch_size"] / (method["batch_size"] * method["group_size"])
    return 1 + 1 + (1 - first) + LEARNING * method["ppo_epochs"]


def forward(of: Architecture, prompt: int, responses: list[int]) -> float:
    """Operations of a forward pass over a prompt and its responses, of so many tokens."""
    again = (len(responses) - 1) * _alone(of, prompt, 1)
    return sum(_alone(of, prompt, response) for response in responses) - again


@cache
def _alone(of: Architecture, prompt: int, response: int) -> float:
    return flops.forward(of, flops.Batch((prompt,), 1, response)).total


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()

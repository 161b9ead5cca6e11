"""How far a finished study is from what the machine can do: `python benchmarks/study_limit.py FOLDER [--cores 2]`.

FOLDER is where it was run. Counted is what its trainings and evaluations needed by their records, as
`benchmarks/flops.py` counts: every prompt is read once for all its responses, every token once, an update has three
passes and RL one of the reference. Prompts are taken to be as long as the median. The limit is that, over the rate of
products of matrices that one core has now; beside it, what Snakemake's `benchmark:` measured then.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import flops
from benchmarks.limit import matrix_rate
from benchmarks.study import measured
from stages.model.architecture import Architecture, read_architecture

ASKED = ("split", "epoch", "generation_step", "problem")  # a prompt of an evaluation is read once for each of these
TOKENS = 2048  # of a product whose rate is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the study")
    parser.add_argument("--cores", type=int, default=2, help="that shared the work")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = given.folder / "results"
    took = measured(given.folder).groupby("rule")["s"].sum()
    needed: dict[str, float] = defaultdict(float)
    for rule, of, operations in jobs(results):
        needed[rule] += operations / matrix_rate(of, TOKENS)
    print(f"{'':10} {'limit, s':>10} {'took, s':>10} {'limit / took':>14}")
    for rule, limit in needed.items():
        print(f"{rule:10} {limit:10.0f} {took[rule]:10.0f} {limit / took[rule]:14.2f}")
    limit = sum(needed.values())
    print(f"{'all jobs':10} {limit:10.0f} {took.sum():10.0f} {limit / took.sum():14.2f}")
    print(f"on {given.cores} cores: {limit / given.cores / 60:.1f} minutes of {took.sum() / given.cores / 60:.1f}")


def jobs(results: Path) -> Iterator[tuple[str, Architecture, float]]:
    """Each training and evaluation: its rule, its model, and the operations that it needed."""
    for rule, operations in (("rl", of_rl), ("sft", of_sft), ("evaluate", of_evaluation)):
        for path in sorted(results.glob(f"{rule}/*/*/*/*/run.json")):
            run = json.loads(path.read_text())
            of = architecture(results.parent / run["base"])
            prompts = json.loads((results.parent / run["preflight"] / "preflight.json").read_text())["prompt_tokens"]
            yield rule, of, operations(path.parent, of, {split: found["median"] for split, found in prompts.items()})


@cache
def architecture(base: Path) -> Architecture:
    """Of a checkpoint."""
    return read_architecture(json.loads((base / "config.json").read_text()))


def of_rl(folder: Path, of: Architecture, prompts: dict[str, int]) -> float:
    """Sampled, scored by the reference, learnt from."""
    read = sum(answered(of, prompts["train"], lengths) for lengths in asked(folder))
    return read * (2 + 3)


def of_sft(folder: Path, of: Architecture, prompts: dict[str, int]) -> float:
    """Learnt from; all solutions are taken to be as long as their mean."""
    updates, run = list(rows(folder / "updates.jsonl")), json.loads((folder / "run.json").read_text())
    solutions = len(updates) * run["settings"]["batch_size"]
    length = round(sum(update["tokens"] for update in updates) / solutions)
    return 3 * solutions * answered(of, prompts["train"], [length])


def of_evaluation(folder: Path, of: Architecture, prompts: dict[str, int]) -> float:
    """Sampled."""
    prompt = sum(prompts.values()) // len(prompts)
    return sum(answered(of, prompt, lengths) for lengths in asked(folder))


def asked(folder: Path) -> Iterable[list[int]]:
    """Lengths of the responses to each prompt that was read."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row in rows(folder / "responses.jsonl"):
        found[tuple(row[key] for key in ASKED)].append(row["length"])
    return found.values()


def answered(of: Architecture, prompt: int, lengths: list[int]) -> float:
    """Operations of a pass over a prompt and its responses."""
    again = (len(lengths) - 1) * _alone(of, prompt, 1)
    return sum(_alone(of, prompt, length) for length in lengths) - again


@cache
def _alone(of: Architecture, prompt: int, length: int) -> float:
    return flops.forward(of, flops.Batch((prompt,), 1, length)).total


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()

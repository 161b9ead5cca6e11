"""What a study needed: a prompt once for its responses, passes by method."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import flops
from benchmarks.study_limit import Job, forward, jobs_of, passes
from stages.model.architecture import Architecture, read_architecture

CHECKPOINT = Path(__file__).parents[1] / "models/qwen2_5_vl_tiny"
# Two updates of 4 responses in each generation step.
RL: dict[str, Any] = {"batch_size": 4, "group_size": 2, "ppo_batch_size": 4, "ppo_epochs": 1}


@pytest.fixture
def of() -> Architecture:
    return read_architecture(json.loads((CHECKPOINT / "config.json").read_text()))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Prompts of 10 tokens in training, of 20 in a test."""
    tokens = {"prompt_tokens": {"train": {"median": 10}, "test": {"median": 20}}}
    (tmp_path / "preflight.json").write_text(json.dumps(tokens))
    return tmp_path


def job(study: Path, rule: str, file: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> Job:
    folder = study / "results" / rule / "model/data/method/seed0"
    folder.mkdir(parents=True)
    run = {"settings": settings, "base": str(CHECKPOINT), "preflight": "."}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = jobs_of(study)
    return found


def said(split: str, epoch: int, problem: str, length: int) -> dict[str, Any]:
    return {"split": split, "epoch": epoch, "generation_step": 0, "problem": problem, "length": length}


def test_a_prompt_is_read_once_for_its_responses(of: Architecture) -> None:
    assert forward(of, 10, [7, 7, 7]) == flops.forward(of, flops.Batch((10,), 3, 7)).total
    assert forward(of, 10, [7]) < forward(of, 10, [7, 7]) < 2 * forward(of, 10, [7])


def test_an_evaluation_is_read_once_for_each_epoch(study: Path, of: Architecture) -> None:
    rows = [said("test", 1, "a", 5), said("test", 1, "a", 5), said("test", 2, "a", 5)]
    found = job(study, "evaluate", "responses.jsonl", rows, {})
    assert found.operations() == pytest.approx(forward(of, 20, [5, 5]) + forward(of, 20, [5]))


def test_rl_has_five_and_a_half_passes_with_two_updates_a_step(study: Path, of: Architecture) -> None:
    """Sampling, reference, half of the responses again before the second update, and three of learning."""
    assert passes(RL) == 5.5
    found = job(study, "rl", "responses.jsonl", [said("train", 1, "a", 5), said("train", 1, "a", 5)], RL)
    assert found.operations() == pytest.approx(5.5 * forward(of, 10, [5, 5]))


def test_sft_has_three_passes_over_solutions(study: Path, of: Architecture) -> None:
    """Two updates of 4 solutions of 6 tokens."""
    found = job(study, "sft", "updates.jsonl", [{"tokens": 20}, {"tokens": 28}], {"batch_size": 4})
    assert found.operations() == pytest.approx(3 * 8 * forward(of, 10, [6]))

"""What a study means, counted by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.config import load_study
from workflow.plan import plan

NONE = {"every": None, "best": False, "last": False}
Write = Callable[[dict[str, Any]], Path]


def lines(raw: dict[str, Any], write_study: Write) -> list[str]:
    return plan(load_study(write_study(raw))).splitlines()


def test_runs_responses_steps_and_gigabytes_by_hand(
    raw_study: dict[str, Any], write_study: Write, tmp_path: Path
) -> None:
    """One model, two seeds; text: 16 train, 4 + 4 problems, epochs 2, 3 of 3; mine: 8 train, 2 + 10, epochs 2, 4."""
    raw_study["study"] |= {"models": ["given"], "methods": ["vanilla", "sft", "grpo"]}
    raw_study["data"]["mine"]["problems"]["validation"]["take"] = [0, 2]
    path = write_study(raw_study)
    (tmp_path / "models/given/model.safetensors").write_bytes(bytes(500_000_000))
    found = plan(load_study(path)).splitlines()
    assert found[0] == "Study example: 10 runs (4 vanilla, 2 sft, 4 rl); models: 1, data sets: 2, seeds: 2."
    # RL: text 3 epochs x 16/4 steps x 16 responses, mine 4 x 8/4 x 16, two seeds: 2 x (192 + 128).
    # Evaluation, one sample: vanilla 8 + 12, rl 2 x 8 + 2 x 12, sft 2 x 8, two seeds: 2 x (20 + 40 + 16).
    # Steps: rl 4 updates x (12 + 8), sft 3 x 16/8, two seeds: 2 x (80 + 6).
    assert found[1] == "Responses: 640 in RL training, 152 in evaluation. Optimiser steps: 172."
    assert found[2] == "Trained weights: 12 epochs, 6 GB."  # 2 seeds x 2 epochs x (2 rl + 1 sft), half a GB each
    assert found[3] == "Saved states, to resume from: up to 4.5 GB for each training at work."  # 3 x 3 x 0.5
    assert found[4] == "Downloads: repository: about 0.1 GB."
    assert found[5:] == ["Not counted, because it is not known yet: the memory of given."]


def test_what_is_not_known_is_said(raw_study: dict[str, Any], write_study: Write, tmp_path: Path) -> None:
    raw_study["study"] |= {"models": ["tiny"], "datasets": ["mine"], "skip": [], "keep_weights": NONE}
    raw_study["download"]["repository"]["revision"] = "main"
    found = lines(raw_study, write_study)
    assert found[2].endswith(", removed when their run is evaluated: up to 0 GB a run.")
    assert found[-2] == "Not pinned to a commit, so the files may change: download.repository."
    assert found[-1] == "Not counted, because it is not known yet: the problems of mine/validation, the size of tiny."
    counts = {split: {"taken": 5} for split in ("train", "validation", "test")}
    (tmp_path / "results/data/mine").mkdir(parents=True)
    (tmp_path / "results/data/mine/rows.json").write_text(json.dumps({"splits": counts}))
    after = plan(load_study(tmp_path / "study.yaml")).splitlines()
    assert after[-1] == "Not counted, because it is not known yet: the size of tiny."
    assert after[1] != found[1]


def test_the_weights_of_a_run_lie_side_by_side(raw_study: dict[str, Any], write_study: Write, tmp_path: Path) -> None:
    raw_study["study"] |= {"models": ["given"], "datasets": ["text"], "methods": ["grpo"], "skip": []}
    raw_study["study"]["keep_weights"] = NONE
    path = write_study(raw_study)
    (tmp_path / "models/given/model.safetensors").write_bytes(bytes(500_000_000))
    third = plan(load_study(path)).splitlines()[2]  # two seeds, epochs 2 and 3
    assert third == "Trained weights: 4 epochs, 2 GB, removed when their run is evaluated: up to 1 GB a run."


def test_the_weights_that_are_kept_are_planned(raw_study: dict[str, Any], write_study: Write, tmp_path: Path) -> None:
    raw_study["study"] |= {"models": ["given"], "datasets": ["text"], "methods": ["grpo"], "skip": []}
    raw_study["study"]["keep_weights"] = {"every": None, "best": True, "last": True}
    raw_study["data"]["text"]["epochs"] = 6
    path = write_study(raw_study)
    (tmp_path / "models/given/model.safetensors").write_bytes(bytes(500_000_000))
    third = plan(load_study(path)).splitlines()[2]  # two seeds, epochs 2, 4 and 6, of which two are kept at most
    assert third == (
        "Trained weights: 6 epochs, 3 GB, removed when their run is evaluated: up to 1.5 GB a run; "
        "of all of them 4 are kept, 2 GB."
    )


def test_a_split_that_turns_out_small_is_planned_all_the_same(
    raw_study: dict[str, Any], write_study: Write, tmp_path: Path
) -> None:
    raw_study["study"] |= {"datasets": ["mine"], "methods": ["grpo"], "skip": []}
    raw_study["data"]["mine"]["problems"]["train"]["take"] = None
    (tmp_path / "results/data/mine").mkdir(parents=True)
    counts = {split: {"taken": 1} for split in ("train", "validation", "test")}
    (tmp_path / "results/data/mine/rows.json").write_text(json.dumps({"splits": counts}))
    assert "Responses: 0 in RL training" in lines(raw_study, write_study)[1]


def test_a_learner_keeps_what_it_trains_in_its_own_type() -> None:
    """Qwen2.5-VL-3B trains 3,085,938,688 numbers: 4 bytes, weights and two moments, three states: 111.1 GB."""
    found = plan(load_study(Path(__file__).parent.parent / "config/geometry3k_3b.yaml")).splitlines()
    assert found[3] == "Saved states, to resume from: up to 111 GB for each training at work."
    assert found[4].startswith("Memory of each process: rl reinforce_plus_plus qwen2_5_vl_3b ")
    assert found[4].count(" GB of 80 GB") == 1 and found[5].startswith("Memory of each process: evaluate ")

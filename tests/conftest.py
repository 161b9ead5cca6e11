"""What the tests share: a small study to change one thing in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from stages.config import JudgeRules, PromptSettings
from stages.evaluation.answers import Verdict, is_correct

# The same examples every time, and no failure because a machine is busy.
hypothesis.settings.register_profile("glassbox", deadline=None, derandomize=True)
hypothesis.settings.load_profile("glassbox")

ADAMW = {
    "learning_rate": 1e-3,
    "warmup_ratio": 0.1,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.0,
    "clip_grad_norm": 1.0,
}
# As the laptop study has them.
RULES = JudgeRules(where="box", form="number", relative_tolerance=1e-4, decimals=None, percent="unit")
PROMPT = PromptSettings(instruction="", min_pixels=256, max_pixels=4096)


def judged(responses: list[str], answers: list[str]) -> list[Verdict]:
    return [is_correct(response, answer, RULES) for response, answer in zip(responses, answers, strict=True)]


JUDGE = RULES.model_dump()
STUDY: dict[str, Any] = {
    "study": {
        "name": "example",
        "models": ["tiny", "given"],
        "datasets": ["text", "mine"],
        "methods": ["vanilla", "sft", "grpo", "rpp"],
        "seeds": [1, 2],
        "skip": ["mine/sft"],
        "evaluate_every": 2,
        "keep_weights": {"every": 1, "best": True, "last": True},
    },
    "download": {
        "repository": {
            "kind": "dataset",
            "repo": "somebody/problems",
            "revision": "0123456789abcdef0123456789abcdef01234567",
            "files": ["data/*.parquet"],
            "gigabytes": 0.1,
        },
    },
    "data": {
        "text": {
            "epochs": 3,
            "judge": JUDGE,
            "problems": {
                "source": "generated",
                "mode": "text",
                "seed": 3,
                "train": 16,
                "validation": 4,
                "test": 4,
            },
        },
        "mine": {
            "epochs": 4,
            "judge": {**JUDGE, "form": "expression", "decimals": 2},
            "problems": {
                "source": "real",
                "shuffle": 0,
                "answers": "numeric",
                "allow_leaks": [],
                "train": {"reader": "geometry3k", "folder": "repository", "split": "train", "take": [0, 8]},
                "validation": {"reader": "jsonl", "folder": "mine", "file": "validation.jsonl", "take": None},
                "test": {"reader": "mm_math", "folder": "mine", "take": [10, 20]},
            },
        },
    },
    "prompt": {"instruction": "Think.", "min_pixels": 256, "max_pixels": 4096},
    "base": {
        "tiny": {
            "source": "recipe",
            "architecture": "qwen2_vl",
            "hidden_size": 64,
            "layers": 1,
            "vision_size": 32,
            "vision_layers": 1,
            "seed": 1,
            "noise": {"slip": 0.1, "direct": 0.2, "reflection": 0.1, "textbook": 0.5},
            "pictures": 300,
            "glyph_steps": 2,
            "glyph_learning_rate": 1e-3,
            "steps": 2,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "read_share": 0.0,
        },
        "given": {"source": "checkpoint", "path": "models/given"},
    },
    "sft": {"sft": {"optimizer": ADAMW, "batch_size": 8, "backward_batch_size": 4}},
    "rl": {
        name: {
            "algorithm": algorithm,
            "optimizer": ADAMW,
            "batch_size": 4,
            "group_size": group_size,
            "forward_batch_size": 8,
            "ppo_batch_size": 4,
            "ppo_backward_batch_size": 2,
            "ppo_epochs": 1,
            "epsilon": 0.2,
            "gamma": 1.0,
            "beta_rew": 0.0,
            "beta_loss": 0.01,
            "advantage_norm": True,
            "loss_average": "response",
            "importance_cap": None,
            "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 32},
            "rewards": {"accuracy": 1.0, "language": 0.5},
        }
        for name, algorithm, group_size in (("grpo", "grpo", 4), ("rpp", "reinforce_plus_plus", 1))
    },
    "learner": {"dtype": "float32", "lora": None},
    "collector": {"engine": "native", "largest_gap": 0.01},
    "evaluate": {
        "splits": ["validation", "test"],
        "settings": {"pass@1": {"samples": 1, "temperature": 0.01, "top_p": 0.001}},
        "max_new_tokens": 32,
        "batch_size": 16,
    },
    "scores": {
        "reflection_words": ["wait"],
        "whole_words": True,
        "gallery": 2,
        "statistics": {"confidence": 0.95, "power": 0.8, "replicates": 100, "seed": 0},
        "findings": {
            "F": {
                "claim": "RL beats SFT",
                "source": "here",
                "test": "difference",
                "method": "rl",
                "over": "sft",
                "split": "test",
                "epoch": "final",
                "settings": "together",
                "direction": "above",
                "threshold": 0.0,
            }
        },
        "health": {
            "first_ratio": 0.001,
            "sampler_gap": 0.01,
            "sampler_gap_max": 0.5,
            "sampler_outside": 0.02,
            "kl": 1.0,
            "clip_fraction": 0.2,
            "entropy_left": 0.1,
            "truncated": 0.1,
            "timed_out": 0.0,
            "rewarded_otherwise": 0.0,
        },
    },
    "compute": {"device": "cpu", "dtype": "float32", "threads": 1},
    "resources": {
        "memory": {
            "gpu_mb": None,
            "activation_checkpointing": False,
            "offload_reference": False,
            "kv_cache_mb": 100,
            "feature_memory_mb": 100,
            "feature_disk_mb": 0,
        },
        "sft": {"memory_mb": 1000, "minutes": 10, "nodes": 1, "processes": 1, "sharded": False, "save_every": 2},
        "rl": {"memory_mb": 1000, "minutes": 10, "nodes": 1, "processes": 1, "sharded": False, "save_every": 1},
        "evaluate": {"memory_mb": 1000, "minutes": 10},
        "other": {"memory_mb": 500, "minutes": 5},
    },
}


@pytest.fixture
def raw_study() -> dict[str, Any]:
    """A valid study as its YAML says it, to be changed."""
    raw: dict[str, Any] = json.loads(json.dumps(STUDY))  # a copy that shares nothing with itself
    return raw


@pytest.fixture
def write_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    """Write a study to a file, in a working directory that has the folders it names."""
    monkeypatch.chdir(tmp_path)

    for folder in ("mine", "models/given"):
        (tmp_path / folder).mkdir(parents=True)

    def write(raw: dict[str, Any]) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return path

    return write

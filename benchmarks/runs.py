"""Settings of the trainings that are measured, and runs of them in a folder that `benchmarks.models` has built."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from stages.config import (
    RL,
    SFT,
    Compute,
    JudgeRules,
    LearnerSettings,
    Optimizer,
    PromptSettings,
    Rewards,
    RLRun,
    Sampling,
    SFTRun,
)
from stages.evaluation.answers import Verdict

Device = Literal["cpu", "cuda"]
DType = Literal["float32", "bfloat16"]

RULES = JudgeRules(where="box", form="number", relative_tolerance=1e-4, decimals=None, percent="unit")
ADAMW = Optimizer(
    learning_rate=1e-5, warmup_ratio=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, clip_grad_norm=1.0
)
COMPUTE = Compute(device="cpu", dtype="float32", threads=1)
LEARNER = LearnerSettings(dtype="float32", lora=None)


def prompt_of(pixels: int) -> PromptSettings:
    """No instruction, and every picture of so many pixels."""
    return PromptSettings(instruction="", min_pixels=pixels, max_pixels=pixels)


def method_of(
    problems: int, group_size: int, new_tokens: int, pass_rows: int = 8, updates: int = 1, **others: Any
) -> RL:
    """The settings of a generation step.

    Args:
        problems: of it.
        group_size: responses to each.
        new_tokens: of each.
        pass_rows: responses of a forward or backward pass, at most as many as an update has.
        updates: optimiser steps; one alone is of the policy that answered.
        others: settings that are not as usual.
    """
    of_update = problems * group_size // updates
    rows = min(pass_rows, of_update)
    usual: dict[str, Any] = {
        "algorithm": "grpo" if group_size > 1 else "reinforce_plus_plus",
        "optimizer": ADAMW,
        "batch_size": problems,
        "group_size": group_size,
        "forward_batch_size": rows,
        "ppo_batch_size": of_update,
        "ppo_backward_batch_size": rows,
        "ppo_epochs": 1,
        "epsilon": 0.2,
        "gamma": 1.0,
        "beta_rew": 0.0,
        "beta_loss": 0.01,
        "advantage_norm": True,
        "loss_average": "response",
        "importance_cap": None,
        "sampling": Sampling(temperature=1.0, top_p=1.0, max_new_tokens=new_tokens),
        "rewards": Rewards(accuracy=1.0, language=1.0),
    }
    return RL(**(usual | others))


def run_of(
    settings: RL | SFT,
    folder: Path,
    pixels: int,
    compute: Compute = COMPUTE,
    learner: LearnerSettings = LEARNER,
) -> RLRun | SFTRun:
    """One epoch of a training, with all that it reads and writes under `folder`."""
    common: dict[str, Any] = {
        "out": str(folder / "out"),
        "checkpoints": str(folder / "checkpoints"),
        "model": "random",
        "dataset": "text",
        "seed": 0,
        "base": str(folder / "base/checkpoint"),
        "data": str(folder),
        "preflight": str(folder / "preflight"),
        "prompt": prompt_of(pixels),
        "compute": compute,
        "epochs": 1,
        "save_epochs": (1,),
        "weights": str(folder / "weights"),
        "learner": learner,
    }
    if isinstance(settings, SFT):
        return SFTRun(**common, method="sft", settings=settings)
    return RLRun(**common, method="rl", judge=RULES, engine="native", settings=settings)


def unjudged(texts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
    """Every response is wrong: what it costs to say so is another benchmark's question."""
    return [Verdict("incorrect", None, answer) for answer in answers]

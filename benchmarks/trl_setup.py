"""The same work for Glassbox and TRL 1.16: models, problems and settings of `trl_parity.py` and `trl_speed.py`.

TRL's settings are those that make it fastest on a CPU without changing the work: nothing is logged, reported or saved,
no gradient checkpointing (its default is to have it), no second process loads data, AdamW is the fused one (its
default), attention is PyTorch's, and vision tower and connector are frozen as ours are. A static cache (its
`cache_implementation`) was tried for sampling and was not faster.

One thing no setting reaches. On a GPU TRL's vocabulary head sees response tokens only; on a CPU it is given every token
of the row, prompt and picture too. `head_on_responses_only` gives it on a CPU what it does on a GPU.
"""

import os
import sys

# Read when they are imported. No telemetry: it would be a part of the time.
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel, Qwen2_5_VLConfig

from benchmarks.models import SIZES, TRAINED, Size, save_as_base
from benchmarks.runs import ADAMW, method_of, prompt_of, run_of
from stages.config import SFT, GeneratedProblems, PromptSettings, RLRun, SFTRun
from stages.data.prepare import prepare
from stages.data.problem import Problem, read_problems, write_problems
from stages.model.parts import freeze
from stages.model.processor import load_processor, render

GROUP, EPSILON, BETA = 8, 0.2, 0.001


@dataclass(frozen=True)
class Point:
    """A model, and how much of it is measured.

    Attributes:
        size: of the language model.
        prompts: problems of a generation step.
        solutions: of an update of SFT.
        warm_up, steps: that are dropped, and that are measured.
    """

    size: Size
    prompts: int = 4
    solutions: int = 32
    warm_up: int = 2
    steps: int = 3


POINTS = {
    "a": Point(SIZES["laptop"]),
    "b": Point(SIZES["words"]),
    "c": Point(SIZES["wide"], prompts=2, solutions=16, warm_up=1, steps=2),
}


@dataclass(frozen=True)
class Work:
    """What is done in every step.

    Attributes:
        method: rl or sft.
        problems: of a step.
        new_tokens: of every response that is sampled.
        micro: rows of a backward pass.
        pixels: of every picture; 256 are an image token.
        steps: how many; there are problems for one more, since TRL reads a batch ahead.
    """

    method: str
    problems: int
    new_tokens: int
    micro: int
    pixels: int
    steps: int

    @property
    def rows(self) -> int:
        """Rows of an update."""
        return self.problems * (GROUP if self.method == "rl" else 1)

    @property
    def prompt(self) -> PromptSettings:
        return prompt_of(self.pixels)


# --- what both have --------------------------------------------------------------------------------------------------


def build(point: Point, work: Work, folder: Path, solution: int | None = None) -> None:
    """Model, problems and preflight, as a study has them, under `folder`.

    Args:
        point: sizes of the model.
        work: how many problems are needed.
        folder: to be written into.
        solution: tokens of every golden solution with its end; None: as they are.
    """
    folder.mkdir(exist_ok=True)
    settings = GeneratedProblems(
        source="generated", mode="text", seed=0, train=work.problems * (work.steps + 1), validation=1, test=1
    )
    prepare(settings, folder)
    if solution:
        problems = read_problems(folder / "train.jsonl")
        write_problems(folder / "train.jsonl", [_with_solution(problem, solution) for problem in problems])
    save_as_base(folder, _model(point.size), load_processor(TRAINED, work.prompt), work.pixels)


def _model(size: Size) -> PreTrainedModel:
    """Of random weights, the trained one's but for its language model."""
    config = Qwen2_5_VLConfig.from_pretrained(TRAINED)
    half = size.width // size.heads // 2
    third = half * 3 // 8
    sizes = {
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "layer_types": ["full_attention"] * size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_heads,
        "vocab_size": max(size.vocabulary, config.text_config.vocab_size),
    }
    for name, value in sizes.items():
        setattr(config.text_config, name, value)
    config.text_config.rope_parameters["mrope_section"] = [half - 2 * third, third, third]
    config.vision_config.out_hidden_size = size.width
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    return model


def _with_solution(problem: Problem, tokens: int) -> Problem:
    """A digit is a token."""
    digits = "".join(str(i % 10) for i in range(tokens - 1))
    return Problem(problem.question, problem.answer, digits, problem.id, problem.image, problem.type)


def even(token_ids: Sequence[int]) -> float:
    """The reward of a response on both sides: the share of even token ids."""
    return sum(token_id % 2 == 0 for token_id in token_ids) / len(token_ids)


# --- Glassbox --------------------------------------------------------------------------------------------------------


def our_run(work: Work, folder: Path) -> RLRun | SFTRun:
    """The work as a run of the study."""
    if work.method == "sft":
        return run_of(
            SFT(optimizer=ADAMW, batch_size=work.problems, backward_batch_size=work.micro), folder, work.pixels
        )
    as_trl: dict[str, Any] = {"epsilon": EPSILON, "beta_loss": BETA, "loss_average": "token"}
    return run_of(method_of(work.problems, GROUP, work.new_tokens, work.micro, **as_trl), folder, work.pixels)


def require_trl() -> None:
    """End if this environment has none."""
    if find_spec("trl") is None:
        sys.exit("TRL is not installed here: make trl, then .venv/trl/bin/python benchmarks/...")


# --- TRL -------------------------------------------------------------------------------------------------------------


def trl_model(folder: Path) -> PreTrainedModel:
    """The policy, vision tower and connector frozen."""
    model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
        folder / "given", dtype=torch.float32, attn_implementation="sdpa"
    )
    freeze(model, ["vision", "connector"])
    return model


def _common(work: Work, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "seed": 0,
        "max_steps": work.steps + 1,
        "per_device_train_batch_size": work.micro,
        "gradient_accumulation_steps": work.rows // work.micro,
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "shuffle_dataset": False,
    }


def grpo_trainer(
    work: Work,
    folder: Path,
    model: PreTrainedModel,
    problems: Sequence[Problem],
    reward: Callable[..., list[float]],
    **settings: Any,
) -> Any:
    """TRL's GRPO on the same problems, one update a generation step; `settings` go before those of the benchmark."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found,unused-ignore]

    processor = load_processor(folder / "given", work.prompt)
    banned = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")  # as ours
    ours: dict[str, Any] = {
        "num_generations": GROUP,
        "max_completion_length": work.new_tokens,
        "steps_per_generation": work.rows // work.micro,
        "num_iterations": 1,
        "use_vllm": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "generation_kwargs": {
            "min_new_tokens": work.new_tokens,
            "suppress_tokens": [processor.tokenizer.convert_tokens_to_ids(token) for token in banned],
        },
        "disable_dropout": True,
        "beta": BETA,
        "epsilon": EPSILON,
        "use_bias_correction_kl": False,
        "loss_type": "bnpo",
        "log_completions": False,
    }
    rows = [
        {"prompt": [{"role": "user", "content": problem.question}], "image": problem.picture()} for problem in problems
    ]
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(**(_common(work, folder) | ours | settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )


def sft_trainer(work: Work, folder: Path, model: PreTrainedModel, problems: Sequence[Problem]) -> Any:
    """TRL's SFT on the same tokens: rendered prompts and solutions that end as ours do.

    As a conversation, the chat template would put a line break after the end of a solution, and that would be learnt.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found,unused-ignore]

    processor = load_processor(folder / "given", work.prompt)
    end = processor.tokenizer.eos_token
    rows = [
        {
            "prompt": render(processor, problem.question, work.prompt.instruction),
            "completion": problem.solution + end,
            "image": problem.picture(),
        }
        for problem in problems
    ]
    settings = {"completion_only_loss": True, "max_length": None, "train_sampling_strategy": "sequential"}
    return SFTTrainer(
        model=model,
        args=SFTConfig(**(_common(work, folder) | settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )


def head_on_responses_only() -> None:
    """Let TRL's vocabulary head see response tokens only, on a CPU as on a GPU; PyTorch does the rest as before."""
    from trl.trainer import utils  # type: ignore[import-not-found,unused-ignore]

    utils._use_triton = lambda device: True

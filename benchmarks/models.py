"""Random models of named sizes, with problems and a preflight: what a study has before it trains.

No response ends by itself, so that it has as many tokens as are asked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from benchmarks.runs import prompt_of
from stages.config import BaseRun, GeneratedProblems, PreflightRun
from stages.data.prepare import prepare
from stages.data.problem import read_problems
from stages.model import base, preflight
from stages.model.processor import ImageOnlyProcessor
from stages.model.tiny import build_processor

TRAINED = Path(__file__).parents[1] / "models/qwen2_5_vl_tiny"  # the laptop study's, and not random
Family = Literal["qwen2_5_vl", "qwen3_vl"]


@dataclass(frozen=True)
class Size:
    """What a model's cost depends on.

    Attributes:
        width, inner, layers, heads, key_heads: of the language model.
        vocabulary: words; the tokenizer's, if it has more.
        vision_width, vision_layers: of the vision tower.
    """

    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    vision_width: int
    vision_layers: int


SIZES = {
    "laptop": Size(128, 256, 3, 4, 2, 550, 48, 2),
    "words": Size(128, 256, 3, 4, 2, 152_000, 48, 2),
    "wide": Size(512, 1408, 8, 8, 2, 550, 48, 2),
    "tiny": Size(128, 256, 4, 4, 2, 640, 64, 2),
    "20M": Size(384, 1024, 6, 6, 2, 16_000, 128, 2),
    "100M": Size(640, 2560, 14, 10, 2, 32_000, 320, 4),
    "300M": Size(1024, 3072, 20, 16, 4, 32_000, 512, 6),
    "3B": Size(2048, 11_008, 36, 16, 2, 151_936, 1280, 32),
}


def build(
    folder: Path, size: Size, problems: int, pixels: int, *, tied: bool = True, family: Family = "qwen2_5_vl"
) -> None:
    """A model, problems and their preflight under `folder`.

    Args:
        folder: to be written into.
        size: of the model.
        problems: to learn from.
        pixels: of every picture.
        tied: words in and out are the same weights.
        family: class of the model.
    """
    folder.mkdir(exist_ok=True)
    prepare(GeneratedProblems(source="generated", mode="text", seed=0, train=problems, validation=1, test=1), folder)
    texts = [problem.question + problem.solution for problem in read_problems(folder / "train.jsonl")]
    processor = build_processor(texts)
    save_as_base(folder, random_model(size, processor, tied, family), processor, pixels)


def save_as_base(folder: Path, model: PreTrainedModel, processor: ImageOnlyProcessor, pixels: int) -> None:
    """Let a model be the base of the study whose problems are in `folder`, and look at them."""
    never, padding = processor.tokenizer.convert_tokens_to_ids(["<|video_pad|>", "<|endoftext|>"])
    # The token that would end a response is never drawn.
    model.generation_config = GenerationConfig(eos_token_id=[never], pad_token_id=padding)
    given = folder / "given"
    model.save_pretrained(given)
    processor.save_pretrained(given)
    of_base = BaseRun(out=str(folder / "base"), model="random", checkpoint=str(given))
    of_preflight = PreflightRun(
        out=str(folder / "preflight"),
        model="random",
        dataset="text",
        base=str(folder / "base/checkpoint"),
        data=str(folder),
        prompt=prompt_of(pixels),
    )
    for stage, run in ((base, of_base), (preflight, of_preflight)):
        path = folder / "run.json"
        path.write_text(run.canonical_json(), encoding="utf-8")
        stage.main(str(path))


def random_model(size: Size, processor: ImageOnlyProcessor, tied: bool, family: Family) -> PreTrainedModel:
    """Of the same weights every time."""
    ids = processor.tokenizer.convert_tokens_to_ids
    head_width = size.width // size.heads
    third = head_width // 6
    text: dict[str, Any] = {
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
        "vocab_size": max(size.vocabulary, len(processor.tokenizer)),
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_heads,
        "max_position_embeddings": 8192,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [head_width // 2 - 2 * third, third, third],
        },
    }
    vision: dict[str, Any] = {
        "depth": size.vision_layers,
        "num_heads": 4,
        "patch_size": 8,
        "hidden_size": size.vision_width,
        "intermediate_size": 2 * size.vision_width,
        "out_hidden_size": size.width,
    }
    both: dict[str, Any] = {
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": tied,
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }
    torch.manual_seed(0)
    if family == "qwen3_vl":
        text |= {"head_dim": head_width}
        text["rope_parameters"] |= {"mrope_interleaved": True}
        vision |= {"num_position_embeddings": 1024, "deepstack_visual_indexes": [*range(size.vision_layers)]}
        return Qwen3VLForConditionalGeneration(Qwen3VLConfig(**both))
    vision |= {"window_size": 32, "fullatt_block_indexes": [size.vision_layers - 1]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**both))

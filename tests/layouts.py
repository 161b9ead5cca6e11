"""Checkpoint folders as the hub has them, with weights drawn at random.

Widths, heads, rotary sections, tied or untied embeddings and the names of weights are the published models'. There are
fewer blocks, and the vocabulary is the tiny models' tokenizer's; neither changes how a checkpoint is laid out.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, logging

from stages.model.processor import ImageOnlyProcessor
from stages.model.tiny import CHAT_TEMPLATE, build_model
from tests.test_models import small

ROOT = Path(__file__).parent.parent
TOKENIZER = ROOT / "models" / "qwen2_vl_tiny"
ARCHITECTURES = ROOT / "stages" / "model" / "architectures"
TIED = ("qwen2_vl_2b", "qwen2_5_vl_3b", "qwen3_vl_2b", "qwen3_vl_4b")
UNTIED = ("qwen2_vl_7b", "qwen2_5_vl_7b", "qwen3_vl_8b")

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
QWEN2 = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    **CLIP,
}
QWEN3 = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    **HALVES,
}
PREPROCESSORS: dict[str, dict[str, Any]] = {
    "qwen2_vl": QWEN2 | {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"},
    "qwen2_5_vl": QWEN2 | {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"},
    "qwen3_vl": QWEN3 | {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"},
}
# Qwen3-VL says nothing of itself where a conversation has no system turn.
SYSTEM = re.compile(r"\{%- if loop\.first.*?endif %\}\n", re.DOTALL)
TEMPLATES = {"qwen2_vl": CHAT_TEMPLATE, "qwen2_5_vl": CHAT_TEMPLATE, "qwen3_vl": SYSTEM.sub("", CHAT_TEMPLATE)}
VIDEO = {"video_processor_type": "Qwen3VLVideoProcessor", "size": {"longest_edge": 25165824, "shortest_edge": 4096}}


def write_checkpoint(folder: Path, architecture: str) -> Path:
    """A whole folder, its weights in at least two parts with their index.

    Args:
        folder: made, if it is not there.
        architecture: a name in TIED or UNTIED.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = reduced(architecture)
    write_processor(folder, config["model_type"])
    (folder / "config.json").write_text(json.dumps(config))
    shown = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    weights = folder / "weights"
    model.save_pretrained(weights, max_shard_size="150MB")
    logging.set_verbosity(shown)
    logging.enable_progress_bar()
    for file in weights.glob("model*"):
        file.rename(folder / file.name)
    shutil.rmtree(weights)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    generation = {"do_sample": True, "eos_token_id": stops, "pad_token_id": stops[1]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def reduced(architecture: str) -> dict[str, Any]:
    """The published configuration with one block of the language model, two of the vision tower, the tests' words."""
    config: dict[str, Any] = json.loads((ARCHITECTURES / f"{architecture}.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    text, vision = config.get("text_config", config), config["vision_config"]
    text |= {"num_hidden_layers": 1, "vocab_size": len(tokenizer)}
    vision["depth"] = 2
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [1]
    if "deepstack_visual_indexes" in vision:
        vision["deepstack_visual_indexes"] = [0]
    for part in (config, text):
        for key, token in {
            "bos_token_id": "<|endoftext|>",
            "eos_token_id": "<|im_end|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
            "vision_token_id": "<|vision_pad|>",
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
        }.items():
            if key in part:
                part[key] = tokenizer.convert_tokens_to_ids(token)
    return config


def write_processor(folder: Path, family: str) -> None:
    """A family's preprocessor_config.json, with the tiny models' tokenizer and the chat template in two places."""
    shutil.copyfile(TOKENIZER / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    tokenizer = {key: value for key, value in tokenizer.items() if key != "processor_class"}
    files = {
        "tokenizer_config.json": tokenizer | {"chat_template": TEMPLATES[family]},
        "chat_template.json": {"chat_template": TEMPLATES[family]},
        "preprocessor_config.json": PREPROCESSORS[family],
    }
    if family == "qwen3_vl":
        files["video_preprocessor_config.json"] = PREPROCESSORS[family] | VIDEO
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def write_tiny(folder: Path, architecture: str) -> Path:
    """A tiny model of a family, with weights drawn at random; Qwen3-VL's has two levels of features more."""
    processor = ImageOnlyProcessor.from_pretrained(TOKENIZER)
    build_model(small(architecture=architecture, layers=3, vision_layers=2), processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

"""Tiny models of the real Qwen2-VL, Qwen2.5-VL and Qwen3-VL classes, with a tokenizer and an image processor to match.

A tiny model sees 64 x 64 pixels in patches of 8, merged 2 x 2 to 16 image tokens. Its heads are 32 wide, the smallest
width that vLLM accepts.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from stages.config import Recipe
from stages.model.processor import ImageOnlyProcessor

PATCH, MERGE, PIXELS = 8, 2, 64 * 64
HEAD_DIM = 32
VOCABULARY = 640
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip

# Qwen's turns and vision markers, for messages whose content is text or a list of images and texts.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if loop.first and message.role != "system" %}
{{- "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n" }}
{%- endif %}
{{- "<|im_start|>" + message.role + "\\n" }}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == "image" %}{{ "<|vision_start|><|image_pad|><|vision_end|>" }}{% else %}{{ part.text }}{% endif %}
{%- endfor %}
{%- endif %}
{{- "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}"""


def build_processor(texts: Iterable[str]) -> ImageOnlyProcessor:
    """A processor whose byte-level BPE tokenizer is trained on `texts`; one token a digit, as Qwen's."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((re.sub(r"<\|\w+\|>", "", text) for text in texts), trainer)
    learnt = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        model_max_length=4096,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS})
    tokenizer.chat_template = CHAT_TEMPLATE
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        min_pixels=(PATCH * MERGE) ** 2,
        max_pixels=PIXELS,
        # White becomes 0: with CLIP's mean and deviation the background drowns the glyphs.
        image_mean=[1.0] * 3,
        image_std=[0.5] * 3,
    )
    return ImageOnlyProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)


def build_model(recipe: Recipe, processor: ImageOnlyProcessor) -> PreTrainedModel:
    """An untrained model of the recipe's class and sizes, initialised from its seed."""
    torch.manual_seed(recipe.seed)
    token_id = processor.tokenizer.convert_tokens_to_ids
    heads = recipe.hidden_size // HEAD_DIM
    text: dict[str, Any] = {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": recipe.hidden_size,
        "intermediate_size": 2 * recipe.hidden_size,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": token_id("<|endoftext|>"),
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
        "initializer_range": 0.08,
    }
    vision: dict[str, Any] = {
        "depth": recipe.vision_layers,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "initializer_range": 0.08,
    }
    tokens = {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    model: PreTrainedModel
    if recipe.architecture == "qwen3_vl":
        text["head_dim"] = HEAD_DIM
        text["rope_parameters"] |= {"mrope_interleaved": True, "mrope_section": [6, 5, 5]}
        vision |= {
            "hidden_size": recipe.vision_size,
            "intermediate_size": 2 * recipe.vision_size,
            "out_hidden_size": recipe.hidden_size,
            "num_position_embeddings": PIXELS // PATCH**2,
            # The first blocks of the language model take these levels, one each.
            "deepstack_visual_indexes": list(range(recipe.vision_layers))[: recipe.layers],
        }
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **tokens))
    elif recipe.architecture == "qwen2_5_vl":
        vision |= {
            "hidden_size": recipe.vision_size,
            "intermediate_size": 2 * recipe.vision_size,
            "out_hidden_size": recipe.hidden_size,
            "window_size": 2 * PATCH * MERGE,
            "fullatt_block_indexes": [recipe.vision_layers - 1],
        }
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        model = Qwen2_5_VLForConditionalGeneration(config)
    else:
        vision |= {"embed_dim": recipe.vision_size, "hidden_size": recipe.hidden_size, "mlp_ratio": 2}
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **tokens))
    model.generation_config = GenerationConfig(
        do_sample=True,
        eos_token_id=[token_id("<|im_end|>"), token_id("<|endoftext|>")],
        pad_token_id=token_id("<|endoftext|>"),
    )
    return model

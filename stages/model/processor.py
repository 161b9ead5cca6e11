"""Qwen's processor without its video half, which transformers builds on torchvision."""

from typing import Any

from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2VLConfig
from transformers.processing_utils import ProcessorMixin


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Text and images to `input_ids`, `attention_mask`, `mm_token_type_ids`, `pixel_values`, `image_grid_thw`."""

    image_token = "<|image_pad|>"
    video_token = "<|video_pad|>"

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def register() -> None:
    """Let `AutoProcessor` load both Qwen classes as image-only."""
    for config in (Qwen2_5_VLConfig, Qwen2VLConfig):
        AutoProcessor.register(config, ImageOnlyProcessor, exist_ok=True)

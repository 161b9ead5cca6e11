"""Qwen's processor without its video half, which transformers builds on torchvision, and the prompt it is given."""

from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin

from stages.config import PromptSettings


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


def load_processor(folder: Path, prompt: PromptSettings) -> Any:
    """The processor of a checkpoint, with the study's pixel budget in place of its own."""
    # PIL's resizing everywhere: torchvision's gives other pixels, and is not installed everywhere.
    processor = ImageOnlyProcessor.from_pretrained(folder, backend="pil")
    processor.image_processor.size = {"shortest_edge": prompt.min_pixels, "longest_edge": prompt.max_pixels}
    return processor


def render(processor: Any, question: str, instruction: str) -> str:
    """The chat template around picture, question and instruction, up to where the response begins."""
    text = f"{question}\n{instruction}" if instruction else question
    content = [{"type": "image"}, {"type": "text", "text": text}]
    rendered: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return rendered

"""Qwen's processor without its video half, which transformers builds on torchvision, and the prompt it is given."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from stages.config import PromptSettings


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """For Qwen2-VL, Qwen2.5-VL and Qwen3-VL, whose processors differ in nothing but videos.

    Text and images to `input_ids`, `attention_mask`, `mm_token_type_ids`, `pixel_values`, `image_grid_thw`.
    """

    image_token = "<|image_pad|>"
    video_token = "<|video_pad|>"

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    @classmethod
    def _get_arguments_from_pretrained(cls, folder: Any, *_: Any, **__: Any) -> list[Any]:
        # PIL's resizing everywhere: torchvision's gives other pixels, and is not installed everywhere. Nor is the class
        # that a folder names asked: Qwen2.5-VL's first files name one that transformers has no more.
        return [Qwen2VLImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)]

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # It stands in chat_template.json, chat_template.jinja or, in older folders, only beside the tokenizer.
        ProcessorMixin.__init__(
            self, image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template
        )


def load_processor(folder: Path, prompt: PromptSettings) -> Any:
    """The processor of a checkpoint, with the study's pixel budget in place of its own.

    Raises:
        ValueError: it has no chat template.
    """
    processor = ImageOnlyProcessor.from_pretrained(folder)
    if not processor.chat_template:
        raise ValueError(
            f"{folder}: no chat template (looked for in chat_template.jinja, chat_template.json and "
            "tokenizer_config.json)"
        )
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

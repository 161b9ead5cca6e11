"""A vision-language model as this study uses it: prompts made once, vision frozen and looked through once.

Letters: B rows, Q tokens of a query, V image tokens of its picture, H width of the language model.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from stages.config import Compute, PromptSettings
from stages.data.problem import Problem
from stages.model import attention
from stages.model.processor import load_processor, render

CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Prompt:
    """A problem as the model takes it.

    Attributes:
        token_ids: [Q]
        position_ids: [3, Q] temporal, height and width position of each token, as the model derives them.
        grid_thw: [3] patches of the picture in time, height and width.
        features: [V, H] what the frozen vision tower and connector make of the picture.
    """

    token_ids: Tensor
    position_ids: Tensor
    grid_thw: Tensor
    features: Tensor


@dataclass
class VLM:
    """A model, its processor, and the prompts it has seen.

    The vision tower and the connector are frozen (paper, Sec. 5.1), so a picture's features never change: they are
    computed when a problem is first met and kept, the least recently used given up beyond CACHE_BYTES.
    """

    model: PreTrainedModel
    processor: Any
    instruction: str
    _prompts: OrderedDict[Problem, Prompt] = field(default_factory=OrderedDict)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def stop_ids(self) -> Tensor:
        """Token ids that end a response."""
        stops = self.model.generation_config.eos_token_id
        return torch.tensor(stops if isinstance(stops, list) else [stops], device=self.device)

    @property
    def banned_ids(self) -> Tensor:
        """Vision placeholders: a sampled one would ask the next forward pass for a picture that is not there."""
        config = self.model.config
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return torch.tensor([getattr(config, name) for name in names], device=self.device)

    def prompts(self, problems: list[Problem]) -> list[Prompt]:
        """The prompts of some problems; what was made before is not made again."""
        new = list(dict.fromkeys(problem for problem in problems if problem not in self._prompts))
        if new:
            self._prompts.update(zip(new, self._make(new), strict=True))
        found = [self._prompts[problem] for problem in problems]
        for problem in problems:
            self._prompts.move_to_end(problem)
        self._forget()
        return found

    def _forget(self) -> None:
        size = sum(prompt.features.nbytes for prompt in self._prompts.values())
        while size > CACHE_BYTES:
            size -= self._prompts.popitem(last=False)[1].features.nbytes

    @torch.no_grad()
    def _make(self, problems: list[Problem]) -> list[Prompt]:
        inputs = self.processor(
            text=[self.render(problem) for problem in problems],
            images=[[problem.picture()] for problem in problems],
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        mask, grids = inputs["attention_mask"].bool(), inputs["image_grid_thw"]
        position_ids, _ = self.model.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=grids,
            attention_mask=inputs["attention_mask"],
        )
        # One by one: what is computed of a picture must not depend on which others a resumed run still has to look at.
        patches = inputs["pixel_values"].split(grids.prod(1).tolist())
        return [
            Prompt(
                inputs["input_ids"][i, real],
                position_ids[:, i, real],
                grids[i],
                self.model.model.get_image_features(patches[i], grids[i : i + 1]).pooler_output[0],
            )
            for i, real in enumerate(mask)
        ]

    def with_own_weights(self) -> "VLM":
        """The same with a language model of its own, which is not trained; prompts are shared."""
        return replace(self, model=frozen_copy(self.model))

    def render(self, problem: Problem) -> str:
        """A problem's prompt as text."""
        return render(self.processor, problem.question, self.instruction)


def load(folder: Path, compute: Compute, prompt: PromptSettings) -> VLM:
    """Load a base model, vision frozen.

    Raises:
        ValueError: the tokenizer is not the one that the model was trained with.
    """
    attention.register()
    model = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=getattr(torch, compute.dtype),
        attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
    )
    processor = load_processor(folder, prompt)
    for token in ("image_token", "video_token"):
        said, used = getattr(model.config, f"{token}_id"), getattr(processor, f"{token}_id")
        if said != used:
            raise ValueError(f"{folder}: config.json says {token}_id={said}, the tokenizer {used}: not of one model")
    model.model.visual.requires_grad_(False)
    return VLM(model.to(compute.device).eval(), processor, prompt.instruction)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference model: the same weights for good; the vision tower, frozen anyway, is shared."""
    visual = model.model.visual
    reference: PreTrainedModel = copy.deepcopy(model, {id(visual): visual})
    return reference.requires_grad_(False).eval()


def hidden_states(
    model: PreTrainedModel,
    token_ids: Tensor,
    position_ids: Tensor,
    features: list[Tensor],
    mask: Tensor | None = None,
    **cache: Any,
) -> Tensor:
    """Run the language model over prompts whose pictures have been looked at.

    Args:
        token_ids: [B, L] with as many image tokens in a row as its features.
        position_ids: [3, B, L]. With 2-D ids all three axes would silently be the text's.
        features: of each row, [V, H].
        mask: [B, L] True on real tokens; None where padding is on the right only, which no real token can see.
        cache: `past_key_values` to fill.

    Returns:
        [B, L, H] last hidden states.
    """
    outputs = model.model(
        input_ids=token_ids,
        position_ids=position_ids,
        attention_mask=None if mask is None else mask.long(),
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tuple(features))},
        use_cache=bool(cache),
        **cache,
    )
    hidden: Tensor = outputs.last_hidden_state
    return hidden

"""A vision-language model as this study uses it: prompts made once, vision frozen and looked through once.

Letters: B rows, Q tokens of a query, V image tokens of its picture, H width of the language model, D levels of features
beyond the last (`stages.model.levels`).
"""

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from stages.config import Compute, PromptSettings
from stages.data.problem import Problem
from stages.model import attention
from stages.model.features import IN_MEMORY, FeatureLimits, Features, maker_digest, picture_digest
from stages.model.levels import joined, parted
from stages.model.parts import freeze
from stages.model.processor import load_processor, render
from stages.model.shared_prefix import Layout


@dataclass(frozen=True)
class Prompt:
    """A problem as the model takes it.

    Attributes:
        token_ids: [Q]
        position_ids: [3, Q] temporal, height and width position of each token, as the model derives them.
        grid_thw: [3] patches of the picture in time, height and width.
        picture: its digest.
        features: [V, H * (1 + D)] what the frozen vision tower and connector make of the picture, level beside level.
    """

    token_ids: Tensor
    position_ids: Tensor
    grid_thw: Tensor
    picture: str
    features: Tensor


@dataclass
class VLM:
    """A model, its processor, and the prompts it has seen.

    A prompt is kept as long as its picture's features are. They wait in the host's memory.
    """

    model: PreTrainedModel
    processor: Any
    instruction: str
    _features: Features
    _prompts: dict[Problem, Prompt] = field(default_factory=dict)

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
        """The prompts of some problems; what was made before and kept is not made again."""
        new = list(dict.fromkeys(problem for problem in problems if problem not in self._prompts))
        if new:
            self._prompts.update(zip(new, self._make(new), strict=True))
        found = [self._prompts[problem] for problem in problems]
        for prompt in found:
            self._features.keep(prompt.picture, prompt.features)
        for problem in [problem for problem, prompt in self._prompts.items() if prompt.picture not in self._features]:
            del self._prompts[problem]
        return [replace(prompt, features=prompt.features.to(self.device)) for prompt in found]

    def _make(self, problems: list[Problem]) -> list[Prompt]:
        pictures = [problem.picture() for problem in problems]
        inputs = self.processor(
            text=[self.render(problem) for problem in problems],
            images=[[picture] for picture in pictures],
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
        patches = inputs["pixel_values"].split(grids.prod(1).tolist())
        prompts = []
        for i, real in enumerate(mask):
            picture = picture_digest(pictures[i])
            features = self._features.find(picture, partial(look, self.model, patches[i], grids[i]))
            prompts.append(Prompt(inputs["input_ids"][i, real], position_ids[:, i, real], grids[i], picture, features))
        return prompts

    def with_own_weights(self) -> "VLM":
        """The same with a language model of its own, which is not trained; prompts are shared."""
        return replace(self, model=frozen_copy(self.model))

    def render(self, problem: Problem) -> str:
        """A problem's prompt as text."""
        return render(self.processor, problem.question, self.instruction)


def load(folder: Path, compute: Compute, prompt: PromptSettings, limits: FeatureLimits = IN_MEMORY) -> VLM:
    """Load a base model, vision tower and connector frozen (paper, Sec. 5.1).

    Raises:
        ValueError: a weight is not in the checkpoint, the tokenizer is not the one that the model was trained with, or
            its attention slides over windows or has dropout.
    """
    attention.register()
    model, found = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=getattr(torch, compute.dtype),
        attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
        output_loading_info=True,
    )
    # transformers would go on with weights drawn at random.
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{folder}: no {missing[0]} in its weights ({len(missing)} missing in all); fetch them again")
    if other := sorted(set(getattr(model.config.get_text_config(), "layer_types", ())) - {"full_attention"}):
        raise ValueError(f"{folder}: config.json asks for {other[0]}; only full_attention is computed here")
    if dropout := model.config.get_text_config().attention_dropout:
        raise ValueError(f"{folder}: config.json asks for attention_dropout {dropout}; only 0 is computed here")
    processor = load_processor(folder, prompt)
    for token in ("image_token", "video_token"):
        said, used = getattr(model.config, f"{token}_id"), getattr(processor, f"{token}_id")
        if said != used:
            raise ValueError(f"{folder}: config.json says {token}_id={said}, the tokenizer {used}: not of one model")
    freeze(model, ["vision", "connector"])
    model = model.to(compute.device).eval()
    features = Features(limits, partial(maker_digest, model, processor.image_processor, compute))
    return VLM(model, processor, prompt.instruction, features)


@torch.no_grad()
def look(model: PreTrainedModel, patches: Tensor, grid_thw: Tensor) -> Tensor:
    """[V, H * (1 + D)] what vision tower and connector make of one picture.

    It is looked at alone: what is computed of it must not depend on which others a resumed run still has to look at.

    Args:
        model: of any family.
        patches: of the picture, as its processor cuts it.
        grid_thw: [3] how many, in time, height and width.
    """
    visual = model.model.visual
    return joined(visual(patches.type(visual.dtype), grid_thw=grid_thw[None]))


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
    layout: Layout | None = None,
    **cache: Any,
) -> Tensor:
    """Run the language model over prompts whose pictures have been looked at.

    Args:
        token_ids: [B, L] with as many image tokens in a row as its features.
        position_ids: [3, B, L]. With 2-D ids all three axes would silently be the text's.
        features: of each row, [V, H * (1 + D)].
        mask: [B, L] True on real tokens; None where nothing is padded.
        layout: of a single row in which several sequences lie side by side.
        cache: `past_key_values` to fill.

    Returns:
        [B, L, H] last hidden states.
    """
    outputs = model.model(
        input_ids=token_ids,
        position_ids=position_ids,
        attention_mask=None if mask is None else mask.long(),
        mm_encoder_outputs={"image": parted(features, model.config.text_config.hidden_size)},
        use_cache=bool(cache),
        **({"layout": layout} if layout else {}),
        **cache,
    )
    hidden: Tensor = outputs.last_hidden_state
    return hidden

"""The language model for one new token a row: transformers' layers, without what only longer inputs need.

A token of a small model is hundreds of tiny operations, many of which do nothing here (`benchmarks/tricks.py decoder`):
axes of length one, casts to the type that is there, masks of nothing, a rotary embedding in seven steps. Linear layers
are still called as the modules that they are, and with their adapters. The plain version, which this has to agree with,
is the model itself (tests/test_sampler.py).

Letters: P prompts of Q tokens at most, padded on the left; G siblings each; B rows that are decoded; W words of the
vocabulary; H width; D width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from stages.model.shared_prompts import Own, Prompts, attention, shared


class Decoder:
    """A language model with its cache: it goes on from prompts, a token a row and step.

    Args:
        model: of any family that this study knows.
        prefill: cache of the prompts.
        mask: [P, Q] their real tokens.
        position: [P * G] of each row's next token.
        room: tokens that a row can say.
    """

    def __init__(
        self, model: PreTrainedModel, prefill: DynamicCache, mask: Tensor, position: Tensor, room: int
    ) -> None:
        self.embed, self.head = model.get_input_embeddings(), model.lm_head
        self.language: Any = model.model.language_model
        self.prompts: Prompts = shared(prefill, mask, len(position) // len(mask))
        self.own = [Own(room) for _ in self.language.layers]
        self.position = position

    def step(self, token_ids: Tensor) -> Tensor:
        """[B, W] logits of each row's next token after `token_ids` [B]."""
        hidden = self.embed(token_ids)
        cos, sin = self.language.rotary_emb(hidden, self.position[None, :, None].expand(3, -1, -1))
        half = cos.shape[-1] // 2
        turn = cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for layer, own, keys, values in zip(
            self.language.layers, self.own, self.prompts.keys, self.prompts.values, strict=True
        ):
            attended = self._attend(layer.self_attn, norm(hidden, layer.input_layernorm), turn, own, keys, values)
            hidden = hidden + attended
            inner, mlp = norm(hidden, layer.post_attention_layernorm), layer.mlp
            hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(inner)) * mlp.up_proj(inner))
        self.position = self.position + 1
        logits: Tensor = self.head(norm(hidden, self.language.norm)).float()
        return logits

    def _attend(
        self, module: Any, inputs: Tensor, turn: tuple[Tensor, Tensor], own: Own, keys: Tensor, values: Tensor
    ) -> Tensor:
        """[B, H] what an attention layer makes of inputs [B, H]."""
        width = module.head_dim
        query, key, value = (
            project(inputs).view(len(inputs), -1, width) for project in (module.q_proj, module.k_proj, module.v_proj)
        )
        if hasattr(module, "q_norm"):
            query, key = norm(query, module.q_norm), norm(key, module.k_norm)
        cos, sin = turn
        both = torch.cat([query, key], dim=1)
        query, key = (both * cos + both.roll(width // 2, -1) * sin).split([query.shape[1], key.shape[1]], dim=1)
        key, value = own.add(key, value)
        output: Tensor = module.o_proj(attention(query, key, value, keys, values, self.prompts, module.scaling))
        return output

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows only; [B] True on those that stay."""
        indices = rows.nonzero()[:, 0]
        for own in self.own:
            own.keep(indices)
        self.prompts.keep(rows)
        self.position = self.position[rows]


def norm(inputs: Tensor, module: Any) -> Tensor:
    """Root mean square norm over the last axis, as the module has it, which rounds twice where it is not float32."""
    if inputs.dtype != torch.float32:
        normed: Tensor = module(inputs)
        return normed
    return F.rms_norm(inputs, inputs.shape[-1:], module.weight, module.variance_epsilon)

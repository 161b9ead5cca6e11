"""Attention for decoding: query heads that share a key and value head are laid side by side as queries.

transformers' own path copies all cached keys and values once for each query head that reads them, at every token.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grouped"


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention; for a single new token without the copies.

    Args:
        module: the attention layer.
        query: [B, heads, L, D]
        key, value: [B, shared heads, T, D]
        attention_mask: [B, 1, L, T] or None.
        options: `scaling`, and what only the general path uses.

    Returns:
        [B, L, heads, D], and no attention weights.
    """
    batch, heads, length, width = query.shape
    if length > 1:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    folded = query.reshape(batch, key.shape[1], -1, width)
    seen = F.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=options.get("scaling"))
    return seen.reshape(batch, 1, heads, width), None


def register() -> None:
    """Let transformers know it by NAME."""
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)

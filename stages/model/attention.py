"""The language model's attention in this study, as transformers asks for it by name.

transformers' own path copies all cached keys and values once for each query head that reads them, at every token, and
knows nothing of siblings.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from stages.model.shared_prefix import Layout, tree_attention

NAME = "siblings"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention.

    Args:
        module: the attention layer.
        query: [B, heads, L, D]
        key, value: [B, shared heads, T, D]
        attention_mask: [B, 1, L, T] or None.
        scaling: of the products.
        layout: of a row in which several sequences lie side by side.
        options: what only transformers' path uses.

    Returns:
        [B, L, heads, D], and no attention weights.
    """
    if layout:
        return tree_attention(module, query, key, value, layout, scaling=scaling, **options)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    return output, None


def register() -> None:
    """Let transformers know it by NAME."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)

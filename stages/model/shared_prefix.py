"""Sequences side by side in one row: what siblings share is computed once, and nothing is padded.

G responses to one prompt are a tree: the prompt is the trunk, each response a branch. All tokens of a batch lie in one
row, trunks first. What a model does token by token (projections, norms, MLPs, the rotary embedding) does not mind; its
attention does, and is told by a `Layout` who may see whom: a trunk's token what is before it, a branch's token all of
its trunk, and what is before it in its branch. A branch's positions go on where its trunk's end, so that each token is
computed as if its sequence were alone.

Letters: L tokens of the row; P trunks of Q tokens at most; N branches of R tokens at most; D width of a head.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward


@dataclass(frozen=True)
class Branches:
    """The branches of a layout.

    Attributes:
        trunk: [N] which trunk each one grows from.
        places: [N, R] where its tokens lie in the row, the last again on padding.
        sees: [N, 1, R, Q + R] of its trunk's and then its own tokens.
    """

    trunk: Tensor
    places: Tensor
    sees: Tensor
    _masks: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def mask(self, heads: int, dtype: torch.dtype) -> Tensor:
        """[N, 1, heads * R, Q + R] for query heads that lie side by side; the same tensor for all blocks of a pass."""
        if (heads, dtype) not in self._masks:
            sees = self.sees.repeat(1, 1, heads, 1)
            self._masks[heads, dtype] = torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, -torch.inf)
        return self._masks[heads, dtype]


@dataclass(frozen=True)
class Layout:
    """Where things are in a row.

    Attributes:
        trunks: [P, Q] where their tokens lie in the row, the last again on padding.
        branches: None if there are none.
        back: [L] where each token of the row lies among all places, those of the trunks and then of the branches.
    """

    trunks: Tensor
    branches: Branches | None
    back: Tensor


def make_layout(trunk_lengths: Tensor, branch_lengths: Tensor | None = None, trunk: Tensor | None = None) -> Layout:
    """Lay out trunks [P], and branches [N] that grow from `trunk` [N], by their lengths."""
    trunks, trunk_is_real = _places(trunk_lengths, 0)
    if branch_lengths is None or trunk is None:
        return Layout(trunks, None, trunk_is_real.flatten().nonzero()[:, 0])
    begin = int(trunk_lengths.sum())
    places, is_real = _places(branch_lengths, begin)
    places = places.clamp(max=begin + int(branch_lengths.sum()) - 1)  # an empty branch at the end
    reach = torch.arange(places.shape[1], device=places.device)
    before = (reach[:, None] >= reach).expand(len(places), -1, -1)
    of_trunk = trunk_is_real[trunk, None].expand(-1, len(reach), -1)
    back = torch.cat([trunk_is_real.flatten(), is_real.flatten()]).nonzero()[:, 0]
    return Layout(trunks, Branches(trunk, places, torch.cat([of_trunk, before], dim=2)[:, None]), back)


def _places(lengths: Tensor, begin: int) -> tuple[Tensor, Tensor]:
    """[N, R] where the tokens of parts lie that follow each other, and which of them are real."""
    reach = torch.arange(int(lengths.max()), device=lengths.device)
    start = begin + lengths.cumsum(0) - lengths
    last = (lengths[:, None] - 1).clamp(min=0)
    return start[:, None] + torch.minimum(reach, last), reach < lengths[:, None]


def tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: Layout, **options: Any
) -> tuple[Tensor, None]:
    """Attention of a row that is laid out so.

    Args:
        module: the attention layer.
        query: [1, heads, L, D]
        key, value: [1, shared heads, L, D]
        layout: of the row.
        options: `scaling`, and what only transformers' path uses.

    Returns:
        [1, L, heads, D], and no attention weights.
    """
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    q, k, v = (_placed(row, layout.trunks) for row in rows)
    seen, _ = sdpa_attention_forward(module, q, k, v, None, **options)
    parts = [seen.flatten(0, 1)]
    if branches := layout.branches:
        of_trunk = [tensor[branches.trunk] for tensor in (k, v)]
        q, *own = (_placed(row, branches.places) for row in rows)
        k, v = (torch.cat(both, dim=2) for both in zip(of_trunk, own, strict=True))
        parts.append(_masked(q, k, v, branches, options.get("scaling")).flatten(0, 1))
    return torch.cat(parts).index_select(0, layout.back)[None], None


def _placed(row: Tensor, places: Tensor) -> Tensor:
    """[N, heads, R, D] of what lies in a row [L, heads, D]."""
    return row.index_select(0, places.flatten()).view(*places.shape, *row.shape[1:]).transpose(1, 2)


def _masked(query: Tensor, key: Tensor, value: Tensor, branches: Branches, scaling: float | None) -> Tensor:
    """[N, R, heads, D]; query heads that share a key and value head lie side by side as queries, without copies."""
    count, heads, length, width = query.shape
    shared = key.shape[1]
    folded = query.reshape(count, shared, -1, width)
    mask = branches.mask(heads // shared, query.dtype)
    seen = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    return seen.reshape(count, heads, length, width).transpose(1, 2)

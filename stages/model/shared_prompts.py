"""Decoding with a cache in two parts: what a prompt's siblings share is kept and read once, what is a row's own grows.

Each token of a row looks at its prompt and at what the row has said. Keys and values of a prompt lie there once for all
siblings, whose queries are laid side by side against them; a row's own are written into memory that is there for all
tokens to come, so that nothing is copied when one more is added.

Letters: P prompts of Q tokens at most, padded on the left; G siblings each; B rows that are decoded, at most P x G; T
tokens that a row has said; D width of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass
class Prompts:
    """Keys and values of prompts.

    Attributes:
        keys, values: of each layer, [P, shared heads, Q, D].
        bias: [P, 1, 1, Q] 0 on real tokens, minus infinity on padding.
        group_size: G.
        places: [B] of each row's query among P x G.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor
    group_size: int
    places: Tensor

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows only, [B] True on those that stay; prompts that nobody asks any more are dropped."""
        self.places = self.places[rows]
        asked = (self.places // self.group_size).unique()
        if len(asked) < len(self.bias):
            for layers in (self.keys, self.values):
                for i, layer in enumerate(layers):  # one after the other: the old one goes before the next comes
                    layers[i] = layer[asked]
            self.bias = self.bias[asked]
            now = torch.searchsorted(asked, self.places // self.group_size)
            self.places = now * self.group_size + self.places % self.group_size

    @property
    def all_there(self) -> bool:
        """Whether every prompt has all its siblings, in order."""
        return len(self.places) == len(self.bias) * self.group_size


class Own:
    """Keys and values of a layer that are the rows' own, in memory for `room` tokens each."""

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self.keys = self.values = torch.empty(0)

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Those of one more token a row, [B, shared heads, D]; gives all, [B, shared heads, T, D]."""
        if not self.length:
            rows, heads, width = key.shape
            self.keys, self.values = (key.new_empty(rows, heads, self.room, width) for _ in range(2))
        self.keys[:, :, self.length] = key
        self.values[:, :, self.length] = value
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def keep(self, indices: Tensor) -> None:
        """Go on with some rows only, in the same memory; [B that stay] which ones."""
        if not self.length:
            return
        kept = slice(len(indices)), slice(None), slice(self.length)
        for whole in (self.keys, self.values):
            whole[kept] = whole[indices, :, : self.length]
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]


def shared(prefill: DynamicCache, mask: Tensor, group_size: int) -> Prompts:
    """What a prefill of prompts has left, for their siblings.

    Args:
        prefill: its cache.
        mask: [P, Q] True on real tokens.
        group_size: G.
    """
    keys, values = ([getattr(layer, name) for layer in prefill.layers] for name in ("keys", "values"))
    bias = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
    places = torch.arange(len(mask) * group_size, device=mask.device)
    return Prompts(keys, values, bias[:, None, None], group_size, places)


def attention(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, prompts: Prompts, scaling: float
) -> Tensor:
    """Attention of one new token a row, to its prompt and to what the row has said.

    In float32, as torch's kernels: keys and values of another type are copied, a layer's at a time.

    Args:
        query: [B, heads, D]
        key, value: [B, shared heads, T, D] of the rows' own tokens.
        keys, values: [P, shared heads, Q, D] of the prompts' tokens.
        prompts: where they are.
        scaling: of products.

    Returns:
        [B, heads * D]
    """
    dtype = query.dtype
    query, key, value, keys, values = (tensor.float() for tensor in (query, key, value, keys, values))
    folded = (query * scaling).view(len(query), key.shape[1], -1, query.shape[2])
    far = _by_row(_by_prompt(folded, prompts) @ keys.transpose(2, 3) + prompts.bias, prompts)
    near = folded @ key.transpose(2, 3)
    far, near = torch.cat([far, near], dim=3).softmax(3).split([far.shape[3], near.shape[3]], dim=3)
    return (_by_row(_by_prompt(far, prompts) @ values, prompts) + near @ value).flatten(1).to(dtype)


def _by_prompt(rows: Tensor, prompts: Prompts) -> Tensor:
    """[P, shared heads, G x heads that share, ...] from [B, shared heads, heads that share, ...]."""
    count, group_size = len(prompts.bias), prompts.group_size
    if not prompts.all_there:
        rows = rows.new_zeros(count * group_size, *rows.shape[1:]).index_copy(0, prompts.places, rows)
    if group_size == 1:
        return rows
    return rows.view(count, group_size, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)


def _by_row(prompted: Tensor, prompts: Prompts) -> Tensor:
    """[B, shared heads, heads that share, ...], the way back."""
    if prompts.group_size == 1:
        rows = prompted
    else:
        rows = prompted.unflatten(2, (prompts.group_size, -1)).transpose(1, 2).flatten(0, 1)
    return rows if prompts.all_there else rows[prompts.places]

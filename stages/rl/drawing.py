"""One token a row from logits: by inverting the cumulative distribution.

A vocabulary of 152,000 words has a long cumulative sum, and nearly all of it is of no interest. So weights are summed
in blocks, the block is found that the noise falls into, and only that one is summed word by word (docs/performance.md).

Letters: B rows; W words of the vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 256  # words
FEW = 4 * BLOCK  # words, up to which one sum of all is faster


class Drawn(NamedTuple):
    """One token a row.

    Attributes:
        token_ids: [B]
        logprobs: [B] theirs at temperature 1, with nothing banned.
        banned: [B] probability of all banned tokens, at temperature 1.
    """

    token_ids: Tensor
    logprobs: Tensor
    banned: Tensor


def choose(logits: Tensor, temperature: Tensor, top_p: Tensor, noise: Tensor, banned_ids: Tensor) -> Drawn:
    """Draw a token a row.

    Args:
        logits: [B, W] those of banned tokens are overwritten.
        temperature, top_p: [B]
        noise: [B] uniform in [0, 1), float64.
        banned_ids: tokens that are never drawn.
    """
    banned = logits[:, banned_ids].logsumexp(1)
    logits.index_fill_(1, banned_ids, -torch.inf)
    peak = logits.amax(1, keepdim=True)
    weights = (logits - peak).exp_()
    whole = torch.logaddexp(peak[:, 0] + weights.sum(1).log(), banned)
    if (temperature != 1).any():
        weights = torch.sub(logits, peak, out=weights).div_(temperature[:, None]).exp_()
    if (cut := top_p < 1).any():
        weights[cut] = nucleus(weights[cut], top_p[cut])
    token_ids = draw(weights, noise)
    return Drawn(token_ids, logits.gather(1, token_ids[:, None])[:, 0] - whole, (banned - whole).exp())


def nucleus(weights: Tensor, top_p: Tensor) -> Tensor:
    """[B, W] weights without the words beyond the smallest set whose share is `top_p` [B] at least."""
    ordered, order = weights.double().sort(stable=True, dim=1, descending=True)
    shares = ordered.cumsum(1) / ordered.sum(1, keepdim=True)
    beyond = shares - ordered / ordered.sum(1, keepdim=True) >= top_p[:, None]
    return weights.masked_fill(beyond.gather(1, order.argsort(1)), 0)


def draw(weights: Tensor, noise: Tensor) -> Tensor:
    """[B] the word that `noise` [B] falls on, if each takes up as much of [0, 1) as its share of weights [B, W]."""
    words = weights.shape[1]
    if words <= FEW:
        return _find(weights.double(), noise * weights.sum(1, dtype=torch.double))[0][:, 0]
    whole = words - words % BLOCK
    blocks = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(2)
    blocks = torch.cat([blocks, weights[:, whole:].sum(1, keepdim=True)], dim=1).double()
    block, rest = _find(blocks, noise * blocks.sum(1))
    places = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    within = weights.gather(1, places.clamp(max=words - 1)).double() * (places < words)
    place, _ = _find(within, rest)
    return places.gather(1, place)[:, 0].clamp(max=words - 1)  # NaN falls beyond all words


def _find(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 1] in which of the weights, laid end to end, a target [B] falls, and [B] how far into it."""
    edges = weights.cumsum(1)
    # Rounding must not carry it beyond the last weight that is not 0.
    target = torch.minimum(target, edges[:, -1].nextafter(edges.new_zeros(())))[:, None]
    found = torch.searchsorted(edges, target, right=True).clamp(max=weights.shape[1] - 1)
    # Nor before the begin of the one that is found.
    return found, (target - (edges - weights).gather(1, found))[:, 0].clamp(min=0)

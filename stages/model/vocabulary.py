"""Log-probabilities of tokens from hidden states, without the logits of all of them at once.

The head of a 7B model gives 152,000 logits a token: 4 responses of 2,000 tokens would be 5 GB in float32, and as much
again for their gradient. Here they are made some tokens at a time, and once more for the gradient.

Letters: T tokens; H width; W words of the vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits that are there at once: 128 MB in float32.
LOGITS = 2**25


class _InParts(torch.autograd.Function):
    """`plain`, some tokens at a time and all in the same memory: to free it and ask for it again costs time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, token_ids: Tensor, with_entropy: bool, limit: int
    ) -> tuple[Tensor, Tensor]:
        sums, logprobs = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(2))
        entropy = torch.empty_like(logprobs if with_entropy else logprobs[:0])
        logits, weights = _memory(hidden, head, limit), _memory(hidden, head, limit)
        for some in parts(hidden, head, limit):
            z = _logits(hidden[some], head, logits)
            peak = z.amax(1, keepdim=True)
            chosen = z.gather(1, token_ids[some, None])[:, 0]
            w = torch.exp(z.sub_(peak), out=weights[: len(z)])
            total = w.sum(1)
            sums[some] = peak[:, 0] + total.log()
            logprobs[some] = chosen - sums[some]
            if with_entropy:
                entropy[some] = total.log() - w.mul_(z).sum(1) / total
        ctx.save_for_backward(hidden, head, token_ids, sums)
        ctx.limit = limit
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden, head, token_ids, sums = ctx.saved_tensors
        of_hidden, logits = torch.empty_like(hidden), _memory(hidden, head, ctx.limit)
        # In float32: a sum of many parts in bfloat16 would lose them.
        of_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for some in parts(hidden, head, ctx.limit):
            of_logits = _logits(hidden[some], head, logits).sub_(sums[some, None]).exp_().mul_(-gradient[some, None])
            of_logits.scatter_add_(1, token_ids[some, None], gradient[some, None])
            rounded = of_logits.to(head.dtype)
            of_hidden[some] = rounded @ head
            if of_head is not None and rounded.dtype == of_head.dtype:
                of_head.addmm_(rounded.T, hidden[some])
            elif of_head is not None:
                of_head.add_(rounded.T @ hidden[some])
        return of_hidden, None if of_head is None else of_head.to(head.dtype), None, None, None


def _memory(hidden: Tensor, head: Tensor, limit: int) -> Tensor:
    """[tokens of a part, W] for logits."""
    return hidden.new_empty(min(len(hidden), max(1, limit // len(head))), len(head), dtype=torch.float32)


def _logits(hidden: Tensor, head: Tensor, memory: Tensor) -> Tensor:
    """[T, W] in float32, at the begin of some memory [T or more, W]."""
    out = memory[: len(hidden)]
    if hidden.dtype == out.dtype:
        return torch.mm(hidden, head.T, out=out)
    return out.copy_(hidden @ head.T)


def plain(hidden: Tensor, head: Tensor, token_ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
    """What `token_logprobs` gives, from all logits at once."""
    whole = F.linear(hidden, head).float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(whole.exp() * whole).sum(-1) if with_entropy else whole.new_empty(0)
    return whole.gather(1, token_ids[:, None])[:, 0].clone(), entropy  # no view: FSDP2 warns of those


def parts(hidden: Tensor, head: Tensor, limit: int) -> Iterator[slice]:
    """The tokens, as many at a time as there may be logits."""
    size = max(1, limit // len(head))
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def token_logprobs(
    hidden: Tensor, head: Tensor, token_ids: Tensor, *, with_entropy: bool = False, limit: int = LOGITS
) -> tuple[Tensor, Tensor]:
    """How likely tokens are after what was read.

    Args:
        hidden: [T, H] last hidden state before each token.
        head: [W, H] the vocabulary head's weight.
        token_ids: [T]
        with_entropy: give the distributions' entropy as well.
        limit: logits that are there at once; at least those of one token.

    Returns:
        [T] log-probabilities, and [T] entropies in nats, which have no gradient; [0] if they are not asked for.
    """
    if len(hidden) * len(head) <= limit:  # nothing to be saved, and nothing to be computed twice
        return plain(hidden, head, token_ids, with_entropy)
    found: tuple[Tensor, Tensor] = _InParts.apply(hidden, head, token_ids, with_entropy, limit)
    return found

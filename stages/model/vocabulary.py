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

# Logits that are there at once: 256 MB in float32.
LOGITS = 2**26


class _InParts(torch.autograd.Function):
    """`plain`, some tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, token_ids: Tensor, with_entropy: bool, limit: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, head, token_ids)
        ctx.limit = limit
        found = [plain(hidden[some], head, token_ids[some], with_entropy) for some in parts(hidden, head, limit)]
        logprobs, entropy = (torch.cat(of_parts) for of_parts in zip(*found, strict=True))
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden, head, token_ids = ctx.saved_tensors
        trained = [True, ctx.needs_input_grad[1]]
        of_hidden, of_head = [], None
        for some in parts(hidden, head, ctx.limit):
            inputs = [
                tensor.detach().requires_grad_(yes) for tensor, yes in zip((hidden[some], head), trained, strict=True)
            ]
            with torch.enable_grad():
                logprobs, _ = plain(inputs[0], inputs[1], token_ids[some], with_entropy=False)
            of_some, *more = torch.autograd.grad(logprobs, inputs[: sum(trained)], gradient[some])
            of_hidden.append(of_some)
            if more:  # summed in float32: a sum of many parts in bfloat16 would lose them
                of_head = more.pop() if of_head is None else of_head.float().add_(more.pop())
        return torch.cat(of_hidden), None if of_head is None else of_head.to(head.dtype), None, None, None


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

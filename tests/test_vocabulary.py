"""Log-probabilities in parts are those of all logits at once, and so are their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from stages.model import vocabulary
from stages.model.vocabulary import token_logprobs

TOKENS, WIDTH, WORDS = 23, 16, 50


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, a head, token ids, and a gradient for each token."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=random).to(dtype).requires_grad_()
    head = torch.randn(WORDS, WIDTH, generator=random).to(dtype).requires_grad_()
    token_ids = torch.randint(WORDS, (TOKENS,), generator=random)
    return hidden, head, token_ids, torch.randn(TOKENS, generator=random)


@pytest.mark.parametrize("at_once", [1, 7, TOKENS, 1000])
def test_parts_are_the_whole(at_once: int) -> None:
    """Against PyTorch's own cross entropy and entropy, with one token at a time, with a rest, and all at once."""
    hidden, head, token_ids, weight = batch()
    logprobs, entropy = token_logprobs(hidden, head, token_ids, with_entropy=True, limit=at_once * WORDS)
    (logprobs * weight).sum().backward()
    mine = hidden.grad, head.grad
    logits = F.linear(hidden, head)
    expected = -F.cross_entropy(logits, token_ids, reduction="none")
    assert_close(logprobs, expected)
    assert_close(entropy, torch.distributions.Categorical(logits=logits.detach()).entropy())
    assert not entropy.requires_grad
    theirs = torch.autograd.grad((expected * weight).sum(), [hidden, head])
    for found, wanted in zip(mine, theirs, strict=True):
        assert_close(found, wanted)


def test_a_limit_below_a_token_is_one_token() -> None:
    hidden, head, token_ids, _ = batch()
    logprobs, none = token_logprobs(hidden, head, token_ids, limit=3)
    assert_close(logprobs, -F.cross_entropy(F.linear(hidden, head), token_ids, reduction="none"))
    assert len(none) == 0


def test_a_head_that_is_not_trained_gets_no_gradient() -> None:
    hidden, head, token_ids, weight = batch()
    head.requires_grad_(False)
    logprobs, _ = token_logprobs(hidden, head, token_ids, limit=5 * WORDS)
    (logprobs * weight).sum().backward()
    expected = torch.autograd.grad(
        (-F.cross_entropy(F.linear(hidden, head), token_ids, reduction="none") * weight).sum(), hidden
    )
    assert head.grad is None
    assert_close(hidden.grad, expected[0])


def test_many_parts_in_bfloat16_lose_nothing_of_the_heads_gradient() -> None:
    """A sum of 23 parts, each rounded to 8 bits, would be off by several of the last ones."""
    hidden, head, token_ids, weight = batch(torch.bfloat16)
    logprobs, _ = token_logprobs(hidden, head, token_ids, limit=WORDS)
    assert logprobs.dtype == torch.float32
    (logprobs * weight).sum().backward()
    exact_hidden, exact_head = hidden.detach().double(), head.detach().double().requires_grad_()
    exact = -F.cross_entropy(F.linear(exact_hidden, exact_head), token_ids, reduction="none")
    (wanted,) = torch.autograd.grad((exact * weight).sum(), exact_head)
    assert head.grad is not None
    error = (head.grad.double() - wanted).norm() / wanted.norm()
    assert error < 2**-8


def test_never_more_logits_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product with the head is counted, of the gradient too."""
    hidden, head, token_ids, weight = batch()
    sizes: list[int] = []
    plain = vocabulary._logits

    def counted(hidden: Tensor, head: Tensor, memory: Tensor) -> Tensor:
        logits = plain(hidden, head, memory)
        assert logits.data_ptr() == memory.data_ptr()
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(vocabulary, "_logits", counted)
    logprobs, _ = token_logprobs(hidden, head, token_ids, limit=6 * WORDS)
    (logprobs * weight).sum().backward()
    assert max(sizes) == 6 * WORDS and sum(sizes) == 2 * TOKENS * WORDS

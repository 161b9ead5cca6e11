"""Drawing against one long cumulative sum in float64."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stages.rl.drawing import BLOCK, FEW, choose, draw, nucleus

NONE = torch.tensor([], dtype=torch.long)


def shares(logits: Tensor, temperature: Tensor, top_p: Tensor, banned_ids: Tensor) -> Tensor:
    """[B, W] what part of [0, 1) each word takes up."""
    scaled = (logits.double() / temperature[:, None]).index_fill(1, banned_ids, -torch.inf)
    probability = scaled.softmax(1)
    for row, share in enumerate(top_p.tolist()):
        if share < 1:
            ordered, order = probability[row].sort(stable=True, descending=True)
            probability[row, order[ordered.cumsum(0) - ordered >= share]] = 0
    return probability / probability.sum(1, keepdim=True)


@pytest.mark.parametrize("words", [3, 550, FEW, FEW + 1, FEW + BLOCK, 20_000])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.7, 1.0), (0.01, 0.001), (1.0, 0.9)])
def test_the_word_is_the_one_that_the_noise_falls_on(words: int, temperature: float, top_p: float) -> None:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(64, words, generator=random)
    noise = torch.rand(64, generator=random, dtype=torch.float64)
    settings = torch.full((64,), temperature), torch.full((64,), top_p)
    banned = torch.tensor([1])
    taken, plain = shares(logits, *settings, banned), logits.double().log_softmax(1)
    drawn, logprobs, share = choose(logits, *settings, noise, banned)
    end = taken.cumsum(1).gather(1, drawn[:, None])[:, 0]
    begin = end - taken.gather(1, drawn[:, None])[:, 0]
    # Weights are float32: the word next to it where the noise is that near to an edge.
    assert ((begin - 1e-6 <= noise) & (noise < end + 1e-6)).all()
    assert (taken.gather(1, drawn[:, None]) > 0).all()
    assert_close(logprobs.double(), plain.gather(1, drawn[:, None])[:, 0], atol=1e-5, rtol=0)
    assert_close(share.double(), plain[:, 1].exp(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("words", [5, FEW + 5, FEW + BLOCK])
@pytest.mark.parametrize("only", [0, 3, -1])
def test_a_word_of_no_weight_is_never_drawn(words: int, only: int) -> None:
    weights = torch.zeros(3, words)
    weights[:, only] = 1e-30
    noise = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(weights, noise).tolist() == [only % words] * 3


@pytest.mark.parametrize("words", [FEW + 5, FEW + BLOCK])
def test_rounding_at_an_edge_draws_no_word_of_no_weight(words: int) -> None:
    """Each block begins and ends with words of no weight, and noise lies where one block ends and the next begins."""
    weights = torch.rand(400, words, generator=torch.Generator().manual_seed(0))
    place = torch.arange(words) % BLOCK
    weights[:, (place < 3) | (place >= BLOCK - 3)] = 0
    weights[:, -3:] = 0
    ends = weights[:, : words - words % BLOCK].unflatten(1, (-1, BLOCK)).sum(2).double().cumsum(1)
    for end in ends.T:
        noise = (end / ends[:, -1]).clamp(max=1 - 2**-53)
        drawn = draw(weights, noise)
        assert (weights.gather(1, drawn[:, None]) > 0).all()


def test_noise_beyond_the_cumulated_sum_draws_no_word_of_no_weight() -> None:
    """By hand: each small word is too little to move the 1 before it, all summed at once are not."""
    weights = torch.full((1, FEW), 2.0**-53)
    weights[0, 0], weights[0, -1] = 1, 0
    assert draw(weights, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() < FEW - 1


def test_noise_that_rounding_puts_before_a_block_falls_on_its_first_word_of_weight() -> None:
    """By hand: the third block's half of a last digit is rounded up to a whole one, so it seems to begin too late."""
    weights = torch.zeros(1, FEW + BLOCK)
    weights[0, 5], weights[0, BLOCK + 5], weights[0, 2 * BLOCK + 5] = 1, 2**-52, 2**-53
    assert draw(weights, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 2 * BLOCK + 5


def test_the_nucleus_is_the_smallest_set_that_has_the_share() -> None:
    """By hand: of two equal words the first is half of all; a little more than half needs both."""
    weights, top_p = torch.ones(2, 2), torch.tensor([0.5, 0.51])
    assert nucleus(weights, top_p).tolist() == [[1.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("words", [5, FEW + 5, FEW + BLOCK])
def test_a_row_that_is_no_number_gives_some_word_and_disturbs_no_other(words: int) -> None:
    logits = torch.randn(3, words, generator=torch.Generator().manual_seed(0))
    settings = torch.ones(3), torch.ones(3), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    plain = choose(logits.clone(), *settings, NONE)
    logits[1] = torch.nan
    broken = choose(logits, *settings, NONE)
    for ours, others in zip(broken, plain, strict=True):
        assert torch.equal(ours[::2], others[::2])
    assert 0 <= broken.token_ids[1] < words and broken.logprobs[1].isnan()


def test_rows_have_settings_of_their_own() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(3, 1)
    noise = torch.full((3,), 0.01, dtype=torch.float64)
    temperature, top_p = torch.tensor([1.0, 0.01, 1.0]), torch.tensor([1.0, 1.0, 0.5])
    assert choose(logits, temperature, top_p, noise, NONE).token_ids.tolist() == [0, 2, 2]


def test_what_is_banned_may_be_all_that_is_likely() -> None:
    logits = torch.tensor([[0.0, 500.0, 1.0]]).repeat(2, 1)
    settings = torch.tensor([1.0, 0.01]), torch.ones(2), torch.full((2,), 0.9, dtype=torch.float64)
    drawn = choose(logits, *settings, torch.tensor([1]))
    assert drawn.token_ids.tolist() == [2, 2]
    assert drawn.logprobs.tolist() == [-499.0, -499.0] and drawn.banned.tolist() == [1.0, 1.0]

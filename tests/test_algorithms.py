"""Eq. 1 by hand, against naive loops written from the equation, and under changes that must not matter."""

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from stages.config import RL, Optimizer, Rewards, Sampling
from stages.rl.algorithms import (
    clipped_loss,
    grpo_advantages,
    k3,
    reinforce_plus_plus_advantages,
    returns,
    token_weights,
)
from stages.rl.rewards import accuracy, language
from tests.conftest import judged

ADAMW = Optimizer(
    learning_rate=1e-3, warmup_ratio=0.0, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0, clip_grad_norm=1.0
)
METHOD = RL(
    algorithm="reinforce_plus_plus",
    optimizer=ADAMW,
    batch_size=4,
    group_size=2,
    forward_batch_size=4,
    ppo_batch_size=8,
    ppo_backward_batch_size=8,
    ppo_epochs=1,
    epsilon=0.2,
    gamma=1.0,
    beta_rew=0.0,
    beta_loss=0.1,
    advantage_norm=True,
    loss_average="response",
    importance_cap=None,
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8),
    rewards=Rewards(accuracy=1.0, language=1.0),
)
NO_KL = torch.zeros(2, 3)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, KL, groups and a ragged mask of 6 responses in 3 groups, at most 5 tokens."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < tensor([5, 2, 3, 1, 4, 5])[:, None]
    kl = torch.rand(6, 5, generator=random, dtype=torch.float64) * mask
    return torch.rand(6, generator=random, dtype=torch.float64), kl, tensor([7, 7, 2, 2, 5, 5]), mask


def test_reinforce_measures_against_the_batch() -> None:
    """By hand: returns 1,1,1 and 0: mean 3/4, population deviation sqrt(3)/4."""
    mask = tensor([[True, True, True], [True, False, False]])
    a = reinforce_plus_plus_advantages(tensor([1.0, 0.0]), NO_KL, tensor([0, 1]), mask, METHOD, eps=0.0)
    third = 1 / math.sqrt(3)
    assert_close(a, tensor([[third, third, third], [-math.sqrt(3), 0.0, 0.0]]))


def test_the_advantages_mean_is_really_taken_off() -> None:
    """The released code adds it back, and works per rank (deviations.md)."""
    scores, kl, group, mask = batch()
    a = reinforce_plus_plus_advantages(scores, kl, group, mask, METHOD)[mask]
    assert_close(a.mean(), torch.zeros((), dtype=torch.float64), atol=1e-9, rtol=0)
    assert_close(a.std(unbiased=False), torch.ones((), dtype=torch.float64))


def test_grpo_scores_siblings_against_each_other() -> None:
    """By hand: mean 0.5, population deviation 0.5."""
    a = grpo_advantages(tensor([1.0, 0.0]), NO_KL, tensor([7, 7]), torch.ones(2, 3, dtype=torch.bool), METHOD, eps=0.0)
    assert_close(a, tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]))


def test_advantages_are_those_of_a_naive_loop() -> None:
    scores, kl, group, mask = batch()
    found = grpo_advantages(scores, kl, group, mask, METHOD, eps=0.0)
    tokens = [(i, t) for i in range(6) for t in range(int(mask[i].sum()))]
    for i, t in tokens:
        siblings = [scores[j].item() for j in range(6) if group[j] == group[i]]
        mean = sum(siblings) / len(siblings)
        deviation = math.sqrt(sum((s - mean) ** 2 for s in siblings) / len(siblings))
        assert found[i, t].item() == pytest.approx((scores[i].item() - mean) / deviation)

    found = reinforce_plus_plus_advantages(scores, kl, group, mask, METHOD, eps=0.0)
    everywhere = [scores[i].item() for i, _ in tokens]  # gamma is 1: each token's return is its response's score
    mean = sum(everywhere) / len(everywhere)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in everywhere) / len(everywhere))
    for i, t in tokens:
        assert found[i, t].item() == pytest.approx((scores[i].item() - mean) / deviation)


def test_equal_scores_teach_nothing() -> None:
    mask = torch.ones(64, 63, dtype=torch.bool)
    for score in (1.0, 0.9, 0.7):
        for advantages in (grpo_advantages, reinforce_plus_plus_advantages):
            a = advantages(torch.full((64,), score), torch.zeros(64, 63), torch.arange(64) // 2, mask, METHOD)
            assert_close(a, torch.zeros(64, 63))


def test_grpo_needs_siblings() -> None:
    with pytest.raises(ValueError, match="group_size must be at least 2"):
        grpo_advantages(tensor([1.0, 0.0]), NO_KL, tensor([1, 2]), torch.ones(2, 3, dtype=torch.bool), METHOD)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("beta_rew", [0.0, 0.3])
def test_returns_are_the_equations_sum(gamma: float, beta_rew: float) -> None:
    scores, kl, _, mask = batch()
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for i in range(6):
        length = int(mask[i].sum())
        for t in range(length):
            for k in range(t, length):
                reward = (scores[i] if k == length - 1 else 0.0) - beta_rew * kl[i, k]
                expected[i, t] += gamma ** (k - t) * reward
    assert_close(returns(scores, kl, mask, gamma=gamma, beta_rew=beta_rew), expected)


@pytest.mark.parametrize("loss_average", ["response", "token"])
def test_the_loss_is_the_equations_sum(loss_average: str) -> None:
    mask = batch()[3]
    random = torch.Generator().manual_seed(1)
    new, old, ref, advantages = (torch.randn(6, 5, generator=random, dtype=torch.float64) * mask for _ in range(4))
    loss = clipped_loss(new, old, ref, advantages, mask, epsilon=0.2)
    found = ((loss.policy + 0.1 * loss.kl) * token_weights(mask, loss_average, len(mask), int(mask.sum()))).sum().item()

    per_response, per_token = [], []
    for i in range(6):
        terms = []
        for t in range(int(mask[i].sum())):
            ratio = math.exp(new[i, t] - old[i, t])
            a = advantages[i, t].item()
            surrogate = min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            d = (ref[i, t] - new[i, t]).item()
            terms.append(-(surrogate - 0.1 * (math.exp(d) - d - 1)))
        per_response.append(sum(terms) / len(terms))
        per_token += terms
    expected = sum(per_response) / 6 if loss_average == "response" else sum(per_token) / len(per_token)
    assert found == pytest.approx(expected, rel=1e-6)


def test_k3_is_never_negative_and_zero_for_equals() -> None:
    a, b = torch.randn(100, generator=torch.Generator().manual_seed(0)), torch.zeros(100)
    assert (k3(a, b) >= 0).all() and (k3(a, a) == 0).all()


@pytest.mark.parametrize("advantages", [grpo_advantages, reinforce_plus_plus_advantages])
def test_padding_rows_and_groups_may_come_in_any_order(advantages) -> None:  # type: ignore[no-untyped-def]
    scores, kl, group, mask = batch()
    plain = advantages(scores, kl, group, mask, METHOD)
    wide = advantages(scores, torch.nn.functional.pad(kl, (0, 3)), group, torch.nn.functional.pad(mask, (0, 3)), METHOD)
    assert_close(wide[:, :5], plain)
    assert (wide[:, 5:] == 0).all()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    assert_close(advantages(scores[order], kl[order], group[order], mask[order], METHOD), plain[order])


def test_advantage_norm_only_divides() -> None:
    scores, kl, group, mask = batch()
    plain = METHOD.model_copy(update={"advantage_norm": False})
    for advantages in (grpo_advantages, reinforce_plus_plus_advantages):
        a, b = (advantages(scores, kl, group, mask, method)[mask] for method in (METHOD, plain))
        divisor = b / a
        assert (divisor > 0).all() and not torch.allclose(a, b)
        if advantages is reinforce_plus_plus_advantages:
            assert_close(divisor, b.std(unbiased=False).expand_as(divisor))


def test_rewards_are_the_papers() -> None:
    right, wrong = judged(["so \\boxed{12}", "12"], ["12", "12"])
    assert accuracy("so \\boxed{12}", right) == 1 and accuracy("12", wrong) == 0
    assert language("all English", wrong) == 0 and language("", wrong) == 0
    assert language("ab中文", right) == pytest.approx(-0.05)

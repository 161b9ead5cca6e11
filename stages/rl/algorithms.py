"""The mathematics of Eq. 1, apart from model and loop: KL, advantages, loss.

Letters: B responses, R tokens of the longest. A mask is True on response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.config import RL


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased, non-negative estimate of KL(policy || reference) at a sampled token (Schulman 2020): [B, R]."""
    difference = ref_logprobs - logprobs
    return difference.exp() - difference - 1


def returns(scores: Tensor, kl: Tensor, mask: Tensor, *, gamma: float, beta_rew: float) -> Tensor:
    """Discounted sum of what comes after each token: the score at the last one, minus beta_rew KL at each (Eq. 1).

    Args:
        scores: [B] of each response.
        kl: [B, R] to the reference, 0 where the mask is False.
        mask: [B, R]

    Returns:
        [B, R], 0 where the mask is False.
    """
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    rewards = last * scores[:, None] - beta_rew * kl
    summed = torch.zeros_like(rewards)
    following = torch.zeros_like(scores)
    for t in reversed(range(mask.shape[1])):
        following = rewards[:, t] + gamma * following
        summed[:, t] = following
    return summed * mask


def reinforce_plus_plus_advantages(
    scores: Tensor, kl: Tensor, group: Tensor, mask: Tensor, method: RL, *, eps: float = 1e-8
) -> Tensor:
    """Measure each token's return against the whole batch (Hu 2025, Reinforce++).

    Args:
        scores: [B] weighted reward of each response.
        kl: [B, R] k3 of old policy and reference.
        group: [B] unused: the batch is what counts.
        mask: [B, R]
        method: gamma, beta_rew and advantage_norm.
        eps: added to the deviation, so that equal returns give 0 and not NaN.

    Returns:
        [B, R] returns minus their mean over the batch's tokens, divided by their deviation if `advantage_norm`.
    """
    summed = returns(scores, kl, mask, gamma=method.gamma, beta_rew=method.beta_rew)
    tokens = summed[mask]
    if tokens.max() == tokens.min():  # a rounding error over a rounding error would not be 0
        return torch.zeros_like(summed)
    deviation = tokens.std(unbiased=False) + eps if method.advantage_norm else 1.0
    return (summed - tokens.mean()) / deviation * mask


def grpo_advantages(
    scores: Tensor, kl: Tensor, group: Tensor, mask: Tensor, method: RL, *, eps: float = 1e-6
) -> Tensor:
    """Measure each response against its siblings (Shao et al. 2024, Sec. 4.1.2, outcome supervision).

    Args:
        scores: [B] weighted reward of each response.
        kl: [B, R] unused: the penalty stands in the loss.
        group: [B] which problem each response answers.
        mask: [B, R]
        method: advantage_norm.
        eps: added to the group's deviation, so that equal scores give 0 and not NaN.

    Returns:
        [B, R] score minus its group's mean on each token, divided by the group's deviation if `advantage_norm`.

    Raises:
        ValueError: a group has one member, so there is nothing to compare it with.
    """
    _, index, size = group.unique(return_inverse=True, return_counts=True)
    if (size < 2).any():
        raise ValueError("grpo: a group of one response; group_size must be at least 2")
    mean = torch.zeros_like(size, dtype=scores.dtype).index_add(0, index, scores) / size
    centred = scores - mean[index]
    if method.advantage_norm:
        variance = torch.zeros_like(mean).index_add(0, index, centred.square()) / size
        centred = centred / (variance.sqrt()[index] + eps)
    return centred[:, None] * mask


Advantages = Callable[[Tensor, Tensor, Tensor, Tensor, RL], Tensor]
ADVANTAGES: dict[str, Advantages] = {
    "reinforce_plus_plus": reinforce_plus_plus_advantages,
    "grpo": grpo_advantages,
}


def token_weights(mask: Tensor, loss_average: str, responses: int, tokens: int) -> Tensor:
    """[B, R] each token's weight in the mean of an update: within its response first (Eq. 1), or over all tokens.

    Args:
        mask: [B, R]
        loss_average: response or token.
        responses, tokens: of the update, of all processes together.
    """
    if loss_average == "response":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / responses
    return mask / tokens


def truncated_importance(old_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """[B, R] how much likelier a token is under the policy than under the sampler that drew it, at most `cap`.

    Times the advantage it corrects for a sampler that computes otherwise than the learner (Yao et al. 2025, truncated
    importance sampling); a positive factor changes no choice between the clipped and the unclipped objective.
    """
    return (old_logprobs - sampler_logprobs).exp().clamp(max=cap)


@dataclass(frozen=True)
class Loss:
    """The parts of Eq. 1, each [B, R], 0 where the mask is False.

    Attributes:
        policy: minus the clipped objective.
        kl: k3 to the reference, not weighted.
        ratio: pi_theta / pi_old.
        clipped: 1 where the ratio is outside 1 +- epsilon.
    """

    policy: Tensor
    kl: Tensor
    ratio: Tensor
    clipped: Tensor


def clipped_loss(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float
) -> Loss:
    """Clipped policy loss and KL of each token (Eq. 1); every argument but epsilon is [B, R]."""
    ratio = (logprobs - old_logprobs).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    clipped = ((ratio - 1).abs() > epsilon).to(ratio.dtype)
    return Loss(-objective * mask, k3(logprobs, ref_logprobs) * mask, ratio * mask, clipped * mask)

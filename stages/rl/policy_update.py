"""Step IV, policy update: a trajectory becomes new weights.

Letters: B responses of an update; R tokens of the longest.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.config import RL
from stages.model.logprobs import logprobs_and_entropy
from stages.rl.algorithms import ADVANTAGES, clipped_loss, k3, token_weights, truncated_importance
from stages.rl.mismatch import check_mismatch, mismatch
from stages.rl.trajectory_generation import Trajectory, sequences_of
from stages.training.learner import Learner
from stages.training.world import Share


@dataclass(frozen=True)
class Update:
    """One optimiser step; means are over its response tokens (see `records.UpdateRow`)."""

    loss: float
    policy_loss: float
    kl_loss: float
    ratio: float
    clip_fraction: float
    entropy: float
    grad_norm: float
    lr: float
    tokens: int
    sampler_gap: float
    sampler_gap_max: float
    sampler_outside: float


def update_policy(
    learner: Learner, trajectory: Trajectory, method: RL, share: Share, largest_gap: float = math.inf
) -> list[Update]:
    """Go `ppo_epochs` times through a trajectory, an update for every `ppo_batch_size` responses.

    Args:
        learner: the policy.
        trajectory: of this process.
        method: the settings.
        share: which rows of the whole batch it has.
        largest_gap: between sampler and learner, the mean of all rows.

    Raises:
        StepError: they are further apart, before the first update; or a number is not finite, before its update.
    """
    advantages = advantages_of(trajectory, method, share)
    if method.importance_cap is not None:
        sampled, old = trajectory.responses.logprobs, trajectory.old_logprobs
        advantages = advantages * truncated_importance(old, sampled, method.importance_cap)
    rows = torch.arange(len(advantages), device=advantages.device)
    parts = rows.split(method.ppo_batch_size // learner.world.size) * method.ppo_epochs
    return [
        _update(learner, trajectory, advantages, part, method, largest_gap, first=i == 0)
        for i, part in enumerate(parts)
    ]


def advantages_of(trajectory: Trajectory, method: RL, share: Share) -> Tensor:
    """[B, R] of this process's responses, measured against those of all processes."""
    mask = trajectory.responses.mask
    kl = k3(trajectory.old_logprobs, trajectory.ref_logprobs)
    group = trajectory.queries.group * share.world.size + share.world.rank  # no two processes share a problem
    scores, kl, group, whole_mask = map(share.whole_tensor, (trajectory.scores, kl, group, mask))
    return share.mine(ADVANTAGES[method.algorithm](scores, kl, group, whole_mask, method))[:, : mask.shape[1]]


def _update(
    learner: Learner,
    trajectory: Trajectory,
    advantages: Tensor,
    rows: Tensor,
    method: RL,
    largest_gap: float,
    *,
    first: bool,
) -> Update:
    """One optimiser step on some rows, its gradient gathered in backward batches.

    The first finds old log-probabilities of `fresh` rows, and looks at the gap of all rows before it moves a weight.
    """
    world, problems = learner.world, trajectory.queries.problems
    sums = torch.zeros(5, dtype=torch.float64, device=rows.device)
    sequences = sequences_of(trajectory.queries, trajectory.responses).take(rows)
    responses, tokens = world.sum(torch.stack([rows.new_tensor(len(rows)), sequences.response_mask.sum()])).tolist()
    weights = token_weights(sequences.response_mask, method.loss_average, responses, tokens)
    for part in sequences.in_parts(method.ppo_backward_batch_size):
        batch, where = sequences.take(part), rows[part]
        mask = batch.response_mask
        logprobs, entropy = logprobs_and_entropy(learner.policy, batch)
        if first and trajectory.fresh:
            trajectory.old_logprobs[where] = logprobs.detach()
        loss = clipped_loss(
            logprobs,
            trajectory.old_logprobs[where],
            trajectory.ref_logprobs[where],
            advantages[where],
            mask,
            method.epsilon,
        )
        whole = ((loss.policy + method.beta_loss * loss.kl) * weights[part]).sum()
        learner.backward(whole, [problems[i].id for i in where.tolist()])
        columns = (loss.policy * weights[part], loss.kl * weights[part], loss.ratio, loss.clipped, entropy)
        sums += torch.stack([column.detach().double().sum() for column in columns])
    if first:  # all old log-probabilities are known now
        check_mismatch(trajectory, largest_gap, world)
    gap = mismatch(trajectory, rows, world)
    policy_loss, kl_loss, ratio, clipped, entropy_sum = world.sum(sums).tolist()
    grad_norm, lr = learner.step([problems[i].id for i in rows.tolist()])
    return Update(
        loss=policy_loss + method.beta_loss * kl_loss,
        policy_loss=policy_loss,
        kl_loss=kl_loss,
        ratio=ratio / tokens,
        clip_fraction=clipped / tokens,
        entropy=entropy_sum / tokens,
        grad_norm=grad_norm,
        lr=lr,
        tokens=tokens,
        sampler_gap=gap.gap,
        sampler_gap_max=gap.gap_max,
        sampler_outside=gap.outside,
    )

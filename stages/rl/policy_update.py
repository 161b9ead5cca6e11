"""Step IV, policy update: a trajectory becomes new weights.

Letters: B responses of an update; R tokens of the longest; T all response tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.config import RL
from stages.model.logprobs import Sequences, response_logits, spread
from stages.rl.algorithms import ADVANTAGES, clipped_loss, k3, token_weights
from stages.rl.trajectory_generation import Trajectory, sequences_of
from stages.training.optimizer import Optimization


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


def update_policy(
    policy: PreTrainedModel, optimization: Optimization, trajectory: Trajectory, method: RL
) -> list[Update]:
    """Go `ppo_epochs` times through a trajectory, an update for every `ppo_batch_size` responses."""
    kl = k3(trajectory.old_logprobs, trajectory.ref_logprobs)
    mask = trajectory.responses.mask
    advantages = ADVANTAGES[method.algorithm](trajectory.scores, kl, trajectory.queries.group, mask, method)
    rows = torch.arange(len(mask), device=mask.device)
    return [
        _update(policy, optimization, trajectory, advantages, part, method)
        for _ in range(method.ppo_epochs)
        for part in rows.split(method.ppo_batch_size)
    ]


def _update(
    policy: PreTrainedModel,
    optimization: Optimization,
    trajectory: Trajectory,
    advantages: Tensor,
    rows: Tensor,
    method: RL,
) -> Update:
    """One optimiser step on some rows, its gradient gathered in backward batches."""
    sums = torch.zeros(6, dtype=torch.float64, device=rows.device)
    sequences = sequences_of(trajectory.queries, trajectory.responses).take(rows)
    weights = token_weights(sequences.response_mask, method.loss_average)
    for part in sequences.by_length(method.ppo_backward_batch_size):
        batch, where = sequences.take(part), rows[part]
        mask = batch.response_mask
        logprobs, entropy = _logprobs_and_entropy(policy, batch)
        loss = clipped_loss(
            logprobs,
            trajectory.old_logprobs[where],
            trajectory.ref_logprobs[where],
            advantages[where],
            mask,
            method.epsilon,
        )
        total = ((loss.policy + method.beta_loss * loss.kl) * weights[part]).sum()
        total.backward()
        columns = (loss.policy * weights[part], loss.kl * weights[part], loss.ratio, loss.clipped, entropy, mask)
        sums += torch.stack([column.detach().double().sum() for column in columns])
    policy_loss, kl_loss, ratio, clipped, entropy_sum, tokens = sums.tolist()
    gap = (trajectory.responses.logprobs[rows] - trajectory.old_logprobs[rows]).abs() * sequences.response_mask
    grad_norm, lr = optimization.step()
    return Update(
        loss=policy_loss + method.beta_loss * kl_loss,
        policy_loss=policy_loss,
        kl_loss=kl_loss,
        ratio=ratio / tokens,
        clip_fraction=clipped / tokens,
        entropy=entropy_sum / tokens,
        grad_norm=grad_norm,
        lr=lr,
        tokens=int(tokens),
        sampler_gap=gap.sum().item() / tokens,
        sampler_gap_max=gap.max().item(),
    )


def _logprobs_and_entropy(policy: PreTrainedModel, batch: Sequences) -> tuple[Tensor, Tensor]:
    """[B, R] log-probabilities of the response tokens, with gradient, and the policy's entropy there, without."""
    full = response_logits(policy, batch).log_softmax(-1)
    chosen = full.gather(1, batch.response_ids[batch.response_mask][:, None])[:, 0]
    with torch.no_grad():
        entropy = -(full.exp() * full).sum(-1)
    return spread(chosen, batch.response_mask), spread(entropy, batch.response_mask)

"""Step III, trajectory generation: responses are scored.

Letters: B responses; R tokens of the longest.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.config import RL
from stages.evaluation.answers import Verdict
from stages.model.logprobs import Sequences, response_logprobs
from stages.rl.data_flow import Queries
from stages.rl.response_collection import Responses
from stages.rl.rewards import REWARDS
from stages.training.errors import StepError


@dataclass(frozen=True)
class Trajectory:
    """All that an update needs.

    Attributes:
        queries, responses: the steps before.
        old_logprobs, ref_logprobs: [B, R] under the policy as it answered and the frozen reference; 0 on padding.
        verdicts: [B] what the judge says.
        rewards: [B] by name, before they are weighted.
        scores: [B] weighted sum of the rewards, given at the end token: a response that was cut off has none (Eq. 1).
    """

    queries: Queries
    responses: Responses
    old_logprobs: Tensor
    ref_logprobs: Tensor
    verdicts: list[Verdict]
    rewards: dict[str, Tensor]
    scores: Tensor


def sequences_of(queries: Queries, responses: Responses) -> Sequences:
    """Queries and responses side by side, to be scored by a model."""
    return Sequences(
        queries.token_ids, queries.mask, queries.position_ids, queries.features, responses.token_ids, responses.mask
    )


def make_trajectory(
    queries: Queries,
    responses: Responses,
    policy: nn.Module,
    reference: AbstractContextManager[nn.Module],
    method: RL,
    judge: Callable[[list[str], list[str]], list[Verdict]],
) -> Trajectory:
    """Score responses by their rewards, and their tokens by policy and reference.

    Args:
        queries, responses: the steps before.
        policy: a `Scorer`.
        reference: gives one while it is entered (`stages.rl.reference`).
        method: the settings.
        judge: says what is right, of texts and answers.

    Raises:
        StepError: one of them does not give every token a probability.
    """
    sequences = sequences_of(queries, responses)
    verdicts = judge(responses.texts, [problem.answer for problem in queries.problems])
    rewards = {
        name: torch.tensor([reward(text, verdict) for text, verdict in zip(responses.texts, verdicts, strict=True)])
        for name, reward in REWARDS.items()
    }
    old_logprobs = _logprobs(policy, sequences, method.forward_batch_size)
    with reference as base:  # nothing else: the policy's own adapters may be off here
        ref_logprobs = _logprobs(base, sequences, method.forward_batch_size)
    for whose, logprobs in (("policy", old_logprobs), ("reference", ref_logprobs)):
        _check_finite(whose, logprobs, queries)
    weighted = sum((getattr(method.rewards, name) * values for name, values in rewards.items()), torch.zeros(()))
    return Trajectory(
        queries=queries,
        responses=responses,
        old_logprobs=old_logprobs,
        ref_logprobs=ref_logprobs,
        verdicts=verdicts,
        rewards=rewards,
        scores=weighted.to(responses.mask.device) * responses.finished,
    )


def _check_finite(whose: str, logprobs: Tensor, queries: Queries) -> None:
    broken = (~torch.isfinite(logprobs).all(1)).nonzero()[:, 0].tolist()
    if broken:
        ids = dict.fromkeys(queries.problems[row].id for row in broken)
        raise StepError(f"the {whose}'s log-probabilities of responses are not finite, to problems {', '.join(ids)}")


@torch.no_grad()
def _logprobs(scorer: nn.Module, sequences: Sequences, forward_batch_size: int) -> Tensor:
    """[B, R] in batches of rows of like length."""
    found = torch.zeros(sequences.response_mask.shape, device=sequences.response_mask.device)
    for rows in sequences.by_length(forward_batch_size):
        part = sequences.take(rows)
        found[rows] = response_logprobs(scorer, part)
    return found

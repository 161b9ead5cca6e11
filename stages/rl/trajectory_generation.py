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
from stages.model.logprobs import response_logprobs
from stages.model.sequences import Sequences
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
        fresh: so many of the first rows, those of the first update, have no `old_logprobs` before it writes them.
    """

    queries: Queries
    responses: Responses
    old_logprobs: Tensor
    ref_logprobs: Tensor
    verdicts: list[Verdict]
    rewards: dict[str, Tensor]
    scores: Tensor
    fresh: int = 0


def fresh_rows(method: RL, processes: int) -> int:
    """How many of a process's first rows need no forward pass of their own for their old log-probabilities.

    The first update learns from them while the policy is still the one that answered: what it computes is what that
    pass would give. Only where the numbers are needed before (KL in the reward, truncated importance) is it made.
    """
    needed_before = method.beta_rew or method.importance_cap is not None
    return 0 if needed_before else method.ppo_batch_size // processes


def sequences_of(queries: Queries, responses: Responses) -> Sequences:
    """Queries and responses side by side, to be scored by a model."""
    q = queries
    return Sequences(q.token_ids, q.mask, q.position_ids, q.features, q.group, responses.token_ids, responses.mask)


def make_trajectory(
    queries: Queries,
    responses: Responses,
    policy: nn.Module,
    reference: AbstractContextManager[nn.Module],
    method: RL,
    judge: Callable[[list[str], list[str]], list[Verdict]],
    fresh: int = 0,
) -> Trajectory:
    """Score responses by their rewards, and their tokens by policy and reference.

    Args:
        queries, responses: the steps before.
        policy: a `Scorer`.
        reference: gives one while it is entered (`stages.rl.reference`).
        method: the settings.
        judge: says what is right, of texts and answers.
        fresh: first rows that the policy does not score here (`fresh_rows`).

    Raises:
        StepError: one of them does not give every token a probability.
    """
    sequences = sequences_of(queries, responses)
    verdicts = judge(responses.texts, [problem.answer for problem in queries.problems])
    rewards = {
        name: torch.tensor([reward(text, verdict) for text, verdict in zip(responses.texts, verdicts, strict=True)])
        for name, reward in REWARDS.items()
    }
    rows = torch.arange(len(queries), device=responses.mask.device)
    old_logprobs = _logprobs(policy, sequences, rows[fresh:], method.forward_batch_size)
    with reference as base:  # nothing else: the policy's own adapters may be off here
        ref_logprobs = _logprobs(base, sequences, rows, method.forward_batch_size)
    for whose, logprobs in (("sampler", responses.logprobs), ("policy", old_logprobs), ("reference", ref_logprobs)):
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
        fresh=fresh,
    )


def _check_finite(whose: str, logprobs: Tensor, queries: Queries) -> None:
    broken = (~torch.isfinite(logprobs).all(1)).nonzero()[:, 0].tolist()
    if broken:
        ids = dict.fromkeys(queries.problems[row].id for row in broken)
        raise StepError(f"the {whose}'s log-probabilities of responses are not finite, to problems {', '.join(ids)}")


@torch.no_grad()
def _logprobs(scorer: nn.Module, sequences: Sequences, rows: Tensor, forward_batch_size: int) -> Tensor:
    """[B, R] of some rows, in batches; 0 of the others."""
    found = torch.zeros(sequences.response_mask.shape, device=sequences.response_mask.device)
    chosen = sequences.take(rows)
    for part in chosen.in_parts(forward_batch_size) if len(rows) else ():
        found[rows[part]] = response_logprobs(scorer, chosen.take(part))
    return found

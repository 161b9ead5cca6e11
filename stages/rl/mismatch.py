"""How far the sampler is from the learner: two engines with the same weights do not agree to the last digit.

A response is sampled by one and learnt from by the other, as if one policy had done both. Rounding makes a gap of 1e-7
nats a token in float32 and, with tiny models, 1e-3 in bfloat16; old weights, old caches, other pixels or other
positions make one that nothing else would show.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.rl.trajectory_generation import Trajectory
from stages.training.errors import StepError
from stages.training.world import World

# A token whose ratio of probabilities, learner to sampler, is outside is told from one that is merely rounded.
RATIOS = (0.8, 1.25)


@dataclass(frozen=True)
class Mismatch:
    """Between the tokens' log-probabilities as sampler and learner computed them, in nats.

    Attributes:
        gap, gap_max: without sign; mean and largest.
        outside: share of tokens whose ratio of probabilities is outside RATIOS.
    """

    gap: float
    gap_max: float
    outside: float


def mismatch(trajectory: Trajectory, rows: Tensor, world: World) -> Mismatch:
    """Of some rows, those of all processes together."""
    mask = trajectory.responses.mask[rows]
    log_ratio = (trajectory.old_logprobs[rows] - trajectory.responses.logprobs[rows]) * mask
    low, high = torch.tensor(RATIOS, dtype=torch.float64).log().tolist()
    outside = ((log_ratio < low) | (log_ratio > high)).sum()
    tokens = world.sum(mask.sum()).item()
    return Mismatch(
        gap=world.sum(log_ratio.abs().sum()).item() / tokens,
        gap_max=max(world.gather(log_ratio.abs().max().item())),
        outside=world.sum(outside).item() / tokens,
    )


def check_mismatch(trajectory: Trajectory, largest_gap: float, world: World) -> None:
    """The learner learns from what its own policy said.

    Args:
        trajectory: of a generation step.
        largest_gap: of `Mismatch.gap`.
        world: its processes.

    Raises:
        StepError: sampler and learner are further apart.
    """
    found = mismatch(trajectory, torch.arange(len(trajectory.queries), device=trajectory.old_logprobs.device), world)
    if not found.gap <= largest_gap:  # NaN is not
        raise StepError(
            f"sampler and learner differ by {found.gap:.3g} nats a token on average (at most {found.gap_max:.3g}; for "
            f"{found.outside:.1%} of the tokens their ratio is outside {RATIOS[0]} to {RATIOS[1]}), more than "
            f"collector.largest_gap={largest_gap:g}: the policy would learn from what another one said. Likely causes: "
            "the sampler has not taken over the last weights, or answers from caches of older ones; it sees other "
            "pixels or positions than the learner; it computes less exactly (compute.dtype); the policy wants to say "
            "vision placeholders, which are never sampled. If it is rounding, allow for more and set importance_cap."
        )

"""Step I, data flow: problems become queries.

Letters: B rows = problems x G; G group size; Q tokens of the longest query; V image tokens of a picture; H width;
D levels of features beyond the last (`stages.model.levels`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.data.problem import Problem
from stages.model.vlm import VLM


@dataclass(frozen=True)
class Queries:
    """What is asked: each problem G times in a row.

    Attributes:
        problems: [B]
        token_ids: [B, Q] padded on the left.
        mask: [B, Q] True on real tokens.
        position_ids: [3, B, Q] as the model derives them; 0 on padding.
        features: [B] of [V, H * (1 + D)], one tensor for all siblings.
        group: [B] which problem a row asks.
        group_size: G.
    """

    problems: list[Problem]
    token_ids: Tensor
    mask: Tensor
    position_ids: Tensor
    features: list[Tensor]
    group: Tensor
    group_size: int

    def __len__(self) -> int:
        return len(self.problems)


def make_queries(problems: list[Problem], vlm: VLM, group_size: int) -> Queries:
    """Ask every problem `group_size` times."""
    prompts = [prompt for prompt in vlm.prompts(problems) for _ in range(group_size)]
    rows, longest = len(prompts), max(len(prompt.token_ids) for prompt in prompts)
    token_ids = torch.full((rows, longest), vlm.processor.tokenizer.pad_token_id, device=vlm.device)
    mask = torch.zeros(rows, longest, dtype=torch.bool, device=vlm.device)
    position_ids = torch.zeros(3, rows, longest, dtype=torch.long, device=vlm.device)
    for i, prompt in enumerate(prompts):
        begin = longest - len(prompt.token_ids)
        token_ids[i, begin:] = prompt.token_ids
        mask[i, begin:] = True
        position_ids[:, i, begin:] = prompt.position_ids
    return Queries(
        problems=[problem for problem in problems for _ in range(group_size)],
        token_ids=token_ids,
        mask=mask,
        position_ids=position_ids,
        features=[prompt.features for prompt in prompts],
        group=torch.arange(len(problems), device=vlm.device).repeat_interleave(group_size),
        group_size=group_size,
    )

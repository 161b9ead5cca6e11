"""Log-probabilities of responses under a model.

Letters: B rows; Q, R tokens of the longest query, response; T all response tokens of the batch; H width; V image
tokens of a picture; D levels of features beyond the last.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.model.vlm import hidden_states
from stages.model.vocabulary import token_logprobs


@dataclass(frozen=True)
class Sequences:
    """Queries and their responses, to be scored.

    Attributes:
        query_ids, query_mask: [B, Q] padded on the left.
        position_ids: [3, B, Q] of the queries.
        features: [B] of [V, H * (1 + D)].
        response_ids, response_mask: [B, R] padded on the right.
    """

    query_ids: Tensor
    query_mask: Tensor
    position_ids: Tensor
    features: list[Tensor]
    response_ids: Tensor
    response_mask: Tensor

    def take(self, rows: Tensor) -> "Sequences":
        """Some rows only."""
        return Sequences(
            self.query_ids[rows],
            self.query_mask[rows],
            self.position_ids[:, rows],
            [self.features[row] for row in rows.tolist()],
            self.response_ids[rows],
            self.response_mask[rows],
        )

    def by_length(self, size: int) -> list[Tensor]:
        """All rows in batches of `size`, rows of like length together, so that little is padded."""
        length = self.query_mask.sum(1) + self.response_mask.sum(1)
        return list(length.argsort(stable=True).split(size))


def response_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """[T, H] the last hidden state that each response token was drawn from, row after row.

    Every row is moved to the left edge, so that padding is on the right only: no attention mask is needed, and the
    batch is as wide as its longest row.
    """
    s = sequences
    token_ids = torch.cat([s.query_ids, s.response_ids], dim=1)
    mask = torch.cat([s.query_mask, s.response_mask], dim=1)
    is_response = torch.cat([torch.zeros_like(s.query_mask), s.response_mask], dim=1)
    after = s.position_ids.amax(dim=(0, 2))[:, None] + s.response_mask.cumsum(1)
    position_ids = torch.cat([s.position_ids, after.expand(3, -1, -1)], dim=2)

    order = (~mask).int().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    hidden = hidden_states(
        model,
        token_ids.gather(1, order).masked_fill(~mask.gather(1, order), 0),
        position_ids.gather(2, order.expand(3, -1, -1)),
        s.features,
    )
    return hidden[:, :-1][is_response.gather(1, order)[:, 1:]]


class Scorer(nn.Module):
    """A model that scores response tokens in one forward pass: DDP and FSDP2 see where it begins and ends."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, sequences: Sequences, with_entropy: bool) -> tuple[Tensor, Tensor]:
        # transformers computes blocks again in training mode only, and no decoding goes on in that.
        self.model.train(self.model.is_gradient_checkpointing and torch.is_grad_enabled())
        hidden = response_hidden(self.model, sequences)
        self.model.eval()
        token_ids = sequences.response_ids[sequences.response_mask]
        return token_logprobs(hidden, self.model.lm_head.weight, token_ids, with_entropy=with_entropy)


def response_logprobs(scorer: nn.Module, sequences: Sequences) -> Tensor:
    """[B, R] log-probability of each response token, 0 on padding.

    Args:
        scorer: a `Scorer`, or one that is distributed.
        sequences: the responses.
    """
    logprobs, _ = scorer(sequences, with_entropy=False)
    return spread(logprobs, sequences.response_mask)


def logprobs_and_entropy(scorer: nn.Module, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """[B, R] log-probabilities, with gradient, and the model's entropy at each response token, without."""
    logprobs, entropy = scorer(sequences, with_entropy=True)
    return spread(logprobs, sequences.response_mask), spread(entropy, sequences.response_mask)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """[B, R] with [T] values on the mask's tokens and 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)

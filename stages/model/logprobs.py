"""Log-probabilities of responses under a model.

Letters: B rows; R tokens of the longest response; T all response tokens of the batch; H width.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.model.sequences import Sequences
from stages.model.vlm import hidden_states
from stages.model.vocabulary import token_logprobs


def response_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """[T, H] the last hidden state that each response token was drawn from, row after row."""
    row = sequences.side_by_side()
    hidden = hidden_states(model, row.token_ids, row.position_ids, row.features, layout=row.layout)
    return hidden[0].index_select(0, row.drawn_from)


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

"""Step II, response collection: queries become responses.

Letters: B rows; Q, R tokens of the longest query, response; W words of the vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from stages.config import Sampling
from stages.model.decoder import Decoder
from stages.model.vlm import VLM, hidden_states
from stages.rl.data_flow import Queries
from stages.rl.drawing import choose
from stages.seeds import uniforms
from stages.training.errors import StepError

# Share of finished rows at which they leave the batch: each leave-taking copies the cache of those that stay.
LEAVING = 0.15
# Mean probability of banned tokens beyond which a policy has nothing else to say.
SPEECHLESS = 0.99


@dataclass(frozen=True)
class Responses:
    """What was answered.

    Attributes:
        texts: [B] without special tokens.
        token_ids: [B, R] padded on the right.
        mask: [B, R] True up to and with the end token.
        finished: [B] ended by itself, not cut off.
        logprobs: [B, R] log-probability of each token under the policy that answered, at temperature 1 (native) or at
            the row's temperature and top_p (vLLM), which are 1 in training; 0 on padding.
    """

    texts: list[str]
    token_ids: Tensor
    mask: Tensor
    finished: Tensor
    logprobs: Tensor


class Collector(Protocol):
    """Something that answers queries."""

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's weights, one by one under transformers' names: all but frozen vision."""
        ...

    def collect(self, queries: Queries, sampling: Sequence[Sampling], seeds: Sequence[int]) -> Responses:
        """Answer each row with its own sampling and its own seed; a row's answer does not depend on the others.

        Raises:
            StepError: the policy says nothing but vision placeholders, which are banned.
        """
        ...

    def rest(self) -> None:
        """Give back what memory it can; nothing is collected before the next `load`."""
        ...


@dataclass
class NativeCollector:
    """Samples in process, with transformers.

    A prompt's prefill is shared by its siblings, and rows that are finished leave the batch, some at a time.

    Attributes:
        vlm: the very model that is trained, or, where that one is cut into parts, a copy of its own.
        shared: it is the very model, so that there is nothing to be taken over.
    """

    vlm: VLM
    shared: bool = False

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        if self.shared:
            return
        own = dict(self.vlm.model.named_parameters())
        for name, weight in weights:
            own[name].copy_(weight)

    def rest(self) -> None:
        """It has no memory of its own between two calls."""

    @torch.no_grad()
    def collect(self, queries: Queries, sampling: Sequence[Sampling], seeds: Sequence[int]) -> Responses:
        device, rows = self.vlm.device, len(queries)
        longest = max(s.max_new_tokens for s in sampling)
        limits = torch.tensor([s.max_new_tokens for s in sampling], device=device)
        temperature = torch.tensor([s.temperature for s in sampling], device=device)
        top_p = torch.tensor([s.top_p for s in sampling], device=device)
        noise = torch.from_numpy(np.stack([uniforms(seed, longest) for seed in seeds])).to(device)

        token_ids = torch.zeros(rows, longest, dtype=torch.long, device=device)
        logprobs, banned = torch.zeros(rows, longest, device=device), torch.zeros(rows, longest, device=device)
        lengths, finished = limits.clone(), torch.zeros(rows, dtype=torch.bool, device=device)
        stop_ids, banned_ids = self.vlm.stop_ids, self.vlm.banned_ids
        batch = torch.arange(rows, device=device)  # the rows that are decoded
        going = torch.ones_like(finished)  # of these, the ones that still answer
        decoder, logits = begin(self.vlm, queries, longest)
        for t in range(longest):
            # Of a row that no longer answers, what is written here is beyond its length, and cut off below.
            drawn = choose(logits, temperature[batch], top_p[batch], noise[batch, t], banned_ids)
            chosen = drawn.token_ids
            token_ids[batch, t], logprobs[batch, t], banned[batch, t] = drawn
            stopped = torch.isin(chosen, stop_ids) & going
            finished[batch[stopped]] = True
            lengths[batch[stopped]] = t + 1
            going = going & ~stopped & (t + 1 < limits[batch])
            staying = int(going.sum())
            if not staying:
                break
            if staying <= len(going) * (1 - LEAVING):
                decoder.keep(going)
                batch, chosen, going = batch[going], chosen[going], going[going]
            logits = decoder.step(chosen)

        reach = int(lengths.max())
        mask = torch.arange(reach, device=device) < lengths[:, None]
        token_ids = token_ids[:, :reach].masked_fill(~mask, self.vlm.processor.tokenizer.pad_token_id)
        logprobs = logprobs[:, :reach].masked_fill(~mask, 0)
        check_it_speaks(banned[:, :reach][mask])
        return Responses(texts_of(self.vlm, token_ids, mask), token_ids, mask, finished, logprobs)


def texts_of(vlm: VLM, token_ids: Tensor, mask: Tensor) -> list[str]:
    """[B] the texts of responses, without special tokens, from their ids and mask [B, R]."""
    kept = [ids[real].tolist() for ids, real in zip(token_ids, mask, strict=True)]
    texts: list[str] = vlm.processor.tokenizer.batch_decode(kept, skip_special_tokens=True)
    return texts


def check_it_speaks(banned: Tensor) -> None:
    """Stop at a policy that is left with nothing to say.

    Args:
        banned: of each response token, the probability that the policy gave to banned tokens in its place.

    Raises:
        StepError: nearly all, everywhere.
    """
    if (share := banned.mean().item()) > SPEECHLESS:
        raise StepError(
            f"{share:.1%} of the policy's probability is on vision placeholders, which cannot be said: training "
            "broke it (a smaller learning_rate, or a larger beta_loss?)"
        )


def begin(vlm: VLM, queries: Queries, room: int) -> tuple[Decoder, Tensor]:
    """A decoder that has read the queries, each once for all siblings, and [B, W] logits of each row's first token."""
    q, one = queries, slice(None, None, queries.group_size)
    cache = DynamicCache(config=vlm.model.config.get_text_config())
    hidden = hidden_states(
        vlm.model, q.token_ids[one], q.position_ids[:, one], q.features[one], q.mask[one], past_key_values=cache
    )
    # A response goes on where the prompt's positions end, which is not at its length: a picture takes fewer.
    decoder = Decoder(vlm.model, cache, q.mask[one], q.position_ids.amax(dim=(0, 2)) + 1, room)
    return decoder, vlm.model.lm_head(hidden[:, -1]).float().repeat_interleave(q.group_size, dim=0)

"""The frozen reference model, which the policy is held near to."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import nn

from stages.model.logprobs import Scorer
from stages.model.lora import without_adapters
from stages.model.vlm import frozen_copy
from stages.training.distribution import distributed
from stages.training.world import World


class Reference(Protocol):
    """Something that can score responses as the base model does."""

    def scoring(self) -> AbstractContextManager[nn.Module]:
        """A `Scorer`, as long as this lasts."""
        ...


class Copy:
    """A copy of the base model, made before training.

    Args:
        scorer: the base; its weights are copied, but for the vision tower's.
        world: if it is sharded, each process holds a part of the copy.
        offload: keep it in the host's memory while it is not asked. A sharded one is not moved, its part is small.
    """

    def __init__(self, scorer: Scorer, world: World, *, offload: bool) -> None:
        model = frozen_copy(scorer.model)
        self.device = model.device
        self.language = (model.model.language_model, model.lm_head)
        self.offload = offload and not (world.sharded and world.size > 1)
        self.scorer = distributed(Scorer(model), world)
        self._move(torch.device("cpu") if self.offload else self.device)

    @contextmanager
    def scoring(self) -> Iterator[nn.Module]:
        self._move(self.device)
        yield self.scorer
        if self.offload:
            self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        if self.offload:
            for part in self.language:
                part.to(device)


class AdaptersOff:
    """The policy itself, which without its adapters is the base model.

    Args:
        scorer: of the very model that gets adapters.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    @contextmanager
    def scoring(self) -> Iterator[nn.Module]:
        with without_adapters(self.scorer):
            yield self.scorer

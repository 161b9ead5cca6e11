"""The processes that train one run together, and which part of a batch each of them has.

A process of N holds 1/N of every update's responses. What is measured over a batch is computed from all of it, and rows
are put back into their order, so that N processes compute what one would, up to the rounding of sums.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.config import Compute

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """N processes with a rank each; without a launcher, one.

    Attributes:
        sharded: each process holds a part of the trained weights, of their gradient and of the optimiser's state
            (FSDP2), else all of them (DDP).
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def gather(self, mine: Item) -> list[Item]:
        """What each process has, in the order of their ranks, on every process."""
        if self.size == 1:
            return [mine]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, mine)
        return gathered

    def sum(self, values: Tensor) -> Tensor:
        """Summed over the processes, in the order of their ranks."""
        if self.size == 1:
            return values
        return torch.stack(self.gather(values.cpu())).sum(0).to(values.device)

    def wait(self) -> None:
        """Until all processes are here."""
        self.gather(None)

    def first(self, mine: Item) -> Item:
        """What the first process has; others may give anything of the type."""
        return self.gather(mine)[0]

    def share(self, items: int, block: int) -> "Share":
        """Deal a batch: of each block of items, every process has a part of equal size.

        Args:
            items: of the batch, of all processes together.
            block: items of an update, so that each update is of the same items as with one process.

        Raises:
            ValueError: it cannot be dealt so.
        """
        if self.size > 1 and (block % self.size or items % block):
            raise ValueError(f"{items} items in blocks of {block} cannot be dealt to {self.size} processes")
        part = block // self.size
        dealt = [
            [i for start in range(0, items, block) for i in range(start + rank * part, start + (rank + 1) * part)]
            for rank in range(self.size)
        ]
        return Share(self, dealt if self.size > 1 else [list(range(items))])


@dataclass(frozen=True)
class Share:
    """Which items of a batch each process has.

    Attributes:
        dealt: for each rank the items' places in the batch, in rising order.
    """

    world: World
    dealt: list[list[int]]

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process."""
        return [items[i] for i in self.dealt[self.world.rank]]

    def times(self, group_size: int) -> "Share":
        """The same for rows, `group_size` to each item."""
        return Share(self.world, [[i * group_size + g for i in one for g in range(group_size)] for one in self.dealt])

    def whole(self, mine: Sequence[Item]) -> list[Item]:
        """The rows of all processes in the batch's order."""
        placed = zip(self.dealt, self.world.gather(list(mine)), strict=True)
        rows = {place: row for places, part in placed for place, row in zip(places, part, strict=True)}
        return [rows[place] for place in sorted(rows)]

    def whole_tensor(self, mine: Tensor) -> Tensor:
        """[B] or [B, R] of all processes from [b] or [b, r] of each, in the batch's order; R is the largest r."""
        if self.world.size == 1:
            return mine
        parts = self.world.gather(mine.cpu())
        if mine.dim() == 2:
            widest = max(part.shape[1] for part in parts)
            parts = [F.pad(part, (0, widest - part.shape[1])) for part in parts]
        order = torch.tensor([place for places in self.dealt for place in places]).argsort()
        return torch.cat(parts)[order].to(mine.device)

    def mine(self, whole: Tensor) -> Tensor:
        """The rows of this process."""
        return whole[torch.tensor(self.dealt[self.world.rank], device=whole.device)]


def join_world(compute: Compute, sharded: bool) -> World:
    """Meet the processes that a launcher started beside this one (`stages.launch`, torchrun, accelerate)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    from accelerate import PartialState

    # One process alone reads or writes what is large, while the others wait.
    state = PartialState(cpu=compute.device == "cpu", timeout=timedelta(hours=2))
    return World(state.process_index, state.num_processes, sharded)

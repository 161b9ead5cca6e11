"""Which problems are trained on when."""

from collections.abc import Iterator
from typing import TypeVar

from stages.seeds import shuffled

Item = TypeVar("Item")


def batches(items: list[Item], batch_size: int, epochs: int, seed: int) -> Iterator[tuple[int, int, list[Item]]]:
    """(epoch, step, items) from 1 on; each epoch in an order of its own, what is left of a batch at its end dropped.

    So 5000 problems in batches of 896 are 5 steps an epoch, as in the paper.

    Raises:
        ValueError: there is not one full batch.
    """
    steps = steps_per_epoch(len(items), batch_size)
    for epoch in range(1, epochs + 1):
        order = shuffled(len(items), "order", seed, epoch)
        for i in range(steps):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            yield epoch, (epoch - 1) * steps + i + 1, [items[j] for j in chosen]


def steps_per_epoch(items: int, batch_size: int) -> int:
    """Full batches of an epoch.

    Raises:
        ValueError: there is not one.
    """
    if items < batch_size:
        raise ValueError(f"batch_size={batch_size}, but train has {items} problems")
    return items // batch_size

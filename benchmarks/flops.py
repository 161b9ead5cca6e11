"""How many floating-point operations a generation step of RL needs, from the model's sizes alone. No torch.

A product of matrices [M, K] and [K, N] is 2 M K N operations; norms, activations and softmax are not counted, nor is
the optimiser. Each prompt is read once, each token of a response once (but for the last, which nothing is drawn from),
and the vocabulary head is asked once for each state that a response token is drawn from: siblings have their first in
common. Who computes what is masked, or the same twice, computes more than is needed: `packed_forward` and
`packed_update` say how much, to be compared with a counter. Of a prompt's last block only keys and values are read; the
rest of it is computed by everybody, and counted as needed.

Letters: Q tokens of a prompt; G responses to it; R tokens of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.model.architecture import Architecture

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Batch:
    """Prompts, each of so many tokens (Q), and G responses of R tokens to each."""

    prompts: tuple[int, ...]
    group_size: int
    new_tokens: int

    @property
    def drawn(self) -> int:
        """Response tokens."""
        return len(self.prompts) * self.group_size * self.new_tokens

    @property
    def read(self) -> int:
        """Tokens that are read: prompts, and responses without their last."""
        return sum(self.prompts) + self.drawn - len(self.prompts) * self.group_size

    @property
    def seen(self) -> int:
        """Pairs of a token and one that it sees: all before it, and itself."""
        q, g, r = self.prompts, self.group_size, self.new_tokens - 1
        return sum(n * (n + 1) // 2 + g * (n * r + r * (r + 1) // 2) for n in q)

    @property
    def packed(self) -> int:
        """The same with what is masked: the squares of prompts, the rectangles of responses."""
        q, g, r = self.prompts, self.group_size, self.new_tokens - 1
        return sum(n * n + g * r * (n + r) for n in q)


@dataclass(frozen=True)
class Work:
    """Operations of a pass: of the linear layers, of attention, of the vocabulary head."""

    linear: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.linear + self.attention + self.head


def forward(of: Architecture, batch: Batch) -> Work:
    """What a forward pass needs; sampling needs the same, token by token."""
    return _forward(of, batch, batch.seen, batch.drawn - len(batch.prompts) * (batch.group_size - 1))


def update(of: Architecture, batch: Batch) -> Work:
    """What a forward and a backward pass need: each product has two in its gradient."""
    once = forward(of, batch)
    return Work(3 * once.linear, 3 * once.attention, 3 * once.head)


def packed_forward(of: Architecture, batch: Batch) -> Work:
    """What a forward pass over packed rows computes: what is masked too, and siblings' first logits for each."""
    return _forward(of, batch, batch.packed, batch.drawn)


def packed_update(of: Architecture, batch: Batch, *, in_parts: bool) -> Work:
    """What a forward and a backward pass over packed rows compute.

    Args:
        of: the model.
        batch: the batch.
        in_parts: logits are not kept, and computed again for the gradient (`stages.model.vocabulary`).
    """
    once = packed_forward(of, batch)
    # Flash attention keeps no probabilities: of its products in the gradient, the fifth computes them again.
    return Work(3 * once.linear, 3.5 * once.attention, (4 if in_parts else 3) * once.head)


def _forward(of: Architecture, batch: Batch, pairs: int, asked: int) -> Work:
    return Work(
        linear=2 * of.layers * batch.read * sum(a * b for a, b in of.linear.values()),
        attention=4 * of.layers * of.queries * pairs,
        head=2 * of.embedding * asked,
    )


def looking(of: Architecture, vision: Mapping[str, Any], patches: int) -> float:
    """Operations of looking at one picture with Qwen2.5-VL's vision tower and connector.

    Args:
        of: the model.
        vision: section of its config.json, which says what sees all patches and what only its window's.
        patches: of the picture, a multiple of a window's.
    """
    e, merged = of.vision_width, of.vision_width * of.merge**2
    window = (vision["window_size"] // of.patch) ** 2
    everywhere = len(vision["fullatt_block_indexes"])
    pairs = patches * (everywhere * patches + (of.vision_layers - everywhere) * window)
    a_patch = e * of.patch_values + of.vision_layers * (4 * e * e + 3 * e * of.vision_inner)
    a_token = merged * merged + merged * of.width
    return 2 * patches * a_patch + 4 * e * pairs + 2 * patches // of.merge**2 * a_token


def decoded_bytes(of: Architecture, batch: Batch) -> float:
    """What decoding has to read at least: all weights once a token, and what is cached, siblings' prompts once."""
    steps = batch.new_tokens - 1
    weights = of.layers * of.block + of.embedding
    rows = len(batch.prompts) * batch.group_size
    cached = 2 * of.layers * of.keys * (steps * sum(batch.prompts) + rows * steps * (steps + 1) // 2)
    return FLOAT * (batch.new_tokens * weights + cached)

"""Geometry problems from a seed: which numbers, which split, which words, which picture.

A problem's kind and numbers decide by their hash whether it belongs to the pre-training corpus, to train, to
validation or to test. So no split can share a problem with another, nor with what the base model has read.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from stages.data.geometry.drawing import Board
from stages.data.geometry.kinds import KINDS, PRACTISED, UNPRACTISED, results

Mode = Literal["text", "vision"]
Split = Literal["corpus", "train", "validation", "test"]

# Tenths of each kind's problems, by the hash of kind and numbers.
_PRACTISED_TENTHS: tuple[Split, ...] = (*("corpus",) * 4, *("train",) * 4, *("validation",) * 2)
_UNPRACTISED_TENTHS: tuple[Split, ...] = (*("corpus",) * 6, *("test",) * 4)
_VISION_QUESTIONS = {
    "x": ("Find x.", "What is x?", "Find the value of x."),
    "the perimeter": ("Find the perimeter.", "What is the perimeter?", "How long is the perimeter?"),
}


@dataclass(frozen=True)
class Given:
    """A problem before it is worded or drawn.

    Attributes:
        kind: a key of `KINDS`.
        numbers: the given degrees or lengths.
    """

    kind: str
    numbers: tuple[int, ...]

    @property
    def answer(self) -> int:
        return results(KINDS[self.kind].steps(*self.numbers))[-1][3]

    @property
    def key(self) -> str:
        """Equal for problems that are the same up to the order of their numbers."""
        return f"{self.kind}:{','.join(map(str, sorted(self.numbers)))}"

    @property
    def split(self) -> Split:
        tenths = _PRACTISED_TENTHS if self.kind in PRACTISED else _UNPRACTISED_TENTHS
        return tenths[int.from_bytes(hashlib.blake2b(self.key.encode(), digest_size=8).digest()) % 10]


def draw_given(split: Split, count: int, seed: int) -> list[Given]:
    """`count` different problems of a split, as evenly over its kinds as their number of problems allows.

    Raises:
        ValueError: the split does not hold that many different problems.
    """
    open_kinds = list({"train": PRACTISED, "validation": PRACTISED, "test": UNPRACTISED}.get(split, KINDS))
    random, seen, drawn = Random(f"{split}/{seed}"), set[str](), list[Given]()
    while len(drawn) < count:
        if not open_kinds:
            raise ValueError(f"the {split} split has {len(drawn)} different problems with seed {seed}, not {count}")
        for kind in list(open_kinds)[: count - len(drawn)]:
            for _ in range(500):
                given = Given(kind, KINDS[kind].draw_numbers(random))
                if given.split == split and given.key not in seen:
                    seen.add(given.key)
                    drawn.append(given)
                    break
            else:
                open_kinds.remove(kind)
    random.shuffle(drawn)
    return drawn


def draw_corpus(seed: int) -> Iterator[Given]:
    """Problems of the pre-training corpus, kinds in turn, without end; numbers may come back."""
    random = Random(f"corpus/{seed}")
    while True:
        for kind in KINDS:
            given = Given(kind, KINDS[kind].draw_numbers(random))
            while given.split != "corpus":
                given = Given(kind, KINDS[kind].draw_numbers(random))
            yield given


def question(given: Given, mode: Mode, random: Random) -> str:
    """The question in words: with the numbers (text), or without, so that they must be read off (vision)."""
    kind = KINDS[given.kind]
    if mode == "vision":
        return random.choice(_VISION_QUESTIONS[kind.asked])
    return random.choice(kind.questions).format(*given.numbers)


def figure(given: Given, random: Random) -> Board:
    """The drawn figure, its numbers on it."""
    kind = KINDS[given.kind]
    board = Board(random)
    labels = [str(number) for number in given.numbers]
    kind.draw(board, labels if kind.asked == "the perimeter" else [*labels, "x"])
    return board


def picture(given: Given, random: Random) -> Image.Image:
    """The figure as a 256 x 256 RGB image."""
    return figure(given, random).image

"""The same problem twice, by question and picture.

Exact: the same question and the same pixels. Perceptual: the same question and answer, and pictures that look the same
though their pixels differ, as after saving as JPEG, rescaling, or with a margin. A problem in other words is not found.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from typing import Literal, TypeVar

import imagehash
import numpy as np
from PIL import Image, ImageOps

from stages.data.problem import Problem

Kind = Literal["exact", "perceptual"]
Key = TypeVar("Key", str, bytes)

# Measured by benchmarks/duplicates.py (docs/data.md has the table). With the usual 8 x 8 bits, line drawings on white
# collide. What decides is the same figure with other numbers on it: of 32 x 32 bits, it differs in 84 or more.
HASH_SIZE = 32
MAX_BITS = 64


@dataclass(frozen=True)
class Duplicate:
    """Two rows that are one problem, in the order of the splits and their rows."""

    kind: Kind
    split: str
    id: str
    other_split: str
    other_id: str

    @property
    def leak(self) -> bool:
        """Whether the problem is in two splits."""
        return self.split != self.other_split


@dataclass(frozen=True)
class View:
    """What is compared of a picture.

    Attributes:
        pixels: digest, equal for equal pixels.
        hashes: perceptual, of the whole picture, which stands compression and rescaling best, and of the window around
            its ink, which a margin does not move.
    """

    pixels: bytes
    hashes: tuple[int, int]


def find(splits: Mapping[str, Sequence[Problem]]) -> list[Duplicate]:
    """Every pair of rows that are one problem.

    Raises:
        ValueError: an id is in two splits, whether or not the problems are the same.
    """
    check_ids(splits)
    rows = [(split, problem) for split, problems in splits.items() for problem in problems]
    kinds: dict[tuple[int, int], Kind] = {}
    # Most questions stand once, and then the picture need not be looked at.
    for asked in groups((words(problem.question), row) for row, (_, problem) in enumerate(rows)):
        views = {row: view(rows[row][1].picture()) for row in asked}
        for same in groups((views[row].pixels, row) for row in asked):
            kinds |= dict.fromkeys(combinations(same, 2), "exact")
        for answered in groups((words(rows[row][1].answer), row) for row in asked):
            for row, other in combinations(answered, 2):
                if (row, other) not in kinds and distance(views[row], views[other]) <= MAX_BITS:
                    kinds[row, other] = "perceptual"
    return [
        Duplicate(kind, rows[row][0], rows[row][1].id, rows[other][0], rows[other][1].id)
        for (row, other), kind in sorted(kinds.items())
    ]


def check_ids(splits: Mapping[str, Sequence[Problem]]) -> None:
    """An id names one problem.

    Raises:
        ValueError: with a line for each id that is in two splits.
    """
    first: dict[str, str] = {}
    mistakes = [
        f"id {problem.id!r} is in {first[problem.id]} and in {split}; ids must differ: drop or rename one of the rows, "
        "unless two takes overlap"
        for split, problems in splits.items()
        for problem in problems
        if first.setdefault(problem.id, split) != split
    ]
    if mistakes:
        raise ValueError("\n".join(mistakes))


def check_leaks(duplicates: Iterable[Duplicate], allowed: Collection[str]) -> None:
    """No problem in two splits.

    Args:
        duplicates: as `find` returns them.
        allowed: ids that may be, either of a pair.

    Raises:
        ValueError: with a line for each pair, and one with what to do.
    """
    leaks = [
        f"{found.kind} duplicate: {found.split}: {found.id}, {found.other_split}: {found.other_id}"
        for found in duplicates
        if found.leak and not {found.id, found.other_id} & set(allowed)
    ]
    if leaks:
        advice = "a problem must not be in two splits: drop a row of each pair, or name one of its ids in"
        raise ValueError("\n".join([*leaks, f"{advice} data.<name>.problems.allow_leaks"]))


def words(text: str) -> str:
    """A text without regard to its spaces and line breaks."""
    return " ".join(text.split())


def groups(keyed: Iterable[tuple[Key, int]]) -> list[list[int]]:
    """The rows of each key that stands more than once."""
    found = defaultdict[Key, list[int]](list)
    for key, row in keyed:
        found[key].append(row)
    return [rows for rows in found.values() if len(rows) > 1]


# --- pictures --------------------------------------------------------------------------------------------------------


def pixels(picture: Image.Image) -> bytes:
    """Digest of an RGB picture's size and pixels; how its file is compressed does not matter."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


def view(picture: Image.Image) -> View:
    """What is compared of an RGB picture."""
    gray = picture.convert("L")
    whole, ink = (int(str(imagehash.phash(part, HASH_SIZE)), 16) for part in (gray, around_ink(gray)))
    return View(pixels(picture), (whole, ink))


def distance(one: View, other: View) -> int:
    """Bits in which two pictures differ, of 32 x 32, by the hash in which they are closer."""
    return min((a ^ b).bit_count() for a, b in zip(one.hashes, other.hashes, strict=True))


def around_ink(gray: Image.Image) -> Image.Image:
    """The window of two standard deviations around the centre of what is dark, as a square.

    Cropping at the first dark pixel would do for a white margin, but not after rescaling: where that pixel is then
    jumps, and the hash with it. Means and deviations do not.
    """
    ink = 255.0 - np.asarray(gray)
    if not ink.any():
        return gray
    (left, right), (top, bottom) = _window(ink.sum(0)), _window(ink.sum(1))
    beyond = ceil(max(0.0, -left, -top, right - gray.width, bottom - gray.height))
    box = (left + beyond, top + beyond, right + beyond, bottom + beyond)
    side = 4 * HASH_SIZE  # of the square that phash transforms
    return ImageOps.expand(gray, beyond, 255).resize((side, side), Image.Resampling.LANCZOS, box=box)


def _window(weight: np.ndarray) -> tuple[float, float]:
    at = np.arange(len(weight)) + 0.5
    centre = float(np.average(at, weights=weight))
    deviation = float(np.sqrt(np.average((at - centre) ** 2, weights=weight)))
    reach = 2 * max(deviation, 1.0)  # a single line has none
    return centre - reach, centre + reach

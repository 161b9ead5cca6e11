"""Does a response reflect? It does if it has one of the reflection words (paper Sec. 4).

Both ways to match are always computed: whole words, and any substring as the released code does ("wait" in "await").
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np

Matching = Literal["word", "substring"]
MATCHINGS: tuple[Matching, ...] = get_args(Matching)


@functools.cache
def pattern(word: str) -> re.Pattern[str]:
    """What finds a word or phrase that is not inside another word; the words of a phrase may stand on two lines."""
    phrase = r"\s+".join(map(re.escape, word.split()))
    return re.compile(rf"(?<!\w){phrase}(?!\w)", re.IGNORECASE)


def words_in(texts: Sequence[str], words: Sequence[str]) -> dict[Matching, np.ndarray]:
    """Which texts have which words, in upper or lower case: [texts, words] bool for each way to match."""
    found = {matching: np.zeros((len(texts), len(words)), dtype=bool) for matching in MATCHINGS}
    lowered = [word.lower() for word in words]
    for i, text in enumerate(texts):
        lower = text.lower()
        for j, word in enumerate(lowered):
            found["substring"][i, j] = has = word in lower
            found["word"][i, j] = (has or " " in word) and next(_places(lower, word), None) is not None
    return found


def reflections(text: str, words: Sequence[str]) -> list[int]:
    """Where a text's reflection words begin, whole words only, in their order."""
    lower = text.lower()
    return sorted(place for word in words for place in _places(lower, word.lower()))


def _places(lower: str, word: str) -> Iterator[int]:
    """Where a whole word begins; searched for as it is, which is many times faster than by its pattern."""
    first, *others = word.split()
    if not all(other in lower for other in others):
        return
    place = lower.find(first)
    while place >= 0:
        if pattern(word).match(lower, place):
            yield place
        place = lower.find(first, place + 1)

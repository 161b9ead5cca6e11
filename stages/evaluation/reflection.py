"""Does a response reflect? It does if it has one of the reflection words (paper Sec. 4)."""

import re
from collections.abc import Sequence


def pattern(word: str, whole: bool) -> re.Pattern[str]:
    """What finds a word, in upper or lower case.

    Args:
        word: one word, a hyphenated one, or a phrase.
        whole: not inside another word; the words of a phrase may stand on two lines. Otherwise any substring, as in the
            released code ("wait" in "await").
    """
    if not whole:
        return re.compile(re.escape(word), re.IGNORECASE)
    phrase = r"\s+".join(map(re.escape, word.split()))
    return re.compile(rf"(?<!\w){phrase}(?!\w)", re.IGNORECASE)


def words_in(texts: Sequence[str], words: Sequence[str], whole: bool) -> dict[str, list[bool]]:
    """For each word, which of the texts have it."""
    patterns = {word: pattern(word, whole) for word in words}
    return {word: [found.search(text) is not None for text in texts] for word, found in patterns.items()}

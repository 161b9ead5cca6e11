"""Does a response reflect? It does if it has one of the reflection words (paper Sec. 4)."""

import re
from collections.abc import Callable, Sequence


def finder(word: str, whole: bool) -> Callable[[str], bool]:
    """A function that says whether a text has the word, in upper or lower case.

    Args:
        word: one word, a hyphenated one, or a phrase.
        whole: not inside another word, and a phrase may run over a line break; otherwise any substring, as the
            released code has it ("wait" in "await").
    """
    word = word.lower()
    if not whole:
        return lambda text: word in text.lower()
    phrase = r"\s+".join(map(re.escape, word.split()))
    search = re.compile(rf"(?<!\w){phrase}(?!\w)").search
    return lambda text: search(text.lower()) is not None


def words_in(texts: Sequence[str], words: Sequence[str], whole: bool) -> dict[str, list[bool]]:
    """For each word, which of the texts have it."""
    return {word: list(map(finder(word, whole), texts)) for word in words}

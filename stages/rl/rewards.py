"""What a response is worth. The paper's two rewards (Sec. 3); there is no format reward.

A reward is a function of the response's text and the judge's verdict; `REWARDS` names those that a study can weigh.
"""

from collections.abc import Callable

from stages.evaluation.answers import Verdict

# CJK ideographs, kana, Hangul, and their punctuation and full-width forms.
_CJK = ((0x2E80, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))
LANGUAGE_PENALTY = -0.1


def accuracy(text: str, verdict: Verdict) -> float:
    """1 for a right answer, 0 for any other."""
    return float(verdict.correct)


def language(text: str, verdict: Verdict) -> float:
    """-0.1 times the share of CJK characters: Qwen's way of leaving the question's language."""
    if not text:
        return 0.0
    foreign = sum(any(first <= ord(character) <= last for first, last in _CJK) for character in text)
    return LANGUAGE_PENALTY * foreign / len(text)


REWARDS: dict[str, Callable[[str, Verdict], float]] = {"accuracy": accuracy, "language": language}

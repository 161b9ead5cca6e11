"""Is a response's answer right?

The answer is what the last \\boxed{} of the response holds, and it is right if it is the same number as the problem's
answer (all problems have numeric answers, paper Sec. 4). Without a box there is no answer.
"""

import re
from fractions import Fraction

VERSION = "numeric-2"
TOLERANCE = Fraction(1, 10_000)  # relative; gold answers are given to four decimals

# What may stand behind a number; in front of one or between two it would be part of another answer.
_UNIT = re.compile(
    r"(?<=[\d}])\s*(?:\\(?:mathrm|text|mbox)\{[~\s]*(?:[A-Za-z]+\.?\s*)+\}|\^?\{?\\circ\}?|\\degree|\\%|[°%]"
    r"|(?:square\s+)?(?:mm|cm|dm|km|m|in|inches|ft|feet|units?|degrees?))(?:\^\{?[23]\}?|[²³])?\s*$"
)
_SPACE = re.compile(r"\\[,;!: ]|~")
_LAYOUT = re.compile(r"\\left|\\right|\$")
_FRACTION = re.compile(r"^([+-]?)\\[dt]?frac(?:\{([^{}]+)\}\{([^{}]+)\}|(\d)(\d))$")
_THOUSANDS = re.compile(r"^[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$", re.ASCII)
# What Fraction reads, less its underscores and less powers of ten that take minutes to write out.
_NUMBER = re.compile(r"^[+-]?(?:\d{1,100}\.?\d{0,100}|\.\d{1,100})(?:[eE][+-]?\d{1,3})?$", re.ASCII)


def boxed(text: str) -> str | None:
    """What the last \\boxed{} of a text holds, braces matched; None without one that is closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin + 1 : i]
    return None


def number(text: str) -> Fraction | None:
    """The number that a text says: 12, -0.5, 1,200, 3/4, \\frac{3}{4}, 45^\\circ, x = 7; None if it says none."""
    text = _LAYOUT.sub("", _SPACE.sub(" ", text)).split("=")[-1].strip()
    text = _UNIT.sub("", text)
    if match := _FRACTION.match(text):
        sign, above, below, *digits = match.groups()
        parts = (above, below) if above else tuple(digits)
        return _quotient(*map(str.strip, parts), negative=sign == "-")
    if _THOUSANDS.match(text):
        text = text.replace(",", "")
    return _quotient(*map(str.strip, text.split("/", maxsplit=1)))


def _quotient(above: str, below: str = "1", *, negative: bool = False) -> Fraction | None:
    if not (_NUMBER.match(above) and _NUMBER.match(below)) or not Fraction(below):
        return None
    return Fraction(above) / Fraction(below) * (-1 if negative else 1)


def is_correct(response: str, answer: str) -> bool:
    """Whether a response's boxed answer is the problem's answer."""
    found = boxed(response)
    if found is None:
        return False
    said, gold = number(found), number(answer)
    if said is None or gold is None:
        return found.strip() == answer.strip()
    return abs(said - gold) <= TOLERANCE * abs(gold)

"""Is a response's answer right?

The answer is what the last \\boxed{} of the response holds, and it is right if it is the same number as the problem's
answer (all problems have numeric answers, paper Sec. 4). Without a box there is no answer.
"""

import re
from fractions import Fraction

VERSION = "numeric-1"
TOLERANCE = Fraction(1, 10_000)  # relative; gold answers are given to four decimals

_UNITS = re.compile(r"\\(?:mathrm|text|mbox)\{[^{}]*\}|\^?\{?\\circ\}?|°|\\degree|degrees?|\\%|%")
_SPACES = re.compile(r"\\[,;!: ]|\\left|\\right|[\s$]")
_FRACTION = re.compile(r"^(-?)\\[dt]?frac\{(-?[\d.]+)\}\{(-?[\d.]+)\}$")
_THOUSANDS = re.compile(r"^-?\d{1,3}(,\d{3})+(\.\d+)?$")


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
    text = _SPACES.sub("", _UNITS.sub("", text)).split("=")[-1]
    if match := _FRACTION.match(text):
        sign, above, below = match.groups()
        text = f"{sign}{above}/{below}"
    if _THOUSANDS.match(text):
        text = text.replace(",", "")
    try:
        above, _, below = text.partition("/")
        return Fraction(above) / Fraction(below) if below else Fraction(above)
    except (ValueError, ZeroDivisionError):
        return None


def is_correct(response: str, answer: str) -> bool:
    """Whether a response's boxed answer is the problem's answer."""
    found = boxed(response)
    if found is None:
        return False
    said, gold = number(found), number(answer)
    if said is None or gold is None:
        return found.strip() == answer.strip()
    return abs(said - gold) <= TOLERANCE * abs(gold)

"""Plain numbers as people write them, and when two of them are the same: exact arithmetic, linear time, no sympy."""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

from stages.config import JudgeRules


class Number(NamedTuple):
    """A number, and how many decimals it was written with; None for one that is exact, like 3/4."""

    value: Fraction
    places: int | None


LONGEST = 1000  # characters of an answer that is read at all; longer ones are compared as they stand

# What may stand behind a number; in front of one or between two it would be part of another answer.
_UNIT = re.compile(
    r"(?:(?<=[\d}])|(?<=\\pi))\s*(?:\\text\{[A-Za-z.\s]*\}|\^\\circ(?:\s*[CF])?|[\u4e00-\u9fff]+"
    r"|(?:square\s+|cubic\s+|sq\.?\s*)?(?:mm|cm|dm|km|m|in|inches|ft|feet|units?|degrees?|met(?:er|re)s?|miles?"
    r"|kg|grams?|seconds?|minutes?|hours?|days?|dollars?|cents?))"
    r"(?:\^\{?[23]\}?)?\s*$"
)
_PERCENT = re.compile(r"(?<=[\d}])\s*(?:\\?%|\\text\{\s*(?:percent|pct)\s*\}|percent(?:age)?\b|pct\b)\s*$", re.I)
_FRACTION = re.compile(r"^([+-]?)\s*\\frac\s*(?:\{([^{}]+)\}\s*\{([^{}]+)\}|(\d)\s*(\d))$", re.ASCII)
_THOUSANDS = re.compile(r"^[+-]?[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?$", re.ASCII)
# What Fraction reads, less its underscores and less powers of ten that take minutes to write out.
_NUMBER = re.compile(r"^([+-]?)\s?(\d{1,100}\.?(\d{0,100})|\.(\d{1,100}))(?:[eE]([+-]?\d{1,3}))?$", re.ASCII)


def split_percent(text: str) -> tuple[str, bool]:
    """A normalised answer without a percent sign at its end, and whether there was one."""
    bare = _PERCENT.sub("", text)
    return bare, bare != text


def without_unit(text: str) -> str:
    """A normalised answer without the unit at its end."""
    return _UNIT.sub("", text)


def read_number(text: str, percent: Literal["unit", "hundredth"] = "unit") -> Number | None:
    """The number that a normalised answer (`answer_text.plain`) says: 12, -0.5, 1,200, 3/4, 45^\\circ; None without."""
    if len(text) > LONGEST:
        return None
    text, has_percent = split_percent(text.strip())
    text = without_unit(text)
    if match := _FRACTION.match(text):
        sign, above, below, *digits = match.groups()
        number = _quotient(above or digits[0], below or digits[1])
        if number and sign == "-":
            number = Number(-number.value, number.places)
    else:
        if _THOUSANDS.match(text):
            text = text.replace(",", "").replace(" ", "")
        number = _quotient(*text.split("/", maxsplit=1))
    if number and has_percent and percent == "hundredth":
        return Number(number.value / 100, None if number.places is None else number.places + 2)
    return number


def _quotient(above: str, below: str | None = None) -> Number | None:
    number, divisor = _decimal(above), _decimal(below) if below is not None else Number(Fraction(1), 0)
    if number is None or divisor is None or not divisor.value:
        return None
    return number if below is None else Number(number.value / divisor.value, None)


def _decimal(text: str) -> Number | None:
    match = _NUMBER.match(text.strip())
    if match is None:
        return None
    sign, digits, after, alone, exponent = match.groups()
    places = len(after or alone or "") - int(exponent or 0)
    return Number(Fraction(f"{sign}{digits}e{exponent or 0}"), max(0, places))


def agree(said: Number, gold: Number, rules: JudgeRules) -> bool:
    """Whether an answer is the right one, but for what the rules forgive."""
    error = abs(said.value - gold.value)
    if error <= Fraction(str(rules.relative_tolerance)) * abs(gold.value):
        return True
    if rules.decimals is None or not said.value or not gold.value:  # 0.0000 is not 1/100000
        return False
    written = [n.places for n in (said, gold) if n.places is not None and n.places >= rules.decimals]
    return any(error <= Fraction(1, 2 * 10**places) for places in written)


def decimal_comma(text: str, other: str) -> Number | None:
    """2,74 read as 2.74, where what it is compared with is a decimal; else it would be a list of two numbers."""
    decimal = read_number(other)
    if decimal and decimal.places and re.fullmatch(r"[+-]?\d{1,100},\d{1,100}", text, re.ASCII):
        return read_number(text.replace(",", "."))
    return None

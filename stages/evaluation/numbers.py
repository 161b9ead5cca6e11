"""Plain numbers as people write them, and when two of them are the same: exact arithmetic, linear time, no sympy."""

import re
from fractions import Fraction
from math import gcd
from typing import Literal, NamedTuple

from stages.config import JudgeRules


class Number(NamedTuple):
    """A number, and how many decimals it was written with; None for one that is exact, like 3/4."""

    value: Fraction
    places: int | None


LONGEST = 1000  # characters of an answer that is read at all; longer ones are compared as they stand

# What may stand behind a number; in front of one or between two it would be part of another answer. Whatever is no unit
# stays, for 12 thousand and 12 or more are not 12.
_NAME = (
    r"(?:(?i:(?:milli|centi|deci|kilo)?(?:met(?:er|re)|gram|lit(?:er|re))s?|inch(?:es)?|foot|feet|yards?|(?:nautical\s)?miles?|units?"
    r"|degrees?(?:\s(?:celsius|fahrenheit))?|radians?|seconds?|minutes?|hours?|days?|weeks?|months?|years?"
    r"|dollars?|cents?|euros?|pounds?|ounces?|yuan)"
    r"|[cdkm]?m|in|ft|yds?|mi|kg|mg|m[Ll]|secs?|mins?|hrs?|rad|deg|lbs?|oz|mph)"
)
_ANY_NAME = rf"(?:{_NAME}|[gshL])"  # letters that alone behind a number are rather unknowns
_POWER = r"(?:\s?\^\s?\{?\s?-?[123]\s?\}?)?"


def _units(name: str) -> str:
    one = r"(?:(?i:square|cubic|sq\.?|cu\.?)\s?)?%s(?![A-Za-z])\.?" + _POWER
    return one % name + rf"(?:\s?(?:/|per\s|\\cdot(?![A-Za-z]))\s?{one % _ANY_NAME})?"


_UNITS = _units(_NAME)
_CHINESE_NAME = "(?:平方|立方)?(?:毫米|厘米|分米|千米|公里|海里|英里|里|米|单位|毫升|升|千克|克|cm|dm|km|mm|m)"
_CHINESE = (
    rf"(?:{_CHINESE_NAME}|度|个(?:单位)?|元|秒|分钟?|小时|时|天)(?:\^\{{?[23]\}}?)?(?:[/每](?:小时|秒|分钟?|时))?"
)
_IN_TEXT = rf"\\text\{{\s?\(?(?:{_units(_ANY_NAME)}|{_CHINESE})\)?\s?\}}{_POWER}"
_UNIT = re.compile(
    rf"(?:(?:(?<=[\d}}])|(?<=\\pi))\s*(?:\^\\circ(?:\s*[CF])?|{_CHINESE}|{_UNITS}|\(\s?(?:{_UNITS}|{_IN_TEXT})\s?\))"
    rf"|(?<=\S)\s*{_IN_TEXT}(?:\s?/\s?{_IN_TEXT})?)\s*$"
)
UNIT_AHEAD = re.compile(rf"\s?(?:{_UNITS}|{_CHINESE})")
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


def is_undone(text: str) -> bool:
    """Whether a normalised answer leaves a division to the reader: 14/2, \\frac{21}{3}; not 3/4, which is a number."""
    text = without_unit(split_percent(text.strip())[0])
    match = _FRACTION.match(text)
    parts = [part for part in match.groups()[1:] if part] if match else text.split("/")
    if len(parts) == 1:
        return False
    numbers = [number.value for part in parts if (number := _decimal(part))]
    if len(numbers) != 2 or any(value.denominator != 1 for value in numbers):
        return True
    above, below = (value.numerator for value in numbers)
    return below == 1 or gcd(above, below) != 1


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
    if said.places is not None and said.places >= rules.decimals and error <= _half(said.places):
        return True
    # A right answer that is a decimal was rounded itself, whoever is more exact is not asked to round.
    if not gold.places or (said.places is not None and said.places <= gold.places):
        return False
    return said.value * gold.value > 0 and -_half(gold.places) <= abs(said.value) - abs(gold.value) < _half(gold.places)


def _half(places: int) -> Fraction:
    """Half a unit of the last of so many decimals."""
    return Fraction(1, 2 * 10**places)


_OPERATION = re.compile(r"\\(?:times|cdot|div)(?![A-Za-z])|(?<![eE])[-+]|/")


def calculate(text: str) -> Number | None:
    """What sums and products of plain numbers come to: 180 - 2 \\cdot 40; None for anything else."""
    if number := read_number(text):
        return number
    if len(text) > LONGEST:
        return None
    total, product, inverse, start, sign = Fraction(0), Fraction(1), False, 0, 1
    ends = [(m.start(), m.end(), m[0]) for m in _OPERATION.finditer(text) if text[: m.start()].strip()]
    ends.append((len(text), len(text), "+"))
    for begin, end, operation in ends:
        number = read_number(text[start:begin])
        if number is None or (inverse and not number.value) or abs(product) > 10**100:
            return None
        product *= 1 / number.value if inverse else number.value
        inverse, start = operation in ("/", "\\div"), end
        if operation in "+-":
            total, product, sign = total + sign * product, Fraction(1), -1 if operation == "-" else 1
    return Number(total, None)


def decimal_comma(text: str, other: str) -> Number | None:
    """2,74 read as 2.74, where what it is compared with is a decimal; else it would be a list of two numbers."""
    decimal = read_number(other)
    if decimal and decimal.places and re.fullmatch(r"[+-]?\d{1,100},\d{1,100}", text, re.ASCII):
        return read_number(text.replace(",", "."))
    return None

"""How the page is written: its templates, and numbers as people read them. A number that is not there is a dash."""

import base64
import hashlib
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

DASH = "–"
Number = float | None


def is_missing(value: Any) -> bool:
    """None, NaN, or a number without end."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def number(value: Number, digits: int = 1, sign: bool = False) -> str:
    """A number with so many decimals, and with a true minus."""
    if is_missing(value):
        return DASH
    assert value is not None
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text.lstrip("+-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def percent(value: Number, digits: int = 1, sign: bool = False) -> str:
    """A share of 1 in percent, without its unit."""
    return DASH if is_missing(value) else number(100 * value, digits, sign)  # type: ignore[operator]


def count(value: Number) -> str:
    """A whole number, its thousands apart."""
    return number(value, 0)


def short(value: Number) -> str:
    """A number of any size, to three digits."""
    return DASH if is_missing(value) else f"{value:.3g}".replace("-", "−")


def probability(value: Number) -> str:
    """A p value; below a thousandth its digits say nothing."""
    if is_missing(value):
        return DASH
    assert value is not None
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: Number) -> str:
    """5 h 03 min, 4 min 10 s or 12 s."""
    if is_missing(seconds):
        return DASH
    assert seconds is not None
    minutes, rest = divmod(round(timedelta(seconds=float(seconds)).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


# What an effect is measured in: how it is printed, and its unit.
UNITS: dict[str, tuple[Callable[[Number], str], str]] = {
    "accuracy": (lambda value: percent(value, sign=True), "points"),
    "share": (percent, "%"),
    "ratio": (lambda value: number(value, 2), "×"),
    "correlation": (lambda value: number(value, 2, sign=True), ""),
}


def effect(value: Number, unit: str) -> str:
    """An effect, without its unit."""
    return UNITS[unit][0](value)


def unit_name(unit: str) -> str:
    """What is written behind an effect."""
    return UNITS[unit][1]


def digest(script: str) -> str:
    """What a content security policy calls a script that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def environment() -> Environment:
    """Of the templates beside this file, where a name that is not given is an error and every text is escaped."""
    found = Environment(
        loader=PackageLoader("stages.report", "."),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [number, percent, count, short, probability, duration, effect, unit_name, digest]
    found.filters |= {function.__name__: function for function in shown}
    found.tests["missing"] = is_missing
    return found

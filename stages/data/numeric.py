"""Is an answer a number? The rule by which a data set is numeric, apart from the judge's, which may change."""

import re

from math_verify import LatexExtractionConfig, parse

_PLAIN = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)
_SPELLINGS = str.maketrans({"−": "-", "°": r"^\circ ", "º": r"^\circ ", "²": "^2", "³": "^3", "π": r"\pi ", "%": ""})
_ROOT = re.compile(r"√\s*(\d+)")
_POWER_OF_UNIT = re.compile(r"(?<=[a-z])\^\{?[23]\}?$")  # cm^2


def is_number(answer: str) -> bool:
    r"""Whether math-verify reads an answer as one real number: 12, 45^\circ, \frac{3}{4}, 2\sqrt{221}, 4.4 m.

    Not x+1, C, or 3, 4.
    """
    if _PLAIN.fullmatch(answer):
        return True
    text = _ROOT.sub(r"\\sqrt{\1}", answer.translate(_SPELLINGS)).strip("$ .").rstrip("\\ ")
    text = _POWER_OF_UNIT.sub("", text)
    values = parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback")
    return any(bool(getattr(value, "is_number", False) and value.is_real) for value in values)

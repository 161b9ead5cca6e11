"""Where a text gives its answer, and one spelling for what LaTeX, Unicode and plain text write differently.

Everything here takes time linear in the text: a policy that learns from the judge also finds what makes it slow.
"""

import re
from collections.abc import Callable

from stages.data.boxes import boxes
from stages.evaluation.numbers import LONGEST, read_number

TAIL = 4000  # characters: what a text ends with
MANY = 50  # members of a list, or brackets in brackets, up to which it is taken apart

# --- where the answer stands -----------------------------------------------------------------------------------------

# Between two boxes that are one answer, as in $\boxed{1}$ and $\boxed{2}$.
_AND = re.compile(r"(?:[\s$.;~]|\\[\]\[(),;: ]|\\q?quad)*(?:,|\\text\{[^{}]*(?:and|or)\s*\}|and|or)[\s$\\()\[\]quad]*")
_BRACKETED_END = re.compile(r"(?<![\\A-Za-z0-9)])\[([^\[\],]*[^\[\],\\])\]\.?\s*$")
_POWER_OF_UNIT = re.compile(r"(?<=[A-Za-z])\$\^\{?([23])\}?\$")  # cm$^2$, which would be the last formula
_NUMERAL = re.compile(
    r"[-+]?(?:\\[dt]?frac\{[-+\d. ]{1,99}\}\{[-+\d. ]{1,99}\}|(?:\d|\.\d)[\d,]*(?:\.\d+)?(?:/\d+)?)", re.ASCII
)
_NAMED_CHOICE = re.compile(r"(?:answer|option|choice)\s*(?:is)?\s*:?\s*\**\(?([A-Z])\b(?!')", re.I)
_MATHS = re.compile(r"\$|\\[(\[]")
_SENTENCE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}|(?<![\\A-Za-z{])[A-Za-z]{2,} [A-Za-z]{2,}")
_NO_WORDS = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|\b(?:degrees?|units?|inch(?:es)?|feet|percent|pct|sqrt|square)\b")


def joined_boxes(text: str) -> str | None:
    """What the last \\boxed{} of a text holds, and with it those before that "and" or a comma joins to it."""
    contents: list[str] = []
    next_start = None
    for start, begin, end in reversed(boxes(text)):
        between = text[end + 1 : next_start]
        if next_start is not None and not (len(between) <= 80 and _AND.fullmatch(between)):
            break
        contents.append(text[begin:end])
        next_start = start
    return ", ".join(reversed(contents)) if contents else None


def tagged(text: str) -> str | None:
    """What the last <answer> tag of a text holds; None without one that is closed."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else None


def tail(text: str) -> str:
    """The end of a text, and of that what it has in square brackets at its very end, if there is such."""
    text = _POWER_OF_UNIT.sub(r"^\1", text[-TAIL:].strip())
    match = _BRACKETED_END.search(text[-200:])
    return match[1] if match else text


def is_bare(text: str) -> bool:
    """Whether a text is nothing but a formula, without a sentence around it."""
    return not (_MATHS.search(text) or _SENTENCE.search(_NO_WORDS.sub(" ", text)))


def last_number(text: str) -> str:
    """The last number of a text, as it stands there; "" without one."""
    found = _NUMERAL.findall(text[-TAIL:])
    return found[-1] if found else ""


def named_choice(text: str) -> str | None:
    """The letter that a text names last as its answer."""
    found = _NAMED_CHOICE.findall(text[-TAIL:])
    return found[-1].upper() if found else None


# --- how it is written -----------------------------------------------------------------------------------------------

_ONE_CHARACTER = str.maketrans(
    dict.fromkeys("−–﹣－", "-")
    | {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "π": r"\pi ", "∞": r"\infty "}
    | {"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∈": r"\in ", "∠": r"\angle "}
    | {"°": r"^\circ", "º": r"^\circ", "²": "^2", "³": "^3", "％": r"\%", "，": ",", "\u00a0": " ", "\u202f": " "}
)
# In this order: a later one counts on what an earlier one leaves. (?<!\\) keeps a matrix's new line, \\.
_SPELLINGS = [
    (re.compile(pattern, re.ASCII), spelling)
    for pattern, spelling in (
        (r"\s+", " "),
        (r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[A-Za-z]))", r"\\sqrt{\1\2\3}"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:text(?:bf|it|rm|normal)|math(?:rm|bf|it)|mbox|underline|operatorname)\s*\{", r"\\text{"),
        (r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])\.?|\\[bB]igg?[lr]?(?![A-Za-z])", ""),
        (r",?\s?(?:\\text\{\s?(?:and|or)\s?\}|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z]))", ", "),
        (r"(?<=\d)(?:\{,\}|,\\!)\s?(?=\d)", ","),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\^?\s?\{\s?\\circ\s?\}|\^\s?\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", r"^\\circ"),
        (r"(?<!\\)\\[()\[\]]|\\?\$", ""),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\s+", " "),
    )
]
_ONLY_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z]{3,}(?: [A-Za-z]+)*")
_LETTER = re.compile(r"[\s(]*(?:\\text\{)?[\s(]*([A-Z])[\s.)]*\}?[\s.)]*")
_CHOICE = re.compile(r"[\s(]*(?:\\text\{)?[\s(]*([A-Za-z])(?:[\s.)}]*|\s*[.:)}]+\s*.*)", re.DOTALL)


def plain(text: str) -> str:
    """An answer in one spelling: ASCII minus, \\frac, \\text, ^\\circ, no layout, no dollars, single spaces."""
    if len(text) > LONGEST:
        return text
    text = text.strip().strip("*").translate(_ONE_CHARACTER)  # **12** is bold in Markdown
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = text.strip().rstrip(".,;:").strip()
    return match[1].strip() if (match := _ONLY_TEXT.fullmatch(text)) else text


def is_word(answer: str) -> bool:
    """Whether an answer is a word or more, which is no product of its letters."""
    return _WORD.fullmatch(answer) is not None


def letter(answer: str) -> str | None:
    """The letter that a multiple-choice problem's answer is; None for any other answer."""
    match = _LETTER.fullmatch(answer)
    return match[1] if match else None


def chosen(answer: str) -> str | None:
    """The letter that an answer chooses: C, (C), C. 12, C: 12."""
    match = _CHOICE.fullmatch(answer)
    return match[1].upper() if match else None


# --- what it consists of ---------------------------------------------------------------------------------------------

_THOUSAND = re.compile(r"(?<=\d),\d{3}(?!\d)", re.ASCII)
_EQUALS = re.compile(r"(?<![<>!\\:])=(?!=)")
_ROUNDED = re.compile(r"\\approx(?![A-Za-z])")
# Of a side without its commands and subscripts: a number times, to the power of, or more than an unknown.
_UNKNOWN = re.compile(r"\d\s*[A-Za-z]|[A-Za-z)]\s*[-+*/^]\s*\{?\d|\}\s*[A-Za-z]")
_NO_UNKNOWN = re.compile(r"\\[A-Za-z]+|_\{[^{}]*\}|_\w")
_BOUND = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")  # whose unknown is none


def items(text: str) -> list[str]:
    """What a list holds, split at the commas and semicolons outside all brackets and numbers: x = 1, y = 2."""
    return _split(text, lambda i: text[i] in ",;" and not (text[i] == "," and _THOUSAND.match(text, i)))


def _split(text: str, separates: Callable[[int], object]) -> list[str]:
    """The parts of a text between those of its characters outside all brackets that separate them."""
    depth, deepest, start, found = 0, 0, 0, []
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
        if depth <= 0 and c in ",;=" and separates(i):
            found.append(text[start:i].strip())
            start = i + 1
    found.append(text[start:].strip())
    return found if max(deepest, len(found)) <= MANY else [text]


def bracket(text: str) -> str:
    """The brackets that a whole answer stands in: "()", "[)", "{}" for a set; "" without."""
    depth = 0
    text = text.replace("\\{", "{").replace("\\}", "}")
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth == 0:
            return text[0] + text[-1] if 0 < i == len(text) - 1 else ""
    return ""


def members(text: str) -> list[str]:
    """What a list, a set or a tuple holds; any other answer alone."""
    if bracket(text) == "{}":
        return items(text.removeprefix("\\").removesuffix("}").removesuffix("\\")[1:])
    return items(text[1:-1]) if bracket(text) else items(text)


def sides(text: str) -> list[str]:
    """The sides of an equation or a chain of them; of x = 2 \\approx 3 what is exact; else the text alone."""
    exact, *rounded = (part.strip() for part in _ROUNDED.split(text))
    text = exact or "".join(rounded)
    return [text] if len(items(text)) > 1 else _split(text, lambda i: _EQUALS.match(text, i))


def conclusion(text: str, other: str) -> str:
    """What an equation says its name or its working is, unless it is compared with an equation for something else.

    `x = 7` and `3 + 4 = 7` say 7, and so does `7 = x`. `2x + 1 = 7` and `x = 3 = 5` say nothing and stay equations.
    """
    given, others = sides(text), sides(other)
    first, last = given[0], given[-1]
    if len(given) == 1 or (len(others) > 1 and others[0] != first):
        return " = ".join(given)
    numbers = {number.value for side in given if (number := read_number(side))}
    if len(numbers) > 1 or _is_condition(first) or (read_number(first) and _is_condition(last)):
        return " = ".join(given)
    return first if read_number(first) and not read_number(last) else last


def _is_condition(side: str) -> bool:
    """Whether a side mixes an unknown with numbers, like 2x + 1: its equation asks for x and tells no value."""
    if _BOUND.search(side):
        return False
    side = _NO_UNKNOWN.sub(" ", side)
    return re.search("[A-Za-z]", side) is not None and _UNKNOWN.search(side) is not None

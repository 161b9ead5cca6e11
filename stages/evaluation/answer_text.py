"""Where a text gives its answer, and one spelling for what LaTeX, Unicode and plain text write differently.

Everything here takes time linear in the text: a policy that learns from the judge also finds what makes it slow.
"""

import functools
import itertools
import re
from collections.abc import Callable
from typing import cast

from stages.data.boxes import boxes
from stages.evaluation.numbers import LONGEST, UNIT_AHEAD, read_number

TAIL = 4000  # characters: what a text ends with
MANY = 50  # members of a list, or brackets in brackets, up to which it is taken apart

_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau"
    r"|upsilon|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|ell)(?![A-Za-z])"
)

# --- where the answer stands -----------------------------------------------------------------------------------------

# Between two boxes that are one answer, as in $\boxed{1}$ and $\boxed{2}$.
_AND = re.compile(r"(?:[\s$.;~]|\\[\]\[(),;: ]|\\q?quad)*(?:,|\\text\{[^{}]*(?:and|or)\s*\}|and|or)[\s$\\()\[\]quad]*")
_BRACKETED_END = re.compile(r"(?<![\\A-Za-z0-9)])\[([^\[\],]*[^\[\],\\])\]\.?\s*$")
_POWER_OF_UNIT = re.compile(r"(?<=[A-Za-z])\$\^\{?([23])\}?\$")  # cm$^2$, which would be the last formula
# A capital letter at the end of a phrase: "the answer is A", "option (A) 12", but not "the answer is A, B".
_NAMED_CHOICE = re.compile(
    r"\b(?i:answers?|options?|choices?)(?:\s{0,9}:|\s{1,9}is\b)?[:\s*]{0,20}(?:(?i:option|choice)\s{1,9}\*{0,2})?"
    r"(?:\(([A-Z])\)|([A-Z])(?=\*{0,2}(?:\s?[.:;)](?!\S)|,(?!\s{0,9}(?:and\s|or\s)?\(?[A-Z]\b)|\s{0,9}$|\s?\n)))"
)
_MATHS = re.compile(r"\$|\\[(\[]")
_SENTENCE = re.compile(
    r"(?<![\\A-Za-z{])(?:[A-Za-z]{4,}|[A-Za-z]{2,} [A-Za-z]{2,}"
    r"|(?i:is|so|of|we|the|are|for|not|then?|thus|than|has|was|its)(?![A-Za-z])"
    r"|[A-Za-z]+'(?:s|t|re|ll|ve)(?![A-Za-z]))"
)
_UNIT_BEHIND = re.compile(rf"(?<=[\d}})])(?:{UNIT_AHEAD.pattern})")
_NO_WORDS = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|\b(?:percent|pct|sqrt|square|cubic|per|and|or)\b")


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
    if _MATHS.search(text):
        return False
    return not _SENTENCE.search(_NO_WORDS.sub(" ", _UNIT_BEHIND.sub(" ", text)))


def named_choice(text: str) -> str | None:
    """The letter that a text names last as its answer."""
    found = _NAMED_CHOICE.findall(text[-TAIL:])
    return "".join(found[-1]) if found else None


# --- how it is written -----------------------------------------------------------------------------------------------

_ONE_CHARACTER = str.maketrans(
    dict.fromkeys("−–﹣－", "-")
    | {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "π": r"\pi ", "∞": r"\infty "}
    | {"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
    | {"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∈": r"\in ", "∠": r"\angle "}
    | {"°": r"^\circ", "º": r"^\circ", "²": "^2", "³": "^3", "％": r"\%", "，": ",", "\u00a0": " ", "\u202f": " "}
)
# In this order: a later one counts on what an earlier one leaves. (?<!\\) keeps a matrix's new line, \\.
_SPELLINGS = [
    (re.compile(pattern, re.ASCII), spelling)
    for pattern, spelling in (
        (r"\s+", " "),
        (r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[A-Za-z]))", r"\\sqrt{\1\2\3}"),
        (r"\\(?:begin|end)\{(?:align|aligned|equation|gather|split)\*?\}", " "),
        (r"&\s?=", "="),
        (r"(?<=\d)\s:\s(?=\d)", ":"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\operatorname\*?\s*\{([A-Za-z]+)\}", r"\\\1 "),
        (r"\\(?:text(?:bf|it|rm|normal)|math(?:rm|bf|it)|mbox|underline)\s*\{", r"\\text{"),
        (r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])\.?|\\[bB]igg?[lr]?(?![A-Za-z])", ""),
        (r",?\s?(?:\\text\{\s?(?:and|or)\s?\}|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z]))", ", "),
        (r"(?<=\d)(?:\{,\}|,\\!)\s?(?=\d)", ","),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad", " "),
        (r"\^?\s?\{\s?\\circ\s?\}|\^\s?\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", r"^\\circ"),
        (r"(?<!\\)\\[()\[\]]|\\?\$", ""),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"\\bmod(?![A-Za-z])", r"\\mod"),
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\s+", " "),
    )
]
_MEMBER = re.compile(r"[A-Za-z]\s?\\in(?![A-Za-z])\s?(?=[\[({\\])")
_ONLY_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z]{3,}(?: [A-Za-z]+)*")
_LETTER = re.compile(r"[\s(]*(?:\\text\{)?[\s(]*([A-Z])[\s.)]*\}?[\s.)]*")
_CHOICE = re.compile(r"[\s(]*(?:\\text\{)?[\s(]*([A-Za-z])(?:[\s.:)}]*|\s*[.:)}]+\s.*)", re.DOTALL)


@functools.lru_cache(maxsize=100_000)  # many responses give the same answer
def plain(text: str) -> str:
    """An answer in one spelling: ASCII minus, \\frac, \\text, ^\\circ, no layout or dollars, no x \\in before a set."""
    if len(text) > LONGEST:
        return text
    text = _spelled(text.strip().strip("*")).rstrip(".,;:").strip()  # **12** is bold in Markdown
    if match := _MEMBER.match(text):
        text = text[match.end() :]
    return match[1].strip() if (match := _ONLY_TEXT.fullmatch(text)) else text


def _spelled(text: str) -> str:
    text = text.translate(_ONE_CHARACTER)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return text.strip()


def is_word(answer: str) -> bool:
    """Whether an answer is a word or more, which is no product of its letters."""
    return _WORD.fullmatch(answer) is not None


def letter(answer: str) -> str | None:
    """The letter that a multiple-choice problem's answer is; None for any other answer."""
    match = _LETTER.fullmatch(answer) if len(answer) <= LONGEST else None
    return match[1] if match else None


def chosen(answer: str) -> str | None:
    """The letter that an answer chooses: C, (C), C. 12, C: 12."""
    match = _CHOICE.fullmatch(answer)
    return match[1].upper() if match else None


# --- the last formula of a sentence ----------------------------------------------------------------------------------

_BOLD = re.compile(r"\*\*(?![\d(A-Za-z])|(?<![\d)A-Za-z])\*\*")
_FIGURE = re.compile(r"(?<![\\A-Za-z])(?i:(angle|triangle))s?\s+(?=\d|[A-Z]{1,3}(?![A-Za-z]))")
_DELIMITED = re.compile(
    r"(?<!\\)\$\$([^$]+)\$\$|(?<!\\)\$([^$\n]+)(?<!\\)\$"
    r"|\\\(([^\\]*(?:\\[^()][^\\]*)*)\\\)|(?<!\\)\\\[([^\\]*(?:\\[^\[\]][^\\]*)*)\\\]"
)
_MARK = re.compile("\ue000(\\d+)\ue001", re.ASCII)  # stands for a formula that has delimiters
_TOKEN = re.compile(
    "(?P<mark>\ue000\\d+\ue001)"
    r"|(?P<number>[1-9]\d{0,2}(?: \d{3})+(?!\d)(?:\.\d+)?|\d+(?:,\d+)*(?:\.\d+)?|\.\d+)"
    r"|(?P<word>[A-Za-z]+'(?:s|t|re|ll|ve|m|d)(?![A-Za-z]))"
    rf"|(?P<atom>\\text\{{[^{{}}]*\}}|\\(?:pi|circ|infty)(?![A-Za-z])|{_GREEK}|\\[%}}]|[)\]}}%'])"
    r"|(?P<open>\\?[(\[{])|(?P<operator>\\[A-Za-z]+|\\\||[-+*/^_=<>|!&]|(?<=[\w})]):(?=[\w\\(]))|(?P<name>(?:[A-Z]{2,6}|[A-Za-z])(?![A-Za-z]))"
    r"|(?P<comma>[,;])|(?P<gap>[^\S\n]+)|(?P<other>[A-Za-z]+|.)",
    re.ASCII | re.DOTALL,
)
_SCALE = re.compile(
    r"\s?(?:hundred|thousand|[mb]illion|trillion|dozen|half|halves|thirds?|quarters?|[万亿百千倍])(?![A-Za-z])", re.I
)
_SAYS_SOMETHING = re.compile(r"\d|\\(?!angle|triangle|text)")
_ANSWER = re.compile(r"(?i:answer)[\s*]*(?::|=|is\b)")
_END = re.compile(r"[.!?](?:\s|$)|\n")


def last_formula(text: str) -> str | None:
    """The last formula of a text, all of it and in one spelling; after "answer is", the last of that sentence.

    Formulas that a comma, "and" or "or" joins are one list.
    """
    delimited: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        inner = "".join(filter(None, match.groups()))
        if _SENTENCE.search(_NO_WORDS.sub(" ", inner)):  # a dollar is also money
            return match[0]
        delimited.append(inner)
        return f"\ue000{len(delimited) - 1}\ue001"

    text = _FIGURE.sub(r"\\\1 ", _BOLD.sub("", text[-TAIL:].replace("\ue000", " ").replace("\ue001", " ")))
    text = "\n".join(map(_spelled, _DELIMITED.sub(put_aside, text).split("\n")))
    found = [
        (start, _MARK.sub(lambda mark: delimited[int(mark[1])], run), "\ue000" in run) for start, run in _runs(text)
    ]
    runs = [run for run in found if _SAYS_SOMETHING.search(run[1])] or [run for run in found if run[2]]
    if answers := list(_ANSWER.finditer(text)):
        begin = answers[-1].end()
        end = match.start() if (match := _END.search(text, begin)) else len(text)
        after = [run for run in runs if run[0] >= begin]
        runs = [run for run in after if run[0] < end] or after[:1] or runs
    return runs[-1][1] if runs else None


def _runs(text: str) -> list[tuple[int, str]]:
    """Where each maximal run of mathematics in a spelled text begins, and the run."""
    found: list[tuple[int, str]] = []
    position, start, end, depth = 0, None, 0, 0
    last, gap, comma = "", False, False

    def close() -> None:
        nonlocal start, comma
        if start is not None and (run := _trimmed(text[start:end])):
            if comma and found and ("=" in run) == ("=" in found[-1][1]) and _SAYS_SOMETHING.search(run):
                found[-1] = (found[-1][0], f"{found[-1][1]}, {run}")
            else:
                found.append((start, run))
        start, comma = None, False

    while match := _TOKEN.match(text, position):
        kind, token, position = cast(str, match.lastgroup), match[0], match.end()
        if kind == "gap":
            gap = True
            continue
        is_operand = start is not None and last in ("number", "mark", "atom", "unit", "name")
        unit = UNIT_AHEAD.match(text, match.start()) or _SCALE.match(text, match.start())
        if is_operand and last != "name" and unit:
            end = position = max(position, unit.end())
            last, gap = "unit", False
            continue
        is_inside = start is not None and depth > 0
        if kind in ("other", "word") or (kind == "comma" and not is_inside):
            is_list = kind == "comma" and start is not None
            close()
            comma, depth = is_list, 0
        elif start is None or not _joins(kind, token, last, gap and is_operand):
            is_next = start is None and comma
            close()
            start, end, depth, last, comma = match.start(), position, 0, kind, is_next
        else:
            end, last = position, kind
        depth += (kind == "open") - (token in (")", "]", "}", "\\}"))
        gap = False
    close()
    return found


def _joins(kind: str, token: str, last: str, is_apart: bool) -> bool:
    """Whether a token goes on with the run before it, or with a space between them begins one: 2 \\pi, but 2 3."""
    if kind == "name" and len(token) > 1:  # AB, which is not multiplied
        return last in ("operator", "open")
    if not is_apart or kind in ("operator", "open", "atom"):
        return True
    if kind == "number":
        return last == "unit"  # 5 feet 6 inches
    return kind == "name" and last != "name" and token not in ("a", "A", "I")


def _trimmed(run: str) -> str:
    """A run without what cannot begin or end a formula."""
    if len(run) > LONGEST:
        return run
    run = run.strip().lstrip("=^_*/!%&:)]},' ").rstrip("=+-*/^_<>:([{!& ")
    while run and run[0] in "([{" and _depth(run) > 0:
        run = run[1:].lstrip()
    while run and run[-1] in ")]}" and _depth(run) < 0:
        run = run[:-1].rstrip()
    return run.rstrip("'") if run[:1].isdigit() else run


def _depth(text: str) -> int:
    return sum((c in "([{") - (c in ")]}") for c in text)


# --- what it consists of ---------------------------------------------------------------------------------------------

_THOUSAND = re.compile(r"(?<=\d),\d{3}(?!\d)", re.ASCII)
_EQUALS = re.compile(r"(?<![<>!\\:])=(?!=)")
_ROUNDED = re.compile(r"\\approx(?![A-Za-z])")
# Of a side without its commands and subscripts: a number times, to the power of, or more than an unknown.
_MIXED = re.compile(r"\d\s*[A-Za-z]|[A-Za-z)]\s*[-+*/^]\s*\{?\d|\}\s*[A-Za-z]")
_NO_UNKNOWN = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|_\{[^{}]*\}|_\w")
_UNKNOWN = re.compile(_GREEK)
_BOUND = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")  # whose unknown is none

_MARKS = r"(?:'|\^?\{?\\prime\}?|\^\{'+\})*"
_INDEX = r"(?:_(?:\{[^{}]*\}|\w|\\[A-Za-z]+))?"
_CAPITALS = rf"(?:[A-Z]{_MARKS}{_INDEX}){{1,8}}"
_LETTERS = rf"(?:{_CAPITALS}|(?:[a-z]|{_GREEK}){_MARKS}{_INDEX}{_MARKS}|\\text\{{[^{{}}]*\}}{_INDEX})"
_DRAWN = (
    r"\\(?:overline|widehat|overrightarrow|overleftrightarrow|overarc|wideparen|arc|vec|hat|bar|overset\{\\frown\})"
)
_FIGURES = r"\\(?:angle|measuredangle|triangle|odot|square|parallelogram)"
_THING = rf"(?:m?{_FIGURES}(?:{_LETTERS}|\d)|m?{_DRAWN}\{{{_LETTERS}\}}|{_LETTERS}|\d{{0,3}}{_GREEK})"
_FUNCTION = rf"\\(?:sin|cos|tan|cot|sec|csc)(?:\(?{_THING}\)?|\{{{_THING}\}})"
_SEGMENT = rf"(?:[A-Z]'?[A-Z]'?|[A-Z]_\{{[^{{}}]*\}}|[A-Z]|{_DRAWN}\{{[A-Z]{{1,3}}\}})"
_IS_NAME = re.compile(
    rf"{_THING}|{_FUNCTION}|\\frac\{{{_SEGMENT}\}}\{{{_SEGMENT}\}}|{_SEGMENT}[:/]{_SEGMENT}|\|{_SEGMENT}\|"
    rf"|[A-Zfgh]{_MARKS}\([-\w,.\\]{{1,20}}\)|\({_LETTERS}(?:,{_LETTERS})+\)|[A-Za-z]*[a-z][A-Za-z]{{3,30}}",
    re.ASCII,
)


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
    """The sides of an equation or a chain of them; else the text alone.

    Of x = 2 \\approx 3 those that are exact, but x \\approx 3 says x = 3, for x alone is no answer.
    """
    exact, *rounded = (part.strip() for part in _ROUNDED.split(text))
    if rounded and (not exact or is_name(exact)):
        exact = f"{exact} = {rounded[0]}" if exact else rounded[0]
    exact = exact.lstrip("= ")
    return [exact] if len(items(exact)) > 1 else _split(exact, lambda i: _EQUALS.match(exact, i))


def is_name(side: str) -> bool:
    """Whether a side of an equation is only called something: x_1, AB, m\\angle ABC, \\sin A, \\frac{AB}{CD}, f(x)."""
    return len(side) <= 200 and _IS_NAME.fullmatch(re.sub(r"\s", "", side)) is not None


def has_unknown(side: str) -> bool:
    """Whether a side has a letter that is no constant, and so no value."""
    if _BOUND.search(side):
        return False
    return re.search("[A-DF-HJ-Za-df-hj-z]", _NO_UNKNOWN.sub(" ", side)) is not None or bool(_UNKNOWN.search(side))


def conclusion(text: str, other: str, same: Callable[[str, str], bool]) -> str:
    """What an equation says its name or its working is, unless it is compared with an equation for something else.

    `x = 7` and `3 + 4 = 7` say 7, and so does `7 = x`. `2x + 1 = 7`, `x - y = 7`, `3 + 4 = 8` and `x = 3 = 5` say
    nothing and stay equations.

    Args:
        text: an answer.
        other: what it is compared with.
        same: whether two sides are the same value.
    """
    given, others = sides(text), sides(other)
    whole = " = ".join(given)
    if len(given) == 1 or (len(others) > 1 and others[0] != given[0]):
        return whole
    values = [side for side in given if not is_name(side)] or given[-1:]
    known = [side for side in values if not has_unknown(side)]
    is_named = len(values) < len(given)
    if is_named and not known:
        return values[-1]
    if len(known) > is_named and (_is_condition(given[0]) or _is_condition(given[-1])):
        return whole
    if is_named:  # whose working is not judged
        known = [side for side in known[:-1] if read_number(side)] + known[-1:]
    elif len(known) < 2:
        known = values
    if not all(same(a, b) for a, b in itertools.pairwise(known)):
        return whole
    first, last = known[0], known[-1]
    return first if read_number(first) and not read_number(last) else last


def _is_condition(side: str) -> bool:
    """Whether a side mixes an unknown with numbers, like 2x + 1: its equation asks for x and tells no value."""
    if is_name(side) or _BOUND.search(side):
        return False
    side = _NO_UNKNOWN.sub(" ", side)
    return re.search("[A-Za-z]", side) is not None and _MIXED.search(side) is not None

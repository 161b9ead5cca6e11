"""What of a response is compared with the problem's answer, and whether the two are the same.

Plain numbers, letters, words and lists of them are decided here; expressions are left to the mathematics of a worker.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from stages.config import JudgeRules
from stages.data.boxes import boxed
from stages.evaluation.answer_text import (
    bracket,
    chosen,
    conclusion,
    has_unknown,
    is_bare,
    is_word,
    joined_boxes,
    last_formula,
    letter,
    members,
    named_choice,
    plain,
    sides,
    tagged,
    tail,
)
from stages.evaluation.numbers import LONGEST, agree, calculate, decimal_comma, is_undone, read_number


class UndecidedError(Exception):
    """Two answers cannot be compared as plain numbers and words; a worker has to do it."""


def _not_here(found: str, wanted: str, rules: JudgeRules) -> bool:
    raise UndecidedError


def decide(
    found: str, wanted: str, rules: JudgeRules, mathematics: Callable[[str, str, JudgeRules], bool] = _not_here
) -> bool:
    """Whether an answer is the one wanted.

    Args:
        found: what the response answers.
        wanted: the right answer.
        rules: what is forgiven.
        mathematics: asked about two normalised expressions which are not both plain numbers.

    Raises:
        UndecidedError: from `mathematics`, if there is none.
    """
    if max(len(found), len(wanted)) > LONGEST:
        return found == wanted
    found, wanted = plain(found), plain(wanted)
    if choice := letter(wanted):
        return chosen(found) == choice
    same_side = functools.partial(_agree_as_sides, rules=rules, mathematics=mathematics)
    found, wanted = conclusion(found, wanted, same_side), conclusion(wanted, found, same_side)
    said, gold = read_number(found, rules.percent), read_number(wanted, rules.percent)
    if said and gold:
        undone = rules.form == "number" and found != wanted and is_undone(found)
        return not undone and agree(said, gold, rules)
    if found == wanted:
        return found != ""
    if rules.form == "number":
        return False
    if (said := said or decimal_comma(found, wanted)) and (gold := gold or decimal_comma(wanted, found)):
        return agree(said, gold, rules)
    if is_word(found) and is_word(wanted):
        return found.casefold() == wanted.casefold()
    if not comparable(found, wanted):
        return False
    kinds, these, those = {bracket(found), bracket(wanted)}, members(found), members(wanted)
    if len(these) == len(those) > 1 and (kinds <= {"", "{}"} or len(kinds) == 1):
        same = functools.partial(decide, rules=rules, mathematics=mathematics)
        return _in_any_order(these, those, same) if kinds <= {"", "{}"} else all(map(same, these, those))
    return mathematics(found, wanted, rules)


def _agree_as_sides(
    one: str, other: str, rules: JudgeRules, mathematics: Callable[[str, str, JudgeRules], bool]
) -> bool:
    """Whether two sides of an equation that says a value are that value, one of them perhaps rounded."""
    rounded = rules.model_copy(update={"relative_tolerance": 1e-9, "decimals": 1})
    a, b = calculate(one), calculate(other)
    if a and b:
        return agree(a, b, rounded) or agree(b, a, rounded)
    if (a or b) and has_unknown(other if a else one):
        return False
    return mathematics(one, other, rounded)


def comparable(found: str, wanted: str) -> bool:
    """Whether two answers are of one kind: both equations or neither, no set for a tuple, lists of one length."""
    if (len(sides(found)) > 1) != (len(sides(wanted)) > 1):
        return False
    kinds = {bracket(found), bracket(wanted)}
    if kinds == {"{}", "()"}:
        return False
    # One item may stand for two: \\pm 1, {1} \\cup {2}, and x = 1, y = 2 for (1, 2).
    if kinds <= {"", "{}"} and not re.search(r"=|\\(?:pm|cup|cap|setminus)", found + wanted):
        return len(members(found)) == len(members(wanted))
    return True


def _in_any_order(these: list[str], those: list[str], same: Callable[[str, str], bool]) -> bool:
    left = list(those)
    for this in these:
        match = next((i for i, that in enumerate(left) if same(this, that)), None)
        if match is None:
            return False
        del left[match]
    return True


class Task(NamedTuple):
    """A response's answer and the problem's."""

    found: str
    wanted: str


def look(response: str, answer: str, rules: JudgeRules) -> Task | None:
    """What a response and the problem's answer say that is to be compared; None for a response without an answer."""
    wanted = (_answer_in(answer) or answer).strip()
    if rules.where == "box":
        found = boxed(response)
    elif letter(plain(wanted)) and joined_boxes(response) is None and (choice := named_choice(_end(response))):
        found = choice
    elif is_word(plain(wanted)) and plain(_end(response)).casefold() == plain(wanted).casefold():
        found = wanted
    else:
        found = _answer_in(response)
    found = (found or "").strip()
    return Task(found, wanted) if found else None


def _end(text: str) -> str:
    """What the <answer> tag of a text holds, else what the text ends with."""
    tag = tagged(text)
    return tail(text if tag is None else tag)


def _answer_in(text: str) -> str | None:
    """The answer that a text gives: in boxes, alone, or as the last formula of a sentence."""
    if (box := joined_boxes(text)) is not None:
        return box.strip()
    end = _end(text)
    return end if is_bare(end) else last_formula(end)

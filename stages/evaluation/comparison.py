"""What of a response is compared with the problem's answer, and whether the two are the same.

Plain numbers, letters, words and lists of them are decided here; expressions are left to the mathematics of a worker.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from stages.config import JudgeRules
from stages.evaluation.answer_text import (
    boxed,
    bracket,
    chosen,
    conclusion,
    is_bare,
    is_word,
    joined_boxes,
    last_number,
    letter,
    members,
    named_choice,
    plain,
    sides,
    tagged,
    tail,
)
from stages.evaluation.numbers import LONGEST, agree, decimal_comma, read_number


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
    found, wanted = conclusion(found, wanted), conclusion(wanted, found)
    said, gold = read_number(found, rules.percent), read_number(wanted, rules.percent)
    if said and gold:
        return agree(said, gold, rules)
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
    """A response's answer and the problem's, or the ends of texts in which these have yet to be found."""

    found: str
    wanted: str
    found_in_text: bool
    wanted_in_text: bool


def look(response: str, answer: str, rules: JudgeRules) -> Task | None:
    """Where a response and the problem's answer say what is to be compared; None for a response without an answer."""
    wanted, wanted_in_text = _answer_in(answer)
    if rules.where == "box":
        found, found_in_text = boxed(response) or "", False
    elif letter(plain(wanted)) and joined_boxes(response) is None and (choice := named_choice(response)):
        found, found_in_text = choice, False
    else:
        found, found_in_text = _answer_in(response)
    if rules.form == "number" and found_in_text:
        found, found_in_text = last_number(found), False
    if not found.strip():
        return None
    wanted_in_text = wanted_in_text and rules.form == "expression" and not is_word(plain(wanted))
    return Task(found.strip(), wanted, found_in_text, wanted_in_text)


def _answer_in(text: str) -> tuple[str, bool]:
    """Where a text's answer stands, and whether there is more around it."""
    if (box := joined_boxes(text)) is not None:
        return box.strip(), False
    tag = tagged(text)
    end = tail(text if tag is None else tag)
    return end, not is_bare(end)

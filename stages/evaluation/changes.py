"""Does reflecting help? Responses that state an answer, reflect, and answer again (paper Appendix D, "aha moments").

The answer stated first is the last one before the first reflection that follows any: what a \\boxed{} or <answer> tag
holds, what a sentence says the answer is, or what a calculation comes to. Both answers are judged by the same rules.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stages.config import JudgeRules
from stages.evaluation.answer_text import joined_boxes, last_formula, sides, tagged
from stages.evaluation.answers import Judge
from stages.evaluation.reflection import reflections
from stages.evaluation.rows import CELL

CHANGES = ("wrong to right", "right to wrong", "right to right", "wrong to wrong")
SHOWN = CHANGES[:2]
LONGEST = 1000  # characters of a sentence
COUNTED = [key for key in CELL if key != "generation_step"]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=</answer>)\s*|\n+")
# A formula is an answer, and no given, if its sentence concludes or calculates.
_CONCLUDES = re.compile(r"\b(?:answer|so|thus|therefore|hence|gives?|gets?|result)\b|[-+*/×÷]\s*[^\s=]+\s*=", re.I)


@dataclass(frozen=True)
class Reflection:
    """An answer that is stated before a reflection.

    Attributes:
        first: that answer.
        begin, end: of the sentence with the reflection word, in characters.
        later: reflection words behind it.
    """

    first: str
    begin: int
    end: int
    later: int


def reflected(text: str, words: Sequence[str]) -> Reflection | None:
    """The first reflection of a text that follows a stated answer; None without one."""
    places = reflections(text, words)
    for i, place in enumerate(places):
        begin, end = sentence(text, place)
        if (first := stated(text[:begin])) is not None:
            return Reflection(first, begin, end, len(places) - i - 1)
    return None


def sentence(text: str, place: int) -> tuple[int, int]:
    """Where the sentence begins and ends that a character is in."""
    begin = max(0, place - LONGEST)
    for match in _SENTENCE_END.finditer(text, begin, place + 1):
        begin = match.end()
    ending = _SENTENCE_END.search(text, place + 1)
    return begin, ending.start() if ending else len(text.rstrip())


def stated(text: str) -> str | None:
    """The answer that a text states last, if any."""
    if found := joined_boxes(text) or tagged(text):
        return found
    if (digit := max(map(text.rfind, string.digits))) < 0:
        return None
    said = text[slice(*sentence(text, digit))]
    formula = last_formula(said) if _CONCLUDES.search(said) else None
    return (sides(formula)[-1] or None) if formula else None


def changes(
    rows: pd.DataFrame, reflective: np.ndarray, words: Sequence[str], judge: Judge, rules: JudgeRules
) -> pd.DataFrame:
    """The responses of a run that state an answer before they reflect.

    Args:
        rows: of the run.
        reflective: [rows] which of them have a reflection word.
        words: the reflection words.
        judge: of the answers that are stated first.
        rules: when an answer is right.

    Returns:
        The rows with first, begin, end, later (see `Reflection`), and change, of `CHANGES`.
    """
    judged = reflective & rows["answer"].notna().to_numpy()  # without the right answer, none can be called wrong
    found = {line: reflected(rows["text"][line], words) for line in rows.index[judged]}
    told = {line: reflection for line, reflection in found.items() if reflection}
    kept = rows.loc[list(told)]
    kept = kept.assign(**{name: [getattr(told[line], name) for line in kept.index] for name in _FIELDS})
    verdicts = judge.verdicts([f"\\boxed{{{first}}}" for first in kept["first"]], kept["answer"].tolist(), rules)
    said = {True: "right", False: "wrong"}
    change = [f"{said[v.correct]} to {said[bool(c)]}" for v, c in zip(verdicts, kept["correct"], strict=True)]
    decided = np.array([v.outcome in ("correct", "incorrect") for v in verdicts], dtype=bool)
    return kept.assign(change=pd.Series(change, index=kept.index, dtype=object))[decided]


_FIELDS = tuple(Reflection.__dataclass_fields__)


def counts(rows: pd.DataFrame, reflective: np.ndarray, changed: pd.DataFrame) -> pd.DataFrame:
    """How often each change happens, by evaluated epoch and setting, or epoch of training.

    Returns:
        responses; reflective, with a reflection word; stated, which state an answer before it; one column a change.
        NaN where the right answers are not known.
    """
    marks = rows[COUNTED].assign(responses=1, reflective=reflective.astype(int))
    marks["stated"] = marks.index.isin(changed.index).astype(int)
    for change in CHANGES:
        lines = changed.index[changed["change"] == change]
        marks[change.replace(" ", "_")] = marks.index.isin(lines).astype(int)
    sums = marks.groupby(COUNTED, sort=False).sum()
    known = rows["answer"].notna().groupby([rows[key] for key in COUNTED], sort=False).any()
    unknown = [name for name in sums.columns if name not in ("responses", "reflective")]
    return sums.assign(**{name: sums[name].where(known) for name in unknown}).reset_index()


def gallery(changed: pd.DataFrame, size: int) -> pd.DataFrame:
    """The clearest responses of each change to be shown, at most one a problem.

    First those that ended by themselves and with an answer, with the fewest further reflections, then the shortest.

    Args:
        changed: of a method, from `changes`, with the columns of its run.
        size: of each change.
    """
    order = [
        "unfinished",
        "silent",
        "later",
        "length",
        "seed",
        "phase",
        "epoch",
        "generation_step",
        "setting",
        "problem",
    ]
    marks = {"unfinished": ~changed["finished"].astype(bool), "silent": changed["found"].isna()}
    ranked = changed.assign(**marks).sort_values([*order, "sample"], kind="stable")
    parts = []
    for change in SHOWN:
        part = ranked[ranked["change"] == change].drop_duplicates("problem").head(size)
        parts.append(part.assign(rank=range(1, len(part) + 1)))
    return pd.concat(parts).drop(columns=list(marks))


def shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of the gallery as it is kept."""
    names = ["model", "dataset", "method", "seed", *CELL, "problem", "sample", "change", "rank"]
    answers = {"first": row["first"], "wanted": row["answer"], "found": row["found"]}
    place = {"text": row["text"], "begin": int(row["begin"]), "end": int(row["end"])}
    return {name: row[name] for name in names} | answers | place

"""Compares answers by mathematics, with math-verify, in a process that may be killed at any time.

`python -m stages.evaluation.answer_worker SECONDS BYTES` says "ready" once sympy is loaded, then reads one JSON task a
line and writes one JSON verdict a line. It ends with its input. A task that takes much longer than SECONDS ends it too,
by a timer of the kernel's that no computation can hold up, so that no worker outlives its parent by more.
"""

import dataclasses
import json
import logging
import os
import re
import resource
import signal
import sys
import warnings
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import normalize_latex
from math_verify import LatexExtractionConfig, verify
from math_verify.parser import parse_latex_cached

from stages.config import JudgeRules
from stages.evaluation.comparison import Task, decide
from stages.evaluation.numbers import Number, agree, read_number, split_percent, without_unit

DIGITS = 50  # to which constants are computed before they are compared
GRACE = 1.0  # seconds after which the timer ends what the parent should have ended

_PERCENT = sympy.UnevaluatedExpr(sympy.Rational(1, 100))  # how math-verify writes the sign
_LATEX = dataclasses.replace(LatexExtractionConfig().normalization_config, units=False)  # which takes words for units
_TEXT = re.compile(r"\\text\{\s?([^{}]*?)\s?\}")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\\circ")
_OF_ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def expression(text: str, rules: JudgeRules) -> Any:
    """A normalised answer as a sympy object; None if it cannot be read as mathematics.

    Raises:
        MemoryError, RecursionError: it may be mathematics, but is too much of it.
    """
    # Degrees are a unit and are dropped, except under a sine, where that would change the number.
    text = _DEGREES.sub(r"{\\frac{\\pi \\cdot \1}{180}}", text) if _OF_ANGLES.search(text) else text
    text, has_percent = split_percent(without_unit(text))
    text = _TEXT.sub(lambda match: match[1] if len(match[1]) <= 1 else match[0], text)  # \\mathrm{e} is e
    if _TEXT.search(text):
        return None
    hundredth = sympy.Rational(1, 100) if rules.percent == "hundredth" else sympy.Integer(1)
    try:
        value = parse_latex_cached(normalize_latex(text, _LATEX))
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the parser's own errors, and whatever sympy raises on impossible mathematics
        return None
    if not isinstance(value, sympy.Basic):
        return value
    value = value.replace(_PERCENT, hundredth)
    return value * hundredth if has_percent and isinstance(value, sympy.Expr) else value


def constant(text: str, value: Any, rules: JudgeRules) -> Number | None:
    """The real number that an answer is, exact or to many digits; None for any other answer."""
    if number := read_number(text, rules.percent):
        return number
    if not isinstance(value, sympy.Expr):
        return None
    value = value.subs({symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i" and not symbol.is_real})
    if value.free_symbols or not value.is_number:
        return None
    computed = value.evalf(DIGITS)
    if not (computed.is_Float or computed.is_Rational) or not computed.is_finite:
        return None
    return Number(Fraction(str(computed)), None)


def equal(found: str, wanted: str, rules: JudgeRules) -> bool:
    """Whether two normalised answers are the same mathematics."""
    said, gold = expression(found, rules), expression(wanted, rules)
    if said is None or gold is None:
        return "".join(found.casefold().split()) == "".join(wanted.casefold().split())
    a, b = constant(found, said, rules), constant(wanted, gold, rules)
    if a and b:
        return agree(a, b, rules)
    unequal = [isinstance(answer, sympy.Ne) for answer in (said, gold)]
    if all(unequal):  # which math-verify compares with nothing
        said, gold = sympy.Eq(*said.args, evaluate=False), sympy.Eq(*gold.args, evaluate=False)
    elif any(unequal):
        return False
    return bool(verify(gold, said, timeout_seconds=None, raise_on_error=True))


def judge(task: Task, rules: JudgeRules) -> dict[str, Any]:
    """The verdict on a task, as JSON holds it."""
    right = decide(task.found, task.wanted, rules, equal)
    return {"outcome": "correct" if right else "incorrect", "found": task.found, "wanted": task.wanted}


def main(seconds: float, memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # math-verify warns that its own time limit is off
    verdicts = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    sys.stdout = sys.stderr  # nothing that sympy prints gets among the verdicts
    print("ready", file=verdicts, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        rules = JudgeRules(**question.pop("rules"))
        task = Task(**question)
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        try:
            verdict = judge(task, rules)
        except MemoryError:
            os._exit(1)  # what memory is left might not do for the next task; the parent starts another worker
        except Exception as error:  # a bug in the mathematics, or too deep for it: undecided, but not wrong
            print(f"the judge failed on {task.found!r} for {task.wanted!r}: {error!r}", file=sys.stderr, flush=True)
            verdict = {"outcome": "timed out", "found": task.found, "wanted": task.wanted}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=verdicts, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))

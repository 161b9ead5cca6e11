"""The judge against answers that people gave, against answers meant to fool it, and against any text at all."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.config import JudgeRules
from stages.data.boxes import boxed
from stages.evaluation.answer_text import bracket, conclusion, is_name, items, last_formula, plain
from stages.evaluation.answers import DEFAULT, VERSION, Judge, Verdict, Worker, is_correct
from stages.evaluation.comparison import Task, look
from stages.evaluation.numbers import calculate, read_number

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
PAIRS = DATA / "answer_pairs.jsonl"
GEOQA = DATA / "geoqa_r1v_outputs"

NUMBER = JudgeRules(where="box", form="number", relative_tolerance=1e-4, decimals=None, percent="unit")
OUTCOMES = {"correct", "incorrect", "no answer", "timed out"}


def changed(rules: JudgeRules, **changes: object) -> JudgeRules:
    return JudgeRules(**{**rules.model_dump(), **changes})


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=1, seconds=5) as judge:
        yield judge


# --- the answer in a response ----------------------------------------------------------------------------------------

BOXES = [
    (r"So \boxed{12}.", "12"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{a_{b_{c}}} and more", "a_{b_{c}}"),
    (r"\boxed{1} Wait, \boxed{2}", "2"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{}", ""),
    (r"\boxed{12", None),
    (r"\boxed{1} Wait, \boxed{2", None),  # its last word was cut off
    (r"\boxed 12", None),
    ("The answer is 12.", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "held"), BOXES)
def test_the_last_box_counts(text: str, held: str | None) -> None:
    assert boxed(text) == held


FOUND = [
    (r"\boxed{1} Wait, \boxed{2}", "2"),
    ("<think>3</think> <answer>12</answer>", "12"),
    (r"<answer>12</answer> or rather \boxed{13}", "13"),
    ("The area is 12.", "12"),
    ("I first thought 3, but it is 12 cm", "12"),
    (r"so it must be $\frac{1}{2}$", "1/2"),
    (r"The area is $25\pi$ cm$^2$.", r"25\pi"),
    ("<answer>The length is 12 cm</answer>", "12"),
    ("x = 3", "3"),
    (r"$\boxed{1}$ and $\boxed{2}$", "2, 1"),
    ("The angle is [60].", "60"),
    ("**12**", "12"),
    ("Odd", "odd"),
    ("The answer is 5√3.", "5√3"),
    ("so the length is √5", r"\sqrt{5}"),
    ("so it is 2 sqrt(5) cm", r"2\sqrt{5}"),
    ("The answer is $5$√3", r"5\sqrt{3}"),
    ("The area is 25π cm².", "25π"),
    ("The area is 16π square units.", "50.2655"),
    ("the answer is −5", "-5"),
    ("The answer is 1.5×10^3", "1500"),
    ("the answer is 3½", "3.5"),
    ("Therefore the ratio is 3:4", "3/4"),
    ("The answer is 1 200", "1200"),
    ("The answer is 2 or 3", "3, 2"),
    ("So the answer is 7, as I counted to 12. I hope it is correct. <|im_start|>user 3", "12"),
    ("So the answer is 7. I hope it is correct. <|im_start|>user 3", "7"),
    ("First 3 + 4 = 7. Hence angle 2 = 180 - angle 1 = 180 - 115 = 65.", "65"),
    ("The largest $n$ is 34.", "34"),
    ("It's 3*4", "12"),
    ("The cake costs $12.", "12"),
    ("so\n\\[ x = 5 \\]\nDone.", "5"),
    ("The answer is B.", "B"),
    ("The correct option is (C) 12", "C"),
    ("**Answer: C. 60°**", "C"),
    ("I thought of option A. <answer>B</answer>", "B"),
]
# What a sentence does not say: half of its last formula, or a letter that is a word.
NOT_FOUND = [
    ("The answer is 5√3.", "5"),
    ("The answer is 5√3.", "3"),
    ("<answer>The length is 5√3 cm</answer>", "5"),
    ("so it is 2π cm", "2"),
    ("The area is 16π square units.", "16"),
    ("The answer is $5$√3", "5"),
    ("the answer is −5", "5"),
    ("the value is 2^10", "10"),
    ("the answer is x²", "2"),
    ("The answer is 1.5×10^3", "3"),
    ("The answer is 1.5×10^3", "1.5"),
    ("the answer is 3½", "3"),
    ("The answer is 1 200", "200"),
    ("Therefore the ratio is 3:4", "3"),
    ("Therefore the ratio is 3:4", "4"),
    ("The answer is 2 or 3", "3"),
    ("Thus x ≥ 5.", "5"),
    ("The answer is 12 thousand.", "12"),
    ("It takes 60 degrees 30 minutes", "30"),
    ("The answer is a right triangle.", "A"),
    ("the answer is I think C", "I"),
    ("The answer is a bit unclear; it may be C", "A"),
    ("The choice is a hard one. So B", "A"),
    ("The answer is D'", "D"),
    ("The answer is A, B", "A"),
    ("The option A has", "A"),
]


@pytest.mark.parametrize(("response", "answer"), FOUND)
def test_without_a_box_a_text_ends_with_its_answer(judge: Judge, response: str, answer: str) -> None:
    assert judge.verdicts([response], [answer])[0]


@pytest.mark.parametrize(("response", "answer"), NOT_FOUND)
@pytest.mark.parametrize("form", ["number", "expression"])
def test_a_text_does_not_end_with_half_an_answer(judge: Judge, response: str, answer: str, form: str) -> None:
    verdict = judge.verdicts([response], [answer], changed(DEFAULT, form=form))[0]
    assert verdict.outcome in ("incorrect", "no answer")


def test_the_last_formula_goes_on_as_long_as_it_can() -> None:
    assert last_formula("If 2x + 1 = 7 then x = 3 and y = 4 (see above), which we sought") == "x = 3, y = 4"
    assert last_formula("AB = 3, then BC is 4 (in cm)") == "4"
    assert last_formula("nothing to see") is None
    assert last_formula(r"it is $\frac{1}{2}$ of $x$") == r"\frac{1}{2}"


@pytest.mark.parametrize("response", ["12", "The answer is 12.", "", r"\boxed{12", r"\boxed{12} \boxed{", r"\boxed{ }"])
def test_where_only_boxes_count_nothing_else_is_an_answer(response: str) -> None:
    verdict = is_correct(response, "12", NUMBER)
    assert verdict == Verdict("no answer", None, "12") and not verdict


@pytest.mark.parametrize(
    ("response", "answer"), [("", ""), ("", "12"), ("well, well", "who knows"), (r"\boxed{$$}", "$")]
)
def test_two_texts_without_an_answer_are_not_equal(judge: Judge, response: str, answer: str) -> None:
    assert judge.verdicts([response], [answer])[0].outcome in ("no answer", "incorrect")


def test_a_verdict_says_what_was_compared() -> None:
    assert is_correct(r"First 11, then \boxed{ x = 12 }", r"$\boxed{12^\circ}$") == Verdict(
        "correct", "x = 12", r"12^\circ"
    )
    assert is_correct(r"\boxed{11}", "12") == Verdict("incorrect", "11", "12")


# --- plain numbers ---------------------------------------------------------------------------------------------------

RIGHT_NUMBERS = [
    ("12", "12"),
    (" 12 ", "12"),
    ("012", "12"),
    ("12.0", "12"),
    ("-12", "-12"),
    ("−12", "-12"),
    ("+12", "12"),
    ("$12$", "12"),
    (r"\$12", "12"),
    ("x=7", "7"),
    ("7 = x", "7"),
    (r"x = 7^\circ", "7"),
    (r"\angle 2 = 35^\circ", "35"),
    ("a + b = 3 + 4 = 7", "7"),
    ("45°", "45"),
    ("45", "45°"),
    (r"45^\circ", "45"),
    (r"45^{\circ}", "45"),
    (r"45\degree", "45"),
    ("45 degrees", "45"),
    (r"12\text{ cm}", "12"),
    (r"12\,\mathrm{cm}", "12"),
    (r"12\mathrm{~cm}", "12"),
    (r"12\text{ cm}^2", "12"),
    ("12 cm²", "12"),
    ("12 cm", "12米"),
    ("12 units", "12"),
    (r"25\%", "25"),
    ("25 percent", "25"),
    ("1,200", "1200"),
    ("1{,}200", "1200"),
    (r"1\,200\,000", "1200000"),
    ("1 200", "1200"),
    (r"32,\! 349", "32349"),
    ("1,234,567.5", "1234567.5"),
    ("3/4", "0.75"),
    (r"\frac{3}{4}", "0.75"),
    (r"\dfrac{3}{4}", "3/4"),
    (r"\frac34", "3/4"),
    (r"\tfrac83", "8/3"),
    (r"-\frac{3}{4}", "-0.75"),
    (r"\frac{-3}{4}", "-0.75"),
    ("0.33333", "1/3"),
    ("3.1416", "3.14159265"),
    ("1e3", "1000"),
    (r"\text{C. 12}", "C"),
    ("(C)", "C"),
    (r"\text{C}", "C"),
    ("C. 12", "C"),
    ("C: 12", "(C)"),
    ("12 centimeters", "12"),
    (r"\text{12 centimeters}", "12"),
    ("12 square centimeters", "12"),
    (r"12\text{ square centimeters}", "12"),
    (r"12\text{ sq. units}", "12"),
    ("12 m/s", "12"),
    (r"12\text{ g}", "12"),
    (r"12\text{ m/s}^2", "12"),
    ("12 miles per hour", "12"),
    ("12 (cm)", "12"),
    (r"12\ (\text{cm})", "12"),
    (r"12\text{厘米}", "12"),
    ("12平方厘米", "12"),
    ("12度", "12"),
    (r"x \approx 5.77", "5.77"),
    (r"AB \approx 5.77\text{ cm}", "5.77"),
    (r"h \approx 12", "12"),
    ("= 12", "12"),
    (r"m\angle ABC = 60", "60"),
    (r"\widehat{AB} = 60", "60"),
    ("A'B' = 6", "6"),
    (r"x_{1} = 6", "6"),
    (r"S_{\triangle ABC} = 12", "12"),
    (r"\text{Area} = 12", "12"),
    (r"\sin A = \frac{3}{5}", "0.6"),
    (r"\tan \angle B = \frac{3}{4}", "0.75"),
    (r"\frac{AB}{CD} = \frac{3}{4}", "0.75"),
    ("|AB| = 6", "6"),
    ("f(2) = 6", "6"),
    (r"3 \times 4 = 12", "12"),
    (r"180 - 2 \cdot 40 = 100", "100"),
    ("PA + PB = 2 + 2 = 4", "4"),
]
WRONG_NUMBERS = [
    *((rf"12\text{{{word}}}", "12") for word in (" thousand", " million", " dozen", "not", " or more", "k", "i", "x")),
    *((f"12{word}", "12") for word in "万亿百倍"),
    ("12M", "12"),
    ("12g", "12"),
    (r"2\mathrm{e}", "2"),
    (r"3\mathrm{i}", "3"),
    (r"2\text{ pi}", "2"),
    ("3+4=8", "8"),
    ("8=3+4", "8"),
    ("x = 12 = 13", "13"),
    ("D)E", "D"),
    ("C.D", "C"),
    ("AD", "D"),
    ("12", "13"),
    ("12", "-12"),
    ("1.2", "12"),
    ("12", "120"),
    ("12", "1200"),
    ("0.12", r"12\%"),
    ("0.33", "1/3"),
    ("0", "0.00001"),
    ("3+4", "7"),
    (r"\sqrt{16}", "4"),
    ("6^2", "6"),
    (r"6^\circ", "6^2"),
    ("2^{3}", "2^{5}"),
    ("2^{3}", "8"),
    ("12 or 13", "12"),
    ("12, 13", "1213"),
    ("1,20", "120"),
    ("32, 349", "32349"),
    ("1_2", "12"),  # which Python reads as 12
    ("1 1/2", "11/2"),
    (r"4\text{ or }5", "45"),
    (r"\text{C. }12", "12"),
    (r"\text{not }12", "12"),
    ("1~2", "12"),
    (r"6^\circ2", "62"),
    (r"1\%2", "12"),
    (r"12\ 13", "1213"),
    (r"1\,20", "120"),
    ("x = 3 = 5", "5"),
    ("x = 3 = 5", "3"),
    ("2x + 1 = 7", "7"),
    ("0 = x - 5", "0"),
    ("C", "12"),
    ("12", "C"),
    ("B", "C"),
    ("B or C", "C"),
    ("C. 12", "12"),
    ("1/0", "0"),
    ("", "0"),
    ("x", "0"),
    ("nan", "0"),
    ("inf", "1e400"),
    ("٣", "3"),
]


@pytest.mark.parametrize(("said", "answer"), RIGHT_NUMBERS)
@pytest.mark.parametrize("rules", [NUMBER, changed(DEFAULT, relative_tolerance=1e-4)], ids=["number", "expression"])
def test_right_numbers(judge: Judge, said: str, answer: str, rules: JudgeRules) -> None:
    assert judge.verdicts([rf"The answer is \boxed{{{said}}}."], [answer], rules)[0]


@pytest.mark.parametrize(("said", "answer"), WRONG_NUMBERS)
@pytest.mark.parametrize("rules", [NUMBER, changed(NUMBER, where="text")], ids=["box", "text"])
def test_wrong_numbers(judge: Judge, said: str, answer: str, rules: JudgeRules) -> None:
    assert not judge.verdicts([rf"The answer is \boxed{{{said}}}."], [answer], rules)[0]


# Equations that ask for their unknown, or are false.
NOT_SOLVED = [
    ("-x=4", "4"),
    ("x-y=4", "4"),
    ("2x = 4", "4"),
    ("x^2 = 4", "4"),
    ("|x| = 4", "4"),
    ("xy = 4", "4"),
    (r"\sqrt{x}=5", "5"),
    (r"\frac{1}{x}=4", "4"),
    (r"\frac{x}{2}=10", "10"),
    (r"AB + CD = 10", "10"),
    (r"2\sqrt{3}=5", "5"),
    (r"2 \sin 30^\circ = 5", "5"),
    (r"\binom{5}{2} = 11", "11"),
    (r"2x + 1 = 3 + 4 = 7", "7"),
]


@pytest.mark.parametrize(("said", "answer"), NOT_SOLVED)
@pytest.mark.parametrize("form", ["number", "expression"])
def test_an_equation_that_is_not_solved_says_no_value(judge: Judge, said: str, answer: str, form: str) -> None:
    assert judge.verdicts([rf"\boxed{{{said}}}"], [answer], changed(DEFAULT, form=form))[0].outcome == "incorrect"


def test_what_is_only_a_name() -> None:
    names = (
        r"x x_1 x_{12} y' AB ABC A_1B_1 \theta \alpha_2 \angle1 \angleAOB m\angleABC \overline{AB} \cosA \cos\theta A:B"
    )
    others = r"-x 2x x^2 xy x+y AB+CD \sqrt{x} \frac{1}{x} \frac{AB}{2} 7 AB^2 |x| x(x+1) \sin30^\circ"
    assert [name for name in names.split() if not is_name(name)] == []
    assert [other for other in others.split() if is_name(other)] == []


def test_plain_arithmetic() -> None:
    said = {"3 + 4": 7, r"2 \times 3 - 1": 5, r"12 \div 4 / 3": 1, "-3 + 5": 2, r"\frac{1}{2} \cdot 6": 3, "2e-1": 0.2}
    assert {text: float(number.value) for text in said if (number := calculate(text))} == said
    assert [calculate(text) for text in ("x", "2(3 + 4)", "3 +", "1/0", "")] == [None] * 5


def test_numbers_start_no_worker() -> None:
    with Judge() as judge:
        said = [rf"\boxed{{{said}}}" for said, _ in RIGHT_NUMBERS + WRONG_NUMBERS]
        judge.verdicts(said, [answer for _, answer in RIGHT_NUMBERS + WRONG_NUMBERS], NUMBER)
        said = [r"\boxed{(1, 0.5)}", r"\boxed{odd}", "<answer>12</answer>", "12", ""]
        judge.verdicts(said, ["(1, 1/2)", "even", "13", "12.0", "12"], DEFAULT)
        assert [worker.process for worker in judge.workers] == [None]


def test_a_relative_error_of_one_in_ten_thousand_is_forgiven() -> None:
    assert is_correct(r"\boxed{100.01}", "100", NUMBER)
    assert not is_correct(r"\boxed{100.02}", "100", NUMBER)
    assert is_correct(r"\boxed{-99.99}", "-100", NUMBER)
    assert not is_correct(r"\boxed{0.0001}", "0", NUMBER)


ROUNDING = [  # with decimals=2
    ("0.33", "1/3", True),
    ("0.333", "1/3", True),
    ("0.34", "1/3", False),
    ("0.3", "1/3", False),  # one decimal
    ("0.330", "1/3", False),  # says that it is exact to three
    ("1.41", r"\sqrt{2}", True),
    (r"\sqrt{2}", "1.41", True),  # the answer is more exact
    (r"\sqrt{2}", "1.4", True),  # however few decimals the answer has
    ("1.414", "1.4", True),
    ("1.44", "1.4", True),
    ("1.45", "1.4", False),
    ("1.45", "1.5", True),
    (r"\frac{25\sqrt{3}}{2}", "21.7", True),
    (r"50\tan 40^\circ", "42.0", True),
    ("21.65", "21.7", True),
    ("21.64", "21.7", False),
    ("21.7", "21.65", False),  # one decimal
    (r"\frac{7}{2}", "4", False),
    ("0.04", "0.0", False),
    ("3.14159", "3.14", True),
    ("3.14", "3.14159", True),
    ("3.15", "3.14159", False),
    ("2", "2.4", False),
    ("0.00", "0.001", False),
]


@pytest.mark.parametrize(("said", "answer", "right"), ROUNDING)
def test_rounding_is_a_declared_rule(judge: Judge, said: str, answer: str, right: bool) -> None:
    two = changed(DEFAULT, decimals=2, relative_tolerance=0.0)
    never = changed(two, decimals=None)
    response = rf"\boxed{{{said}}}"
    assert judge.verdicts([response], [answer], two)[0].correct == right
    assert not judge.verdicts([response], [answer], never)[0]


@pytest.mark.parametrize("form", ["number", "expression"])
def test_a_percent_sign_means_one_thing(form: str) -> None:
    unit = changed(DEFAULT, form=form, percent="unit")
    hundredth = changed(DEFAULT, form=form, percent="hundredth")
    for said, answer, as_unit, as_hundredth in [
        (r"12\%", "12", True, False),
        (r"12\%", "0.12", False, True),
        ("0.12", r"12\%", False, True),
        ("12", r"12\%", True, False),
        (r"12\%", r"12\%", True, True),
        (r"\frac{1}{2}\%", "0.5", True, False),
        (r"\frac{1}{2}\%", "0.005", False, True),
    ]:
        assert is_correct(rf"\boxed{{{said}}}", answer, unit).correct == as_unit
        assert is_correct(rf"\boxed{{{said}}}", answer, hundredth).correct == as_hundredth


# --- expressions -----------------------------------------------------------------------------------------------------

RIGHT_EXPRESSIONS = [
    ("3+4", "7"),
    (r"2\sqrt{221}", "29.7321"),
    ("29.7321", r"2 \sqrt{221}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    ("2√3", r"2\sqrt{3}"),
    ("2*sqrt(5)/5", r"\frac{2√{5}}{5}"),
    ("9pi", "9πcm^{2}"),
    (r"25\pi \text{ cm}^2", r"25\pi"),
    (r"3\sqrt{2}\text{ units}", r"3\sqrt{2}"),
    ("x^2 - 1", "(x-1)(x+1)"),
    ("2^{3}", "8"),
    (r"1\frac{1}{2}", "1.5"),
    ("3:4", r"\frac{3}{4}"),
    ("1000,99", "1000.99"),
    (r"2\% + 10", "12"),
    (r"\sin 30^\circ", "0.5"),
    (r"\sum_{i=1}^{3} i", "6"),
    (r"\sum_{i=1}^{3} i = 6", "6"),
    (r"\{1\} \cup \{2\}", r"\{1, 2\}"),
    (r"10\sin 60^\circ", r"5\sqrt{3}"),
    ("x = 7", "x=7"),
    ("7", "x = 7"),
    ("f(x) = 2x+1", "2x + 1"),
    (r"\pi \approx 3.14", r"\pi"),
    (r"x \leq 3", "3 \\ge x"),
    ("x ≠ 3", r"x \neq \sqrt{9}"),
    (r"(-\infty, 3]", r"(-\infty,3]"),
    (r"\{2, 1\}", r"\{1, 2\}"),
    (r"x \in \{2, 1\}", r"\{1, 2\}"),
    (r"\{2, \sqrt{4} - 1\}", r"\{1, 2\}"),
    ("2, 1", "1,2"),
    (r"x = 2 \text{ or } x = 3", "2, 3"),
    (r"\left(1, \frac{1}{2}\right)", "(1, 0.5)"),
    (r"(1, \frac{\sqrt{4}}{4})", "(1, 0.5)"),
    (r"2, -2", r"\pm 2"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\text{odd}", "odd"),
    ("Even", "even"),
]
WRONG_EXPRESSIONS = [
    ("3+4", "8"),
    ("2^{3}", "2^{5}"),
    (r"6^\circ", "6^2"),
    ("6^2", r"6^\circ"),
    ("2x + 1 = 7", "7"),
    ("11a + c", "7 = 11a + c"),
    ("1", "2x + z = 1"),
    ("x = 3 = 5", "5"),
    ("y = 7", "x = 7"),
    ("x > 3", "3"),
    ("x > 3", "x < 3"),
    ("x < 5", r"x \neq 5"),
    (r"x \neq 4", r"x \neq 5"),
    ("(2, 1)", "(1, 2)"),
    ("(3, 1)", "(2, 1)"),
    (r"(2, \sqrt{1})", "(1, 2)"),
    ("[1, 2]", "(1, 2)"),
    (r"\{1, 2\}", "(1, 2)"),
    ("(1, 2)", r"\{1, 2\}"),
    ("1, 2", "2"),
    ("1, 1", "1"),
    ("1, 1", "1, 2"),
    ("1, 2", "1, 1"),
    ("1, 2", "12"),
    (r"\pm 5", "5"),
    (r"12\%, 13\%", "0.12, 0.13"),
    (r"2\% + 10", "10.02"),
    ("0.0000001", "0.0000002"),
    (r"\sin 30", "0.5"),
    ("10001", "10000"),
    ("listen", "silent"),
    (r"\text{no solution}", "0"),
]


@pytest.mark.parametrize(("said", "answer"), RIGHT_EXPRESSIONS)
def test_what_equals_the_answer_is_right(judge: Judge, said: str, answer: str) -> None:
    assert judge.verdicts([rf"The answer is \boxed{{{said}}}."], [answer])[0]


@pytest.mark.parametrize(("said", "answer"), WRONG_EXPRESSIONS)
def test_what_does_not_is_wrong(judge: Judge, said: str, answer: str) -> None:
    assert judge.verdicts([rf"The answer is \boxed{{{said}}}."], [answer])[0].outcome == "incorrect"


def test_the_sides_of_an_equation() -> None:
    def said(text: str, other: str) -> str:
        return conclusion(text, other, lambda a, b: _value(a) == _value(b))

    def _value(text: str) -> Fraction:
        number = calculate(text)
        assert number is not None
        return number.value

    assert said("x = 7", "7") == said("7 = x", "7") == said("3 + 4 = 7.0", "7")[:1] == said("x \\approx 7", "7") == "7"
    assert said("x = 7", "x = 8") == "7"
    assert said("x = 7", "y = 7") == "x = 7"
    assert said("2x = 7", "7") == "2x = 7"
    assert said("x = 3 = 5", "5") == "x = 3 = 5"
    assert said("x = 1, y = 2", "1") == "x = 1, y = 2"


def test_lists_are_split_outside_brackets_and_numbers() -> None:
    assert items("1,200, (3, 4); x") == ["1,200", "(3, 4)", "x"]
    assert [len(items(",".join("1" * n))) for n in (50, 51)] == [50, 1]  # quadratic to compare without order
    assert [bracket(text) for text in ("(1, 2]", r"\{1\}", "(1)(2)", "1", "")] == ["(]", "{}", "", "", ""]


# --- limits ----------------------------------------------------------------------------------------------------------


def test_what_takes_too_long_is_timed_out_and_the_next_is_judged() -> None:
    with Judge(workers=1, seconds=1.0) as judge:
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0]
        start = time.perf_counter()
        verdicts = judge.verdicts([r"\boxed{10^{10^{10}}}", r"\boxed{\sqrt{9}}"], ["12", "3"])
        assert [verdict.outcome for verdict in verdicts] == ["timed out", "correct"]
        assert time.perf_counter() - start < 1.0 + 8.0, "the limit, and starting a worker on a busy machine"
        assert not verdicts[0] and verdicts[0].found == "10^{10^{10}}"


def test_a_worker_that_no_longer_answers_is_killed() -> None:
    with Judge(workers=1, seconds=1.0) as judge:
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0]
        process = judge.workers[0].process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        start = time.perf_counter()
        assert judge.verdicts([r"\boxed{\sqrt{9}}"], ["3"])[0].outcome == "timed out"
        assert 1.0 <= time.perf_counter() - start < 5.0 and process.poll() == -signal.SIGKILL


def test_writing_to_a_worker_counts_against_the_limit_too() -> None:
    worker = Worker(seconds=1.0, memory=2**31)
    assert worker.ask(Task(r"\sqrt{4}", "2"), DEFAULT)
    process = worker.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    start = time.perf_counter()
    assert worker.ask(Task("9" * 400_000, "3"), DEFAULT) is None  # more than a pipe holds
    assert 1.0 <= time.perf_counter() - start < 5.0 and process.poll() == -signal.SIGKILL


def test_what_is_too_long_starts_no_worker() -> None:
    with Judge() as judge:
        for answer in ("12", "The answer is one of the many."):
            judge.verdicts(["\\boxed{" + "x+" * 200_000 + "}"], [answer])
        assert judge.workers[0].process is None


def test_what_timed_out_is_asked_again() -> None:
    with Judge(workers=1, seconds=0.0) as judge:
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0].outcome == "timed out"
        judge.workers[0].seconds = 60.0
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0]


def test_a_worker_that_dies_at_work_gives_no_verdict() -> None:
    with Judge(workers=1, seconds=60.0) as judge:
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0]
        process = judge.workers[0].process
        assert process is not None
        threading.Timer(0.5, process.send_signal, [signal.SIGALRM]).start()  # as its own timer does
        verdicts = judge.verdicts([r"\boxed{10^{10^{10}}}", r"\boxed{\sqrt{9}}"], ["12", "3"])
        assert [verdict.outcome for verdict in verdicts] == ["timed out", "correct"]


def test_what_a_job_is_told_does_not_reach_its_verdicts() -> None:
    """Slurm says SIGTERM to all processes of a job, and the job finishes its step; a worker may also be shot alone."""
    with Judge(workers=1, seconds=60.0) as judge:
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0]
        process = judge.workers[0].process
        assert process is not None
        process.terminate()
        assert judge.verdicts([r"\boxed{\sqrt{16}}"], ["4"])[0] and judge.workers[0].process is process
        process.send_signal(signal.SIGSTOP)  # so that it dies at work
        threading.Timer(0.5, process.kill).start()
        assert judge.verdicts([r"\boxed{\sqrt{9}}"], ["3"])[0]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def run_worker(judge: str, memory: int) -> subprocess.CompletedProcess[str]:
    """A worker asked twice, with `judge` for its mathematics."""
    code = f"from stages.evaluation import answer_worker as w; w.judge = lambda *_: {judge}; w.main(60.0, {memory})"
    task = {"found": "1", "wanted": "2"}
    line = json.dumps({**task, "rules": DEFAULT.model_dump()}) + "\n"
    return subprocess.run([sys.executable, "-c", code], input=line * 2, capture_output=True, text=True, timeout=60)


def test_a_worker_ends_when_its_memory_does() -> None:
    half_a_gigabyte = "[0] * 2**26 and {'outcome': 'correct'}"
    assert run_worker(half_a_gigabyte, memory=2**32).stdout.count("correct") == 2
    done = run_worker(half_a_gigabyte, memory=2**29)
    assert done.returncode == 1 and done.stdout == "ready\n"


def test_a_crash_is_not_a_wrong_answer() -> None:
    done = run_worker("1 / 0", memory=2**32)
    assert [json.loads(line)["outcome"] for line in done.stdout.splitlines()[1:]] == ["timed out"] * 2
    assert "ZeroDivisionError" in done.stderr


def test_a_worker_that_dies_is_replaced() -> None:
    with Judge(workers=1) as judge:
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0]
        process = judge.workers[0].process
        assert process is not None
        os.kill(process.pid, signal.SIGINT)  # Ctrl-C reaches workers too, and is the parent's business
        assert judge.verdicts([r"\boxed{\sqrt{16}}"], ["4"])[0] and judge.workers[0].process is process
        process.kill()
        process.wait()
        assert judge.verdicts([r"\boxed{\sqrt{9}}"], ["3"])[0]
        assert judge.workers[0].process is not process


@pytest.mark.parametrize("last", ["3", r"10^{10^{10}}"], ids=["idle", "at work"])
def test_workers_end_with_the_process_that_started_them(last: str) -> None:
    code = (
        "from stages.evaluation.answers import Judge; import os, signal, threading, time\n"
        "judge = Judge(seconds=1.0)\n"
        "assert judge.verdicts([r'\\boxed{\\sqrt{4}}'], ['2'])[0]\n"
        "print(judge.workers[0].process.pid, flush=True)\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        f"judge.verdicts([r'\\boxed{{{last}}}'], ['2'])\n"
        "time.sleep(60)\n"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60).stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_many_are_judged_in_their_order_and_remembered() -> None:
    with Judge(workers=2, remembered=3) as judge:
        numbers = list(range(2, 12))
        verdicts = judge.verdicts([rf"\boxed{{\sqrt{{{n * n}}}}}" for n in numbers], [str(n - n % 2) for n in numbers])
        assert [bool(verdict) for verdict in verdicts] == [n % 2 == 0 for n in numbers]
        assert [verdict.wanted for verdict in verdicts] == [str(n - n % 2) for n in numbers]
        assert len(judge._known) == 3
        for worker in judge.workers:
            worker.seconds = 0.0  # nobody could answer in that time
        assert judge.verdicts([r"\boxed{\sqrt{121}}"], ["10"])[0].outcome == "incorrect"


def test_what_is_remembered_depends_on_the_rules() -> None:
    loose = changed(DEFAULT, relative_tolerance=0.1)
    with Judge() as judge:
        assert not judge.verdicts([r"\boxed{\sqrt{26}}"], ["5"])[0]
        assert judge.verdicts([r"\boxed{\sqrt{26}}"], ["5"], loose)[0]
        assert not judge.verdicts([r"\boxed{\sqrt{26}}"], ["5"])[0]


def test_a_forked_process_has_a_judge_of_its_own() -> None:
    code = (
        "from stages.evaluation.answers import is_correct; import os\n"
        "assert is_correct(r'\\boxed{\\sqrt{4}}', '2')\n"
        "child = os.fork()\n"
        "right = is_correct(r'\\boxed{\\sqrt{9}}', '3') and is_correct(r'\\boxed{\\sqrt{16}}', '4')\n"
        "assert right\n"
        "assert not child or os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_workers_are_of_the_same_version_wherever_they_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").write_text("raise ImportError('another checkout')")
    monkeypatch.chdir(tmp_path)
    with Judge() as judge:
        assert judge.verdicts([r"\boxed{\sqrt{4}}"], ["2"])[0]


def test_each_response_has_an_answer() -> None:
    with Judge() as judge, pytest.raises(ValueError, match="shorter"):
        judge.verdicts([r"\boxed{1}", r"\boxed{2}"], ["1"])


def test_rules_are_whole_and_without_unknown_keys() -> None:
    for wrong in (
        {"decimals": -1},
        {"relative_tolerance": -0.1},
        {"relative_tolerance": float("inf")},
        {"where": "anywhere"},
        {"percents": "unit"},
    ):
        with pytest.raises(ValidationError):
            changed(DEFAULT, **wrong)


def test_the_version_names_the_mathematics() -> None:
    assert VERSION.startswith("answers-2 math-verify-0.9")


# --- any text --------------------------------------------------------------------------------------------------------

# LaTeX-like text, so that boxes and fractions come about often, and any text.
SCRAPS = st.lists(
    st.sampled_from(
        [
            *("\\boxed{", "\\frac{", "\\text{", "\\sqrt{", "\\{", "\\}", "^\\circ", "<answer>", "</answer>", " and "),
            *("{", "}", "(", ")", "1", "0", "/", "-", ".", ",", "e", "=", "_", " ", "x", "%", "$", "٣", "\0", "\ud800"),
        ]
    )
)
TEXTS = st.one_of(st.text(), st.text(st.characters()), SCRAPS.map("".join))
NUMBERS = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.decimals(-(10**6), 10**6, places=3).map(str),
    st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(lambda f: rf"\frac{{{f[0]}}}{{{f[1]}}}"),
)
RULES = st.builds(
    JudgeRules,
    where=st.sampled_from(["box", "text"]),
    form=st.sampled_from(["number", "expression"]),
    relative_tolerance=st.sampled_from([0.0, 1e-4]),
    decimals=st.sampled_from([None, 0, 2]),
    percent=st.sampled_from(["unit", "hundredth"]),
)


@given(TEXTS, TEXTS)
def test_number_rules_never_raise(response: str, answer: str) -> None:
    assert is_correct(response, answer, NUMBER).outcome in OUTCOMES
    assert is_correct(f"\\boxed{{{response}}}", answer, NUMBER).outcome in OUTCOMES


@settings(max_examples=60)
@given(TEXTS, TEXTS, RULES)
def test_the_judge_never_raises(judge: Judge, response: str, answer: str, rules: JudgeRules) -> None:
    for text in (response, f"\\boxed{{{response}}}"):
        verdict = judge.verdicts([text], [answer], rules)[0]
        assert verdict.outcome in OUTCOMES
        assert (verdict.found is None) == (verdict.outcome == "no answer")


@given(NUMBERS, RULES)
def test_every_number_is_itself(number: str, rules: JudgeRules) -> None:
    assert is_correct(f"\\boxed{{{number}}}", number, rules)


@given(st.integers(-(10**9), 10**9))
def test_every_way_to_write_a_whole_number(n: int) -> None:
    for text in (str(n), f"{n:,}", f"${n}.00$", f"x = {n}", f"{n}^\\circ"):
        assert is_correct(f"\\boxed{{{text}}}", str(n), NUMBER)
    found = read_number(plain(f"{n}.50"))
    assert found is not None and abs(found.value) == abs(n) + Fraction(1, 2) and found.places == 2


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**9), st.sampled_from([0.0, 1e-4, 0.1]))
def test_a_number_further_off_than_the_tolerance_is_wrong(n: int, error: int, tolerance: float) -> None:
    rules = changed(NUMBER, relative_tolerance=tolerance)
    right = error <= tolerance * abs(n) + 1e-9
    assert is_correct(f"\\boxed{{{n + error}}}", str(n), rules).correct == right
    assert is_correct(f"\\boxed{{{n - error}}}", str(n), rules).correct == right


@given(st.text(), NUMBERS, NUMBERS)
def test_text_before_the_box_changes_nothing(before: str, said: str, answer: str) -> None:
    for rules in (NUMBER, DEFAULT):
        alone = is_correct(f"\\boxed{{{said}}}", answer, rules)
        assert is_correct(f"{before}. So it is \\boxed{{{said}}}", answer, rules) == alone
        assert is_correct(f"\\boxed{{{answer}}} No: \\boxed{{{said}}}", answer, rules) == alone
    assert is_correct(said, answer, DEFAULT).outcome == is_correct(f"\\boxed{{{said}}}", answer, DEFAULT).outcome


ENDLESS = [
    "{" * 100_000,
    "\\boxed{" * 14_000 + "}" * 14_000,
    "\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}",
    "\\boxed{" + "9" * 2_000_000 + "}",
    "9" * 2_000_000,
    "\\boxed{" + " " * 1_000_000 + "}",
    "\\boxed{1}," * 10_000,
    "\\boxed{1" + ",1" * 400 + "}",
    "\\boxed{" + "(1," * 300 + ")" * 300 + "}",
    "\\boxed{1\\text{" + "a " * 400 + "}",
    "<answer>" * 10_000 + "</answer>",
    "\\boxed{1e999999999}",
    "\\boxed{1/1e-999999999}",
    "\0" * 100_000,
    "\n" * 100_000,
    *(
        piece * (100_000 // len(piece))
        for piece in ("sqrt(", "\\(", "\\[ ", "$", "$$ ", "1 111", "1,", "answer is ", "Answer:")
    ),
    *(
        piece * (100_000 // len(piece))
        for piece in ("answer" + " " * 900, "option *: ", "A)", "angle ", "\\text{ ", "**", "x=")
    ),
    *(
        piece * (100_000 // len(piece))
        for piece in ("cm ", "5 m ", "12 (", "square ", "平方", "{\\circ ", "= ", "\\approx ")
    ),
    *(
        "\\boxed{" + piece * (990 // len(piece)) + "}"
        for piece in ("A'", "A_{", "\\sin ", "\\angle ", "x=", "aA", "=7", "1=")
    ),
    *(
        "\\boxed{1" + piece * (990 // len(piece)) + "}"
        for piece in (" ", "\\text{m", "m/", "m^", "+1", "/1", "\\cdot ", "^\\circ")
    ),
]


@pytest.mark.parametrize("text", ENDLESS, ids=range(len(ENDLESS)))
def test_long_and_absurd_texts_are_read_at_once(text: str) -> None:
    start = time.perf_counter()
    for answer in ("12", text):
        assert is_correct(text, answer, NUMBER).outcome in OUTCOMES
    if text.startswith("\\boxed") and len(text) > 1000:  # which no mathematics is asked about
        assert is_correct(text, "12", DEFAULT).outcome in ("incorrect", "no answer")
    assert not is_correct(text, "12", NUMBER) and not is_correct("\\boxed{12}", text, NUMBER)
    look(text, "12", DEFAULT), look("12", text, DEFAULT)
    assert time.perf_counter() - start < 5


# --- real answers ----------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.skipif(not PAIRS.is_file(), reason="the shared data is not beside the project")
def test_real_pairs() -> None:
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    with Judge() as judge:
        verdicts = judge.verdicts([row["pred"] for row in rows], [row["gold"] for row in rows])
    right = [(row["scope"], row["expected"], verdict.correct) for row, verdict in zip(rows, verdicts, strict=True)]
    assert not [key for key in right if key[1:] == (False, True)], "a wrong answer called right"
    assert Counter(right)["core", True, False] <= 3 and Counter(right)["extended", True, False] <= 3
    assert all(verdict.outcome != "timed out" for verdict in verdicts)


@pytest.mark.shared
@pytest.mark.skipif(not GEOQA.is_dir(), reason="the shared data is not beside the project")
@pytest.mark.parametrize(
    ("name", "theirs", "ours", "they_refuse", "they_accept"),
    # Every difference is looked at in docs/judge.md.
    [("instruct", 231, 227, 11, 15), ("grpo_2epochs", 292, 276, 2, 18)],
)
def test_geoqa_as_its_authors_judged_it(name: str, theirs: int, ours: int, they_refuse: int, they_accept: int) -> None:
    path = GEOQA / f"geoqa_test_qwen2vl_7b_{name}_legacy.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with Judge() as judge:
        verdicts = judge.verdicts([row["model_output"] for row in rows], [row["ground_truth"] for row in rows])
    both = Counter((row["is_correct_per_repo"], bool(verdict)) for row, verdict in zip(rows, verdicts, strict=True))
    assert both[True, True] + both[True, False] == theirs and sum(map(bool, verdicts)) == ours
    assert (both[False, True], both[True, False]) == (they_refuse, they_accept)


@pytest.mark.parametrize("said", ["14/2", r"\frac{21}{3}", r"\frac{14}{2}", "7/1", "1.4/0.2", "28/4 cm"])
def test_a_division_that_is_left_is_no_number(said: str) -> None:
    assert not is_correct(rf"\boxed{{{said}}}", "7", NUMBER)
    assert is_correct(rf"\boxed{{{said}}}", "7", NUMBER.model_copy(update={"form": "expression"}))


@pytest.mark.parametrize(("said", "answer"), [("3/4", "0.75"), (r"\frac{3}{4}", "3/4"), ("6/8", "6/8"), ("-7", "-7")])
def test_a_fraction_in_lowest_terms_is_a_number(said: str, answer: str) -> None:
    assert is_correct(rf"\boxed{{{said}}}", answer, NUMBER)

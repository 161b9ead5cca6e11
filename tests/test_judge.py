"""The judge against answers that people gave, and against any text at all."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.judge import boxed, is_correct, number

BOXES = [
    (r"So \boxed{12}.", "12"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{a_{b_{c}}} and more", "a_{b_{c}}"),
    (r"\boxed{1} Wait, \boxed{2}", "2"),
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


RIGHT = [
    ("12", "12"),
    (" 12 ", "12"),
    ("012", "12"),
    ("12.0", "12"),
    ("-12", "-12"),
    ("+12", "12"),
    ("$12$", "12"),
    ("x=7", "7"),
    (r"x = 7^\circ", "7"),
    ("a + b = 3 + 4 = 7", "7"),
    ("45°", "45"),
    (r"45^\circ", "45"),
    (r"45^{\circ}", "45"),
    (r"45\degree", "45"),
    ("45 degrees", "45"),
    (r"12\text{ cm}", "12"),
    (r"12\,\mathrm{cm}", "12"),
    (r"12\mathrm{~cm}", "12"),
    (r"12\text{ cm}^2", "12"),
    ("12 cm", "12"),
    ("12 units", "12"),
    (r"25\%", "25"),
    ("1,200", "1200"),
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
]
WRONG = [
    ("12", "13"),
    ("12", "-12"),
    ("1.2", "12"),
    ("12", "120"),
    ("0.33", "1/3"),
    ("0", "0.00001"),
    ("6^2", "6"),
    ("2^{3}", "2^{5}"),
    ("12 or 13", "12"),
    ("12, 13", "1213"),
    ("1,20", "120"),
    ("1_2", "12"),  # which Python reads as 12
    ("1 1/2", "11/2"),
    (r"4\text{ or }5", "45"),
    (r"\text{C. }12", "12"),
    (r"\text{not }12", "12"),
    ("1~2", "12"),
    (r"6^\circ2", "62"),
    (r"1\%2", "12"),
    (r"12\ 13", "1213"),
    ("C", "12"),
    ("C. 12", "12"),
    ("1/0", "0"),
    ("", "0"),
    ("x", "0"),
    ("nan", "0"),
    ("inf", "1e400"),
]


@pytest.mark.parametrize(("said", "gold"), RIGHT)
def test_right_answers(said: str, gold: str) -> None:
    assert is_correct(rf"The answer is \boxed{{{said}}}.", gold)


@pytest.mark.parametrize(("said", "gold"), WRONG)
def test_wrong_answers(said: str, gold: str) -> None:
    assert not is_correct(rf"The answer is \boxed{{{said}}}.", gold)


@pytest.mark.parametrize("response", ["12", "The answer is 12.", "", r"\boxed{12", r"\boxed{12} \boxed{"])
def test_without_a_box_there_is_no_answer(response: str) -> None:
    assert not is_correct(response, "12")


def test_a_relative_error_of_one_in_ten_thousand_is_forgiven() -> None:
    assert is_correct(r"\boxed{100.01}", "100")
    assert not is_correct(r"\boxed{100.02}", "100")
    assert is_correct(r"\boxed{-99.99}", "-100")


# Latex-like text, so that boxes and fractions come about often, and any text.
SCRAPS = st.lists(
    st.sampled_from(
        ["\\boxed{", "{", "}", "\\frac{", "1", "0", "/", "-", ".", ",", "e", "^\\circ", "=", "_", " ", "x", "٣"]
    )
)
TEXTS = st.one_of(st.text(), SCRAPS.map("".join))


@given(TEXTS, TEXTS)
def test_the_judge_never_raises(response: str, answer: str) -> None:
    assert is_correct(response, answer) in (True, False)
    assert is_correct(f"\\boxed{{{response}}}", answer) in (True, False)


def test_absurd_numbers_are_judged_at_once() -> None:
    """In a process of its own, because a judge that computes 10**999999999 can only be killed."""
    texts = ["1e999999999", "1e-999999999", "9" * 5000, "1/1e999999999"]
    judged = f"[is_correct('\\\\boxed{{' + text + '}}', '12') for text in {texts}]"
    code = f"from stages.evaluation.judge import is_correct; assert not any({judged})"
    subprocess.run([sys.executable, "-c", code], timeout=20, check=True)


@given(st.integers(-(10**9), 10**9))
def test_every_whole_number_is_itself(n: int) -> None:
    assert number(str(n)) == number(f"{n:,}") == number(f"${n}.00$") == n
    assert is_correct(f"\\boxed{{{n}}}", str(n))
    assert not is_correct(f"\\boxed{{{n + max(1, abs(n) // 100)}}}", str(n))

"""Answers that change after a reflection, and the health of a training."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from stages.config import Health
from stages.evaluation import changes, health
from stages.evaluation.answers import Judge
from tests.conftest import RULES
from tests.test_metrics import table

WORDS = ("wait", "re-check", "verify")


@pytest.mark.parametrize(
    ("text", "first", "span"),
    [
        ("5+13=18. Wait, let me see. 5+13=19. \\boxed{19}", "18", "Wait, let me see."),
        ("So x is 12. Hmm. Let me re-check this! Fine: \\boxed{12}", "12", "Let me re-check this!"),  # Hmm says nothing
        ("The answer is 7.5. Let me verify. Yes.", "7.5", "Let me verify."),
        ("It is \\boxed{3}.\nWait\nno, \\boxed{4}", "3", "Wait"),
        ("<answer>40</answer> But wait.", "40", "But wait."),
        ("Given angle A = 80. Wait, so x = 100.", None, None),  # what is given is no answer
        ("Wait. 5+13=18.", None, None),  # nothing is stated before it
        ("Wait. 5+13=18. Now I verify that.", "18", "Now I verify that."),  # the first that follows an answer
        ("We await it. 5+13=18.", None, None),
        ("2*3=6. 6+1=7. Wait.", "7", "Wait."),
        ("So 180-35=145, so x = 145. Wait", "145", "Wait"),
        ("", None, None),
    ],
)
def test_what_is_stated_before_a_reflection(text: str, first: str | None, span: str | None) -> None:
    found = changes.reflected(text, WORDS)
    assert (found and found.first, found and text[found.begin : found.end]) == (first, span)


TEXTS = {
    "2+2=5. Wait. 2+2=4. \\boxed{4}": "wrong to right",
    "2+2=4. Wait. 2+3=5. \\boxed{5}": "right to wrong",
    "2+2=4. Wait. 2+2=4. \\boxed{4}": "right to right",
    "2+2=6. Wait. 2+3=5. \\boxed{5}": "wrong to wrong",
    "2+2=4. Wait, and so on without end": "right to wrong",
    "2+2=4. \\boxed{4}": None,
    "Wait. \\boxed{4}": None,
}


@pytest.fixture(scope="module")
def answered() -> pd.DataFrame:
    right = [text.endswith("{4}") for text in TEXTS]
    return table(
        *(
            {"problem": str(i), "text": text, "answer": "4", "found": "?", "verdict": "correct" if ok else "incorrect"}
            for i, (text, ok) in enumerate(zip(TEXTS, right, strict=True))
        )
    )


def changed(rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    reflective = rows["text"].str.contains("Wait").to_numpy()
    with Judge() as judge:
        return changes.changes(rows, reflective, WORDS, judge, RULES), reflective


def test_changes_are_told_apart_and_counted(answered: pd.DataFrame) -> None:
    found, reflective = changed(answered)
    assert found["change"].tolist() == [change for change in TEXTS.values() if change]
    counts = changes.counts(answered, reflective, found).iloc[0]
    assert counts[["responses", "reflective", "stated"]].tolist() == [7, 6, 5]
    assert [counts[change.replace(" ", "_")] for change in changes.CHANGES] == [1, 2, 1, 1]


def test_without_right_answers_no_change_is_called_wrong_or_right(answered: pd.DataFrame) -> None:
    rows = answered.assign(answer=None)
    found, reflective = changed(rows)
    counts = changes.counts(rows, reflective, found).iloc[0]
    assert found.empty and counts["reflective"] == 6
    assert counts[["stated", "wrong_to_right", "right_to_wrong"]].isna().all()


def test_nothing_that_reflects_is_nothing_that_changes(answered: pd.DataFrame) -> None:
    found, reflective = changed(answered.assign(text="2+2=4"))
    assert found.empty and not reflective.any()
    assert changes.counts(answered, reflective, found)["stated"].tolist() == [0]


def test_the_gallery_shows_the_clearest_and_each_problem_once() -> None:
    wrong_to_right = "2+2=5. Wait. 2+2=4. \\boxed{4}"
    twice = "2+2=5. Wait. Wait. 2+2=4. \\boxed{4}"
    rows = table(
        {"problem": "cut off", "text": wrong_to_right, "finished": False, "length": 1},
        {"problem": "silent", "text": wrong_to_right, "found": None, "length": 1},
        {"problem": "twice", "text": twice, "length": 2},
        {"problem": "long", "text": wrong_to_right, "length": 30},
        {"problem": "short", "text": wrong_to_right, "length": 20},
        {"problem": "short", "text": wrong_to_right, "length": 10, "sample": 1},
    ).assign(answer="4", seed=0)
    found, _ = changed(rows)
    best = changes.gallery(found, 3)
    assert list(zip(best["problem"], best["sample"], best["rank"], strict=True)) == [
        ("short", 1, 1),
        ("long", 0, 2),
        ("twice", 0, 3),
    ]
    assert len(changes.gallery(found, 0)) == 0


# --- health ----------------------------------------------------------------------------------------------------------

BOUNDS = Health(
    first_ratio=0.001,
    sampler_gap=0.01,
    sampler_gap_max=0.5,
    sampler_outside=0.02,
    kl=1.0,
    clip_fraction=0.2,
    entropy_left=0.1,
    truncated=0.1,
    timed_out=0.0,
    rewarded_otherwise=0.0,
)


def records(**change: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two generation steps of two updates; the second update of each has moved on."""
    updates = pd.DataFrame(
        {
            "generation_step": [1, 1, 2, 2],
            "gradient_step": [1, 2, 3, 4],
            "loss": 0.1,
            "grad_norm": 1.0,
            "ratio": [1.0, 1.2, 1.0, 1.2],
            "kl_loss": [0.0, 0.1, 0.2, 0.3],
            "clip_fraction": [0.0, 0.1, 0.0, 0.1],
            "entropy": [2.0, 2.0, 1.0, 1.0],
            "sampler_gap": 1e-6,
            "sampler_gap_max": 1e-5,
            "sampler_outside": 0.0,
        }
    )
    responses = pd.DataFrame(
        {"phase": "train", "responses": [4, 4], "truncated": [0.0, 0.05], "timed_out": 0.0, "rewarded_otherwise": 0.0}
    )
    for name, value in change.items():
        target = updates if name in updates else responses
        target[name] = value
    return updates, responses


@pytest.mark.parametrize(
    ("change", "suspicious"),
    [
        ({}, set()),
        ({"ratio": [1.0, 1.2, 1.01, 1.2]}, {"first_ratio"}),
        ({"sampler_gap": 0.02}, {"sampler_gap"}),
        ({"sampler_gap_max": [0.0, 0.0, 0.6, 0.0]}, {"sampler_gap_max"}),
        ({"sampler_outside": [0.0, 0.0, 0.03, 0.02]}, {"sampler_outside"}),
        ({"kl_loss": [0.0, 0.0, 0.0, 1.1]}, {"kl"}),
        ({"clip_fraction": [0.0, 0.3, 0.0, 0.0]}, {"clip_fraction"}),
        ({"entropy": [2.0, 2.0, 0.1, 0.1]}, {"entropy_left"}),
        ({"truncated": [0.0, 0.2]}, {"truncated"}),
        ({"timed_out": [0.0, 0.25]}, {"timed_out"}),
        ({"rewarded_otherwise": [0.25, 0.0]}, {"rewarded_otherwise"}),
        ({"loss": [0.1, float("nan"), 0.1, 0.1]}, {"not_finite"}),
        ({"grad_norm": [float("inf"), 1.0, 1.0, 1.0]}, {"not_finite"}),
    ],
)
def test_what_is_outside_its_bound_is_suspicious(change: dict[str, Any], suspicious: set[str]) -> None:
    found = health.checks(*records(**change), BOUNDS).set_index("check")["verdict"]
    assert set(found.index[found == "suspicious"]) == suspicious
    assert set(found) <= {"sound", "suspicious"}


def test_a_value_that_was_not_recorded_is_unknown() -> None:
    found = health.checks(*records(sampler_gap=float("nan"), sampler_gap_max=None), BOUNDS).set_index("check")
    assert set(found.index[found["verdict"] == "unknown"]) == {"sampler_gap", "sampler_gap_max"}


def test_values_are_of_the_whole_run() -> None:
    found = health.checks(*records(timed_out=[0.0, 0.5], responses=[12, 4]), BOUNDS).set_index("check")["value"]
    assert found["timed_out"] == 2 / 16
    assert found["entropy_left"] == 0.5
    assert found["kl"] == 0.3

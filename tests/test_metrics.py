"""The evaluation scheme's numbers: by hand, against brute force, and what must not change them."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation import metrics
from stages.evaluation.reflection import reflections, words_in
from stages.evaluation.rows import CELL

WORDS = ("wait", "yet")
ROW: dict[str, Any] = {
    "phase": "evaluate",
    "split": "test",
    "epoch": 0,
    "generation_step": 0,
    "setting": "pass@2",
    "problem": "a",
    "sample": 0,
    "text": "\\boxed{1}",
    "answer": "1",
    "found": "1",
    "length": 10,
    "finished": True,
    "verdict": "correct",
}
STEP = {"phase": "train", "split": "train", "epoch": 1, "generation_step": 1, "setting": "train"}


def table(*changes: dict[str, Any]) -> pd.DataFrame:
    """Judged rows that differ from `ROW` in what is given."""
    rows = pd.DataFrame([ROW | change for change in changes], index=range(1, len(changes) + 1))
    return rows.assign(correct=rows["verdict"] == "correct")


def said(correct: bool) -> str:
    return "correct" if correct else "incorrect"


def training(*responses: tuple[str, bool], **same: Any) -> pd.DataFrame:
    """Training responses of one generation step, each with its text and whether it is correct."""
    return table(
        *(
            {**STEP, "problem": str(i), "text": text, "verdict": said(correct), **same}
            for i, (text, correct) in enumerate(responses)
        )
    )


def reflected(rows: pd.DataFrame, matching: str = "word") -> pd.DataFrame:
    found = metrics.reflection(rows, words_in(rows["text"].tolist(), WORDS))
    return found[found["matching"] == matching].reset_index(drop=True)


# --- reflection words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word", "whole", "substring"),
    [
        ("Wait, let me see.", "wait", True, True),
        ("so we WAIT", "wait", True, True),
        ("we await the result", "wait", False, True),
        ("waiting", "wait", False, True),
        ("the yeti", "yet", False, True),
        ("not yet.", "yet", True, True),
        ("Let me re-check.", "re-check", True, True),
        ("Let me re-check.", "recheck", False, False),
        ("I re-checked it", "re-check", False, True),
        ("we check again", "check again", True, True),
        ("we check\nagain", "check again", True, False),
        ("again we check", "check again", False, False),
        ("we check it again", "check again", False, False),
        ("", "wait", False, False),
        ("a.b", "a.b", True, True),  # a word is no pattern
        ("axb", "a.b", False, False),
    ],
)
def test_a_whole_word_is_not_a_part_of_another(text: str, word: str, whole: bool, substring: bool) -> None:
    found = words_in([text], [word])
    assert (found["word"].item(), found["substring"].item()) == (whole, substring)
    assert bool(reflections(text, [word])) == whole


def test_reflections_stand_in_their_order() -> None:
    assert reflections("Not yet. Wait. Yet await", WORDS) == [4, 9, 15]


# --- accuracy --------------------------------------------------------------------------------------------------------


def test_a_problem_is_solved_if_any_response_is_correct() -> None:
    # a: right and wrong; b: wrong twice; c: right twice; d: wrong, right. Solved 3 of 4, correct 4 of 8.
    marks = {"a": (True, False), "b": (False, False), "c": (True, True), "d": (False, True)}
    rows = table(
        *({"problem": p, "sample": i, "verdict": said(c)} for p, two in marks.items() for i, c in enumerate(two))
    )
    found = metrics.accuracy(rows).iloc[0]
    assert (found["problems"], found["samples"]) == (4, 2)
    assert found["accuracy"] == 0.75
    assert found["mean_accuracy"] == 0.5
    by_problem = metrics.problems(rows, {"a": "angles"})
    assert by_problem[["problem", "type", "samples", "correct"]].to_numpy().tolist() == [
        ["a", "angles", 2, 1],
        ["b", "", 2, 0],
        ["c", "", 2, 2],
        ["d", "", 2, 1],
    ]
    assert metrics.types(by_problem)[["type", "problems", "accuracy"]].to_numpy().tolist() == [
        ["angles", 1, 1.0],
        ["", 3, pytest.approx(2 / 3)],
    ]


def test_splits_epochs_and_settings_are_apart() -> None:
    rows = table(
        {"verdict": "correct"},
        {"verdict": "incorrect", "epoch": 2},
        {"verdict": "incorrect", "setting": "other"},
        {"verdict": "incorrect", "split": "validation"},
    )
    found = metrics.accuracy(rows)
    assert len(found) == 4
    assert found["accuracy"].sum() == 1


def test_truncated_is_the_share_that_was_cut_off_and_length_the_mean() -> None:
    lengths = [(10, True), (20, True), (30, True), (64, False)]
    rows = table(*({"problem": str(i), "length": n, "finished": f} for i, (n, f) in enumerate(lengths)))
    found = metrics.accuracy(rows).iloc[0]
    assert found["truncated"] == 0.25
    assert found["length"] == 31
    spread = metrics.responses(rows).iloc[0]
    # Linear between order statistics: half of the four lies at 20 + 0.5 x 10, a quarter at 10 + 0.75 x 10.
    assert [spread[name] for name in ("length_50", "length_25", "length_max")] == [25, 17.5, 64]


def test_what_the_judge_could_not_say_is_counted() -> None:
    rows = table(
        *({"problem": str(i), "verdict": v} for i, v in enumerate(["correct", "no answer", "timed out", "no answer"]))
    )
    found = metrics.accuracy(rows).iloc[0]
    assert (found["accuracy"], found["no_answer"], found["timed_out"]) == (0.25, 0.5, 0.25)


def test_what_nobody_recorded_is_nan_and_not_zero() -> None:
    found = metrics.accuracy(table({}).assign(verdict=None, finished=np.nan)).iloc[0]
    assert found["accuracy"] == 1
    assert found[["no_answer", "timed_out", "truncated"]].isna().all()


def test_training_accuracy_pools_the_batches_of_an_epoch() -> None:
    first = training(("", True), ("", True), ("", True), ("", False))
    second = training(("", False), ("", False), generation_step=2)  # a smaller batch: 3 of 6, not the mean of 3/4 and 0
    third = training(("", True), generation_step=3, epoch=2)
    found = metrics.training(pd.concat([first, second, third, table({})], ignore_index=True))
    assert found.to_dict("list") == {"epoch": [1, 2], "responses": [6, 1], "correct": [3, 1], "accuracy": [0.5, 1.0]}


# --- pass@k ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_pass_at_k_is_the_mean_over_all_ways_to_draw_k(correct: list[list[bool]]) -> None:
    rows = table(
        *(
            {"problem": str(p), "sample": i, "verdict": said(c)}
            for p, marks in enumerate(correct)
            for i, c in enumerate(marks)
        )
    )
    found = metrics.pass_at_k(rows.sample(frac=1, random_state=0)).set_index("k")
    for k in range(1, 6):
        draws = [any(draw) for marks in correct for draw in itertools.combinations(marks, k)]
        assert found.loc[k, "pass_at_k"] == pytest.approx(np.mean(draws))
        assert found.loc[k, "any_of_k"] == pytest.approx(np.mean([any(marks[:k]) for marks in correct]))
    solved = metrics.accuracy(rows).iloc[0]
    assert found.loc[5, "pass_at_k"] == pytest.approx(solved["accuracy"])  # all five: nothing is left to draw
    assert found.loc[1, "pass_at_k"] == pytest.approx(solved["mean_accuracy"])


def test_pass_at_k_of_many_samples_is_a_number() -> None:
    rows = table(*({"sample": i, "verdict": said(i == 0)} for i in range(2000)))
    found = metrics.pass_at_k(rows).set_index("k")["pass_at_k"]
    assert found.loc[1000] == pytest.approx(0.5)  # one of 2000 is among 1000 drawn half the time


# --- ratios ----------------------------------------------------------------------------------------------------------


def test_the_five_ratios_by_hand() -> None:
    # N = 10, Nref = 4, N+ = 6, Nref+ = 1
    found = metrics.ratios(pd.DataFrame({"N": [10], "Nref": [4], "N+": [6], "Nref+": [1]})).iloc[0]
    assert found.to_dict() == pytest.approx(
        {
            "reflection_ratio": 4 / 10,
            "reflection_ratio_in_correct_answers": 1 / 6,
            "reflection_ratio_in_incorrect_answers": 3 / 4,
            "correct_ratio_in_reflection_texts": 1 / 4,
            "correct_ratio_in_no_reflection_texts": 5 / 6,
        }
    )


def test_responses_are_counted_not_words() -> None:
    rows = training(
        ("Wait, wait, not yet", True), ("wait", False), ("yet", False), ("await", True), ("fine", True), ("fine", False)
    )
    found = reflected(rows).iloc[0]
    assert found[metrics.COUNTS].tolist() == [6, 3, 3, 1]
    assert found["reflection_ratio"] == 0.5
    assert found["reflection_ratio_in_correct_answers"] == pytest.approx(1 / 3)
    assert found["reflection_ratio_in_incorrect_answers"] == pytest.approx(2 / 3)
    assert found["correct_ratio_in_reflection_texts"] == pytest.approx(1 / 3)
    assert found["correct_ratio_in_no_reflection_texts"] == pytest.approx(2 / 3)
    assert reflected(rows, "substring").iloc[0][metrics.COUNTS].tolist() == [6, 4, 3, 2]
    counts = metrics.words(rows, words_in(rows["text"].tolist(), WORDS), WORDS).set_index(["matching", "word"])["count"]
    assert counts.to_dict() == {
        ("word", "wait"): 2,
        ("word", "yet"): 2,
        ("substring", "wait"): 3,
        ("substring", "yet"): 2,
    }


def test_an_empty_denominator_is_nan() -> None:
    nobody_reflects = reflected(training(("fine", True), ("fine", False))).iloc[0]
    assert pd.isna(nobody_reflects["correct_ratio_in_reflection_texts"])
    assert nobody_reflects["reflection_ratio"] == 0
    all_reflect_wrongly = reflected(training(("wait", False), ("wait", False))).iloc[0]
    assert pd.isna(all_reflect_wrongly["reflection_ratio_in_correct_answers"])
    assert pd.isna(all_reflect_wrongly["correct_ratio_in_no_reflection_texts"])
    assert all_reflect_wrongly["correct_ratio_in_reflection_texts"] == 0


RESPONSES = st.lists(
    st.tuples(st.sampled_from(["wait", "await", "not yet", "fine"]), st.booleans(), st.integers(1, 3)), min_size=1
)


def steps(responses: list[tuple[str, bool, int]]) -> pd.DataFrame:
    parts = [training((text, correct), generation_step=step) for text, correct, step in responses]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(problem=rows.index.astype(str))


@given(RESPONSES)
def test_ratios_recombine_to_totals(responses: list[tuple[str, bool, int]]) -> None:
    """Law of total probability, with an empty part weighing nothing."""
    for _, found in reflected(steps(responses)).iterrows():
        n, ref, plus = found["N"], found["Nref"], found["N+"]
        with_word = np.nan_to_num(found["correct_ratio_in_reflection_texts"]) * ref
        without = np.nan_to_num(found["correct_ratio_in_no_reflection_texts"]) * (n - ref)
        assert with_word + without == pytest.approx(plus)
        right = np.nan_to_num(found["reflection_ratio_in_correct_answers"]) * plus
        wrong = np.nan_to_num(found["reflection_ratio_in_incorrect_answers"]) * (n - plus)
        assert right + wrong == pytest.approx(ref) == pytest.approx(found["reflection_ratio"] * n)


@given(RESPONSES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(responses: list[tuple[str, bool, int]], random: Any) -> None:
    rows = steps(responses)
    shuffled = rows.loc[random.sample(list(rows.index), len(rows))]
    for count in (reflected, metrics.responses, metrics.training):
        once, again = (
            count(table).sort_values(["epoch"] + [c for c in CELL if c in count(table)]) for table in (rows, shuffled)
        )
        pd.testing.assert_frame_equal(once.reset_index(drop=True), again.reset_index(drop=True))


@given(RESPONSES, st.data())
def test_counts_of_two_parts_add_up(responses: list[tuple[str, bool, int]], data: Any) -> None:
    rows = steps(responses)
    cut = data.draw(st.integers(0, len(rows)))
    whole = reflected(rows).set_index("generation_step")[metrics.COUNTS]
    parts = [
        reflected(part).set_index("generation_step")[metrics.COUNTS] for part in (rows[:cut], rows[cut:]) if len(part)
    ]
    added = sum(part.reindex(whole.index, fill_value=0) for part in parts)
    pd.testing.assert_frame_equal(added, whole, check_dtype=False)


def test_steps_are_apart_and_rewards_are_means() -> None:
    first = training(("wait", True), ("", False)).assign(reward_accuracy=1.0, reward_language=[-0.1, 0.0])
    second = training(("", True), generation_step=2, finished=False).assign(reward_accuracy=0.0, reward_language=0.0)
    rows = pd.concat([first, second], ignore_index=True).assign(rewarded=[True, True, True])
    found = metrics.responses(rows)
    assert found["responses"].tolist() == [2, 1]
    assert found["correct"].tolist() == [1, 1]
    assert found["reward_accuracy"].tolist() == [1.0, 0.0]
    assert found["reward_language"].tolist() == [-0.05, 0.0]
    assert found["truncated"].tolist() == [0.0, 1.0]
    assert found["rewarded_otherwise"].tolist() == [0.5, 0.0]
    assert reflected(rows)["reflection_ratio"].tolist() == [0.5, 0.0]

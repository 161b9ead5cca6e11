"""The evaluation scheme's numbers, by hand."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.config import Evaluated, JudgeRun, Scores, ScoresRun
from stages.evaluation import judge, metrics, score
from stages.evaluation.answers import VERSION
from stages.evaluation.reflection import words_in
from stages.records import ResponseRow, UpdateRow, VerdictRow, append
from tests.conftest import RULES

ROW = ResponseRow(
    run="tiny/text/rl/seed1",
    phase="evaluate",
    split="test",
    epoch=0,
    generation_step=0,
    setting="pass@2",
    problem="a",
    sample=0,
    text="\\boxed{1}",
    answer="1",
    length=10,
    finished=True,
    rewards={},
    verdict=None,
    judge=None,
)
WAIT = Scores(reflection_words=("wait", "yet"), whole_words=True)


def table(*changes: dict[str, Any]) -> pd.DataFrame:
    """Judged rows that differ from `ROW` in what is given; correct where nothing else is said."""
    rows = [asdict(replace(ROW, **{"verdict": "correct"} | change)) for change in changes]
    return pd.DataFrame([row | {"correct": row["verdict"] == "correct"} for row in rows])


def said(correct: bool) -> str:
    return "correct" if correct else "incorrect"


def training(*responses: tuple[str, bool], **same: Any) -> pd.DataFrame:
    """Training responses of one generation step, each with its text and whether it is correct."""
    step = {"phase": "train", "split": "train", "epoch": 1, "generation_step": 1, "rewards": {"accuracy": 1.0}, **same}
    return table(*({"text": text, "verdict": said(correct), **step} for text, correct in responses))


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
        ("we check it again", "check again", False, False),
        ("", "wait", False, False),
    ],
)
def test_a_whole_word_is_not_a_part_of_another(text: str, word: str, whole: bool, substring: bool) -> None:
    assert words_in([text], [word], whole=True) == {word: [whole]}
    assert words_in([text], [word], whole=False) == {word: [substring]}


def test_a_word_is_not_a_pattern() -> None:
    assert words_in(["a.b", "axb"], ["a.b"], whole=True) == {"a.b": [True, False]}
    assert words_in(["a.b", "axb"], ["a.b"], whole=False) == {"a.b": [True, False]}


# --- accuracy --------------------------------------------------------------------------------------------------------


def test_a_problem_is_solved_if_any_response_is_correct() -> None:
    # a: right and wrong; b: wrong twice; c: right twice; d: wrong, right. Solved 3 of 4, correct 4 of 8.
    marks = {"a": (True, False), "b": (False, False), "c": (True, True), "d": (False, True)}
    rows = table(
        *({"problem": p, "sample": i, "verdict": said(c)} for p, two in marks.items() for i, c in enumerate(two))
    )
    found = metrics.accuracy(rows, {"pass@2": 2}).iloc[0]
    assert (found["problems"], found["samples"]) == (4, 2)
    assert found["accuracy"] == 0.75
    assert found["mean_accuracy"] == 0.5


def test_splits_epochs_and_settings_are_apart() -> None:
    rows = table(
        {"verdict": "correct"},
        {"verdict": "incorrect", "epoch": 2},
        {"verdict": "incorrect", "setting": "other"},
        {"verdict": "incorrect", "split": "validation"},
    )
    found = metrics.accuracy(rows, {"pass@2": 1, "other": 1})
    assert len(found) == 4
    assert found["accuracy"].sum() == 1


def test_truncated_is_the_share_that_was_cut_off_and_length_the_mean() -> None:
    lengths = [(10, True), (20, True), (30, True), (64, False)]
    rows = table(*({"problem": str(i), "length": n, "finished": f} for i, (n, f) in enumerate(lengths)))
    found = metrics.accuracy(rows, {"pass@2": 1}).iloc[0]
    assert found["truncated"] == 0.25
    assert found["length"] == 31


def test_a_missing_response_is_an_error_that_names_it() -> None:
    rows = table({"problem": "a"}, {"problem": "a", "sample": 1}, {"problem": "b"})
    with pytest.raises(ValueError, match=r"seed1: epoch 0, test, pass@2: problem b has 1 responses, not 2"):
        metrics.accuracy(rows, {"pass@2": 2})


def test_training_accuracy_pools_the_batches_of_an_epoch() -> None:
    first = training(("", True), ("", True), ("", True), ("", False))
    second = training(("", False), ("", False), generation_step=2)  # a smaller batch: 3 of 6, not the mean of 3/4 and 0
    third = training(("", True), generation_step=3, epoch=2)
    found = metrics.training(pd.concat([first, second, third], ignore_index=True))
    assert found.to_dict("list") == {"epoch": [1, 2], "responses": [6, 1], "correct": [3, 1], "accuracy": [0.5, 1.0]}


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
    found = metrics.steps(rows, WAIT).iloc[0]
    assert found[metrics.COUNTS].tolist() == [6, 3, 3, 1]
    assert found["reflection_ratio"] == 0.5
    assert found["reflection_ratio_in_correct_answers"] == pytest.approx(1 / 3)
    assert found["reflection_ratio_in_incorrect_answers"] == pytest.approx(2 / 3)
    assert found["correct_ratio_in_reflection_texts"] == pytest.approx(1 / 3)
    assert found["correct_ratio_in_no_reflection_texts"] == pytest.approx(2 / 3)
    counts = metrics.words(rows, WAIT).set_index("word")["count"].to_dict()
    assert counts == {"wait": 2, "yet": 2}


def test_an_empty_denominator_is_nan() -> None:
    nobody_reflects = metrics.steps(training(("fine", True), ("fine", False)), WAIT).iloc[0]
    assert pd.isna(nobody_reflects["correct_ratio_in_reflection_texts"])
    assert nobody_reflects["reflection_ratio"] == 0
    all_reflect_wrongly = metrics.steps(training(("wait", False), ("wait", False)), WAIT).iloc[0]
    assert pd.isna(all_reflect_wrongly["reflection_ratio_in_correct_answers"])
    assert pd.isna(all_reflect_wrongly["correct_ratio_in_no_reflection_texts"])
    assert all_reflect_wrongly["correct_ratio_in_reflection_texts"] == 0


def test_steps_are_apart_and_rewards_are_means() -> None:
    first = training(("wait", True), ("", False), rewards={"accuracy": 1.0, "language": -0.1})
    second = training(("", True), generation_step=2, rewards={"accuracy": 0.0, "language": 0.0}, finished=False)
    found = metrics.steps(pd.concat([first, second], ignore_index=True), WAIT)
    assert found["N"].tolist() == [2, 1]
    assert found["reflection_ratio"].tolist() == [0.5, 0.0]
    assert found["reward_accuracy"].tolist() == [1.0, 0.0]
    assert found["reward_language"].tolist() == [-0.1, 0.0]
    assert found["truncated"].tolist() == [0.0, 1.0]


# --- scoring a study -------------------------------------------------------------------------------------------------


def evaluation(folder: Path, rows: list[ResponseRow]) -> Evaluated:
    """An evaluation's responses, judged by the stage."""
    responses, verdicts = folder / "responses", folder / "verdicts"
    responses.mkdir(parents=True)
    append(responses / "responses.jsonl", rows)
    run = JudgeRun(out=str(verdicts), responses=str(responses), workers=1, settings=RULES)
    (folder / "run.json").write_text(run.canonical_json())
    judge.main(str(folder / "run.json"))
    return Evaluated(responses=str(responses), verdicts=str(verdicts))


def test_responses_are_judged_in_their_order(tmp_path: Path) -> None:
    texts = ["\\boxed{1}", "\\boxed{2}", "1", "so \\boxed{3} is \\boxed{1.0}"]
    found = evaluation(tmp_path, [replace(ROW, sample=i, text=text) for i, text in enumerate(texts)])
    rows = metrics.judged(Path(found.responses), Path(found.verdicts))
    assert rows["verdict"].tolist() == ["correct", "incorrect", "no answer", "correct"]
    assert rows["correct"].tolist() == [True, False, False, True]
    assert rows["text"].tolist() == texts
    assert set(rows["judge"]) == {VERSION}
    verdicts = [json.loads(line) for line in Path(found.verdicts, "verdicts.jsonl").read_text().splitlines()]
    assert [(v["found"], v["wanted"]) for v in verdicts] == [("1", "1"), ("2", "1"), (None, "1"), ("1.0", "1")]


def test_verdicts_on_other_responses_are_refused(tmp_path: Path) -> None:
    found = evaluation(tmp_path, [ROW, replace(ROW, sample=1)])
    append(Path(found.responses, "responses.jsonl"), [replace(ROW, sample=2)])
    with pytest.raises(ValueError, match=r"verdicts\.jsonl: not on the 3 responses of"):
        metrics.judged(Path(found.responses), Path(found.verdicts))
    append(Path(found.verdicts, "verdicts.jsonl"), [VerdictRow("another", 2, "correct", "1", "1", VERSION)])
    with pytest.raises(ValueError, match=r"verdicts\.jsonl: not on the 3 responses of"):
        metrics.judged(Path(found.responses), Path(found.verdicts))


def test_what_the_judge_could_not_say_is_counted() -> None:
    rows = table(
        *({"problem": str(i), "verdict": v} for i, v in enumerate(["correct", "no answer", "timed out", "no answer"]))
    )
    found = metrics.accuracy(rows, {"pass@2": 1}).iloc[0]
    assert (found["accuracy"], found["no_answer"], found["timed_out"]) == (0.25, 0.5, 0.25)


@pytest.fixture
def scored(tmp_path: Path) -> Any:
    """Score a study of two evaluations and one training, settings in another order than they are answered."""
    samples = {"b": 1, "a": 2}
    evaluated = []
    for method, epochs in (("vanilla", [0]), ("rl", [10, 2])):
        row = replace(ROW, run=f"tiny/text/{method}/seed1")
        kinds = [(epoch, name, i) for epoch in epochs for name in sorted(samples) for i in range(samples[name])]
        rows = [replace(row, epoch=e, setting=n, sample=i) for e, n, i in kinds]
        evaluated.append(evaluation(tmp_path / method, rows))
    trained = tmp_path / "trained"
    trained.mkdir()
    step = replace(
        ROW,
        phase="train",
        split="train",
        epoch=1,
        generation_step=1,
        text="wait",
        rewards={"accuracy": 1.0},
        verdict="correct",
    )
    append(trained / "responses.jsonl", [step])
    append(trained / "updates.jsonl", [UpdateRow(ROW.run, 1, 1, 1, 0.5, 0.4, 0.1, 1.0, 0.0, 0.7, 1.0, 1e-3)])

    def run(trained: tuple[str, ...]) -> dict[str, pd.DataFrame]:
        settings = ScoresRun(
            out=str(tmp_path / "scores"),
            trained=trained,
            evaluated=tuple(evaluated),
            samples=samples,
            order=tuple(samples),
            settings=WAIT,
        )
        (tmp_path / "run.json").write_text(settings.canonical_json())
        score.main(str(tmp_path / "run.json"))
        return {path.stem: pd.read_csv(path) for path in (tmp_path / "scores").iterdir()}

    return run, str(trained)


def test_scores_of_a_study(scored: Any) -> None:
    run, trained = scored
    found = run((trained,))
    assert set(found) == {"accuracy", "training", "steps", "words", "updates"}
    for rows in found.values():
        assert list(rows.columns[:4]) == ["model", "dataset", "method", "seed"]
    accuracy = found["accuracy"]
    assert list(zip(accuracy["method"], accuracy["epoch"], accuracy["setting"], strict=True)) == [
        ("vanilla", 0, "b"),
        ("vanilla", 0, "a"),
        ("rl", 2, "b"),
        ("rl", 2, "a"),
        ("rl", 10, "b"),
        ("rl", 10, "a"),
    ]
    assert found["words"].set_index("word")["count"].to_dict() == {"wait": 1, "yet": 0}
    assert found["updates"]["entropy"].tolist() == [0.7]


def test_a_study_without_rl_has_empty_tables(scored: Any) -> None:
    run, _ = scored
    found = run(())
    assert len(found["accuracy"]) == 6
    assert all(found[name].empty for name in ("training", "steps", "words", "updates"))


def test_a_broken_row_leaves_no_scores(scored: Any, tmp_path: Path) -> None:
    run, trained = scored
    Path(trained, "responses.jsonl").write_text(json.dumps(asdict(ROW))[:50])
    with pytest.raises(ValueError, match=r"responses\.jsonl:1: not a JSON row"):
        run((trained,))
    assert not (tmp_path / "scores").exists()

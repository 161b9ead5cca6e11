"""Anybody's tables of responses: what is found in them, and what is an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.evaluation.answers import DEFAULT, Judge
from stages.evaluation.reading import ForeignRun, Source, read_runs

Rows = list[dict[str, Any]]
Write = Callable[[Rows], Path]

TWO = [
    {"i": 0, "question": "2+2?", "ground_truth": "4", "model_output": "It is 4."},
    {"i": 1, "question": "2+3?", "ground_truth": "5", "model_output": "It is 6."},
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(rows: Rows) -> Path:
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return written


@pytest.fixture(scope="module")
def judge() -> Any:
    with Judge() as judge:
        yield judge


def read(path: Path, judge: Judge, name: str | None = None, **columns: str) -> list[ForeignRun]:
    return list(read_runs(Source(path, name, columns), judge, DEFAULT))


def test_columns_are_found_by_the_names_that_others_give_them(write: Write, judge: Judge) -> None:
    (run,) = read(write(TWO), judge)
    assert (run.model, run.dataset, run.method, run.seed, run.unit) == ("model", "data", "mine", 0, "characters")
    assert run.rows["problem"].tolist() == ["0", "1"]
    assert run.rows["verdict"].tolist() == ["correct", "incorrect"]
    assert run.rows["found"].tolist() == ["4", "6"]
    assert run.rows["question"].tolist() == ["2+2?", "2+3?"]
    assert (
        run.rows[["phase", "split", "epoch", "setting", "sample"]].to_numpy().tolist()
        == [["evaluate", "test", 1, "pass@1", 0]] * 2
    )
    assert run.rows["length"].tolist() == [8, 8]
    assert run.rows["finished"].isna().all()  # nobody said


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_every_kind_of_file_says_the_same(tmp_path: Path, judge: Judge, ending: str) -> None:
    table = pd.DataFrame(TWO)
    path = tmp_path / f"table.{ending}"
    {
        "jsonl": lambda: table.to_json(path, orient="records", lines=True),
        "parquet": lambda: table.to_parquet(path),
        "csv": lambda: table.to_csv(path, index=False),
    }[ending]()
    (run,) = read(path, judge)
    assert run.rows["correct"].tolist() == [True, False]
    assert run.rows["answer"].tolist() == ["4", "5"]


def test_a_verdict_of_the_file_is_not_judged_again(write: Write, judge: Judge) -> None:
    rows = [{**row, "per_repo": value} for row, value in zip(TWO, (0, 1), strict=True)]
    (run,) = read(write(rows), judge, correct="per_repo")
    assert run.rows["correct"].tolist() == [False, True]
    assert run.rows["verdict"].isna().all()  # which would tell a wrong answer from none


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("rl", ("model", "data", "rl", 0)),
        ("rl/seed3", ("model", "data", "rl", 3)),
        ("geoqa/rl/seed3", ("model", "geoqa", "rl", 3)),
        ("qwen/geoqa/rl", ("qwen", "geoqa", "rl", 0)),
        (None, ("model", "data", "mine", 0)),
    ],
)
def test_a_name_says_model_data_set_method_and_seed(
    write: Write, judge: Judge, name: str | None, parts: tuple[str, str, str, int]
) -> None:
    (run,) = read(write(TWO), judge, name)
    assert (run.model, run.dataset, run.method, run.seed) == parts


def test_columns_say_the_run_too(write: Write, judge: Judge) -> None:
    rows = [{**row, "method": "rl", "seed": seed} for seed in (4, 5) for row in TWO]
    first, second = read(write(rows), judge)
    assert [(run.method, run.seed, len(run.rows)) for run in (first, second)] == [("rl", 4, 2), ("rl", 5, 2)]
    ours = [{**row, "run": "tiny/text/grpo/seed7"} for row in TWO]
    (run,) = read(write(ours), judge)
    assert (run.model, run.dataset, run.method, run.seed) == ("tiny", "text", "grpo", 7)


def test_the_untrained_model_stands_at_epoch_0_and_others_after_it(write: Write, judge: Judge) -> None:
    assert read(write(TWO), judge, "vanilla")[0].rows["epoch"].tolist() == [0, 0]
    assert read(write(TWO), judge, "rl")[0].rows["epoch"].tolist() == [1, 1]


def test_steps_without_epoch_and_split_are_of_training(write: Write, judge: Judge) -> None:
    """As trainers log their completions, with a reward in a column of its own."""
    rows = [{"step": s, "prompt": "2+2?", "completion": "4", "target": "4", "reward": 1.0} for s in (1, 2)]
    (run,) = read(write(rows), judge)
    assert run.rows[["phase", "generation_step", "setting"]].to_numpy().tolist() == [
        ["train", 1, "train"],
        ["train", 2, "train"],
    ]
    assert run.rows["reward_total"].tolist() == [1.0, 1.0]


def test_steps_of_an_evaluation_are_its_epochs(write: Write, judge: Judge) -> None:
    rows = [{**row, "split": "val", "step": step} for step in (50, 100) for row in TWO]
    (run,) = read(write(rows), judge)
    assert run.rows["epoch"].tolist() == [50, 50, 100, 100]
    assert set(run.rows["generation_step"]) == {0} and set(run.rows["split"]) == {"validation"}


def test_training_and_evaluation_of_one_file_are_apart(write: Write, judge: Judge) -> None:
    rows = [
        {**row, "split": split, "step": step}
        for split, step in (("train", 1), ("test", 50), ("test", 100))
        for row in TWO
    ]
    (run,) = read(write(rows), judge)
    assert run.rows["phase"].tolist() == ["train"] * 2 + ["evaluate"] * 4
    assert run.rows["epoch"].tolist() == [1, 1, 50, 50, 100, 100]  # an evaluation is known by its step
    assert run.rows["generation_step"].tolist() == [1, 1, 0, 0, 0, 0]
    assert run.rows["setting"].tolist() == ["train"] * 2 + ["pass@1"] * 4


@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_a_phase_says_whether_responses_are_of_training(write: Write, judge: Judge, phase: str) -> None:
    (run,) = read(write([{**row, "phase": phase, "epoch": 2, "step": 7} for row in TWO]), judge)
    assert set(run.rows["phase"]) == {phase} and set(run.rows["epoch"]) == {2}
    assert set(run.rows["generation_step"]) == {7 if phase == "train" else 0}


def test_an_evaluation_may_leave_its_step_out_beside_training(write: Write, judge: Judge) -> None:
    rows = [{**TWO[0], "split": "train", "epoch": 1, "step": 3}, {**TWO[1], "split": "test", "epoch": 1}]
    (run,) = read(write(rows), judge)
    assert run.rows["generation_step"].tolist() == [3, 0]


def test_published_models_are_called_owner_and_name(write: Write, judge: Judge) -> None:
    (run,) = read(write([{**row, "model": "Qwen/Qwen2-VL-7B", "method": "rl"} for row in TWO]), judge)
    assert (run.model, run.method) == ("Qwen_Qwen2-VL-7B", "rl")


def test_empty_lines_are_no_rows(write: Write, judge: Judge) -> None:
    path = write(TWO)
    path.write_text(path.read_text() + "\n")
    assert len(read(path, judge)[0].rows) == 2


def test_an_empty_response_of_a_csv_is_a_response(tmp_path: Path, judge: Judge) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,response,answer\n1,,4\n2,None,4\n")
    assert read(path, judge)[0].rows["text"].tolist() == ["", "None"]


def test_responses_to_one_problem_are_its_samples(write: Write, judge: Judge) -> None:
    (run,) = read(write([TWO[0], TWO[1], TWO[0], TWO[1]]), judge)
    assert run.rows["sample"].tolist() == [0, 0, 1, 1]
    assert set(run.rows["setting"]) == {"pass@2"}


VALID = {"problem": "a", "text": "4", "answer": "4", "split": "test", "epoch": 1}
TRAIN = {
    "problem": "a",
    "text": "4",
    "answer": "4",
    "split": "train",
    "epoch": 1,
    "step": 1,
    "rewards": {"accuracy": 1.0},
}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"problem": 1, "answer": "4"}],
            r"mine\.jsonl: no column for text \(text, response, .*\(columns: problem, answer\)",
        ),
        ([{"problem": 1, "text": "4"}], r"no column for correct \(.*\) or answer \(.*--column correct=NAME"),
        ([{"text": "4", "answer": "4"}], r"no column for problem \("),
        ([VALID, {**VALID, "problem": "b", "text": None}], r"mine\.jsonl:2: no 'text'"),
        ([VALID, {**VALID, "problem": "b", "text": 4}], r"mine\.jsonl:2: 'text' should be a text, not 4"),
        ([VALID, {**VALID, "problem": "b", "answer": None}], r"mine\.jsonl:2: no 'answer'"),
        ([VALID, {**VALID, "problem": "b", "split": "fresh"}], r"mine\.jsonl:2: split 'fresh' is none of train, valid"),
        (
            [VALID, {**VALID, "problem": "b", "epoch": -1}],
            r"mine\.jsonl:2: epoch should be a whole number from 0 on, not -1",
        ),
        ([VALID, {**VALID, "problem": "b", "epoch": 1.5}], r"mine\.jsonl:2: epoch should be a whole number"),
        ([{**VALID, "correct": "yes"}], r"mine\.jsonl:1: correct should be true or false, not 'yes'"),
        (
            [{**VALID, "sample": 0}, {**VALID, "sample": 0}],
            r"mine\.jsonl:2: the same response as on line 1 \(problem a of",
        ),
        (
            [VALID, VALID, {**VALID, "problem": "b"}, {**VALID, "problem": "c"}],
            r"mine\.jsonl:2: problem a of test, epoch 1",
        ),
        (
            [{**VALID, "split": "validation"}, VALID, {**VALID, "epoch": 2}],
            r"mine\.jsonl:3: epoch 2 has no validation responses, but epochs 1 have",
        ),
        (
            [TRAIN, {**TRAIN, "problem": "b", "rewards": {"accuracy": float("nan")}}],
            r"mine\.jsonl:2: reward_accuracy is nan",
        ),
        ([TRAIN, {**TRAIN, "problem": "b", "rewards": {}}], r"mine\.jsonl:2: reward_accuracy is nan, not a number"),
        ([VALID, {**VALID, "problem": "b", "length": "long"}], r"mine\.jsonl:1: length should be a number of tokens"),
        ([{**VALID, "seed": 1}, {**VALID, "problem": "b"}], r"mine\.jsonl:2: no 'seed', though other rows have it"),
        ([{**VALID, "seed": "one"}], r"mine\.jsonl:1: seed should be a whole number"),
        (
            [{**VALID, "phase": "later", "split": "test"}, {**VALID, "split": "eval"}],
            r"split 'eval' is none of train, val",
        ),
        (
            [{"problem": 1, "text": "4", "answer": "4", "epoch": 1, "step": 2}],
            r"both steps and epochs, so it is not known",
        ),
        ([{**VALID, "run": "a b"}], r"'a b' is no run's name; it should be \[\[model/\]dataset/\]method\[/seedK\]"),
        ([], r"mine\.jsonl: no column"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(write: Write, judge: Judge, rows: Rows, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(rows), judge)


def test_a_named_file_has_one_run(write: Write, judge: Judge) -> None:
    path = write([{**row, "run": run} for run in ("a", "b") for row in TWO])
    with pytest.raises(ValueError, match=r"mine\.jsonl:3: mixed runs: .*'b'.* named rl; name no run"):
        read(path, judge, "rl")
    assert [run.method for run in read(path, judge)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"a": 1}\n{"a":', r"x\.jsonl:2: not a JSON row"),
        ("x.jsonl", "[1]\n", r"x\.jsonl:1: a list, not an object"),
        ("x.parquet", "no", r"x\.parquet: not a parquet file"),
        ("x.csv", "", r"x\.csv: not a CSV table"),
        ("x.txt", "", r"x\.txt: should end with \.jsonl, \.parquet or \.csv"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, judge: Judge, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read(path, judge)
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: no such file"):
        read(tmp_path / "nowhere.jsonl", judge)


def test_a_column_that_is_asked_for_is_there(write: Write, judge: Judge) -> None:
    with pytest.raises(ValueError, match=r"no column 'reply' \(columns: i, question"):
        read(write(TWO), judge, text="reply")
    with pytest.raises(ValueError, match=r"--column txt=i: no column here is called 'txt' \(allowed: run, model"):
        read(write(TWO), judge, txt="i")

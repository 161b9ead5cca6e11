"""Scoring a study and anybody's responses: which tables there are, and that they need no deep learning."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from stages.config import Evaluated, JudgeRun, ScoresRun, load_scores
from stages.evaluation import judge, score
from stages.evaluation.answers import VERSION
from stages.evaluation.rows import judged
from stages.records import ResponseRow, UpdateRow, VerdictRow, append, read
from stages.report import __main__ as page
from stages.report.cell import read_rows
from tests.conftest import RULES

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data" / "geoqa_r1v_outputs"
SCHEME = load_scores(ROOT / "config/scores.yaml")
SCHEME = SCHEME.model_copy(update={"statistics": SCHEME.statistics.model_copy(update={"replicates": 100})})
ROW = ResponseRow(
    run="tiny/text/rl/seed1",
    phase="evaluate",
    split="test",
    epoch=0,
    generation_step=0,
    setting="a",
    problem="p",
    sample=0,
    text="\\boxed{1}",
    answer="1",
    length=10,
    finished=True,
    rewards={},
    verdict=None,
    judge=None,
)
STEP = replace(
    ROW,
    phase="train",
    split="train",
    epoch=1,
    generation_step=1,
    setting="train",
    text="1+1=3. Wait. \\boxed{1}",
    rewards={"accuracy": 1.0},
    verdict="correct",
    judge="an older one",
)
UPDATE = UpdateRow(ROW.run, 1, 1, 1, 0.5, 0.4, 0.1, 1.0, 0.0, 0.7, 1.0, 1e-3, 10, 1e-7, 1e-6, 0.0)
SAMPLES = {"b": 1, "a": 2}
SETTINGS = {"seed": 1, "settings": {"learning_rate": 1e-12}}


def written(folder: Path, rows: list[ResponseRow]) -> Evaluated:
    """A run's responses where a study has them, judged by the stage."""
    responses, verdicts = folder / "run" / rows[0].run, folder / "judge" / rows[0].run
    responses.mkdir(parents=True)
    append(responses / "responses.jsonl", rows)
    (responses / "run.json").write_text(json.dumps(SETTINGS))
    run = JudgeRun(out=str(verdicts), responses=str(responses), workers=1, settings=RULES)
    (folder / "run.json").write_text(run.canonical_json())
    judge.main(str(folder / "run.json"))
    return Evaluated(responses=str(responses), verdicts=str(verdicts))


# --- rows of ours ----------------------------------------------------------------------------------------------------


def test_responses_are_judged_in_their_order(tmp_path: Path) -> None:
    texts = ["\\boxed{1}", "\\boxed{2}", "1", "so \\boxed{3} is \\boxed{1.0}"]
    found = written(tmp_path, [replace(ROW, sample=i, text=text) for i, text in enumerate(texts)])
    rows = judged(Path(found.responses), Path(found.verdicts))
    assert rows["verdict"].tolist() == ["correct", "incorrect", "no answer", "correct"]
    assert rows["correct"].tolist() == [True, False, False, True]
    assert rows["found"].tolist() == ["1", "2", None, "1.0"]
    assert rows["text"].tolist() == texts
    assert set(read(Path(found.verdicts, "verdicts.jsonl"))["judge"]) == {VERSION}


def test_verdicts_on_other_responses_are_refused(tmp_path: Path) -> None:
    found = written(tmp_path, [ROW, replace(ROW, sample=1)])
    append(Path(found.responses, "responses.jsonl"), [replace(ROW, sample=2)])
    with pytest.raises(ValueError, match=r"verdicts\.jsonl: not on the 3 responses of"):
        judged(Path(found.responses), Path(found.verdicts))
    append(Path(found.verdicts, "verdicts.jsonl"), [VerdictRow("another", 2, "correct", "1", "1", VERSION)])
    with pytest.raises(ValueError, match=r"verdicts\.jsonl: not on the 3 responses of"):
        judged(Path(found.responses), Path(found.verdicts))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], r"responses\.jsonl:2: the same response as on line 1"),
        (
            [ROW, replace(ROW, problem="q", run="tiny/text/rl/seed2")],
            r"responses\.jsonl:2: of the run tiny/text/rl/seed2",
        ),
        (
            [ROW, replace(ROW, sample=1), replace(ROW, problem="q"), replace(ROW, problem="r")],
            "p of test, epoch 0, a has 2",
        ),
        ([replace(ROW, split="validation"), replace(ROW, epoch=2)], r"responses\.jsonl:2: epoch 2 has no validation"),
        ([replace(STEP, rewards={"accuracy": float("nan")})], r"responses\.jsonl:1: 'accuracy' of the rewards is NaN"),
    ],
)
def test_rows_that_cannot_be_counted_are_refused(tmp_path: Path, rows: list[ResponseRow], message: str) -> None:
    found = written(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        judged(Path(found.responses), Path(found.verdicts))


# --- a study ---------------------------------------------------------------------------------------------------------

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def scored(tmp_path: Path) -> Run:
    """Score a study of two evaluations and one training, settings in another order than they are answered."""
    evaluated = []
    for method, epochs in (("vanilla", [0]), ("rl", [10, 2])):
        row = replace(ROW, run=f"tiny/text/{method}/seed1")
        kinds = [
            (e, name, p, i) for e in epochs for name in sorted(SAMPLES) for p in "pq" for i in range(SAMPLES[name])
        ]
        rows = [replace(row, epoch=e, setting=n, problem=p, sample=i) for e, n, p, i in kinds]
        evaluated.append(written(tmp_path / method, rows))
    trained = written(tmp_path / "trained", [STEP, replace(STEP, problem="q", verdict="incorrect")])
    append(Path(trained.responses, "updates.jsonl"), [UPDATE])
    tuned = tmp_path / "tuned" / "tiny" / "text" / "sft" / "seed1"
    tuned.mkdir(parents=True)
    (tuned / "run.json").write_text(json.dumps(SETTINGS))
    step = replace(UPDATE, run="tiny/text/sft/seed1", ratio=None, entropy=None, sampler_gap=None, tokens=77)
    append(tuned / "updates.jsonl", [step])
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(data / "images/p.png")
    problem = {"id": "p", "question": "1?", "answer": "1", "solution": "", "image": "images/p.png", "type": "sums"}
    (data / "test.jsonl").write_text(json.dumps(problem) + "\n")

    def run(with_rl: bool = True, **change: Any) -> dict[str, Any]:
        settings = ScoresRun(
            out=str(tmp_path / "scores"),
            trained=(trained,) if with_rl else (),
            tuned=(str(tuned),),
            evaluated=tuple(evaluated),
            samples=SAMPLES,
            order=tuple(SAMPLES),
            setting="a",
            methods=(("vanilla", "vanilla"), ("rl", "rl")),
            data={"text": str(data)},
            rules={"text": RULES},
            workers=1,
            settings=SCHEME,
        ).model_copy(update=change)
        (tmp_path / "run.json").write_text(settings.canonical_json())
        score.main([str(tmp_path / "run.json")])
        return tables(tmp_path / "scores")

    return run


def tables(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    found |= {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    found["problems"] = pd.read_parquet(folder / "problems.parquet")
    found |= {path.stem: read_rows(path) for path in folder.glob("*.jsonl")}
    return found


def test_scores_of_a_study(scored: Run) -> None:
    found = scored()
    accuracy = found["accuracy"]
    assert list(accuracy.columns[:4]) == ["model", "dataset", "method", "seed"]
    assert list(zip(accuracy["method"], accuracy["epoch"], accuracy["setting"], strict=True)) == [
        ("vanilla", 0, "b"),
        ("vanilla", 0, "a"),
        ("rl", 2, "b"),
        ("rl", 2, "a"),
        ("rl", 10, "b"),
        ("rl", 10, "a"),
    ]
    words = found["words"]
    words = words[(words["phase"] == "train") & (words["matching"] == "word")].set_index("word")["count"]
    assert (words["wait"], words["yet"]) == (2, 0)
    updates = found["updates"].set_index("method")
    assert updates["tokens"].to_dict() == {"sft": 77, "rl": 10}
    assert updates.loc["rl", "entropy"] == 0.7 and pd.isna(updates.loc["sft", "entropy"])
    assert set(found["responses"]["unit"]) == {"tokens"}
    assert found["methods"] == {"vanilla": "vanilla", "rl": "rl"}
    assert set(found["types"]["type"].fillna("")) == {"sums", ""}


def test_what_was_rewarded_otherwise_is_suspicious(scored: Run) -> None:
    health = scored()["health"].set_index("check")
    assert health.loc["rewarded_otherwise", "value"] == 0.5  # q was called incorrect then, and is correct now
    assert health.loc["rewarded_otherwise", "verdict"] == "suspicious"
    assert health.loc["kl", "verdict"] == "sound"


def test_an_answer_that_changed_is_in_the_gallery_with_its_question(scored: Run, tmp_path: Path) -> None:
    found = scored()
    counts = found["changes"].set_index("phase").loc["train"]
    assert (counts["stated"], counts["wrong_to_right"]) == (2, 2)
    shown = {row["problem"]: row for row in found["gallery"]}
    assert set(shown) == {"p", "q"}
    assert shown["p"]["question"] == "1?" and shown["q"]["question"] == ""
    picture = tmp_path / "scores" / shown["p"]["image"]
    assert picture.read_bytes() == (tmp_path / "data/images/p.png").read_bytes()
    assert shown["q"]["image"] == ""
    row = shown["p"]
    assert (row["first"], row["wanted"], row["found"], row["change"]) == ("3", "1", "1", "wrong to right")
    assert row["text"][row["begin"] : row["end"]] == "Wait."


def test_scores_alone_make_the_page_with_runs_and_first_responses(
    scored: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scored(methods=(("vanilla", "vanilla"), ("sft", "sft"), ("rl", "rl")))
    page.main([str(tmp_path / "scores"), "--out", str(tmp_path / "page")])
    away = tmp_path_factory.mktemp("away")
    for name in ("scores", "page"):
        shutil.move(tmp_path / name, away / name)
    shutil.rmtree(tmp_path)
    page.main([str(away / "scores"), "--out", str(away / "again")])
    beside, alone = (
        {path.relative_to(away / name): path.read_bytes() for path in (away / name).rglob("*") if path.is_file()}
        for name in ("page", "again")
    )
    assert alone == beside
    text = alone[Path("report.html")].decode()
    assert text.count('alt="The picture of problem p"') == 2  # in the gallery, and among the first responses
    assert '<section id="runs"' in text and "learning_rate" in text


def test_a_study_without_rl_has_empty_tables(scored: Run) -> None:
    found = scored(with_rl=False)
    assert len(found["accuracy"]) == 6
    assert set(found["updates"]["method"]) == {"sft"}
    for name, column in {"training": "accuracy", "health": "check"}.items():
        assert found[name].empty and column in found[name]
    assert found["gallery"] == []


def test_equal_responses_give_equal_bytes(scored: Run, tmp_path: Path) -> None:
    def written() -> dict[str, bytes]:
        files = (path for path in (tmp_path / "scores").rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in files if path.name != "provenance.json"}  # tells the time

    scored()
    once = written()
    scored()
    assert written() == once


def test_a_setting_that_was_answered_too_seldom_is_an_error(scored: Run) -> None:
    with pytest.raises(SystemExit, match=r"responses\.jsonl: a: 2 responses to a problem, and the study says 3"):
        scored(samples={"b": 1, "a": 3})


def test_a_broken_row_leaves_no_scores(scored: Run, tmp_path: Path) -> None:
    path = tmp_path / "trained" / "run" / ROW.run / "responses.jsonl"
    path.write_text(path.read_text()[:50])
    with pytest.raises(SystemExit, match=r"responses\.jsonl:1: not a JSON row"):
        scored()
    assert not (tmp_path / "scores").exists()


# --- anybody's responses ---------------------------------------------------------------------------------------------


def mine(path: Path, right: int, **same: Any) -> Path:
    """Ten problems, so many of them answered rightly."""
    rows = [{"id": i, "response": "4" if i < right else "5", "answer": "4", **same} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_anybodys_responses_are_scored_without_deep_learning(tmp_path: Path) -> None:
    before, after = mine(tmp_path / "before.jsonl", 3), mine(tmp_path / "after.jsonl", 8)
    out = tmp_path / "scores"
    program = (
        "import runpy, sys; runpy.run_module('stages.evaluation.score', run_name='__main__'); "
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    files = [f"vanilla={before}", f"rl={after}", "--out", str(out)]
    ran = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"Tables: {out}" in ran.stdout
    found = tables(out)
    assert found["accuracy"].set_index("method")["accuracy"].to_dict() == {"vanilla": 0.3, "rl": 0.8}
    assert found["methods"] == {"vanilla": "vanilla", "rl": "rl"}
    compared = found["comparisons"]
    row = compared[(compared["epoch"] == "final") & (compared["setting"] == "pass@1")].iloc[0]
    assert (row["method"], row["over"], row["split"]) == ("rl", "vanilla", "test")
    assert row["difference"] == pytest.approx(0.5)
    assert row["covers"] == "problems"  # one seed says nothing about seeds


def test_anybodys_scores_make_a_page(tmp_path: Path) -> None:
    before, after = mine(tmp_path / "before.jsonl", 3), mine(tmp_path / "after.jsonl", 8)
    score.main([f"vanilla={before}", f"rl={after}", "--out", str(tmp_path / "scores")])
    page.main([str(tmp_path / "scores"), "--out", str(tmp_path / "page"), "--title", "Mine"])
    text = (tmp_path / "page/report.html").read_text()
    assert "<title>Mine" in text and "<svg" in text
    assert (tmp_path / "page/tables/table3.tex").is_file()
    with pytest.raises(SystemExit, match=r"nowhere"):
        page.main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "another")])


def test_pictures_of_anybodys_responses_are_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, colour in (("a", "red"), ("b", "blue")):
        Path(folder).mkdir()
        Image.new("RGB", (8, 8), colour).save(f"{folder}/1.png")
    Path("secret.txt").write_text("no picture")
    images = ["a/1.png", str(tmp_path / "b/1.png"), "gone.png", "secret.txt", "x" * 300 + ".png", None]
    rows = [
        {"id": i, "response": "1+1=3. Wait. \\boxed{2}", "answer": "2", "image": image}
        for i, image in enumerate(images)
    ]
    Path("rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score.main(["rl.jsonl", "--out", "scores"])
    kept = {row["problem"]: row["image"] for row in tables(tmp_path / "scores")["gallery"]}
    assert [kept[str(i)] for i in range(2, 6)] == [""] * 4
    for i in range(2):
        assert kept[str(i)].startswith("pictures/")
        assert Path("scores", kept[str(i)]).read_bytes() == Path(images[i] or "").read_bytes()
    assert len(list(Path("scores/pictures").iterdir())) == 2


def test_methods_of_other_names_are_compared_with_those_before_them(tmp_path: Path) -> None:
    paths = [str(mine(tmp_path / f"{name}.jsonl", right)) for name, right in (("x", 3), ("y", 8), ("z", 5))]
    score.main([*paths, "--out", str(tmp_path / "scores")])
    compared = tables(tmp_path / "scores")["comparisons"]
    assert list(dict.fromkeys(zip(compared["method"], compared["over"], strict=True))) == [
        ("y", "x"),
        ("z", "x"),
        ("z", "y"),
    ]


def test_seeds_of_several_files_are_runs_of_one_method(tmp_path: Path) -> None:
    files = [f"rl/seed{seed}={mine(tmp_path / f'{seed}.jsonl', 5 + seed)}" for seed in range(3)]
    files.append(f"vanilla={mine(tmp_path / 'v.jsonl', 2)}")
    score.main([*files, "--out", str(tmp_path / "scores")])
    found = tables(tmp_path / "scores")
    assert found["accuracy"]["seed"].tolist() == [0, 1, 2, 0]
    row = found["comparisons"].query("epoch == 'final' and setting == 'pass@1'").iloc[0]
    assert (row["seeds"], row["covers"]) == (3, "seeds and problems")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "{a}"], r"a\.jsonl: the run a/seed0 of model on data is in .*a\.jsonl already"),
        (["{a}", "--kind", "b=rl"], r"--kind: b is no method of these files \(a\)"),
        (["{a}", "--kind", "a=ppo"], r"--kind: ppo should be vanilla, sft or rl"),
        (["{a}", "--kind", "a"], r"--kind a: should be NAME=VALUE"),
        (
            ["{a}", "--judge", "where=everywhere"],
            r"--judge where=everywhere: Input should be 'box' or 'text' \(rules: where, form",
        ),
        (["nowhere.jsonl"], r"nowhere\.jsonl: no such file"),
        (["{a}", "--scheme", "nowhere.yaml"], r"No such file.*nowhere\.yaml"),
        (["rl/seedx={a}"], r"'rl/seedx' is no run's name"),
        (["={a}"], r"=.*a\.jsonl: no name before the ="),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path: Path, arguments: list[str], message: str) -> None:
    mine(tmp_path / "a.jsonl", 5)
    given = [argument.format(a=tmp_path / "a.jsonl") for argument in arguments]
    with pytest.raises(SystemExit, match=message):
        score.main([*given, "--out", str(tmp_path / "scores")])
    assert not (tmp_path / "scores").exists()


def test_other_problems_of_the_same_name_are_not_compared(tmp_path: Path) -> None:
    mine(tmp_path / "a.jsonl", 5)
    rows = [{"id": i, "response": "4", "answer": "7" if i == 3 else "4"} for i in range(10)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit, match=r"b\.jsonl:4: problem 3 has the answer '7', and in .*a\.jsonl it has '4'"):
        score.main([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--out", str(tmp_path / "scores")])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = str(mine(tmp_path / "a.jsonl", 5))
    with pytest.raises(SystemExit, match=r"--out .*: is there already and not empty"):
        score.main([path, "--out", str(tmp_path)])


def test_rules_of_the_judge_can_be_given(tmp_path: Path) -> None:
    path = str(mine(tmp_path / "a.jsonl", 5))
    score.main([path, "--out", str(tmp_path / "scores"), "--judge", "where=box"])
    found = tables(tmp_path / "scores")["accuracy"].iloc[0]
    assert (found["accuracy"], found["no_answer"]) == (0.0, 1.0)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_a_published_evaluation_before_and_after_grpo_is_scored_as_it_is(tmp_path: Path) -> None:
    files = [str(SHARED / f"geoqa_test_qwen2vl_7b_{name}_legacy.jsonl") for name in ("instruct", "grpo_2epochs")]
    score.main([*files, "--out", str(tmp_path / "judged")])
    assert tables(tmp_path / "judged")["accuracy"]["accuracy"].round(3).tolist() == [0.301, 0.366]
    verdicts = ["--column", "correct=is_correct_per_repo"]
    score.main([*files, *verdicts, "--out", str(tmp_path / "theirs")])
    assert tables(tmp_path / "theirs")["accuracy"]["accuracy"].round(3).tolist() == [0.306, 0.387]

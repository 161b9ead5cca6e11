"""Tables by hand, figures and the page for grids of any shape."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.config import Evaluated, FiguresRun, JudgeRun, ReportRun, TablesRun
from stages.data.problem import Problem, write_problems
from stages.evaluation import judge
from stages.records import ResponseRow, append
from stages.report import figures, report, tables
from tests.conftest import RULES

RUN = ["model", "dataset", "method", "seed"]
KINDS = {"vanilla": "vanilla", "sft": "sft", "rl": "rl", "grpo": "rl"}
WORDS = ["wait", "yet", "verify"]


def accuracy(runs: dict[tuple[str, int], dict[int, float]], settings: tuple[str, ...] = ("pass@1",)) -> pd.DataFrame:
    """accuracy.csv of one model on one data set: accuracy by epoch, by method and seed."""
    rows = [
        ("tiny", "text", method, seed, split, epoch, setting, 1, 4, value, value, 0.25, 0.5, 0.0, 9.0)
        for (method, seed), curve in runs.items()
        for epoch, value in curve.items()
        for split in ("validation", "test")
        for setting in settings
    ]
    numbers = ["samples", "problems", "accuracy", "mean_accuracy", "no_answer", "timed_out", "truncated", "length"]
    return pd.DataFrame(rows, columns=[*RUN, "split", "epoch", "setting", *numbers])


PAPER = {
    ("vanilla", 0): {0: 0.2},
    ("vanilla", 1): {0: 0.4},
    ("sft", 0): {2: 0.1, 4: 0.5, 6: 0.3},
    ("sft", 1): {2: 0.7, 4: 0.6, 6: 0.5},
}

# --- tables ----------------------------------------------------------------------------------------------------------


def test_statistics_are_over_epochs_first_and_over_seeds_then() -> None:
    found = tables.summary(accuracy(PAPER))
    found = found[found["split"] == "test"].set_index(["method", "statistic"])
    # vanilla: 0.2 and 0.4. sft: means 0.3 and 0.6, maxima 0.5 and 0.7, final 0.3 and 0.5.
    expected = {
        ("vanilla", "base"): (0.3, 0.02**0.5),
        ("sft", "mean"): (0.45, 0.045**0.5),
        ("sft", "maximum"): (0.6, 0.02**0.5),
        ("sft", "final"): (0.4, 0.02**0.5),
    }
    assert set(found.index) == set(expected)
    for key, (mean, std) in expected.items():
        assert found.loc[key, "accuracy"] == pytest.approx(mean)
        assert found.loc[key, "std"] == pytest.approx(std)  # with n - 1
    assert set(found["seeds"]) == {2}
    assert set(found["problems"]) == {4}


def test_the_final_epoch_is_the_last_and_not_the_last_row() -> None:
    shuffled = accuracy({("rl", 0): {10: 0.9, 2: 0.1}})
    found = tables.summary(shuffled).set_index(["split", "statistic"])["accuracy"]
    assert found.loc[("test", "final")] == 0.9


def test_one_seed_has_no_deviation() -> None:
    found = tables.summary(accuracy({("vanilla", 0): {0: 0.25}, ("rl", 0): {1: 0.5}}))
    assert found["std"].isna().all()
    assert "| 25.0 |" in re.sub(" +", " ", tables.markdown(found))


def test_the_printed_table_is_the_papers() -> None:
    both = accuracy(PAPER, ("pass@8", "pass@1"))
    other = both.assign(dataset="vision")
    other = other[other["method"] == "vanilla"]
    lines = re.sub(" +", " ", tables.markdown(tables.summary(pd.concat([both, other])))).splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "### Validation: accuracy in %",
        "### Test: accuracy in %",
    ]
    start = lines.index("### Test: accuracy in %") + 2
    assert lines[start] == "| Data set | Model | Setting | Vanilla | SFT mean | SFT max | SFT final |"
    assert lines[start + 2 :] == [
        "| text | tiny | pass@8 | 30.0 ± 14.1 | 45.0 ± 21.2 | 60.0 ± 14.1 | 40.0 ± 14.1 |",
        "| | | pass@1 | 30.0 ± 14.1 | 45.0 ± 21.2 | 60.0 ± 14.1 | 40.0 ± 14.1 |",
        "| vision | tiny | pass@8 | 30.0 ± 14.1 | – | – | – |",
        "| | | pass@1 | 30.0 ± 14.1 | – | – | – |",
    ]


# --- a study on disk -------------------------------------------------------------------------------------------------


def write_scores(folder: Path, methods: tuple[str, ...], seeds: int, epochs: tuple[int, ...]) -> Path:
    """The score tables of a study with these methods, this many seeds and these epochs."""
    runs = [(method, seed) for method in methods for seed in range(seeds)]
    trained = [{epoch: 0.2 + epoch / 20 + seed / 50 for epoch in epochs} for _, seed in runs]
    curves = {run: {0: 0.2} if run[0] == "vanilla" else curve for run, curve in zip(runs, trained, strict=True)}
    keys = [("tiny", "text", method, seed) for method, seed in runs if KINDS[method] == "rl"]
    counts = ["epoch", "generation_step", "N", "Nref", "N+", "Nref+", "length"]
    rows = [(*key, 1, step, 8, 2, 4, 1, 9.0 + step + key[3]) for key in keys for step in (1, 2, 3)]
    steps = pd.DataFrame(rows, columns=[*RUN, *counts]).assign(**dict.fromkeys(figures.TITLES, 0.25))
    steps.loc[steps["generation_step"] == 2, "correct_ratio_in_reflection_texts"] = float("nan")
    found = [(*key, step, word, 0 if word == "yet" else step) for key in keys for step in (1, 2, 3) for word in WORDS]
    epochs_of_training = [(*key, epoch, 8, 4, 0.5) for key in keys for epoch in (1, 2)]
    folder.mkdir()
    for name, table in {
        "accuracy": accuracy(curves, ("pass@8", "pass@1")),
        "steps": steps,
        "words": pd.DataFrame(found, columns=[*RUN, "generation_step", "word", "count"]),
        "training": pd.DataFrame(epochs_of_training, columns=[*RUN, "epoch", "responses", "correct", "accuracy"]),
    }.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


def draw(scores: Path, out: Path) -> dict[str, bytes]:
    """Run the stage; the bytes of its files."""
    run = FiguresRun(out=str(out), scores=str(scores), methods=KINDS)  # type: ignore[arg-type]
    (scores / "run.json").write_text(run.canonical_json())
    figures.main(str(scores / "run.json"))
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    ("methods", "seeds", "epochs"),
    [
        (("vanilla", "sft", "rl", "grpo"), 2, (2, 4)),
        (("vanilla",), 1, ()),
        (("vanilla", "sft"), 2, (2,)),
        (("rl",), 1, (1,)),
        (("sft",), 1, (1, 2)),
    ],
)
def test_every_grid_has_all_figures(
    tmp_path: Path, methods: tuple[str, ...], seeds: int, epochs: tuple[int, ...]
) -> None:
    found = draw(write_scores(tmp_path / "scores", methods, seeds, epochs), tmp_path / "figures")
    kinds = ("accuracy", "training", "reflection", "words")
    assert set(found) == {f"{kind}_tiny_text.{ending}" for kind in kinds for ending in ("png", "svg")}
    for kind in kinds:
        with Image.open(tmp_path / "figures" / f"{kind}_tiny_text.png") as image:
            assert sum(image.convert("L").histogram()[:128])  # something is drawn


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", ("vanilla", "sft", "rl"), 2, (2, 4))
    assert draw(scores, tmp_path / "once") == draw(scores, tmp_path / "twice")


def test_colours_are_the_papers() -> None:
    def hue(colour: str) -> str:
        return max(("red", colour[1:3]), ("green", colour[3:5]), ("blue", colour[5:7]), key=lambda part: part[1])[0]

    found = figures.colours({"vanilla": "vanilla", "sft": "sft", "rl": "rl", "grpo": "rl"})
    assert list(found) == ["vanilla", "sft", "rl", "grpo"]
    assert {method: hue(colour) for method, colour in found.items()} == {
        "vanilla": "green",
        "sft": "blue",
        "rl": "red",
        "grpo": "red",
    }
    assert found["rl"] != found["grpo"]


def test_curves_begin_at_the_base_model() -> None:
    table = accuracy({("vanilla", 0): {0: 0.2}, ("vanilla", 1): {0: 0.4}, ("rl", 1): {2: 0.5}})
    ax = figures.panels(1, 1)[1][0]
    figures.draw_curves(ax, table[table["split"] == "test"], {"vanilla": "green", "rl": "red"})
    curve, base = ax.get_lines()
    assert np.asarray(curve.get_xydata()).tolist() == [[0, 0.4], [2, 0.5]]  # seed 1's base, not seed 0's
    assert base.get_ydata() == pytest.approx([0.3, 0.3])  # the base model's mean over seeds


# --- the page --------------------------------------------------------------------------------------------------------

TEXTS = {
    "vanilla": "I guess.\n\n~~~\n<b>\\boxed{7}</b>",
    "rl": "So \\boxed{12}.",
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study's report."""
    tmp_path = tmp_path_factory.mktemp("study")
    scores = write_scores(tmp_path / "scores", ("vanilla", "rl"), 2, (2, 10))
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    problems = []
    for name in ("p_2", "p_1", "p_0"):
        image = data / "images" / f"{name}.png"
        Image.new("RGB", (4, 4), "red").save(image)
        problems.append(Problem(f"Is *{name}* <b>13?", "12", "", name, image))
    write_problems(data / "validation.jsonl", problems)
    evaluated = []
    for method, epochs in (("vanilla", (0,)), ("rl", (10, 2))):
        for seed in (0, 1):
            folder = tmp_path / "evaluate" / "tiny" / "text" / method / f"seed{seed}"
            folder.mkdir(parents=True)
            append(folder / "responses.jsonl", list(responses(method, seed, epochs)))
            written = {
                "python": "3.12.1",
                "packages": {"torch": "2.9", "glassbox": None},
                "commit": "abc",
                "inputs": {},
            }
            (folder / "provenance.json").write_text(json.dumps(written))
            verdicts = str(tmp_path / "judge" / "tiny" / "text" / method / f"seed{seed}")
            judged = JudgeRun(out=verdicts, responses=str(folder), workers=1, settings=RULES)
            (folder / "judge.json").write_text(judged.canonical_json())
            judge.main(str(folder / "judge.json"))
            evaluated.append(Evaluated(responses=str(folder), verdicts=verdicts))
    run = ReportRun(
        out=str(tmp_path / "report"),
        study="example",
        scores=str(scores),
        tables=str(tmp_path / "tables"),
        figures=str(tmp_path / "figures"),
        evaluated=tuple(evaluated),
        setting="pass@1",
        data={"text": str(data)},
    )
    draw(scores, tmp_path / "figures")
    (scores / "tables.json").write_text(TablesRun(out=run.tables, scores=run.scores).canonical_json())
    tables.main(str(scores / "tables.json"))
    (scores / "report.json").write_text(run.canonical_json())
    report.main(str(scores / "report.json"))
    return tmp_path / "report"


@pytest.fixture
def text(reported: Path) -> str:
    return (reported / "report.md").read_text(encoding="utf-8")


@pytest.fixture
def page(reported: Path) -> str:
    return (reported / "index.html").read_text(encoding="utf-8")


def responses(method: str, seed: int, epochs: tuple[int, ...]) -> list[ResponseRow]:
    """Two samples a problem in two settings; what must not be printed says so in its text."""
    last = max(epochs)
    return [
        ResponseRow(
            run=f"tiny/text/{method}/seed{seed}",
            phase="evaluate",
            split="validation",
            epoch=epoch,
            generation_step=0,
            setting=setting,
            problem=problem,
            sample=sample,
            text=TEXTS[method] if (epoch, setting, sample, seed) == (last, "pass@1", 0, 0) else "another response",
            answer="12",
            length=9,
            finished=True,
            rewards={},
            verdict=None,
            judge=None,
        )
        for epoch in epochs
        for setting in ("pass@8", "pass@1")
        for problem in ("p_0", "p_1", "p_2")
        for sample in (0, 1)
    ]


def test_the_report_says_what_was_compared(text: str) -> None:
    assert "# example" in text
    assert "| Methods | Vanilla, RL |" in text
    assert "| text | validation | 4 | 25.0 points |" in text  # sqrt(0.25 / 4)
    assert "### Test: accuracy in %" in text
    responses = int(re.findall(r"Of (\d+) evaluated responses", text)[0])
    said = f"{responses // 4} give no answer, and on **{responses // 2} the judge ran out of time**"
    assert said in text
    assert "| torch | 2.9 |" in text
    assert "glassbox" not in text


def test_the_first_two_problems_are_printed_with_the_first_response(text: str) -> None:
    assert re.findall(r"### text: problem (.*)", text) == [r"p\_2", r"p\_1"]  # the file's order, not the names'
    assert "another response" not in text
    assert text.count("**Vanilla**, tiny, epoch 0: ✗ wrong") == 2
    assert text.count("**RL**, tiny, epoch 10: ✓ right") == 2
    assert re.search(r"!\[.*\]\(\.\./data/images/p_2\.png\)", text)


def test_pictures_of_the_markdown_exist(text: str, reported: Path) -> None:
    paths = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(paths) == 4 + 2
    assert all((reported / path).is_file() for path in paths)


def test_the_page_needs_no_other_file(page: str) -> None:
    assert len(re.findall(r'<img[^>]* src="data:image/svg\+xml;base64,', page)) == 4
    assert len(re.findall(r'<img[^>]* src="data:image/png;base64,', page)) == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("<table>") == 2 + 3  # compared, validation, test, standard errors, provenance


def test_responses_and_questions_are_shown_as_they_are(page: str) -> None:
    assert "<code>I guess.\n\n~~~\n&lt;b&gt;\\boxed{7}&lt;/b&gt;\n</code>" in page
    assert "Is *p_2* &lt;b&gt;13?" in page

"""Real problems as other people published them; extra, where the shared data lies beside the project.

How many there are is counted here without the project's readers: from a parquet file's own count, the lines of a file,
the entries of a zip, the folders of a folder.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages.config import (
    AnyRows,
    Compute,
    Geometry3KRows,
    InterGPSRows,
    JsonlRows,
    MathVerseRows,
    MAYERows,
    MMMathRows,
    PreflightRun,
    PromptSettings,
    RealProblems,
)
from stages.data.numeric import is_number
from stages.data.prepare import SPLITS, prepare
from stages.data.problem import Problem, read_problems
from stages.data.readers import READERS, VISION_ONLY, Row
from stages.model.preflight import preflight
from stages.model.vlm import load

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
HUB = SHARED / "hub_schema_fixtures"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not HUB.is_dir(), reason="the shared data is not beside the project"),
]


def prepared(folder: Path, *splits: AnyRows) -> tuple[dict[str, list[Problem]], dict[str, Any]]:
    """The problems of each split, and rows.json."""
    settings = RealProblems(
        source="real",
        shuffle=None,
        answers="numeric",
        allow_leaks=(),
        **dict(zip(SPLITS, splits, strict=True)),
    )
    prepare(settings, folder)
    return {split: read_problems(folder / f"{split}.jsonl") for split in SPLITS}, json.loads(
        (folder / "rows.json").read_text(encoding="utf-8")
    )


def sizes(account: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Rows that were read, kept and taken, of each split; every row is in one of kept and dropped."""
    rows = account["splits"].values()
    assert all(split["read"] == split["kept"] + len(split["dropped"]) for split in rows)
    return [(split["read"], split["kept"], split["taken"]) for split in rows]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- the hub's schemas -----------------------------------------------------------------------------------------------


def test_hiyougas_geometry3k(tmp_path: Path) -> None:
    folder = HUB / "hiyouga__geometry3k"
    tables = {split: pq.read_table(next((folder / "data").glob(f"{split}-*.parquet"))) for split in SPLITS}
    rows = [Geometry3KRows(reader="geometry3k", folder=str(folder), split=split, take=None) for split in SPLITS]
    splits, account = prepared(tmp_path, *rows)
    assert [table.num_rows for table in tables.values()] == [64, 9, 17]
    assert sizes(account) == [(64, 64, 64), (9, 9, 9), (17, 17, 17)]
    for split, table in tables.items():
        found = splits[split]
        assert [problem.answer for problem in found] == table["answer"].to_pylist()
        assert [problem.id for problem in found] == [f"geometry3k_{i}" for i in table["id"].to_pylist()]
        assert [f"<image>{problem.question}" for problem in found] == table["problem"].to_pylist()


def test_mm_math(tmp_path: Path) -> None:
    folder = HUB / "THU-KEG__MM_Math"
    rows = lines(folder / "MM_Math" / "MM_Math.jsonl")
    with zipfile.ZipFile(folder / "MM_Math" / "MM_Math.zip") as archive:
        pictures = {name.split("/")[-1] for name in archive.namelist()}
    assert len(rows) == len(pictures) == 40 and {row["file_name"] for row in rows} == pictures
    cuts = ((0, 20), (20, 30), (30, 40))
    splits, account = prepared(tmp_path, *(MMMathRows(reader="mm_math", folder=str(folder), take=cut) for cut in cuts))
    assert sizes(account) == [(40, 40, 20), (40, 40, 10), (40, 40, 10)]
    problems = [problem for found in splits.values() for problem in found]
    assert [problem.id for problem in problems] == [f"mm_math_{i:05}" for i in range(1, 41)]
    for problem, row in zip(problems, rows, strict=True):
        assert row["solution"].rstrip(" $.\n").endswith(f"\\boxed{{{problem.answer}}}")
        assert problem.solution == row["solution"].strip()


@pytest.mark.parametrize(
    ("dataset", "counts", "files"),
    [
        ("mm_math", [32, 8, 12], ("mm_math_rl_v0", "mm_math_validation_v0", "math_verse_test_v0")),
        ("geometry3k", [40, 8, 12], ("geometry3k_rl_v0", "geometry3k_validation_v0", "geometry3k_test_v0")),
    ],
)
def test_maye(tmp_path: Path, dataset: str, counts: list[int], files: tuple[str, ...]) -> None:
    folder = HUB / "ManTle__MAYE"
    rows = [MAYERows(reader="maye", folder=str(folder), dataset=dataset, split=split, take=None) for split in SPLITS]
    splits, account = prepared(tmp_path, *rows)
    assert sizes(account) == [(n, n, n) for n in counts]
    for found, name in zip(splits.values(), files, strict=True):
        expected = lines(folder / "datasets" / dataset / f"{name}.jsonl")
        assert [(p.id, p.answer) for p in found] == [(row["id"], str(row["answer"])) for row in expected]


def verses(versions: tuple[str, ...], choices: str, take: tuple[int, int] | None = None) -> MathVerseRows:
    folder = str(HUB / "AI4Math__MathVerse")
    return MathVerseRows(reader="mathverse", folder=folder, versions=versions, choices=choices, take=take)


def test_mathverse(tmp_path: Path) -> None:
    table = pq.read_table(HUB / "AI4Math__MathVerse" / "testmini.parquet").to_pylist()
    by_version = {v: [row for row in table if row["problem_version"] == v] for v in ("Vision Only", "Text Lite")}
    assert [len(table), *map(len, by_version.values())] == [40, 8, 8]
    assert sum(row["question_type"] == "multi-choice" for row in by_version["Text Lite"]) == 4
    splits, account = prepared(
        tmp_path,
        verses(("Text Lite",), "drop"),
        verses(("Vision Only",), "value", (0, 2)),
        verses(("Vision Only",), "value", (2, 4)),
    )
    assert sizes(account) == [(8, 4, 4), (8, 4, 2), (8, 4, 2)]
    dropped = [{drop["reason"] for drop in account["splits"][split]["dropped"]} for split in SPLITS]
    in_picture = {"multiple choice whose choices are in the picture"}
    assert dropped == [{"multiple choice"}, in_picture, in_picture]
    free = [row for row in by_version["Text Lite"] if row["question_type"] == "free-form"]
    assert [(p.question, p.answer) for p in splits["train"]] == [(row["question"], row["answer"]) for row in free]
    only = [row["answer"] for row in by_version["Vision Only"] if row["question_type"] == "free-form"]
    found = splits["validation"] + splits["test"]
    assert [(p.question, p.answer) for p in found] == [(VISION_ONLY, answer) for answer in only]


def test_mathverses_letters_become_values() -> None:
    table = pq.read_table(HUB / "AI4Math__MathVerse" / "testmini.parquet").to_pylist()
    rows = [row for row in table if row["problem_version"] == "Vision Dominant"]
    for found, row in zip(READERS["mathverse"](verses(("Vision Dominant",), "value")), rows, strict=True):
        assert isinstance(found, Row)
        right = re.search(rf"^{row['answer']}:(.*)$", row["question_for_eval"], re.M)
        assert found.answer == (right[1] if right and row["question_type"] == "multi-choice" else row["answer"])
        assert "Choices" not in found.question


def test_which_of_mathverses_free_answers_are_numbers() -> None:
    """40 of its own: bearings are no numbers, lengths with their unit are."""
    rows = json.loads((SHARED / "mathverse_sample" / "testmini_text_only_60.json").read_text(encoding="utf-8"))
    answers = [row["answer"] for row in rows if row["question_type"] == "free-form"]
    assert len(answers) == 40
    bearings = {answer for answer in answers if re.search("[TW]", answer)}
    assert len(bearings) == 11
    for answer in answers:
        assert is_number(answer.replace("掳", "°")) == (answer not in bearings), answer


# --- other layouts ---------------------------------------------------------------------------------------------------


def test_originals_of_intergps(tmp_path: Path) -> None:
    folder = SHARED / "geometry3k_original_examples"
    given = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/data.json")}
    assert sorted(given) == [str(i) for i in range(11, 21)]
    cuts = ((0, 6), (6, 8), (8, 10))
    splits, account = prepared(
        tmp_path, *(InterGPSRows(reader="intergps", folder=str(folder), take=cut) for cut in cuts)
    )
    assert sizes(account) == [(10, 10, 6), (10, 10, 2), (10, 10, 2)]
    for problem in (problem for found in splits.values() for problem in found):
        row = given[problem.id.removeprefix("intergps_")]
        assert problem.answer == row["choices"]["ABCD".index(row["answer"])]
        paper = problem.picture().convert("L").histogram()
        assert sum(paper[200:]) > sum(paper[:200]), "black on white"


def jsonl(folder: str, take: tuple[int, int]) -> JsonlRows:
    return JsonlRows(reader="jsonl", folder=str(SHARED / folder), file="problems.jsonl", take=take)


def test_mathvision(tmp_path: Path) -> None:
    rows = lines(SHARED / "mathvision" / "problems.jsonl")
    cuts = ((0, 300), (300, 330), (330, 360))
    splits, account = prepared(tmp_path, *(jsonl("mathvision", cut) for cut in cuts))
    assert len(rows) == 360
    assert sizes(account) == [(360, 360, 300), (360, 360, 30), (360, 360, 30)]
    problems = [problem for found in splits.values() for problem in found]
    assert [(p.id, p.answer) for p in problems] == [(row["id"], row["answer"]) for row in rows]
    assert sum(bool(problem.solution) for problem in problems) == sum(bool(row["solution"]) for row in rows)


# --- and the tiny model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Problem]]]:
    folder = tmp_path_factory.mktemp("redrawn")
    cuts = ((0, 300), (300, 350), (350, 406))
    splits, account = prepared(folder, *(jsonl("geometry3k_redrawn", cut) for cut in cuts))
    assert len(lines(SHARED / "geometry3k_redrawn" / "problems.jsonl")) == 406
    assert sizes(account) == [(406, 406, 300), (406, 406, 50), (406, 406, 56)]
    return folder, splits


def test_redrawn_geometry3k_is_the_papers_record(redrawn: tuple[Path, dict[str, list[Problem]]]) -> None:
    problem = redrawn[1]["train"][0]
    assert problem.id == "geometry3k_2401" and problem.answer == "60" and not problem.question.startswith("<image>")
    assert problem.picture().mode == "RGB"


def test_redrawn_geometry3k_fits_the_tiny_model(redrawn: tuple[Path, dict[str, list[Problem]]], tmp_path: Path) -> None:
    folder, splits = redrawn
    base, prompt = ROOT / "models" / "qwen2_5_vl_tiny", PromptSettings(instruction="", min_pixels=256, max_pixels=4096)
    vlm = load(base, Compute(device="cpu", dtype="float32", threads=1), prompt)
    prompts = vlm.prompts(splits["test"])
    grids = {tuple(prompt.grid_thw.tolist()) for prompt in prompts}
    assert len(grids) > 3, "pictures of many shapes in one batch"
    for one in prompts:
        image_tokens = (one.token_ids == vlm.model.config.image_token_id).sum()
        assert image_tokens == len(one.features) == one.grid_thw.prod() // 4
    checked = preflight(
        PreflightRun(
            out=str(tmp_path),
            model="tiny",
            dataset="redrawn",
            base=str(base),
            data=str(folder),
            prompt=prompt,
        )
    )
    for key, lengths in (
        ("prompt_tokens", [len(one.token_ids) for one in prompts]),
        ("image_tokens", [len(one.features) for one in prompts]),
    ):
        said = checked[key]["test"]
        assert (said["min"], said["max"]) == (min(lengths), max(lengths))

"""Files as other people publish them, right and broken; and what makes a row of them a problem."""

import json
import os
import random
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.config import (
    AnyRows,
    DataRun,
    Geometry3KRows,
    InterGPSRows,
    JsonlRows,
    MathVerseRows,
    MAYERows,
    MMMathRows,
    RealProblems,
)
from stages.data import prepare as prepare_stage
from stages.data.numeric import is_number
from stages.data.prepare import Prepared, clean, main, prepare, take
from stages.data.problem import read_problems
from stages.data.readers import READERS, VISION_ONLY, Drop, Row

Answers = str  # "numeric" or "any"
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(colour: str | tuple[int, ...] = "red", mode: str = "RGB", size: tuple[int, int] = (30, 20)) -> bytes:
    file = BytesIO()
    Image.new(mode, size, colour).save(file, "png")
    return file.getvalue()


def picture(content: bytes | None = None) -> dict[str, Any]:
    """A picture as `datasets` writes it into a parquet file."""
    return {"bytes": png() if content is None else content, "path": "picture.png"}


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], **types: pa.DataType) -> Path:
    """Write a table; the type of a column is what its values say, or what is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {key: pa.array([row[key] for row in rows], types.get(key)) for key in rows[0]}
    pq.write_table(pa.table(columns), path)
    return path


def read(rows: AnyRows) -> list[Row | Drop]:
    return list(READERS[rows.reader](rows))


def only_rows(rows: AnyRows) -> list[Row]:
    return [row for row in read(rows) if isinstance(row, Row)]


def reasons(rows: AnyRows) -> dict[str, str]:
    """Why each row that is left out is, by its id."""
    return {row.id: row.reason for row in read(rows) if isinstance(row, Drop)}


def mistake(rows: AnyRows) -> str:
    with pytest.raises(ValueError) as error:
        read(rows)
    return str(error.value)


# --- geometry3k ------------------------------------------------------------------------------------------------------


def geometry(folder: Path, split: str = "train", take: tuple[int, int] | None = None) -> Geometry3KRows:
    return Geometry3KRows(reader="geometry3k", folder=str(folder), split=split, take=take)


OLD = {"images": [picture()], "problem": "<image>Find x.", "answer": "12"}


def test_geometry3k_as_it_was_published_first(tmp_path: Path) -> None:
    """Without ids a row is called by its place among the rows of all shards."""
    for shard, answers in ((1, ["3", "4"]), (0, ["1", "2"])):
        rows = [OLD | {"answer": answer, "images": [picture(png((int(answer), 0, 0)))]} for answer in answers]
        write_parquet(tmp_path / "data" / f"train-{shard:05}-of-00002.parquet", rows)
    expected = [Row(f"geometry3k_train_{i}", "<image>Find x.", str(i + 1), "", png((i + 1, 0, 0))) for i in range(4)]
    assert read(geometry(tmp_path)) == expected


def test_geometry3k_as_it_is_now(tmp_path: Path) -> None:
    """With ids, and with choices, whose letter is not the answer."""
    row = OLD | {"id": 2401, "choices": ["10", "12"], "ground_truth": "B"}
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [row])
    assert read(geometry(tmp_path)) == [Row("geometry3k_2401", "<image>Find x.", "12", "", png())]


def test_only_the_split_that_is_asked_for_is_read(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [OLD | {"problem": split}])
    for split in ("train", "validation", "test"):
        assert [row.question for row in only_rows(geometry(tmp_path, split))] == [split]


def test_a_row_has_one_picture(tmp_path: Path) -> None:
    images = [[], [picture()] * 2, None, [None], [{"bytes": None, "path": "elsewhere.png"}], [picture()]]
    rows = [OLD | {"id": i, "images": found} for i, found in enumerate(images)]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows, images=pa.list_(PICTURE))
    assert reasons(geometry(tmp_path)) == {
        "geometry3k_0": "0 pictures, not 1",
        "geometry3k_1": "2 pictures, not 1",
        "geometry3k_2": "0 pictures, not 1",
        "geometry3k_3": "0 pictures, not 1",
        "geometry3k_4": "0 pictures, not 1",
    }
    assert [row.id for row in only_rows(geometry(tmp_path))] == ["geometry3k_5"]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [(12, pa.int64(), "12"), (12.5, pa.float64(), "12.5"), (None, pa.int64(), ""), (None, pa.string(), "")],
)
def test_a_number_is_as_good_as_a_text(tmp_path: Path, answer: Any, kind: pa.DataType, text: str) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", [OLD | {"answer": answer, "problem": None}], answer=kind)
    assert [(row.question, row.answer) for row in only_rows(geometry(tmp_path))] == [("", text)]


# --- parquet files that are not whole --------------------------------------------------------------------------------


def broken(content: bytes, damage: str) -> bytes:
    if damage == "a page's header":
        return content[:4] + bytes(b ^ 0xFF for b in content[4:40]) + content[40:]
    return {"truncated": content[:-40], "half": content[: len(content) // 2], "empty": b"", "text": b"<html>\n" * 99}[
        damage
    ]


@pytest.mark.parametrize("damage", ["truncated", "half", "empty", "text", "a page's header"])
def test_a_parquet_file_that_is_not_whole_is_named(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [OLD | {"images": [picture(random.Random(i).randbytes(500))]} for i in range(20)]
    paths = [write_parquet(tmp_path / "data" / f"train-{i}.parquet", rows) for i in range(2)]
    paths[1].write_bytes(broken(paths[1].read_bytes(), damage))
    said = mistake(geometry(tmp_path))
    assert said.startswith(f"{paths[1]}: not a parquet file (")
    assert said.endswith("); is it truncated? Fetch it again")
    assert len(said.splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data" / "train-0.parquet", [{"images": [picture()], "question": "Find x."}])
    assert mistake(geometry(tmp_path)) == f"{path}: no column problem, answer (columns: images, question)"


def all_rows(folder: Path) -> list[AnyRows]:
    return [
        geometry(folder),
        MMMathRows(reader="mm_math", folder=str(folder), take=None),
        verses(folder),
        MAYERows(reader="maye", folder=str(folder), take=None, dataset="mm_math", split="train"),
        InterGPSRows(reader="intergps", folder=str(folder), take=None),
        JsonlRows(reader="jsonl", folder=str(folder), take=None, file="rows.jsonl"),
    ]


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_without_the_files_is_named(tmp_path: Path, reader: str) -> None:
    assert [rows.reader for rows in all_rows(tmp_path)] == list(READERS)
    for folder in (tmp_path, tmp_path / "none"):
        (rows,) = (rows for rows in all_rows(folder) if rows.reader == reader)
        assert mistake(rows).startswith(str(folder))
        assert len(mistake(rows).splitlines()) == 1


@pytest.mark.parametrize("name", ["a [1] * b", "a::b", ".cache", "é%20#"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / name / "data" / "train-0.parquet", [OLD])
    write_verses(tmp_path / name, [VERSE])
    assert len(read(geometry(tmp_path / name))) == len(read(verses(tmp_path / name))) == 1


# --- mm_math ---------------------------------------------------------------------------------------------------------

MM = {"question": "Find x.", "file_name": "1.png", "solution": "First \\boxed{3}, so \\boxed{\\frac{1}{2}} it is."}


def write_mm(folder: Path, rows: Sequence[dict[str, Any] | str], stored: int = zipfile.ZIP_STORED) -> MMMathRows:
    """Write rows (a dict, or a line as it is) as MM_Math has them, and a zip with the pictures 1.png and 2.png."""
    (folder / "MM_Math").mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "MM_Math" / "MM_Math.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with zipfile.ZipFile(folder / "MM_Math" / "MM_Math.zip", "w", stored) as archive:
        archive.mkdir("MM_Math")
        for i in (1, 2):
            archive.writestr(f"MM_Math/{i}.png", png((i, 0, 0), size=(200, 100)))
    return MMMathRows(reader="mm_math", folder=str(folder), take=None)


def test_mm_math_answers_with_the_last_box(tmp_path: Path) -> None:
    (row,) = read(write_mm(tmp_path, [MM]))
    assert row == Row("mm_math_00001", "Find x.", "\\frac{1}{2}", MM["solution"], png((1, 0, 0), size=(200, 100)))


def test_mm_math_ids_are_line_numbers_whatever_is_left_out(tmp_path: Path) -> None:
    rows = [
        MM | {"solution": "So x is 3."},
        MM | {"solution": "So \\boxed{3"},
        "",
        MM | {"file_name": "3.png"},
        MM | {"file_name": "2.png", "question": 12},
    ]
    settings = write_mm(tmp_path, rows)
    assert reasons(settings) == {
        "mm_math_00001": "no \\boxed{} in its solution",
        "mm_math_00002": "no \\boxed{} in its solution",
        "mm_math_00004": "its picture 3.png is not in MM_Math.zip",
    }
    (row,) = only_rows(settings)
    assert (row.id, row.question, row.image) == ("mm_math_00005", "12", png((2, 0, 0), size=(200, 100)))


def test_every_broken_line_is_named(tmp_path: Path) -> None:
    without = {key: value for key, value in MM.items() if key != "file_name"}
    settings = write_mm(tmp_path, [MM, '{"question": ', MM, "[1]", without, MM | {"solution": None}])
    path = tmp_path / "MM_Math" / "MM_Math.jsonl"
    assert mistake(settings).splitlines() == [
        f"{path}:2: not JSON: Expecting value at column 14",
        f"{path}:4: a list, not an object with the keys question, file_name, solution",
        f"{path}:5: no 'file_name' (keys: question, solution; needed: question, file_name, solution)",
        f"{path}:6: no 'solution' (keys: question, file_name, solution; needed: question, file_name, solution)",
    ]


def test_lines_in_another_encoding_are_named(tmp_path: Path) -> None:
    settings = write_mm(tmp_path, [MM])
    path = tmp_path / "MM_Math" / "MM_Math.jsonl"
    path.write_bytes('{"question": "Größe"}'.encode("latin-1"))
    assert mistake(settings).startswith(f"{path}: not UTF-8 text (")


@pytest.mark.parametrize("kept", [0, 100, -30])
def test_a_truncated_zip_is_named(tmp_path: Path, kept: int) -> None:
    settings = write_mm(tmp_path, [MM])
    path = tmp_path / "MM_Math" / "MM_Math.zip"
    path.write_bytes(path.read_bytes()[:kept])
    assert mistake(settings) == f"{path}: File is not a zip file; is it truncated? Fetch it again"


@pytest.mark.parametrize("stored", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("changed", [range(8, 9), range(60)])
def test_a_picture_that_does_not_unzip_is_named(tmp_path: Path, stored: int, changed: range) -> None:
    settings = write_mm(tmp_path, [MM], stored)
    path = tmp_path / "MM_Math" / "MM_Math.zip"
    content = bytearray(path.read_bytes())
    begin = content.index(b"MM_Math/1.png") + len("MM_Math/1.png")
    for place in changed:
        content[begin + place] ^= 0xFF
    path.write_bytes(content)
    assert mistake(settings).startswith(f"{path}: MM_Math/1.png: ")
    assert mistake(settings).endswith("; fetch it again")


def test_a_picture_that_goes_on_beyond_the_zip_is_named(tmp_path: Path) -> None:
    settings = write_mm(tmp_path, [MM | {"file_name": "2.png"}])
    path = tmp_path / "MM_Math" / "MM_Math.zip"
    content = bytearray(path.read_bytes())
    sizes = content.rindex(b"PK\x01\x02") + 20  # of the last picture, compressed and not, in the list at the end
    content[sizes : sizes + 8] = (2 * len(content)).to_bytes(4, "little") * 2
    path.write_bytes(content)
    assert mistake(settings).startswith(f"{path}: MM_Math/2.png: ")


def test_of_two_files_of_one_name_neither_is_guessed(tmp_path: Path) -> None:
    settings = write_mm(tmp_path, [MM])
    copy = tmp_path / "old" / "MM_Math.jsonl"
    copy.parent.mkdir()
    copy.write_text("")
    assert mistake(settings).startswith(f"{tmp_path}: {tmp_path / 'MM_Math' / 'MM_Math.jsonl'} and {copy}, which one?")


def test_what_a_download_leaves_in_its_cache_is_not_read(tmp_path: Path) -> None:
    settings = write_mm(tmp_path, [MM])
    copy = tmp_path / ".cache" / "huggingface" / "MM_Math.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    assert len(read(settings)) == 1


# --- mathverse -------------------------------------------------------------------------------------------------------

CHOICES = "\nChoices:\nA:40°\nB: 60°\nC. 12 cm\nD:140°"
VERSE = {
    "sample_index": "1",
    "problem_index": "1",
    "problem_version": "Text Lite",
    "question": "Find x.",
    "image": picture(),
    "answer": "25",
    "question_type": "free-form",
    "question_for_eval": "AB is 12. Find x.",
}
LETTER = VERSE | {"question_type": "multi-choice", "answer": "D", "question": f"Find x.{CHOICES}"}
LETTER |= {"question_for_eval": f"AB is 12. Find x.{CHOICES}"}
VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")


def verses(folder: Path, versions: tuple[str, ...] = VERSIONS, choices: str = "value") -> MathVerseRows:
    return MathVerseRows(reader="mathverse", folder=str(folder), take=None, versions=versions, choices=choices)


def write_verses(folder: Path, rows: Sequence[dict[str, Any]]) -> MathVerseRows:
    numbered = [row | {"sample_index": str(i)} for i, row in enumerate(rows, start=1)]
    write_parquet(folder / "testmini.parquet", numbered, image=PICTURE)
    return verses(folder)


def test_mathverse_reads_the_versions_that_are_asked_for(tmp_path: Path) -> None:
    write_verses(tmp_path, [VERSE | {"problem_version": version} for version in (*VERSIONS, "Text Only")])
    assert [row.id for row in read(verses(tmp_path))] == [f"mathverse_{i}" for i in (1, 2, 3, 4, 5)]
    assert [row.id for row in read(verses(tmp_path, ("Vision Only", "Text Lite")))] == ["mathverse_2", "mathverse_5"]
    (row,) = read(verses(tmp_path, ("Text Lite",)))
    assert row == Row("mathverse_2", "Find x.", "25", "", png())


def test_a_choice_is_asked_for_by_its_value(tmp_path: Path) -> None:
    rows = [LETTER | {"answer": letter} for letter in ("A", "B", " C", "D")]
    found = only_rows(write_verses(tmp_path, rows))
    assert [row.answer for row in found] == ["40°", "60°", "12 cm", "140°"]
    assert {row.question for row in found} == {"Find x."}


def test_choices_may_be_left_out(tmp_path: Path) -> None:
    write_verses(tmp_path, [LETTER, VERSE])
    assert reasons(verses(tmp_path, choices="drop")) == {"mathverse_1": "multiple choice"}
    assert [row.id for row in only_rows(verses(tmp_path, choices="drop"))] == ["mathverse_2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "E"}, "multiple choice whose answer 'E' is none of A, B, C, D choices"),
        ({"answer": None}, "multiple choice whose answer '' is none of A, B, C, D choices"),
        ({"question_for_eval": "Find x."}, "multiple choice whose answer 'D' is none of no choices"),
        ({"question_for_eval": None}, "multiple choice whose answer 'D' is none of no choices"),
        (
            {"question_for_eval": "Which?\nChoices:\nA:\nB:\nD:\n", "answer": "A"},
            "multiple choice whose answer 'A' is none of A, B, D choices",
        ),
    ],
)
def test_a_letter_without_a_choice_is_left_out(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    assert reasons(write_verses(tmp_path, [LETTER | change, VERSE])) == {"mathverse_1": reason}


def test_a_question_that_is_only_in_the_picture_is_pointed_at(tmp_path: Path) -> None:
    """Its text, which the picture holds, is in question_for_eval; choices there are answered with a letter."""
    only = {"problem_version": "Vision Only", "question": ""}
    rows = write_verses(tmp_path, [VERSE | only, LETTER | only, VERSE | only | {"question": None}])
    assert [(row.question, row.answer) for row in only_rows(rows)] == [(VISION_ONLY, "25")] * 2
    assert list(reasons(rows).values()) == ["multiple choice whose choices are in the picture"]


def test_degrees_that_were_decoded_wrong_are_degrees(tmp_path: Path) -> None:
    row = VERSE | {"answer": "118掳", "question": "Angle A is 12掳."}
    choice = LETTER | {"question_for_eval": LETTER["question_for_eval"].replace("°", "掳")}
    found = only_rows(write_verses(tmp_path, [row, choice]))
    assert [(row.question, row.answer) for row in found] == [("Angle A is 12°.", "118°"), ("Find x.", "140°")]


def test_bearings_are_no_numbers(tmp_path: Path) -> None:
    answers = ["217 ^\\circ T", "118掳T", "S 23.5 ^\\circ W", "62^\\circ "]
    rows = [VERSE | {"answer": answer, "question": f"Find x{i}."} for i, answer in enumerate(answers)]
    found = taken(write_verses(tmp_path / "source", rows), tmp_path)
    assert [problem.answer for problem in found.problems] == ["62^\\circ"]
    assert [drop.reason for drop in found.dropped] == [
        "no number: '217 ^\\\\circ T'",
        "no number: '118°T'",
        "no number: 'S 23.5 ^\\\\circ W'",
    ]


def test_a_verse_without_a_picture_is_left_out(tmp_path: Path) -> None:
    rows = [VERSE | {"image": None}, VERSE | {"image": {"bytes": None, "path": "a.png"}}, VERSE]
    assert reasons(write_verses(tmp_path, rows)) == {"mathverse_1": "no picture", "mathverse_2": "no picture"}


# --- maye, intergps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "datasets", "MAYE/datasets"])
def test_mayes_six_files_are_found(tmp_path: Path, above: str) -> None:
    """As they lie in the repository; the test problems of mm_math are MathVerse's."""
    names = {
        ("mm_math", "train"): "mm_math/mm_math_rl_v0.jsonl",
        ("mm_math", "validation"): "mm_math/mm_math_validation_v0.jsonl",
        ("mm_math", "test"): "mm_math/math_verse_test_v0.jsonl",
        ("geometry3k", "train"): "geometry3k/geometry3k_rl_v0.jsonl",
        ("geometry3k", "validation"): "geometry3k/geometry3k_validation_v0.jsonl",
        ("geometry3k", "test"): "geometry3k/geometry3k_test_v0.jsonl",
    }
    colours = {"mm_math": "red", "geometry3k": "blue"}
    for (dataset, _), name in names.items():
        path = tmp_path / above / name
        (path.parent / "images").mkdir(parents=True, exist_ok=True)
        (path.parent / "images" / "1.png").write_bytes(png(colours[dataset]))
        row = {"question": "<image>Find x.", "answer": "1", "solution": "\\boxed{1}", "image": "images/1.png"}
        path.write_text(json.dumps(row | {"id": name}) + "\n")
    for (dataset, split), name in names.items():
        (row,) = read(MAYERows(reader="maye", folder=str(tmp_path), take=None, dataset=dataset, split=split))
        assert row == Row(name, "Find x.", "1", "\\boxed{1}", png(colours[dataset]))


GPS = {"annotat_text": "Find $x$.", "choices": ["12", "\\frac{1}{2}", "7", "x"], "answer": "B"}


def write_gps(folder: Path, **rows: dict[str, Any] | str) -> InterGPSRows:
    """Write rows (a dict, or a file as it is) by their number, `_7`, each with a picture."""
    for name, row in rows.items():
        (folder / name[1:]).mkdir(parents=True)
        text = row if isinstance(row, str) else json.dumps(row)
        (folder / name[1:] / "data.json").write_text(text, encoding="utf-8")
        (folder / name[1:] / "img_diagram.png").write_bytes(png((int(name[1:]), 0, 0)))
    return InterGPSRows(reader="intergps", folder=str(folder), take=None)


def test_intergps_answers_with_the_choice_of_a_letter(tmp_path: Path) -> None:
    settings = write_gps(tmp_path, _10=GPS | {"answer": "D"}, _2=GPS, _9=GPS | {"choices": [12, 0.5], "answer": "A"})
    assert read(settings) == [
        Row("intergps_2", "Find $x$.", "\\frac{1}{2}", "", png((2, 0, 0))),
        Row("intergps_9", "Find $x$.", "12", "", png((9, 0, 0))),
        Row("intergps_10", "Find $x$.", "x", "", png((10, 0, 0))),
    ]


def test_intergps_rows_without_their_choice_or_picture_are_left_out(tmp_path: Path) -> None:
    settings = write_gps(tmp_path, _1=GPS | {"answer": "E"}, _2=GPS | {"answer": "12"}, _3=GPS)
    (tmp_path / "3" / "img_diagram.png").unlink()
    assert reasons(settings) == {
        "intergps_1": "its answer 'E' is none of its choices A, B, C, D",
        "intergps_2": "its answer '12' is none of its choices A, B, C, D",
        "intergps_3": "no img_diagram.png",
    }


def test_every_broken_file_is_named(tmp_path: Path) -> None:
    without = {key: value for key, value in GPS.items() if key != "choices"}
    settings = write_gps(tmp_path, _1=GPS, _2="{", _3=without, _4=GPS, _5="[]")
    (tmp_path / "4" / "data.json").write_bytes(b"\xff")
    assert [line.split(": ")[0] for line in mistake(settings).splitlines()] == [
        str(tmp_path / name / "data.json") for name in "2345"
    ]
    assert "no 'choices' (keys: annotat_text, answer; needed: annotat_text, choices, answer)" in mistake(settings)


# --- which rows are problems -----------------------------------------------------------------------------------------


def row(**changes: Any) -> Row:
    return Row(**({"id": "1", "question": "Find x.", "answer": "12", "solution": "", "image": png()} | changes))


def test_a_problem_is_kept_without_its_mark_and_margins() -> None:
    found = clean(row(question="<image>\nFind x. ", answer=" 12\n", solution="\nSo \\boxed{12}. "), "numeric")
    assert found == row(question="Find x.", answer="12", solution="So \\boxed{12}.")


@pytest.mark.parametrize("answer", ["", " ", "nan", "NaN", "None", "null", "N/A"])
@pytest.mark.parametrize("answers", ["numeric", "any"])
def test_a_row_without_an_answer_is_left_out(answer: str, answers: Answers) -> None:
    assert clean(row(answer=answer), answers) == Drop("1", f"no answer: {answer!r}")


@pytest.mark.parametrize("question", ["", "<image>", " \n<image>\n"])
def test_a_row_without_a_question_is_left_out(question: str) -> None:
    assert clean(row(question=question), "any") == Drop("1", "no question")


@pytest.mark.parametrize("answer", ["C", "x+1", "S 23.5° W"])
def test_answers_that_are_no_numbers_are_kept_if_they_are_asked_for(answer: str) -> None:
    assert clean(row(answer=answer), "any") == row(answer=answer)
    assert clean(row(answer=answer), "numeric") == Drop("1", f"no number: {answer!r}")


def noise(form: str) -> bytes:
    file = BytesIO()
    Image.frombytes("RGB", (40, 30), random.Random(1).randbytes(3600)).save(file, form)
    return file.getvalue()


BAD_PICTURES = {
    "empty": b"",
    "a text": b"<html>not found</html>",
    "a truncated PNG": noise("png")[:-200],
    "a truncated JPEG": noise("jpeg")[:-200],
    "a PNG with a wrong checksum": noise("png")[:60] + b"\0\0\0\0" + noise("png")[64:],
    "an AVIF without its image": noise("avif").replace(b"pitm", b"none"),
    # The header alone says 30,000 x 30,000 pixels.
    "more pixels than memory": b"P6 30000 30000 255\n" + bytes(100),
}


@pytest.mark.parametrize("content", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_picture_that_cannot_be_read_is_left_out(content: bytes) -> None:
    found = clean(row(image=content), "numeric")
    assert isinstance(found, Drop)
    assert found.reason.startswith("a picture that cannot be read: ")


def test_no_damage_to_a_picture_stops_a_study() -> None:
    """The same 400 damages on every run; without them the test would show little, so most must be seen."""
    damage = random.Random(1)
    counts = Counter[type]()
    for i in range(400):
        content = bytearray(noise(("png", "jpeg", "gif", "webp", "bmp")[i % 5]))
        for _ in range(4):
            content[damage.randrange(len(content) if i % 2 else 60)] = damage.randrange(256)
        if i % 3 == 0:
            del content[damage.randrange(len(content)) :]
        counts[type(clean(row(image=bytes(content)), "numeric"))] += 1
    assert counts[Drop] > 200 and counts[Row] > 20


NUMBERS = r"""12|-4|−4|+3|0.5|.5|1,200|3/4|\frac{3}{4}|\dfrac12|\frac { 2 \sqrt { 2 } } { 5 }|2\sqrt{221}|√2|\pi|3π|45°
45^\circ|60 degrees|35 ^{\circ}|12 cm|5 cm^2|2191.7 metres|4.4 m|3\text{ inches}|50%|1e5|$12$|12.|2^{10}"""
NO_NUMBERS = r"""x+1|x|C|(C)|3, 4|3 or 4|12 and 13|(3,4)|[1,2]|S 23.5° W|217 ^\circ T|N45E|1/0|\frac{1}{0}|inf
-inf|\infty|nan|\sqrt{-1}|2i|x > 3|\pm 3|x=5|2x=6|yes|none|AB|\angle ABC|-|\emptyset|about 5"""


@pytest.mark.parametrize("answer", NUMBERS.replace("\n", "|").split("|"))
def test_numbers(answer: str) -> None:
    assert is_number(answer)


@pytest.mark.parametrize("answer", ["", *NO_NUMBERS.replace("\n", "|").split("|")])
def test_no_numbers(answer: str) -> None:
    assert not is_number(answer)


# --- which of them are taken -----------------------------------------------------------------------------------------


def real(*splits: AnyRows, shuffle: int | None = None, answers: Answers = "numeric") -> RealProblems:
    named = dict(zip(("train", "validation", "test"), splits * 3 if len(splits) == 1 else splits, strict=False))
    return RealProblems(source="real", shuffle=shuffle, answers=answers, allow_leaks=(), **named)


def taken(rows: AnyRows, folder: Path, shuffle: int | None = None, answers: Answers = "numeric") -> Prepared:
    (folder / "images").mkdir(exist_ok=True, parents=True)
    settings = real(rows, shuffle=shuffle, answers=answers)
    return take(prepare_stage.read(rows, settings.answers), rows, settings, folder)


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Geometry3KRows]:
    """Write rows as hiyouga/geometry3k has them, one for each id, in a question and a picture of its own."""

    def write(ids: Sequence[int], split: str = "train", take: tuple[int, int] | None = None, **column: Any) -> Any:
        rows = [
            {"images": [picture(png((i % 256, i // 256, 0)))], "problem": f"Find x{i}.", "answer": f"{i}", "id": i}
            for i in ids
        ]
        for key, values in column.items():
            rows = [row | {key: value} for row, value in zip(rows, values, strict=True)]
        write_parquet(tmp_path / "source" / "data" / f"{split}-0.parquet", rows)
        return geometry(tmp_path / "source", split, take)

    return write


Source = Callable[..., Geometry3KRows]


def order(rows: Geometry3KRows, folder: Path, shuffle: int | None) -> list[int]:
    return [int(problem.id.removeprefix("geometry3k_")) for problem in taken(rows, folder, shuffle).problems]


def test_the_order_is_of_seed_and_ids_and_nothing_else(source: Source, tmp_path: Path) -> None:
    ids = list(range(40))
    first = order(source(ids), tmp_path, shuffle=3)
    assert sorted(first) == ids and first != ids
    assert order(source(ids[::-1], problem=["Find y."] * 40), tmp_path, shuffle=3) == first
    assert len({tuple(order(source(ids), tmp_path, shuffle)) for shuffle in (None, 0, 1, 2, 3)}) == 5
    longer = order(source([99, *ids, 98]), tmp_path, shuffle=3)
    assert [i for i in longer if i < 40] == first and longer[-2:] != [99, 98]
    # Slices of one order are disjoint, so that splits can be cut from one file.
    parts = [order(source(ids, take=cut), tmp_path, shuffle=3) for cut in ((0, 25), (25, 30), (30, 40))]
    assert [i for part in parts for i in part] == first


def test_without_a_shuffle_rows_are_taken_as_they_stand(source: Source, tmp_path: Path) -> None:
    assert order(source([5, 1, 9, 2]), tmp_path, None) == [5, 1, 9, 2]
    assert order(source([5, 1, 9, 2], take=(1, 3)), tmp_path, None) == [1, 9]


def test_only_problems_are_counted(source: Source, tmp_path: Path) -> None:
    rows = source([5, 1, 9, 2, 7], take=(1, 3), answer=["x", "1", "C", "2", "7"])
    found = taken(rows, tmp_path)
    assert [problem.answer for problem in found.problems] == ["2", "7"]
    assert (found.read, found.kept) == (5, 3)
    assert found.dropped == [Drop("geometry3k_5", "no number: 'x'"), Drop("geometry3k_9", "no number: 'C'")]
    assert [problem.answer for problem in taken(rows, tmp_path, answers="any").problems] == ["1", "C"]


def test_more_than_there_are_says_why(source: Source, tmp_path: Path) -> None:
    two = [picture(), picture()]
    images = [[picture()]] * 5 + [two] * 2 + [[picture(b"no picture")]]
    rows = source(range(8), take=(0, 9), answer=["1", "2", "x", "y", "C", "6", "7", "8"], images=images)
    with pytest.raises(ValueError) as error:
        taken(rows, tmp_path)
    assert str(error.value) == (
        f"{rows.folder}: rows 0 to 9 are asked for, but of 8 rows 2 are problems (3 x no number: ..., "
        "2 x 2 pictures, not 1, 1 x a picture that cannot be read: ...)"
    )


def test_a_split_of_no_problems_is_an_error(source: Source, tmp_path: Path) -> None:
    rows = source([1, 2], answer=["x", "y"])
    with pytest.raises(ValueError) as error:
        taken(rows, tmp_path)
    assert str(error.value) == f"{rows.folder}: of 2 rows 0 are problems (2 x no number: ...)"


def test_an_id_that_stands_twice_is_an_error(source: Source, tmp_path: Path) -> None:
    rows = source([1, 2, 3, 2])
    with pytest.raises(ValueError) as error:
        taken(rows, tmp_path)
    assert str(error.value) == f"{rows.folder}: 1 ids stand twice (the first: geometry3k_2); ids must differ"


def test_what_is_missing_in_a_column_is_left_out(source: Source, tmp_path: Path) -> None:
    found = taken(source([1, 2, 3], answer=[12, None, 14], problem=["Find x.", "Find y.", None]), tmp_path)
    assert [problem.answer for problem in found.problems] == ["12"]
    assert found.dropped == [Drop("geometry3k_2", "no answer: ''"), Drop("geometry3k_3", "no question")]


def test_pictures_are_stored_once_in_rgb_on_white(source: Source, tmp_path: Path) -> None:
    """By what they look like, not by how their files were made."""
    jpeg = BytesIO()
    Image.new("RGB", (30, 20), "white").save(jpeg, "jpeg")
    palette = png(0, "P")  # a palette whose only colour is black
    contents = [png((0, 0, 0, 0), "RGBA"), png("white"), jpeg.getvalue(), png("black"), palette, png("black", "L")]
    found = taken(source(range(6), images=[[picture(content)] for content in contents]), tmp_path).problems
    assert [problem.image == found[0].image for problem in found] == [True] * 3 + [False] * 3
    assert {problem.image for problem in found} == set((tmp_path / "images").iterdir())
    with Image.open(found[0].image) as stored:
        assert (stored.format, stored.mode, stored.size) == ("PNG", "RGB", (30, 20))
        assert stored.getcolors() == [(600, (255, 255, 255))]


# --- the whole data set ----------------------------------------------------------------------------------------------


def three(source: Source, shuffle: int | None = None, **validation: Any) -> RealProblems:
    """Train 0 to 9, validation 10 to 14 (to be changed), test 20 to 22."""
    splits = [
        source(range(10), take=(0, 6)),
        source(range(10, 15), "validation", **validation),
        source(range(20, 23), "test"),
    ]
    return real(*splits, shuffle=shuffle)


def test_every_row_is_accounted_for(source: Source, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    prepare(three(source, answer=["10", "°", "x", "13", "14"]), tmp_path / "out")
    account = json.loads((tmp_path / "out" / "rows.json").read_text(encoding="utf-8"))
    assert account["splits"] == {
        "train": {"read": 10, "kept": 10, "taken": 6, "dropped": []},
        "validation": {
            "read": 5,
            "kept": 3,
            "taken": 3,
            "dropped": [
                {"id": "geometry3k_11", "reason": "no number: '°'"},
                {"id": "geometry3k_12", "reason": "no number: 'x'"},
            ],
        },
        "test": {"read": 3, "kept": 3, "taken": 3, "dropped": []},
    }
    problems = {split: read_problems(tmp_path / "out" / f"{split}.jsonl") for split in account["splits"]}
    assert {split: len(found) for split, found in problems.items()} == {"train": 6, "validation": 3, "test": 3}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "images",
        "rows.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    }


def run_file(settings: RealProblems, folder: Path) -> Path:
    run = DataRun(out=str(folder / "out"), dataset="mine", settings=settings)
    (folder / "run.json").write_text(run.canonical_json(), encoding="utf-8")
    return folder / "run.json"


def test_mistakes_of_all_splits_are_told_and_nothing_is_written(source: Source, tmp_path: Path) -> None:
    settings = three(source, take=(0, 9), answer=["10", "x", "y", "z", "14"])
    for split in ("train", "test"):
        path = tmp_path / "source" / "data" / f"{split}-0.parquet"
        path.write_bytes(path.read_bytes()[:-20])
    run = run_file(settings, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(SystemExit) as end:
        main(str(run))
    lines = str(end.value).splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "data.mine:",
        f"{tmp_path}/source/data/train-0.parquet: not a parquet file",
        f"validation: {tmp_path}/source: rows 0 to 9 are asked for, but of 5 rows 2 are problems",
        f"{tmp_path}/source/data/test-0.parquet: not a parquet file",
    ]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_mistake_of_a_file_that_all_splits_share_is_told_once(source: Source, tmp_path: Path) -> None:
    rows = source([1, 2])
    path = tmp_path / "source" / "data" / "train-0.parquet"
    path.write_bytes(b"")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError) as error:
        prepare(real(rows), tmp_path / "out")
    assert str(error.value).startswith(f"{path}: not a parquet file") and "\n" not in str(error.value)


def test_a_split_without_problems_is_named(source: Source, tmp_path: Path) -> None:
    rows = source([1, 2], answer=["x", "y"])
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError) as error:
        prepare(real(rows), tmp_path / "out")
    said = f"{rows.folder}: of 2 rows 0 are problems (2 x no number: ...)"
    assert str(error.value).splitlines() == [f"{split}: {said}" for split in ("train", "validation", "test")]


def test_a_terminal_shows_mistakes_and_nothing_else(source: Source, tmp_path: Path) -> None:
    """As the workflow runs it, where a library may log; under a locale that knows no degree sign."""
    run = run_file(three(source, answer=["10", "11", "°", "13", "14"]), tmp_path)
    command = [sys.executable, "-m", "stages.data.prepare", str(run)]
    locale = {**os.environ, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, env=locale)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "'°'" in (tmp_path / "out" / "rows.json").read_text(encoding="utf-8")

    path = tmp_path / "source" / "data" / "test-0.parquet"
    path.write_bytes(b"")
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stdout) == (1, "")
    message = "not a parquet file (Parquet file size is 0 bytes); is it truncated? Fetch it again"
    assert done.stderr == f"data.mine:\n{path}: {message}\n"

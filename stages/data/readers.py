"""Somebody else's problems: one function for each layout that the study reads.

A reader goes through all rows of its files, in their order, and yields each as a `Row`, or as a `Drop` that says why it
cannot be one. A file that is broken as a whole (truncated, a column missing, a line that is no JSON) is an error.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from pyarrow import ArrowException
from pyarrow.parquet import read_table

from stages.config import (
    Geometry3KRows,
    InterGPSRows,
    JsonlRows,
    MathVerseRows,
    MAYERows,
    MMMathRows,
)
from stages.data.boxes import boxed
from stages.data.problem import json_object, numbered_lines, read_problems

VISION_ONLY = "Answer the question in the picture."
_CHOICES = re.compile(r"\s*^Choices:\s*$(?P<lines>.*)\Z", re.M | re.S)
_CHOICE = re.compile(r"^\s*(?P<letter>[A-Z])[^\S\n]*[:.][^\S\n]*(?P<value>.*?)\s*$", re.M)


@dataclass(frozen=True)
class Row:
    """A problem as its source has it.

    Attributes:
        image: the picture's file, not decoded yet.
        type: kind of problem, as the source calls it; empty where it does not say.
    """

    id: str
    question: str
    answer: str
    solution: str
    image: bytes
    type: str = ""


@dataclass(frozen=True)
class Drop:
    """A row that is left out, and why."""

    id: str
    reason: str


Found = Iterator[Row | Drop]


def geometry3k(rows: Geometry3KRows) -> Found:
    """hiyouga/geometry3k: images, problem, answer; newer files also have id, choices and ground_truth."""
    paths = _files(rows.folder, *rows.patterns)
    for index, row in enumerate(_parquet(paths, ("images", "problem", "answer"))):
        row_id = f"geometry3k_{row['id']}" if row.get("id") is not None else f"geometry3k_{rows.split}_{index}"
        pictures = [image["bytes"] for image in row["images"] or [] if image and image["bytes"]]
        if len(pictures) != 1:
            yield Drop(row_id, f"{len(pictures)} pictures, not 1")
        else:
            yield Row(row_id, _text(row["problem"]), _text(row["answer"]), "", *pictures)


def mm_math(rows: MMMathRows) -> Found:
    """THU-KEG/MM_Math: question, file_name and solution, whose last box is the answer; an id is a line's number."""
    lines, pictures = (_file(rows.folder, pattern) for pattern in rows.patterns)
    try:
        archive = zipfile.ZipFile(pictures)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{pictures}: {error}; is it truncated? Fetch it again") from None
    with archive:
        names = {Path(name).name: name for name in archive.namelist()}
        for number, row in _json_lines(lines, ("question", "file_name", "solution")):
            row_id = f"mm_math_{number:05}"
            question, picture, solution = (_text(row[key]) for key in ("question", "file_name", "solution"))
            answer = boxed(solution)
            if answer is None:
                yield Drop(row_id, "no \\boxed{} in its solution")
            elif picture not in names:
                yield Drop(row_id, f"its picture {picture} is not in {pictures.name}")
            else:
                yield Row(row_id, question, answer, solution, _unzipped(archive, names[picture]))


def mathverse(rows: MathVerseRows) -> Found:
    """AI4Math/MathVerse, testmini: of every problem the versions that are asked for.

    A multiple-choice problem is left out, or asked without its choices for the value of the right one.
    """
    paths = _files(rows.folder, *rows.patterns)
    columns = ("sample_index", "problem_version", "question", "image", "answer", "question_type", "question_for_eval")
    for row in _parquet(paths, columns):
        if row["problem_version"] not in rows.versions:
            continue
        row_id = f"mathverse_{row['sample_index']}"
        # Degree signs that were once read as if they were Chinese.
        texts = (_text(row[key]).replace("掳", "°") for key in ("question", "answer", "question_for_eval"))
        question, answer, whole = texts
        if row["problem_version"] == "Vision Only":
            question = VISION_ONLY
        if row["question_type"] == "multi-choice":
            if rows.choices == "drop":
                yield Drop(row_id, "multiple choice")
                continue
            if row["problem_version"] == "Vision Only":
                yield Drop(row_id, "multiple choice whose choices are in the picture")
                continue
            choices = dict(_CHOICE.findall(found["lines"])) if (found := _CHOICES.search(whole)) else {}
            if not choices.get(answer.strip()):
                letters = ", ".join(choices) or "no"
                yield Drop(row_id, f"multiple choice whose answer {answer!r} is none of {letters} choices")
                continue
            question, answer = _CHOICES.sub("", question), choices[answer.strip()]
        if not (row["image"] and row["image"]["bytes"]):
            yield Drop(row_id, "no picture")
        else:
            about = row.get("metadata") or {}
            kind = ": ".join(filter(None, (about.get("subject"), about.get("subfield"))))
            yield Row(row_id, question, answer, "", row["image"]["bytes"], kind)


def maye(rows: MAYERows) -> Found:
    """ManTle/MAYE, the paper's release: its record in JSONL files beside their pictures."""
    return _records(_file(rows.folder, *rows.patterns))


def intergps(rows: InterGPSRows) -> Found:
    """Geometry3K as InterGPS released it: <id>/data.json and <id>/img_diagram.png; the answer is a letter's choice."""
    mistakes = []
    paths = _files(rows.folder, rows.patterns[0])
    for path in sorted(paths, key=lambda path: (len(path.parent.name), path.parent.name)):  # 2 before 10
        row_id, picture = f"intergps_{path.parent.name}", path.with_name("img_diagram.png")
        try:
            row = json_object(path.read_text(encoding="utf-8"), ("annotat_text", "choices", "answer"))
        except ValueError as mistake:
            mistakes.append(f"{path}: {mistake}")
            continue
        choices, letter = dict(zip("ABCDEFGH", row["choices"], strict=False)), _text(row["answer"])
        if letter not in choices:
            yield Drop(row_id, f"its answer {letter!r} is none of its choices {', '.join(choices)}")
        elif not picture.is_file():
            yield Drop(row_id, "no img_diagram.png")
        else:
            yield Row(row_id, _text(row["annotat_text"]), _text(choices[letter]), "", picture.read_bytes())
    if mistakes:
        raise ValueError("\n".join(mistakes))


def jsonl(rows: JsonlRows) -> Found:
    """Any JSONL file in the paper's record."""
    return _records(Path(rows.folder, rows.file))


READERS: dict[str, Callable[[Any], Found]] = {
    reader.__name__: reader for reader in (geometry3k, mm_math, mathverse, maye, intergps, jsonl)
}


# --- files -----------------------------------------------------------------------------------------------------------


def _files(folder: str, pattern: str) -> list[Path]:
    """The files of a pattern, in order; at least one."""
    paths = (path for path in Path(folder).glob(pattern) if ".cache" not in path.relative_to(folder).parts)
    found = sorted(path for path in paths if path.is_file())
    if not found:
        raise ValueError(f"{folder}: no {pattern} in it; is it the right folder, and was all of it fetched?")
    return found


def _file(folder: str, pattern: str) -> Path:
    """The one file of a pattern."""
    first, *others = _files(folder, pattern)
    if others:
        raise ValueError(f"{folder}: {first} and {others[0]}, which one? Remove the other, or give its folder")
    return first


def _parquet(paths: Sequence[Path], columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of some parquet files, pictures as bytes."""
    for path in paths:
        try:
            # load_dataset would take [ and :: in a path for patterns, and log its own account of an error.
            table = Dataset(read_table(path, memory_map=True))
            names = table.column_names
            if missing := [column for column in columns if column not in names]:
                raise ValueError(f"{path}: no column {', '.join(missing)} (columns: {', '.join(names)})")
            yield from table.to_iterable_dataset().decode(False)
        except (ArrowException, OSError) as error:
            cause = str(error).splitlines()[0].split(f"'{path}': ")[-1].rstrip(".")
            raise ValueError(f"{path}: not a parquet file ({cause}); is it truncated? Fetch it again") from None


def _json_lines(path: Path, keys: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with the numbers of their lines, from 1; all mistakes of the file at once."""
    mistakes, rows = [], []
    for number, line in numbered_lines(path):
        try:
            rows.append((number, json_object(line, keys)))
        except ValueError as mistake:
            mistakes.append(f"{path}:{number}: {mistake}")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    yield from rows


def _unzipped(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{archive.filename}: {name}: {error}; fetch it again") from None


def _records(path: Path) -> Found:
    for problem in read_problems(path):
        yield Row(
            problem.id, problem.question, problem.answer, problem.solution, problem.image.read_bytes(), problem.type
        )


def _text(value: object) -> str:
    """A text; a number where one is expected is as good, and what is missing is empty."""
    return "" if value is None else str(value)

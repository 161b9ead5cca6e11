"""A problem in the paper's record (question, answer, solution, id, image), and JSONL files of them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

IMAGE_MARK = "<image>"
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)  # what PIL raises
REQUIRED = ("question", "answer", "id", "image")


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        question: without a mark for the image, which comes before it.
        answer: a number, as text.
        solution: chain of thought that ends in \\boxed{}; empty where there is none.
        id: unique in its data set.
        image: the picture's file.
        type: kind of problem, as its source calls it; empty where it does not say.
    """

    question: str
    answer: str
    solution: str
    id: str
    image: Path
    type: str = ""

    def picture(self) -> Image.Image:
        """The image in RGB, what is transparent in it on white."""
        with Image.open(self.image) as image:
            return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """In RGB and upright; `convert` alone would turn transparent parts black, and 16 bits a pixel into white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        gray = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((gray * (255 / 65535 if gray.max() > 255 else 1)).round().astype(np.uint8))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def read_problems(path: Path) -> list[Problem]:
    """Read a JSONL file; image paths in it are relative to it.

    Raises:
        ValueError: with one line a mistake, all mistakes of the file at once.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    problems: list[Problem] = []
    mistakes: list[str] = []
    lines: dict[str, int] = {}
    for number, line in numbered_lines(path):
        try:
            problem = _problem(line, path.parent)
            if problem.id in lines:
                raise ValueError(f"id {problem.id!r} stands on line {lines[problem.id]} already; ids must differ")
        except ValueError as mistake:
            mistakes.append(f"{path}:{number}: {mistake}")
        else:
            lines[problem.id] = number
            problems.append(problem)
    if mistakes:
        raise ValueError("\n".join(mistakes))
    if not problems:
        raise ValueError(f"{path}: no problems in it; a split needs at least one")
    return problems


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write a JSONL file whose image paths are relative to it."""
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            row = {**vars(problem), "image": problem.image.relative_to(path.parent).as_posix()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, numbered from 1.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from None
    yield from ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def json_object(text: str, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has some keys.

    Raises:
        ValueError: it is not one, or a key is missing.
    """
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, not an object with the keys {', '.join(keys)}")
    if missing := [key for key in keys if row.get(key) is None]:
        raise ValueError(f"no {', '.join(map(repr, missing))} (keys: {', '.join(row)}; needed: {', '.join(keys)})")
    return row


def _problem(line: str, folder: Path) -> Problem:
    row = json_object(line, REQUIRED)
    if empty := [key for key in REQUIRED if row[key] == ""]:
        raise ValueError(f"an empty {empty[0]!r}")
    image = folder / _text(row, "image")
    _check_image(image)
    return Problem(
        question=_text(row, "question").replace(IMAGE_MARK, "").strip(),
        answer=_text(row, "answer"),
        solution=_text(row, "solution") if row.get("solution") is not None else "",
        id=_text(row, "id"),
        image=image,
        type=_text(row, "type") if row.get("type") is not None else "",
    )


def _text(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{key!r} is a {type(value).__name__}, not a text: {value!r}")
    return str(value)


def _check_image(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"image {path} does not exist; paths are relative to the JSONL file")
    try:
        with Image.open(path) as image:
            image.load()
    except UNREADABLE as error:
        raise ValueError(f"image {path} cannot be read ({error}); save it again as PNG") from None

"""A data set on one page, to be looked at: problems from all over each split, and its duplicates side by side.

Text is set in DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and mathematics. It has no Chinese,
Japanese or Korean; each such character is a box. LaTeX stands as the model reads it. Equal problems give equal bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from stages.data.problem import Problem

Item = TypeVar("Item")
Cell = tuple[Problem, str]  # and a note on it

COLUMNS, ROWS = 8, 3  # of the problems of a split
PAIRS = 12
LINES = 5  # of a question
ENLARGED = 2.0  # times, at most: a small picture stays small beside a large one

# Pixels.
CELL, PICTURE, LINE, GAP, HEADING = 236, 170, 17, 20, 48
CELL_HEIGHT = PICTURE + (LINES + 3) * LINE
PAGE, PAIR, INK, FAINT = "#e4e4e4", "#ced4dc", "#111111", "#606060"


def draw(dataset: str, splits: Mapping[str, Sequence[Problem]], duplicates: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The page.

    Args:
        dataset: its name in the study.
        splits: its problems.
        duplicates: pairs of them, as rows.json has them; leaks are drawn first.
    """
    strips = []
    for split, problems in splits.items():
        drawn = sample(problems, COLUMNS * ROWS)
        cells = [[(problem, "")] for problem in drawn]
        strips.append(strip(f"{dataset}: {split}", f"{len(drawn)} of {len(problems)} problems", cells))
    if duplicates:
        by_id = {problem.id: problem for problems in splits.values() for problem in problems}
        pairs = sorted(duplicates, key=lambda pair: pair["split"] == pair["other_split"])[:PAIRS]
        cells = [
            [(by_id[pair[of + "id"]], f"{pair['kind']}, {pair[of + 'split']}, ") for of in ("", "other_")]
            for pair in pairs
        ]
        strips.append(strip(f"{dataset}: duplicates", f"{len(pairs)} of {len(duplicates)} pairs", cells))
    page = Image.new("RGB", (strips[0].width, sum(part.height for part in strips)), PAGE)
    top = 0
    for part in strips:
        page.paste(part, (0, top))
        top += part.height
    return page


def sample(items: Sequence[Item], most: int) -> list[Item]:
    """Items as evenly spaced as can be, the first among them; all if they are few."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def strip(title: str, count: str, groups: Sequence[Sequence[Cell]]) -> Image.Image:
    """A heading and rows of problems; those of a group are neighbours, on one background."""
    together = len(groups[0])
    rows = -(-len(groups) * together // COLUMNS)
    image = Image.new("RGB", (COLUMNS * (CELL + GAP) + GAP, HEADING + rows * (CELL_HEIGHT + GAP) + GAP), PAGE)
    brush = ImageDraw.Draw(image)
    brush.text((GAP, GAP), title, INK, font(20, bold=True))
    brush.text((GAP + font(20, bold=True).getlength(title) + 14, GAP + 6), count, FAINT, font(14))
    for i, group in enumerate(groups):
        row, column = divmod(i * together, COLUMNS)
        left, top = GAP + column * (CELL + GAP), HEADING + GAP + row * (CELL_HEIGHT + GAP)
        if together > 1:
            right, edge = left + together * (CELL + GAP) - GAP, GAP // 2 - 3
            brush.rectangle((left - edge, top - edge, right + edge, top + CELL_HEIGHT + edge), PAIR)
        for k, (problem, note) in enumerate(group):
            draw_problem(image, (left + k * (CELL + GAP), top), problem, note)
    return image


def draw_problem(image: Image.Image, corner: tuple[int, int], problem: Problem, note: str) -> None:
    """The picture, and below it id, note and size, question, answer."""
    left, top = corner
    original = problem.picture()
    picture = fitted(original)
    image.paste(picture, (left + (CELL - picture.width) // 2, top + (PICTURE - picture.height) // 2))
    plain, bold = font(13), font(13, bold=True)
    lines = [
        (cut(problem.id, bold, CELL), INK, bold),
        (f"{note}{original.width} × {original.height}", FAINT, plain),
        *((line, INK, plain) for line in wrapped(problem.question, plain, CELL, LINES)),
        (cut(f"= {problem.answer}", bold, CELL), INK, bold),
    ]
    for i, (line, colour, face) in enumerate(lines):
        ImageDraw.Draw(image).text((left, top + PICTURE + 6 + i * LINE), line, colour, face)


def fitted(picture: Image.Image) -> Image.Image:
    """As large as its place allows, sides in proportion."""
    factor = min(CELL / picture.width, PICTURE / picture.height, ENLARGED)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def wrapped(text: str, face: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Lines of at most `width` pixels; what is longer than a line breaks anywhere, what is left over is cut (…)."""
    lines = [""]
    for piece in pieces(text, face, width):
        longer = f"{lines[-1]} {piece}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(piece)
    return lines if len(lines) <= most else [*lines[: most - 1], cut(" ".join(lines[most - 1 : most + 1]), face, width)]


def pieces(text: str, face: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Words; one that is longer than a line, as Chinese is, in parts that fit."""
    for word in text.split():
        while face.getlength(word) > width:
            fits = next(n for n in range(len(word) - 1, 0, -1) if face.getlength(word[:n]) <= width)
            yield word[:fits]
            word = word[fits:]
        yield word


def cut(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """A text on one line of at most `width` pixels."""
    text = " ".join(text.split())
    if face.getlength(text) <= width:
        return text
    return next(short for n in range(len(text), -1, -1) if face.getlength(short := text[:n].rstrip() + "…") <= width)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans at a size in pixels; laid out the same on every machine, which Raqm, if it is there, would not be."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)

"""Prepare a data set: `python -m stages.data.prepare RUN.json`.

Writes train.jsonl, validation.jsonl and test.jsonl in the paper's record, images/ (PNG in RGB on white, named by the
hash of their content) and rows.json: how many rows there were, which were left out and why, and which are the same
problem twice. Mistakes of all files are reported together, before anything is written.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Literal, get_args

from PIL import Image

from stages.config import AnyRows, DataRun, GeneratedProblems, RealProblems, load_run
from stages.data.duplicates import Duplicate, check_leaks, find
from stages.data.geometry.problems import draw_given, picture, question
from stages.data.geometry.solutions import golden_solution
from stages.data.numeric import is_number
from stages.data.problem import IMAGE_MARK, UNREADABLE, Problem, on_white, write_problems
from stages.data.readers import READERS, Drop, Row
from stages.files import whole_folder

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Prepared:
    """A split.

    Attributes:
        read: rows of the source.
        kept: those that are problems.
        problems: those that were taken of them.
    """

    read: int
    kept: int
    problems: list[Problem]
    dropped: list[Drop] = field(default_factory=list)


# --- generated -------------------------------------------------------------------------------------------------------


def generate(settings: GeneratedProblems, split: Split, folder: Path) -> list[Problem]:
    """Draw a split's problems and their figures into `folder`/images."""
    count: int = getattr(settings, split)
    problems = []
    for i, given in enumerate(draw_given(split, count, settings.seed)):
        random = Random(f"{settings.seed}/{split}/{i}")
        image = folder / "images" / f"{split}_{i:05}.png"
        picture(given, random).save(image)
        problems.append(
            Problem(
                question=question(given, settings.mode, random),
                answer=str(given.answer),
                solution=golden_solution(given, random),
                id=f"{split}_{i:05}_{given.kind}",
                image=image,
                type=given.kind,
            )
        )
    return problems


# --- real ------------------------------------------------------------------------------------------------------------


def read(rows: AnyRows, answers: Literal["numeric", "any"]) -> list[Row | Drop]:
    """All rows of a source, those that are no problems with the reason.

    Raises:
        ValueError: its files are broken.
    """
    return [row if isinstance(row, Drop) else clean(row, answers) for row in READERS[rows.reader](rows)]


def take(cleaned: list[Row | Drop], rows: AnyRows, settings: RealProblems, folder: Path) -> Prepared:
    """Take a split's rows, and store their pictures.

    Raises:
        ValueError: there are fewer problems than are asked for, or an id twice.
    """
    dropped = [row for row in cleaned if isinstance(row, Drop)]
    kept = [row for row in cleaned if not isinstance(row, Drop)]
    if settings.shuffle is not None:
        kept.sort(key=lambda row: hashlib.sha256(f"{settings.shuffle}/{row.id}".encode()).digest())
    if twice := [row_id for row_id, n in Counter(row.id for row in kept).items() if n > 1]:
        raise ValueError(f"{rows.folder}: {len(twice)} ids stand twice (the first: {twice[0]}); ids must differ")
    first, last = rows.take or (0, len(kept))
    if last > len(kept) or not kept:
        reasons = Counter(re.sub(r"'.*?'", "...", drop.reason) for drop in dropped)
        why = f" ({', '.join(f'{n} x {reason}' for reason, n in reasons.most_common(3))})" if reasons else ""
        asked = f"rows {first} to {last} are asked for, but " if rows.take else ""
        raise ValueError(f"{rows.folder}: {asked}of {len(cleaned)} rows {len(kept)} are problems{why}")
    return Prepared(len(cleaned), len(kept), [store(row, folder) for row in kept[first:last]], dropped)


def clean(row: Row, answers: Literal["numeric", "any"]) -> Row | Drop:
    """A row without its image mark; or why it is no problem."""
    question, answer = row.question.replace(IMAGE_MARK, "").strip(), row.answer.strip()
    if not question:
        return Drop(row.id, "no question")
    if answer.lower() in ("", "nan", "none", "null", "n/a"):
        return Drop(row.id, f"no answer: {row.answer!r}")
    if answers == "numeric" and not is_number(answer):
        return Drop(row.id, f"no number: {answer!r}")
    try:
        with Image.open(BytesIO(row.image)) as image:
            image.load()
    except UNREADABLE as error:
        return Drop(row.id, f"a picture that cannot be read: {str(error).splitlines()[0]!r}")
    return replace(row, question=question, answer=answer, solution=row.solution.strip())


def store(row: Row, folder: Path) -> Problem:
    """Write the picture to `folder`/images under the hash of its content, as RGB on white."""
    with Image.open(BytesIO(row.image)) as opened:
        image = on_white(opened)
    png = BytesIO()
    image.save(png, format="png")
    path = folder / "images" / f"{hashlib.sha256(png.getvalue()).hexdigest()[:16]}.png"
    path.write_bytes(png.getvalue())
    return Problem(row.question, row.answer, row.solution, row.id, path, row.type)


# --- both ------------------------------------------------------------------------------------------------------------


def prepare(settings: GeneratedProblems | RealProblems, folder: Path) -> None:
    """Write a prepared data set into an empty folder.

    Raises:
        ValueError: a source file has mistakes, or a problem is in two splits.
    """
    (folder / "images").mkdir()
    if isinstance(settings, GeneratedProblems):
        drawn = {split: generate(settings, split, folder) for split in SPLITS}
        splits = {split: Prepared(len(problems), len(problems), problems) for split, problems in drawn.items()}
        allowed: tuple[str, ...] = ()
    else:
        splits = _taken(settings, folder)
        allowed = settings.allow_leaks
    duplicates = find({split: prepared.problems for split, prepared in splits.items()})
    check_leaks(duplicates, allowed)
    check_allowed(duplicates, allowed)
    for split, prepared in splits.items():
        write_problems(folder / f"{split}.jsonl", prepared.problems)
    account = json.dumps(_account(splits, duplicates, allowed), indent=2, ensure_ascii=False)
    (folder / "rows.json").write_text(account + "\n", encoding="utf-8")


def check_allowed(duplicates: Sequence[Duplicate], allowed: Sequence[str]) -> None:
    """Every id that may leak does.

    Raises:
        ValueError: one does not: a slip, or a pair that is no longer there.
    """
    leaking = {name for found in duplicates if found.leak for name in (found.id, found.other_id)}
    if idle := [name for name in allowed if name not in leaking]:
        raise ValueError(f"allow_leaks: {', '.join(map(repr, idle))}: in one split only; take it out")


def _taken(settings: RealProblems, folder: Path) -> dict[Split, Prepared]:
    splits: dict[Split, Prepared] = {}
    mistakes: list[str] = []
    known: dict[AnyRows, list[Row | Drop]] = {}
    for split, rows in settings.splits.items():
        try:
            source = rows.model_copy(update={"take": None})  # train and validation are often of one
            if source not in known:
                known[source] = read(rows, settings.answers)
        except ValueError as mistake:
            mistakes += str(mistake).splitlines()
            continue
        try:
            splits[split] = take(known[source], rows, settings, folder)
        except ValueError as mistake:
            mistakes.append(f"{split}: {mistake}")
    if mistakes:
        raise ValueError("\n".join(dict.fromkeys(mistakes)))
    return splits


def _account(
    splits: dict[Split, Prepared], duplicates: Sequence[Duplicate], allowed: Sequence[str]
) -> dict[str, object]:
    return {
        "splits": {
            split: {
                "read": prepared.read,
                "kept": prepared.kept,
                "taken": len(prepared.problems),
                "dropped": [asdict(drop) for drop in prepared.dropped],
            }
            for split, prepared in splits.items()
        },
        "duplicates": [
            asdict(duplicate) | {"allowed": bool({duplicate.id, duplicate.other_id} & set(allowed))}
            for duplicate in duplicates
        ],
    }


def main(path: str) -> None:
    run = load_run(path, DataRun)
    try:
        with whole_folder(Path(run.out)) as folder:
            prepare(run.settings, folder)
    except ValueError as mistakes:
        sys.exit(f"data.{run.dataset}:\n{mistakes}")


if __name__ == "__main__":
    main(sys.argv[1])

"""Prepare a data set: `python -m stages.data.prepare RUN.json`.

Writes train.jsonl, validation.jsonl and test.jsonl in the paper's record, and images/. Mistakes of all files are
reported together, before anything is written.
"""

import hashlib
import re
import sys
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Literal, get_args

from PIL import Image

from stages.config import DataRun, GeneratedData, JsonlData, load_run
from stages.data.geometry.problems import draw_given, picture, question
from stages.data.geometry.solutions import golden_solution
from stages.data.problem import Problem, on_white, read_problems, write_problems
from stages.files import whole_folder

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_SLICE = re.compile(r"^(?P<path>.*?)(?:\[(?P<first>\d*):(?P<last>\d*)\])?$")


def generate(settings: GeneratedData, split: Split, folder: Path) -> list[Problem]:
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
            )
        )
    return problems


def read_source(source: str) -> list[Problem]:
    """The problems of a JSONL file, or of a slice of its rows: `problems.jsonl[100:200]`."""
    match = _SLICE.match(source)
    assert match
    first, last = (int(bound) if bound else None for bound in (match["first"], match["last"]))
    problems = read_problems(Path(match["path"]))[first:last]
    if not problems:
        raise ValueError(f"{source}: no problems in it; a split needs at least one")
    return problems


def store(problem: Problem, folder: Path) -> Problem:
    """Copy the picture to `folder`/images under the hash of its content, as RGB on white."""
    with Image.open(problem.image) as opened:
        image = on_white(opened)
    png = BytesIO()
    image.save(png, format="png")
    path = folder / "images" / f"{hashlib.sha256(png.getvalue()).hexdigest()[:16]}.png"
    path.write_bytes(png.getvalue())
    return Problem(problem.question, problem.answer, problem.solution, problem.id, path)


def check_disjoint(splits: dict[Split, list[Problem]]) -> None:
    """No id, and no pair of question and picture, in two splits.

    Raises:
        ValueError: naming every problem that is in two.
    """
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    mistakes = []
    for split, problems in splits.items():
        for problem in problems:
            content = hashlib.sha256(problem.picture().tobytes()).hexdigest()
            for what, key in (("id", (problem.id,)), ("question and picture", (problem.question, content))):
                other = seen.setdefault(key, (split, problem.id))
                if other[0] != split:
                    mistakes.append(f"{split}: {problem.id} has the same {what} as {other[0]}: {other[1]}")
    if mistakes:
        raise ValueError("\n".join(mistakes))


def prepare(settings: GeneratedData | JsonlData, folder: Path) -> None:
    """Write a prepared data set into an empty folder.

    Raises:
        ValueError: a source file has mistakes, or a problem is in two splits.
    """
    (folder / "images").mkdir()
    if isinstance(settings, GeneratedData):
        splits = {split: generate(settings, split, folder) for split in SPLITS}
    else:
        splits = {}
        mistakes = []
        for split in SPLITS:
            try:
                splits[split] = [store(problem, folder) for problem in read_source(getattr(settings, split))]
            except ValueError as mistake:
                mistakes.append(str(mistake))
        if mistakes:
            raise ValueError("\n".join(dict.fromkeys("\n".join(mistakes).splitlines())))
    check_disjoint(splits)
    for split, problems in splits.items():
        write_problems(folder / f"{split}.jsonl", problems)


def main(path: str) -> None:
    run = load_run(path, DataRun)
    try:
        with whole_folder(Path(run.out)) as folder:
            prepare(run.settings, folder)
    except ValueError as mistakes:
        sys.exit(f"data.{run.dataset}:\n{mistakes}")


if __name__ == "__main__":
    main(sys.argv[1])

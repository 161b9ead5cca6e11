"""What people look at beside the numbers: how each run was made, the first responses, and the pictures of both.

With these the folder of the scores is all that tables, figures and page need, wherever it is moved.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from stages.config import Evaluated
from stages.data.problem import REQUIRED, UNREADABLE, json_object, numbered_lines
from stages.evaluation.metrics import RUN
from stages.evaluation.rows import judged
from stages.files import link_or_copy, sha256

SHOWN = 2  # problems of each data set whose responses are shown
PROBLEM = ["question", "answer", "image"]
RESPONSE = [*RUN, "split", "epoch", "setting", "problem", "sample", "text", "correct", "finished"]


def _cell(folder: str) -> tuple[str, ...]:
    """Model, data set, method and seed of a run: the end of its folder's path."""
    return Path(folder).parts[-4:]


def _named(folder: str) -> dict[str, Any]:
    *names, seed = _cell(folder)
    return dict(zip(RUN, (*names, int(seed.removeprefix("seed"))), strict=True))


# --- runs ------------------------------------------------------------------------------------------------------------


def write_runs(trained: Iterable[str], evaluated: Iterable[str], path: Path) -> None:
    """Write settings and provenance of every training and evaluation, a row a job, in the order of the evaluations."""
    trainings = {_cell(folder): folder for folder in trained}
    with path.open("w", encoding="utf-8") as file:
        for folder in evaluated:
            if training := trainings.get(_cell(folder)):
                file.write(json.dumps(_job("train", training), ensure_ascii=False) + "\n")
            file.write(json.dumps(_job("evaluate", folder), ensure_ascii=False) + "\n")


def _job(phase: str, folder: str) -> dict[str, Any]:
    provenance = Path(folder, "provenance.json")  # which results of an earlier version may lack
    return {
        **_named(folder),
        "phase": phase,
        "folder": folder,
        "settings": json.loads(Path(folder, "run.json").read_text(encoding="utf-8")),
        "provenance": json.loads(provenance.read_text(encoding="utf-8")) if provenance.is_file() else {},
    }


# --- whatever was answered -------------------------------------------------------------------------------------------


def samples(evaluated: Iterable[Evaluated], data: Mapping[str, str], split: str, setting: str) -> pd.DataFrame:
    """The first problems of each data set and every method's last word on them, by a rule that sees no result.

    Args:
        evaluated: of each method, the first seed counts.
        data: folders of the data sets.
        split: of the problems.
        setting: of the responses.

    Returns:
        A row a response, problem by problem.
    """
    first_seeds: dict[tuple[str, ...], Evaluated] = {}
    for part in evaluated:
        first_seeds.setdefault(_cell(part.responses)[:3], part)
    problems = [row for name, folder in data.items() for row in _first_problems(name, Path(folder, f"{split}.jsonl"))]
    responses = pd.concat([_last_responses(part, split, setting) for part in first_seeds.values()])
    key = ["dataset", "problem"]
    return pd.DataFrame(problems, columns=[*key, *PROBLEM]).merge(responses, on=key)[[*RESPONSE, *PROBLEM]]


def _first_problems(dataset: str, path: Path) -> Iterator[tuple[str, ...]]:
    for _, line in islice(numbered_lines(path), SHOWN):
        row = json_object(line, REQUIRED)
        yield dataset, row["id"], row["question"], row["answer"], str(path.parent / row["image"])


def _last_responses(part: Evaluated, split: str, setting: str) -> pd.DataFrame:
    """The first response of a run's last epoch to each problem."""
    rows = judged(Path(part.responses), Path(part.verdicts))
    wanted = (rows["split"] == split) & (rows["setting"] == setting) & (rows["sample"] == 0)
    return rows[wanted & (rows["epoch"] == rows["epoch"].max())].assign(**_named(part.responses))[RESPONSE]


# --- pictures --------------------------------------------------------------------------------------------------------


def write_with_pictures(table: pd.DataFrame, path: Path) -> None:
    """Write rows, and their pictures beside them, where `image` then says they are; empty where there is none."""
    pictures = path.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    images = [_taken(Path(image), pictures) if image else "" for image in table.get("image", [])]
    table.assign(image=images).to_json(path, orient="records", lines=True, force_ascii=False)


def _taken(image: Path, pictures: Path) -> str:
    """Where a picture now is, named by its content: those of two data sets may have one name."""
    try:
        with Image.open(image) as picture:
            picture.load()
    except UNREADABLE:  # somebody else's responses may come without
        return ""
    target = pictures / f"{sha256(image)[:12]}{image.suffix}"
    if not target.exists():
        link_or_copy(image, target)
    return target.relative_to(pictures.parent).as_posix()

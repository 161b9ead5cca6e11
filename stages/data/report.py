"""What a prepared data set is made of: `python -m stages.data.report RUN.json`.

Writes report.json (rows kept and dropped, answers, pictures, duplicates, tokens for each model) and contact_sheet.png
(problems of each split, and the duplicates) beside the prepared data. Equal data give equal bytes.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from stages.config import DataReportRun, load_run
from stages.data.contact_sheet import draw
from stages.data.duplicates import pixels
from stages.data.problem import Problem, read_problems
from stages.files import whole_folder

SIZES = 5  # the most frequent that are listed
_INTEGER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)"
# The first that matches the whole answer counts; what is none of them is text.
ANSWERS = {
    "integer": _INTEGER,
    "decimal": rf"(?:{_INTEGER}|[-+]?)\.\d+",
    "fraction": rf"{_INTEGER} ?/ ?\d+|(?:{_INTEGER}|[-+])? ?\\[dt]?frac ?\{{-?\d+\}} ?\{{\d+\}}",
    "letter": r"\(?[A-Z]\)?\.?",
    "expression": r"(?:\\[a-zA-Z]+|\\[,;! ]|sqrt|pi|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])"
    r"|[\d\s.,:+\-*/^_=<>|(){}\[\]√π±·×÷−²³])+",
}
_WORDS = re.compile(r"\\(?:text|mathrm|mbox) ?\{([^{}]*)\}")
_UNIT = re.compile(r"\$|\^ ?(?:\\circ|\{\\circ\})|\\degree|°|\\?%")


def report(
    dataset: str, splits: Mapping[str, Sequence[Problem]], rows: Mapping[str, Any], preflights: Mapping[str, Any]
) -> dict[str, Any]:
    """The data set in numbers.

    Args:
        dataset: its name in the study.
        splits: its problems.
        rows: what `stages.data.prepare` tells of them: rows read, kept, taken and dropped, and the duplicates.
        preflights: by model, how many tokens they are to it.
    """
    images = {
        split: [(picture.size, pixels(picture)) for picture in map(Problem.picture, problems)]
        for split, problems in splits.items()
    }
    splits_of_image = Counter(image for found in images.values() for image in set(found))
    return {
        "dataset": dataset,
        "splits": {
            split: {
                **told_rows(rows["splits"][split]),
                "answers": told_answers(problem.answer for problem in problems),
                "solutions": sum(bool(problem.solution) for problem in problems),
                "question_characters": spread([len(problem.question) for problem in problems]),
                "images": {
                    "distinct": len(set(images[split])),
                    "width": spread([width for (width, _), _ in images[split]]),
                    "height": spread([height for (_, height), _ in images[split]]),
                    "sizes": counted((f"{width}x{height}" for (width, height), _ in images[split]), SIZES),
                },
            }
            for split, problems in splits.items()
        },
        "images_in_several_splits": sum(count > 1 for count in splits_of_image.values()),
        "duplicates": told_duplicates(rows["duplicates"]),
        "tokens": dict(preflights),
    }


def told_rows(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of a split, and why some are left out."""
    reasons = counted(row["reason"] for row in rows["dropped"])
    counts = {key: rows[key] for key in ("read", "kept", "taken")}
    return {"rows": counts, "dropped_for": reasons, "dropped": rows["dropped"]}


def told_answers(answers: Iterable[str]) -> dict[str, int]:
    """How many answers there are of each type."""
    counts = Counter(map(answer_type, answers))
    return {kind: counts[kind] for kind in (*ANSWERS, "text")}


def answer_type(answer: str) -> str:
    """A key of `ANSWERS`, or text; a degree or percent sign does not matter."""
    bare = _UNIT.sub("", _WORDS.sub(r"\1", answer)).strip()
    return next((kind for kind, pattern in ANSWERS.items() if re.fullmatch(pattern, bare)), "text")


def told_duplicates(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pairs within a split, and leaks from one to another."""
    counts = Counter((pair["kind"], pair["split"] != pair["other_split"]) for pair in pairs)
    return {
        "within_a_split": {kind: counts[kind, False] for kind in ("exact", "perceptual")},
        "across_splits": {kind: counts[kind, True] for kind in ("exact", "perceptual")},
        "pairs": list(pairs),
    }


def spread(numbers: Sequence[int]) -> dict[str, float]:
    return {"min": min(numbers), "median": median(numbers), "max": max(numbers)}


def counted(names: Iterable[str], most: int | None = None) -> dict[str, int]:
    """How often each name is there, the most frequent first, equally frequent ones by name."""
    counts = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return dict(counts[:most])


def main(path: str) -> None:
    run = load_run(path, DataReportRun)
    data = Path(run.data)
    rows = _json(data / "rows.json")
    splits = {split: read_problems(data / f"{split}.jsonl") for split in rows["splits"]}
    preflights = {model: _json(Path(folder) / "preflight.json") for model, folder in run.preflights.items()}
    told = report(run.dataset, splits, rows, preflights)
    with whole_folder(Path(run.out)) as folder:
        (folder / "report.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        draw(run.dataset, splits, rows["duplicates"]).save(folder / "contact_sheet.png")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1])

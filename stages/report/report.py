"""The study on one page: `python -m stages.report.report RUN.json`.

Writes report.md, which links to the figures, and index.html: the same, with every picture in the file itself.
"""

import base64
import html
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import markdown
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from stages.config import Evaluated, ReportRun, load_run
from stages.data.problem import Problem, read_problems
from stages.evaluation.metrics import judged
from stages.files import whole_folder
from stages.report.names import cells, label, model_label

SHOWN = 2  # problems of each data set whose responses are printed
FIGURES = {
    "accuracy": (
        "Accuracy by epoch",
        "Epoch 0 and the dashed line are the base model. A row is a split, a column a generation setting.",
    ),
    "training": (
        "RL training",
        "Accuracy is that of all training responses of an epoch together, so it lags behind the weights at the epoch's "
        "end. The correct ratio is drawn apart for responses with a reflection word (solid) and without (dotted): that "
        "the two differ does not say that reflecting causes it. Last, the two most frequent reflection words.",
    ),
    "reflection": (
        "Reflection in RL training",
        "Shares of the responses of a generation step. A step without a response to divide by is left out of its mean.",
    ),
    "words": (
        "Reflection words in RL training",
        "How many responses of a generation step have each word at least once.",
    ),
}


class Response(NamedTuple):
    method: str
    model: str
    epoch: int
    correct: bool
    finished: bool
    text: str


class Sample(NamedTuple):
    """A problem and what each method answers; `picture` is the path of its figure from the report."""

    dataset: str
    id: str
    question: str
    answer: str
    picture: str
    responses: list[Response]


def comparison(accuracy: pd.DataFrame) -> dict[str, Any]:
    """What was compared, from the accuracy scores."""
    sizes = accuracy.drop_duplicates(["dataset", "split"])
    return {
        "models": [model_label(model) for model in accuracy["model"].unique()],
        "datasets": list(accuracy["dataset"].unique()),
        "methods": [label(method) for method in accuracy["method"].unique()],
        "seeds": list(accuracy["seed"].unique()),
        "evaluated": {name: sorted(rows["epoch"].unique()) for name, rows in accuracy.groupby("dataset", sort=False)},
        "settings": accuracy.drop_duplicates("setting").set_index("setting")["samples"].to_dict(),
        "sizes": [
            {"dataset": dataset, "split": split, "problems": n, "error": 100 * math.sqrt(0.25 / n)}
            for dataset, split, n in zip(sizes["dataset"], sizes["split"], sizes["problems"], strict=True)
        ],
    }


def judged_responses(accuracy: pd.DataFrame) -> dict[str, float]:
    """How many evaluated responses there are, and on how many the judge found no answer or ran out of time."""
    responses = accuracy["problems"] * accuracy["samples"]
    counts = {name: round((accuracy[name] * responses).sum()) for name in ("no_answer", "timed_out")}
    return {"responses": int(responses.sum()), **counts}


def figures(accuracy: pd.DataFrame, folder: str) -> list[dict[str, Any]]:
    """Titles, captions and paths of every model's figures on every data set."""
    return [
        {
            "model": model_label(model),
            "dataset": dataset,
            "figures": [
                {"title": title, "caption": caption, "path": f"{folder}/{kind}_{model}_{dataset}.png"}
                for kind, (title, caption) in FIGURES.items()
            ],
        }
        for model, dataset in cells(accuracy)
    ]


def samples(run: ReportRun, split: str) -> Iterator[Sample]:
    """The first problems of each data set and every method's last word on them, by a rule that sees no result."""
    first_seeds: dict[tuple[str, ...], Evaluated] = {}
    for evaluated in run.evaluated:
        first_seeds.setdefault(Path(evaluated.responses).parts[-4:-1], evaluated)
    for dataset, data in run.data.items():
        problems = read_problems(Path(data, f"{split}.jsonl"))[:SHOWN]
        found: dict[str, list[Response]] = {problem.id: [] for problem in problems}
        for (model, other, method), evaluated in first_seeds.items():
            if other == dataset:
                for answered, response in last_responses(evaluated, split, run.setting, problems, model, method):
                    found[answered].append(response)
        for problem in problems:
            picture = Path(os.path.relpath(problem.image, run.out)).as_posix()
            yield Sample(dataset, problem.id, problem.question, problem.answer, picture, found[problem.id])


def last_responses(
    evaluated: Evaluated, split: str, setting: str, problems: list[Problem], model: str, method: str
) -> Iterator[tuple[str, Response]]:
    """The first response of a run's last epoch to each problem, with the problem's id."""
    rows = judged(Path(evaluated.responses), Path(evaluated.verdicts))
    wanted = (rows["split"] == split) & (rows["setting"] == setting) & (rows["sample"] == 0)
    rows = rows[wanted & (rows["epoch"] == rows["epoch"].max()) & rows["problem"].isin([p.id for p in problems])]
    for row in rows.to_dict("records"):
        answered = (row["epoch"], row["correct"], row["finished"], row["text"])
        yield row["problem"], Response(label(method), model_label(model), *answered)


def provenance(folders: list[str]) -> dict[str, list[str]]:
    """Commit, Python and packages of the runs; several values where runs differ."""
    found: dict[str, list[str]] = {}
    for path in (Path(folder, "provenance.json") for folder in folders):
        if path.is_file():
            written = json.loads(path.read_text(encoding="utf-8"))
            versions = {"commit": written["commit"], "python": written["python"], **written["packages"]}
            for name, value in versions.items():
                if value is not None and value not in found.setdefault(name, []):
                    found[name].append(value)
    return {name: values for name, values in found.items() if values}


# --- writing ---------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """A text in which Markdown and HTML find nothing to interpret, on one line."""
    return re.sub(r"([\\`*_{}\[\]#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def fenced(text: str) -> str:
    """A text as a block of code, behind a fence that is longer than any in it."""
    fence = "~" * (max((len(run) for run in re.findall("~+", text)), default=0) + 3)
    return f"{fence}\n{text}\n{fence}"


def environment() -> Environment:
    """Of the templates beside this file, where a name that is not given is an error."""
    found = Environment(
        loader=PackageLoader("stages.report", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    found.filters |= {"escaped": escaped, "fenced": fenced}
    return found


def page(text: str, title: str, folder: Path) -> str:
    """Markdown as an HTML file that needs no other.

    Args:
        text: Markdown; paths of its pictures are relative to `folder`.
        title: of the window.
        folder: where the report is.
    """
    body = markdown.markdown(text, extensions=["tables", "fenced_code", "sane_lists"])
    body = re.sub(r'src="([^"]+)"', lambda match: f'src="{data_uri(folder / html.unescape(match[1]))}"', body)
    return environment().get_template("page.html.jinja").render(title=html.escape(title), body=body)


def data_uri(picture: Path) -> str:
    """A picture in a URL; its SVG, if that lies beside it."""
    drawn = picture.with_suffix(".svg")
    path, kind = (drawn, "svg+xml") if drawn.is_file() else (picture, "png")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def report(run: ReportRun) -> str:
    """The report in Markdown."""
    accuracy = pd.read_csv(Path(run.scores, "accuracy.csv"))
    splits = list(accuracy["split"].unique())
    split = "validation" if "validation" in splits else splits[0]
    return (
        environment()
        .get_template("report.md.jinja")
        .render(
            study=run.study,
            **comparison(accuracy),
            judged=judged_responses(accuracy),
            table=Path(run.tables, "accuracy.md").read_text(encoding="utf-8"),
            cells=figures(accuracy, Path(os.path.relpath(run.figures, run.out)).as_posix()),
            shown=SHOWN,
            split=split,
            setting=run.setting,
            samples=list(samples(run, split)),
            provenance=provenance([evaluated.responses for evaluated in run.evaluated]),
        )
    )


def main(path: str) -> None:
    run = load_run(path, ReportRun)
    text = report(run)
    with whole_folder(Path(run.out)) as folder:
        (folder / "report.md").write_text(text, encoding="utf-8")
        # Paths are relative to the folder's final place, beside which the partial one lies.
        (folder / "index.html").write_text(page(text, run.study, folder), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

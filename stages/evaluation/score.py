"""Score responses by the evaluation scheme (paper Sec. 4), with statistics and findings.

Of a study, as a stage: `python -m stages.evaluation.score RUN.json`. Of anybody's responses, in JSONL, parquet or CSV:
`python -m stages.evaluation.score responses.jsonl --out DIR`, or with several runs `vanilla=before.jsonl
rl/seed0=after.jsonl`. Both write the same tables; docs/scores.md explains each.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from stages.config import Evaluated, JudgeRules, Scores, ScoresRun, load_run, load_scores
from stages.data.problem import json_object, numbered_lines
from stages.evaluation import changes, findings, health, metrics, shown, statistics
from stages.evaluation.answers import DEFAULT, Judge
from stages.evaluation.metrics import RUN
from stages.evaluation.reading import ForeignRun, Source, read_runs
from stages.evaluation.reflection import words_in
from stages.evaluation.rows import CELL, judged
from stages.files import whole_folder
from stages.progress import progress
from stages.provenance import hashes, write_provenance
from stages.records import read

Tables = dict[str, pd.DataFrame]
UPDATES = ["epoch", "generation_step", "gradient_step", "loss", "policy_loss", "kl_loss", "ratio", "clip_fraction"]
UPDATES += ["entropy", "grad_norm", "lr", "tokens", "sampler_gap", "sampler_gap_max", "sampler_outside"]
# Whom the paper compares with whom (Table 3).
PAIRS = (("rl", "sft"), ("rl", "vanilla"), ("sft", "vanilla"))
OTHER = "other"  # kind of a method that did not say


@dataclass(frozen=True)
class About:
    """What is known of a problem beside its responses."""

    type: str = ""
    question: str = ""
    image: str = ""


@dataclass(frozen=True)
class Scored:
    """The responses of one run, in training or evaluation or both.

    Attributes:
        rows: as in `stages.evaluation.rows`.
        rules: when an answer is right.
        unit: of lengths.
        problems: by id.
        updates: optimiser steps of RL.
    """

    model: str
    dataset: str
    method: str
    seed: int
    rows: pd.DataFrame
    rules: JudgeRules
    unit: str = "tokens"
    problems: Mapping[str, About] = field(default_factory=dict)
    updates: pd.DataFrame | None = None

    def named(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the run's model, dataset, method and seed as its first columns."""
        values = [getattr(self, key) for key in RUN]
        first = pd.DataFrame([values] * len(table), columns=RUN, index=table.index)
        return pd.concat([first, table], axis="columns")


# --- a run -----------------------------------------------------------------------------------------------------------


def score_run(run: Scored, scores: Scores, judge: Judge) -> Tables:
    """The tables of one run."""
    found = words_in(run.rows["text"].tolist(), scores.reflection_words)
    reflective = np.any(found["word"], axis=1)
    changed = changes.changes(run.rows, reflective, scores.reflection_words, judge, run.rules)
    problems = metrics.problems(run.rows, {name: about.type for name, about in run.problems.items()})
    tables = {
        "accuracy": metrics.accuracy(run.rows),
        "pass_at_k": metrics.pass_at_k(run.rows),
        "problems": problems,
        "types": metrics.types(problems),
        "training": metrics.training(run.rows),
        "responses": metrics.responses(run.rows).assign(unit=run.unit),
        "reflection": metrics.reflection(run.rows, found),
        "words": metrics.words(run.rows, found, scores.reflection_words),
        "changes": changes.counts(run.rows, reflective, changed),
        "changed": changed,
    }
    if run.updates is not None:
        tables["updates"] = run.updates
        tables["health"] = health.checks(run.updates, tables["responses"], scores.health)
    return {name: run.named(table) for name, table in tables.items()}


def score(
    runs: Iterable[Scored],
    methods: Mapping[str, str],
    scores: Scores,
    judge: Judge,
    updates: Sequence[pd.DataFrame] = (),
) -> tuple[Tables, list[Any]]:
    """All tables of a study, and its findings.

    Args:
        runs: one after the other, so that the texts of only one are in memory.
        methods: kind by method, in the order of tables and figures.
        scores: the scheme.
        judge: of answers that are stated before a reflection.
        updates: optimiser steps of runs without responses.
    """
    parts: dict[str, list[pd.DataFrame]] = {"updates": list(updates)} if updates else {}
    about: dict[tuple[str, str], About] = {}
    for run in runs:
        for name, table in score_run(run, scores, judge).items():
            parts.setdefault(name, []).append(table)
        about |= {(run.dataset, name): known for name, known in run.problems.items()}
    tables = {name: _stacked(found) for name, found in parts.items()}
    for name, columns in {"updates": UPDATES, "health": list(health.Check._fields)}.items():
        tables.setdefault(name, pd.DataFrame(columns=[*RUN, *columns]))
    tables["gallery"] = _gallery(tables.pop("changed"), about, scores.gallery)
    settings = scores.statistics
    tables["curves"] = statistics.curves(tables["problems"], settings)
    tables["comparisons"] = statistics.comparisons(tables["problems"], pairs(methods), settings)
    tables["aggregates"] = statistics.aggregates(tables["problems"], settings)
    tables["detectable"] = statistics.detectable(tables["problems"], pairs(methods), settings)
    return tables, findings.findings(tables, scores, methods)


def pairs(methods: Mapping[str, str]) -> list[tuple[str, str]]:
    """Which methods are compared: (method, over); those whose kind is not known with all that stand before them."""
    names = list(methods)
    known = [(a, b) for kind, over in PAIRS for a in names if methods[a] == kind for b in names if methods[b] == over]
    others = [(b, a) for i, a in enumerate(names) for b in names[i + 1 :] if OTHER in (methods[a], methods[b])]
    return known + others


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]  # an empty one would make its columns objects
    return pd.concat(full, ignore_index=True) if full else tables[0]


def _gallery(changed: pd.DataFrame, about: Mapping[tuple[str, str], About], size: int) -> pd.DataFrame:
    rows = []
    for _, of_method in changed.groupby(["model", "dataset", "method"], sort=False):
        for row in changes.gallery(of_method, size).to_dict("records"):
            known = about.get((row["dataset"], row["problem"]), About())
            rows.append(changes.shown(row) | {"question": known.question, "image": known.image})
    return pd.DataFrame(rows)


# --- writing ---------------------------------------------------------------------------------------------------------


def write(tables: Tables, found: list[Any], methods: Mapping[str, str], scores: Scores, folder: Path) -> None:
    """Write the tables, pictures, findings.json and findings.md, methods.json and scheme.json into an empty folder."""
    for name, table in tables.items():
        if name == "problems":  # large: a row a problem, epoch, setting and run
            table.to_parquet(folder / "problems.parquet", index=False)
        elif name in ("gallery", "samples"):
            shown.write_with_pictures(table, folder / f"{name}.jsonl")
        else:
            table.to_csv(folder / f"{name}.csv", index=False)
    for name, content in {"findings": found, "methods": methods, "scheme": scores.model_dump(mode="json")}.items():
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / "findings.md").write_text(findings.markdown(found), encoding="utf-8")


# --- a study ---------------------------------------------------------------------------------------------------------


def runs_of(run: ScoresRun) -> Iterator[Scored]:
    """The trainings and evaluations of a study.

    Raises:
        ValueError: records are not whole, or not those of the study.
    """
    known = {dataset: problems_of(Path(folder)) for dataset, folder in run.data.items()}
    for part in progress([*run.trained, *run.evaluated], "runs"):
        rows = judged(Path(part.responses), Path(part.verdicts))
        model, dataset, method, seed = rows["run"].iloc[0].split("/")
        if not part.responses.endswith(rows["run"].iloc[0]):
            raise ValueError(f"{part.responses}/responses.jsonl: of another run, {rows['run'].iloc[0]}")
        _check_settings(rows, run.samples, part)
        places = {"split": ("train", "validation", "test"), "setting": ("train", *run.order)}
        rows = rows.sort_values(
            ["epoch", "generation_step", "split", "setting"],
            key=lambda column: column.map(places[column.name].index) if column.name in places else column,
            kind="stable",
        )
        updates = Path(part.responses, "updates.jsonl")
        yield Scored(
            model,
            dataset,
            method,
            int(seed.removeprefix("seed")),
            rows,
            run.rules[dataset],
            problems=known[dataset],
            updates=read(updates)[UPDATES] if updates.is_file() else None,
        )


def supervised(folders: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The optimiser steps of SFT runs."""
    for folder in folders:
        rows = read(Path(folder, "updates.jsonl"))
        names = dict(zip(RUN, rows["run"].iloc[0].split("/"), strict=True))
        names["seed"] = int(names["seed"].removeprefix("seed"))
        yield rows[UPDATES].apply(pd.to_numeric).assign(**names)[[*RUN, *UPDATES]]  # None is NaN


def _check_settings(rows: pd.DataFrame, samples: Mapping[str, int], part: Evaluated) -> None:
    """Every setting has as many responses to a problem as the study says; that all have equally many is known."""
    evaluated = rows[rows["phase"] == "evaluate"]
    counts = evaluated.groupby([*CELL, "problem"], sort=False).size().groupby("setting").first()
    for setting, count in counts.items():
        if count != samples.get(str(setting)):
            raise ValueError(
                f"{part.responses}/responses.jsonl: {setting}: {count} responses to a problem, and the study says "
                f"{samples.get(str(setting), 'no such setting')}"
            )


def problems_of(folder: Path) -> dict[str, About]:
    """The problems of a prepared data set by id; pictures are not opened, their paths relative to here."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        for _, line in numbered_lines(path):
            row = json_object(line, ("id", "question", "image"))
            image = Path(os.path.normpath(folder / row["image"])).as_posix()
            found[str(row["id"])] = About(row.get("type") or "", row["question"], image)
    return found


# --- anybody's responses ---------------------------------------------------------------------------------------------


def foreign(sources: Sequence[Source], judge: Judge, rules: JudgeRules, vanilla: str) -> Iterator[Scored]:
    """The runs of some files.

    Raises:
        ValueError: a file's rows cannot be counted, or a run is in two files.
    """
    seen: dict[tuple[str, str, str, int], Path] = {}
    asked: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for source in sources:
        for run in read_runs(source, judge, rules, vanilla):
            key = (run.model, run.dataset, run.method, run.seed)
            if key in seen:
                raise ValueError(
                    f"{source.path}: the run {run.method}/seed{run.seed} of {run.model} on {run.dataset} is in "
                    f"{seen[key]} already; name them apart, as in rl/seed0=FILE rl/seed1=FILE"
                )
            seen[key] = source.path
            _check_same_problems(run, source.path, asked)
            known = run.rows.drop_duplicates("problem").reindex(columns=["problem", "type", "question", "image"])
            texts = known.astype(object).where(known.notna(), "").astype(str)
            problems = {name: About(*rest) for name, *rest in texts.itertuples(index=False)}
            yield Scored(*key, run.rows, rules, run.unit, problems)


def _check_same_problems(run: ForeignRun, path: Path, asked: dict[tuple[str, str, str], tuple[str, Path]]) -> None:
    """A problem has one question and one answer in all files, which are noted in `asked`.

    Raises:
        ValueError: another problem has its name, so that runs would be compared on different problems.
    """
    for name in ("question", "answer"):
        for line, problem, value in run.rows.reindex(columns=["problem", name]).dropna().itertuples():
            known, there = asked.setdefault((run.dataset, problem, name), (str(value), path))
            if known != str(value):
                raise ValueError(
                    f"{path}:{line}: problem {problem} has the {name} {str(value)!r}, and in {there} it has {known!r}; "
                    "are these the same problems? --column problem=NAME names the column that tells"
                )


def parser() -> argparse.ArgumentParser:
    root = Path(__file__).parents[2]
    found = argparse.ArgumentParser(
        prog="python -m stages.evaluation.score",
        description="Score responses by the evaluation scheme: accuracy, pass@k, length, reflection, statistics.",
        epilog="The stage form takes one RUN.json and nothing else.",
    )
    found.add_argument(
        "files",
        nargs="+",
        metavar="[NAME=]FILE",
        help="JSONL, parquet or CSV; NAME is [[model/]dataset/]method[/seedK]",
    )
    found.add_argument("--out", type=Path, help="folder for the tables; it must not exist yet, or be empty")
    found.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="METHOD=KIND",
        help="what a method is: vanilla, sft or rl; methods of these names need not say so",
    )
    found.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="a column that has a name of its own, as in text=answer_text",
    )
    found.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"a rule of the judge (config/README.md), beside {DEFAULT.model_dump_json()}",
    )
    found.add_argument(
        "--scheme",
        type=Path,
        default=root / "config/scores.yaml",
        help="reflection words, statistics and findings (default: %(default)s)",
    )
    found.add_argument("--workers", type=int, default=1, help="processes of the judge")
    return found


def score_files(given: argparse.Namespace) -> None:
    """Score anybody's responses."""
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise ValueError(f"--out {given.out}: is there already and not empty; nothing is overwritten")
    columns = dict(_pair(text, "--column") for text in given.column)
    sources = [Source(Path(path), name or None, columns) for name, path in map(_named, given.files)]
    kinds = dict(_pair(text, "--kind") for text in given.kind)
    if wrong := set(kinds.values()) - {"vanilla", "sft", "rl"}:
        raise ValueError(f"--kind: {', '.join(sorted(wrong))} should be vanilla, sft or rl")
    vanilla = next((method for method, kind in kinds.items() if kind == "vanilla"), "vanilla")
    methods: dict[str, str] = {}

    def noticed(runs: Iterable[Scored]) -> Iterator[Scored]:
        for run in runs:
            default = run.method if run.method in ("vanilla", "sft", "rl") else OTHER
            methods.setdefault(run.method, kinds.get(run.method, default))
            yield run

    scores = load_scores(given.scheme)
    with Judge(workers=given.workers) as judge:
        tables, found = score(noticed(foreign(sources, judge, _rules(given.judge), vanilla)), methods, scores, judge)
    if unused := set(kinds) - set(methods):
        raise ValueError(f"--kind: {', '.join(sorted(unused))} is no method of these files ({', '.join(methods)})")
    with whole_folder(given.out) as folder:
        write(tables, found, methods, scores, folder)
        write_provenance(folder, hashes(source.path for source in sources))
    columns_shown = [*RUN, "split", "epoch", "setting", "problems", "samples", "accuracy", "mean_accuracy", "no_answer"]
    print(tables["accuracy"][columns_shown].to_string(index=False, float_format="{:.3f}".format))
    print(f"Tables: {given.out}")


def _named(argument: str) -> tuple[str, str]:
    """NAME=FILE, or FILE, which may have an = of its own."""
    name, sign, path = argument.partition("=")
    if sign and not name:
        raise ValueError(f"{argument}: no name before the =")
    return (name, path) if sign and not Path(argument).exists() else ("", argument)


def _pair(text: str, option: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign and value):
        raise ValueError(f"{option} {text}: should be NAME=VALUE")
    return key, value


def _rules(given: Sequence[str]) -> JudgeRules:
    allowed = list(JudgeRules.model_fields)
    changed: dict[str, Any] = {}
    for key, value in (_pair(text, "--judge") for text in given):
        try:
            changed[key] = json.loads(value)
        except ValueError:
            changed[key] = value  # a word
    try:
        return JudgeRules(**(DEFAULT.model_dump() | changed))
    except ValidationError as error:
        mistake = error.errors()[0]
        key = ".".join(map(str, mistake["loc"]))
        raise ValueError(f"--judge {key}={mistake['input']}: {mistake['msg']} (rules: {', '.join(allowed)})") from None


def main(arguments: Sequence[str]) -> None:
    given = parser().parse_args(arguments)
    try:
        if given.out is not None:
            return score_files(given)
        if len(given.files) != 1 or not given.files[0].endswith(".json"):
            parser().error("--out DIR is needed to score response files")
        run = load_run(given.files[0], ScoresRun)
        methods = dict(run.methods)
        with Judge(workers=run.workers) as judge:
            updates = list(supervised(run.tuned))
            tables, found = score(runs_of(run), methods, run.settings, judge, updates)
        splits = list(tables["accuracy"]["split"].unique())
        split = "validation" if "validation" in splits else splits[0]
        tables["samples"] = shown.samples(run.evaluated, run.data, split, run.setting)
        trained = [*run.tuned, *(part.responses for part in run.trained)]
        with whole_folder(Path(run.out)) as folder:
            write(tables, found, methods, run.settings, folder)
            shown.write_runs(trained, [part.responses for part in run.evaluated], folder / "runs.jsonl")
            inputs = [Path(part.verdicts, "verdicts.jsonl") for part in (*run.trained, *run.evaluated)]
            inputs += [Path(trainer, "updates.jsonl") for trainer in trained]
            inputs += [path for data in run.data.values() for path in sorted(Path(data).glob("*.jsonl"))]
            write_provenance(folder, hashes(inputs))
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main(sys.argv[1:])

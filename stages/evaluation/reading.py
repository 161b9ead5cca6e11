"""Somebody else's responses: any JSONL, parquet or CSV table that has a problem, a text, and an answer or a verdict.

Columns are found by the names that others give them, or are named by whoever asks. What is not there is filled in
where that cannot change a number's meaning, and is an error where it could.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from stages.config import JudgeRules
from stages.evaluation.answers import Judge
from stages.evaluation.rows import check, first

# What a column is called here, and elsewhere; the first that a table has is taken.
NAMES: dict[str, tuple[str, ...]] = {
    "run": ("run", "run_name", "run_id"),
    "model": ("model",),
    "dataset": ("dataset", "data_source"),
    "method": ("method",),
    "seed": ("seed",),
    "phase": ("phase",),
    "split": ("split",),
    "epoch": ("epoch",),
    "generation_step": ("generation_step", "step", "global_step"),
    "setting": ("setting",),
    "problem": ("problem", "problem_id", "question_id", "id", "idx", "index", "i", "question", "prompt"),
    "sample": ("sample", "sample_id", "sample_index"),
    "text": ("text", "response", "model_output", "output", "completion", "prediction", "generated_text"),
    "answer": ("answer", "ground_truth", "gold", "gold_answer", "reference_answer", "reference", "target"),
    "correct": ("correct", "is_correct"),
    "length": ("length", "tokens", "num_tokens", "completion_tokens", "completion_length"),
    "finished": ("finished",),
    "type": ("type", "problem_type", "category", "subject"),
    "question": ("question", "prompt"),
    "image": ("image", "image_path"),
}
NUMBERS = ("seed", "epoch", "generation_step", "step", "global_step", "sample", "length", "correct", "finished")
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
SPLITS |= {"test": "test", "testmini": "test"}
PHASES = {"train": "train", "training": "train", "evaluate": "test", "evaluation": "test", "eval": "test"}
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class ForeignRun:
    """The responses of one run.

    Attributes:
        rows: as in `stages.evaluation.rows`, with type, question and image where the table has them.
        unit: of length: tokens, or characters where the table does not tell tokens.
    """

    model: str
    dataset: str
    method: str
    seed: int
    rows: pd.DataFrame
    unit: str


@dataclass(frozen=True)
class Source:
    """A file to be read.

    Attributes:
        name: of its run, [[model/]dataset/]method[/seedK]; None where the file tells, or its own name will do.
        columns: the file's column for a name of ours, where it is none of `NAMES`.
    """

    path: Path
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


def read_runs(source: Source, judge: Judge, rules: JudgeRules, vanilla: str = "vanilla") -> Iterator[ForeignRun]:
    """The runs of a file.

    Args:
        source: the file.
        judge: asked where the file has no verdicts.
        rules: of the judge.
        vanilla: the method that is not trained, whose epoch is 0 where the file has none; else it is 1.

    Raises:
        ValueError: a column is missing, a value is none of its kind, rows stand twice or are of several runs.
    """
    path = source.path
    table = _table(path)
    taken = _columns(table, source)
    if not len(table):
        raise ValueError(f"{path}: no rows")
    rows = pd.DataFrame({name: table[column] for name, column in taken.items()}, index=table.index)
    _check_texts(rows, taken, path)
    keys = [key for key in ("run", "model", "dataset", "method", "seed") if key in rows]
    for key in keys:
        if (missing := rows[key].isna() | (rows[key].astype(str) == "")).any():
            raise ValueError(f"{path}:{first(missing)}: no {taken[key]!r}, though other rows have it")
    if "seed" in rows:
        rows["seed"] = _whole(rows, "seed", path, 0)
    groups = list(rows.groupby(keys, sort=False, dropna=False)) if keys else [((), rows)]
    if source.name and len(groups) > 1:
        line = groups[1][1].index[0]
        raise ValueError(
            f"{path}:{line}: mixed runs: {dict(zip(keys, groups[1][0], strict=True))} in a file that was named "
            f"{source.name}; name no run, and each is scored by itself"
        )
    for values, part in groups:
        told = dict(zip(keys, values, strict=True))
        run = _run(told, source)
        epoch = 0 if run["method"] == vanilla else 1
        filled = _filled(part.drop(columns=keys), table.loc[part.index], path, epoch)
        unit = "tokens" if "length" in part else "characters"
        yield ForeignRun(**run, rows=check(_judged(filled, judge, rules), str(path)), unit=unit)


def _table(path: Path) -> pd.DataFrame:
    """The whole file, its index the line (JSONL, CSV) or row (parquet), from 1."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".parquet":
        try:
            table = pyarrow.parquet.read_table(path).to_pandas()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    elif path.suffix == ".csv":
        try:
            table = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in NUMBERS})
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a CSV table ({error})") from None
    elif path.suffix in (".jsonl", ".json", ".ndjson"):
        table = pd.DataFrame(list(_json_lines(path)))
    else:
        raise ValueError(f"{path}: should end with .jsonl, .parquet or .csv, which says how to read it")
    return table.set_index(pd.RangeIndex(1, len(table) + 1))


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not a JSON row ({error})") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: a {type(row).__name__}, not an object with columns")
            yield row


def _columns(table: pd.DataFrame, source: Source) -> dict[str, str]:
    """The file's column for each of our names that it has.

    Raises:
        ValueError: a column that is asked for or needed is missing.
    """
    has = ", ".join(map(str, table.columns))
    for name, column in source.columns.items():
        if name not in NAMES:
            raise ValueError(
                f"--column {name}={column}: no column here is called {name!r} (allowed: {', '.join(NAMES)})"
            )
        if column not in table:
            raise ValueError(f"{source.path}: no column {column!r} (columns: {has})")
    found = {name: next((n for n in names if n in table), None) for name, names in NAMES.items()}
    taken = {name: column for name, column in (found | dict(source.columns)).items() if column is not None}
    for need in (("text",), ("problem",), ("correct", "answer")):
        if not any(name in taken for name in need):
            known = " or ".join(f"{name} ({', '.join(NAMES[name])})" for name in need)
            raise ValueError(
                f"{source.path}: no column for {known} (columns: {has}); if it has another name: "
                f"--column {need[0]}=NAME"
            )
    return taken


def _check_texts(rows: pd.DataFrame, taken: Mapping[str, str], path: Path) -> None:
    for name in ("text", "problem", "answer"):
        if name in rows and (missing := rows[name].isna()).any():
            raise ValueError(f"{path}:{first(missing)}: no {taken[name]!r}")
    if (wrong := ~rows["text"].map(lambda text: isinstance(text, str))).any():
        line = first(wrong)
        raise ValueError(f"{path}:{line}: {taken['text']!r} should be a text, not {_plain(rows['text'][line])!r}")


def _run(told: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Model, dataset, method and seed of a run, from its name and its columns."""
    name = source.name or str(told.get("run") or told.get("method") or source.path.stem)
    *parts, last = name.split("/")
    seed = re.fullmatch(r"seed(\d+)", last)
    parts = parts if seed and parts else [*parts, last]
    if len(parts) > 3 or parts[-1].startswith("seed") or not all(RUN_NAME.fullmatch(part) for part in parts):
        raise ValueError(
            f"{source.path}: {name!r} is no run's name; it should be [[model/]dataset/]method[/seedK], of letters, "
            "digits, dots, hyphens and underscores; give it as NAME=FILE"
        )
    run: dict[str, Any] = dict(
        zip(("model", "dataset", "method"), [*("model", "data")[: 3 - len(parts)], *parts], strict=True)
    )
    run["seed"] = int(seed[1]) if seed else 0
    if source.name and (other := str(told.get("method", parts[-1]))) != parts[-1]:
        raise ValueError(f"{source.path}: named {source.name}, and its column 'method' says {other!r}")
    # Published models are called owner/name, and a file cannot be.
    return run | {
        key: int(value) if key == "seed" else re.sub(r"[^A-Za-z0-9_.\-]+", "_", str(value)).strip("_")
        for key, value in told.items()
        if key != "run"
    }


def _filled(rows: pd.DataFrame, table: pd.DataFrame, path: Path, epoch: int) -> pd.DataFrame:
    """The rows with every column that is counted by."""
    found = rows.assign(problem=rows["problem"].astype(str))
    if "answer" in found:
        found["answer"] = found["answer"].map(str)
    found["split"] = _split(found, path)
    trained = found["split"] == "train"
    found["phase"] = trained.map({True: "train", False: "evaluate"})
    if "generation_step" in found and "epoch" in found:  # an evaluation may leave its step out
        found["generation_step"] = found["generation_step"].where(trained | found["generation_step"].notna(), 0)
    steps = _whole(found, "generation_step", path, 0)
    if "epoch" in found:
        found["epoch"] = _whole(found, "epoch", path, epoch)
    else:  # training without epochs is one, and an evaluation is known by its step
        found["epoch"] = steps.where(~trained, 1) if "generation_step" in found else epoch
    found["generation_step"] = steps.where(trained, 0)
    found["length"] = _length(found, path)
    found["finished"] = _truth(found, "finished", path) if "finished" in found else np.nan
    if "setting" not in found:
        samples = found.groupby(["split", "epoch", "generation_step", "problem"])["text"].transform("size")
        usual = samples.groupby([found["split"], found["epoch"]]).transform(lambda counts: counts.mode().iloc[0])
        found["setting"] = [f"pass@{n}" for n in usual]
    found.loc[trained, "setting"] = "train"
    cell = ["phase", "split", "epoch", "generation_step", "setting", "problem"]
    found["sample"] = _whole(found, "sample", path, 0) if "sample" in found else found.groupby(cell).cumcount()
    if "correct" in found:
        found["correct"] = _truth(found, "correct", path)
    return _with_rewards(found, table, path)


def _split(rows: pd.DataFrame, path: Path) -> pd.Series:
    """Train, validation or test, from the column of that name, or a phase, or which of step and epoch there is."""
    for name, known in (("split", SPLITS), ("phase", PHASES)):
        if name in rows:
            told = rows[name].astype(str)
            if (unknown := ~told.isin(known)).any():
                line = first(unknown)
                raise ValueError(f"{path}:{line}: {name} {told[line]!r} is none of {', '.join(known)}")
            return told.map(known)
    if "generation_step" in rows and "epoch" in rows:
        raise ValueError(
            f"{path}: both steps and epochs, so it is not known whether these are responses of training or of an "
            f"evaluation; add a column split ({', '.join(SPLITS)})"
        )
    return pd.Series("train" if "generation_step" in rows else "test", rows.index)


def _length(rows: pd.DataFrame, path: Path) -> pd.Series:
    """Tokens, or characters where nobody counted tokens."""
    if "length" not in rows:
        return rows["text"].str.len().astype(float)
    numbers = pd.to_numeric(rows["length"], errors="coerce")
    if (wrong := ~(numbers >= 0)).any():
        line = first(wrong)
        raise ValueError(f"{path}:{line}: length should be a number of tokens, not {_plain(rows['length'][line])!r}")
    return numbers.astype(float)


def _with_rewards(rows: pd.DataFrame, table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Columns reward and reward_* are rewards, and so is what a column rewards holds by name."""
    rewards = table[[name for name in table.columns if re.fullmatch(r"reward(_\w+)?", str(name))]]
    if "rewards" in table:
        held = pd.DataFrame([r if isinstance(r, dict) else {} for r in table["rewards"]], index=table.index)
        rewards = rewards.join(held.add_prefix("reward_"))
    rewards = rewards.rename(columns={"reward": "reward_total"})
    for name in rewards.columns:
        numbers = pd.to_numeric(rewards[name], errors="coerce")
        told = (rows["phase"] == "train") | rewards[name].notna()
        if (wrong := ~numbers.astype(float).abs().lt(np.inf) & told).any():
            line = first(wrong)
            raise ValueError(f"{path}:{line}: {name} is {_plain(rewards[name][line])!r}, not a number")
        rewards = rewards.assign(**{name: numbers})
    return rows.join(rewards)


def _whole(rows: pd.DataFrame, name: str, path: Path, missing: int) -> pd.Series:
    """A column of whole numbers from 0 on; one number where there is no such column."""
    if name not in rows:
        return pd.Series(missing, rows.index)
    numbers = pd.to_numeric(rows[name], errors="coerce")
    if (wrong := numbers.isna() | (numbers % 1 != 0) | (numbers < 0)).any():
        line = first(wrong)
        raise ValueError(f"{path}:{line}: {name} should be a whole number from 0 on, not {_plain(rows[name][line])!r}")
    return numbers.astype(int)


def _truth(rows: pd.DataFrame, name: str, path: Path) -> pd.Series:
    """A column of true and false, which may be 1 and 0."""
    known = rows[name].map(lambda value: value in (0, 1))  # as are True and False
    if not known.all():
        line = first(~known)
        raise ValueError(f"{path}:{line}: {name} should be true or false, not {_plain(rows[name][line])!r}")
    return rows[name].astype(bool)


def _plain(value: Any) -> Any:
    """A value as people write it: NumPy's numbers call themselves np.int64(1)."""
    return value.item() if isinstance(value, np.generic) else value


def _judged(rows: pd.DataFrame, judge: Judge, rules: JudgeRules) -> pd.DataFrame:
    """Rows with verdicts: the file's own, or where it has none the judge's."""
    if "correct" in rows:  # which does not tell a wrong answer from none
        return rows.assign(verdict=None, found=None, answer=rows.get("answer"))
    verdicts = judge.verdicts(rows["text"].tolist(), rows["answer"].tolist(), rules)
    said = pd.Series([v.outcome for v in verdicts], rows.index, dtype=object)
    return rows.assign(
        verdict=said, found=pd.Series([v.found for v in verdicts], rows.index), correct=said == "correct"
    )

"""The responses of one run as rows to be counted, checked so that no count can be wrong in silence.

Columns: phase, split, epoch, generation_step, setting, problem, sample, text, answer (the problem's), found (the
response's), length, finished, verdict, correct, and of training one reward_* a reward. Somebody else's may lack
finished, found and verdict (NaN, None). The index is the row's line in its file, from 1.
"""

from pathlib import Path

import pandas as pd

from stages.records import read

CELL = ["phase", "split", "epoch", "generation_step", "setting"]


def judged(folder: Path, verdicts: Path) -> pd.DataFrame:
    """The responses of a run of ours with what the judge says of them.

    Returns:
        The rows; of training also rewarded, whether the judge called the response correct when it was rewarded.

    Raises:
        ValueError: the verdicts are not on these responses, or a row is missing, doubled, or of another run.
    """
    path = folder / "responses.jsonl"
    rows, said = read(path), read(verdicts / "verdicts.jsonl")
    if len(said) != len(rows) or not (said[["problem", "sample"]] == rows[["problem", "sample"]]).all(axis=None):
        raise ValueError(f"{verdicts}/verdicts.jsonl: not on the {len(rows)} responses of {folder}")
    rows = rows.assign(rewarded=rows["verdict"] == "correct", verdict=said["verdict"], found=said["found"])
    rows = rows.assign(correct=rows["verdict"] == "correct").set_index(pd.RangeIndex(1, len(rows) + 1))
    if (mixed := rows["run"] != rows["run"].iloc[0]).any():
        line = first(mixed)
        raise ValueError(f"{path}:{line}: of the run {rows['run'][line]}, in a file of {rows['run'].iloc[0]}")
    rewards = pd.DataFrame(rows["rewards"].tolist(), index=rows.index).add_prefix("reward_")
    return check(rows.drop(columns="rewards").join(rewards), str(path))


def check(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows of one run that can be counted.

    Args:
        rows: as above.
        name: their file.

    Raises:
        ValueError: a reward is no number, a row stands twice, an epoch has no validation though others have, or a
            problem has fewer or more responses than the other problems of its epoch and setting.
    """
    for column in rows.columns[rows.columns.str.startswith("reward_")]:
        if (missing := rows[column].isna() & (rows["phase"] == "train")).any():
            raise ValueError(
                f"{name}:{first(missing)}: {column.removeprefix('reward_')!r} of the rewards is NaN or missing"
            )
    key = [*CELL, "problem", "sample"]
    if (twice := rows.duplicated(key)).any():
        line = first(twice)
        same = rows[(rows[key] == rows.loc[line, key]).all(axis="columns")].index[0]
        row = rows.loc[[line]].iloc[0]
        raise ValueError(
            f"{name}:{line}: the same response as on line {same} ({_place(row)}, sample {row['sample']}); is a file in "
            "it twice?"
        )
    evaluated = rows[rows["phase"] == "evaluate"]
    _check_validation(evaluated, name)
    _check_samples(evaluated, name)
    return rows


def first(mask: pd.Series) -> int:
    """The line of the first row that is marked."""
    return int(mask[mask.astype(bool)].index[0])


def _check_validation(rows: pd.DataFrame, name: str) -> None:
    epochs = rows.groupby("epoch", sort=False)["split"].agg(lambda splits: "validation" in set(splits))
    if epochs.any() and not epochs.all():
        epoch = first(~epochs)
        having = ", ".join(map(str, epochs.index[epochs]))
        raise ValueError(
            f"{name}:{first(rows['epoch'] == epoch)}: epoch {epoch} has no validation responses, but epochs {having} "
            "have; evaluate it too, or leave the epoch out"
        )


def _check_samples(rows: pd.DataFrame, name: str) -> None:
    counts = rows.groupby([*CELL, "problem"], sort=False).size().rename("n").reset_index()
    usual = counts.groupby(CELL, sort=False)["n"].transform(lambda n: n.mode().iloc[0])
    if (odd := counts["n"] != usual).any():
        cell = counts[odd].iloc[0]
        line = rows.index[(rows[[*CELL, "problem"]] == cell[[*CELL, "problem"]]).all(axis="columns")][-1]
        raise ValueError(
            f"{name}:{line}: {_place(cell)} has {cell['n']} responses, the others there {usual[odd].iloc[0]}; was the "
            "evaluation interrupted, or a row doubled?"
        )


def _place(row: pd.Series) -> str:
    step = f", generation step {row['generation_step']}" if row["generation_step"] else ""
    return f"problem {row['problem']} of {row['split']}, epoch {row['epoch']}{step}, {row['setting']}"

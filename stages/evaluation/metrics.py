"""The numbers of the evaluation scheme (paper Sec. 4), each computed from pooled counts of response rows.

A share whose denominator is empty is NaN: "no reflective response was right" and "there was no reflective response"
are different facts, and 0 would say the first.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from stages.config import Scores
from stages.evaluation.reflection import words_in
from stages.records import read

RUN = ["model", "dataset", "method", "seed"]
COUNTS = ["N", "Nref", "N+", "Nref+"]


def judged(folder: Path, verdicts: Path | None = None) -> pd.DataFrame:
    """The responses of a run with their verdicts, and whether they are correct.

    Args:
        folder: of the run.
        verdicts: folder of an evaluation's verdicts; a training's were given when it was rewarded.

    Raises:
        ValueError: the verdicts are not on these responses.
    """
    rows = read(folder / "responses.jsonl")
    if verdicts:
        said = read(verdicts / "verdicts.jsonl")
        same = len(said) == len(rows) and (said[["problem", "sample"]] == rows[["problem", "sample"]]).all(axis=None)
        if not same:
            raise ValueError(f"{verdicts}/verdicts.jsonl: not on the {len(rows)} responses of {folder}")
        rows = rows.assign(verdict=said["verdict"], judge=said["judge"])
    return rows.assign(correct=rows["verdict"] == "correct")


def accuracy(rows: pd.DataFrame, samples: Mapping[str, int]) -> pd.DataFrame:
    """Accuracy of one run's evaluation, by split, epoch and setting.

    Args:
        rows: judged responses.
        samples: responses to each problem, by setting.

    Returns:
        samples; problems; accuracy, the share of problems with a correct response (pass@samples); of the responses the
        shares mean_accuracy (correct), no_answer, timed_out (the judge's time) and truncated (cut off); length, their
        mean in tokens.

    Raises:
        ValueError: a problem has not as many responses as its setting says.
    """
    cell = ["split", "epoch", "setting"]
    problems = rows.groupby([*cell, "problem"], sort=False)["correct"].agg(["any", "size"]).reset_index()
    problems["samples"] = problems["setting"].map(samples)
    if not (wrong := problems[problems["size"] != problems["samples"]]).empty:
        first = wrong.iloc[0]
        raise ValueError(
            f"{rows['run'].iloc[0]}: epoch {first['epoch']}, {first['split']}, {first['setting']}: problem "
            f"{first['problem']} has {first['size']} responses, not {first['samples']}; was the evaluation interrupted?"
        )
    solved = problems.groupby(cell, sort=False).agg(
        samples=("samples", "first"), problems=("problem", "size"), accuracy=("any", "mean")
    )
    marks = {
        "mean_accuracy": rows["correct"],
        "no_answer": rows["verdict"] == "no answer",
        "timed_out": rows["verdict"] == "timed out",
        "truncated": ~rows["finished"],
    }
    responses = rows.assign(**marks).groupby(cell, sort=False)
    return solved.join(responses[[*marks, "length"]].mean()).reset_index()


def training(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of one run's training responses by epoch, over all batches of the epoch together."""
    found = rows.groupby("epoch")["correct"].agg(responses="size", correct="sum").reset_index()
    return found.assign(accuracy=ratio(found["correct"], found["responses"]))


def steps(rows: pd.DataFrame, settings: Scores) -> pd.DataFrame:
    """Counts, lengths, rewards and reflection ratios of one run by generation step.

    Returns:
        N, Nref, N+, Nref+ (responses: all, with a reflection word, correct, both); length, mean in tokens; shares that
        were truncated, had no_answer, or on which the judge timed_out; reward_*, means before they are weighted; the
        five ratios.
    """
    by = ["epoch", "generation_step"]
    found = words_in(rows["text"].tolist(), settings.reflection_words, settings.whole_words)
    reflective = np.any(list(found.values()), axis=0)
    correct = rows["correct"].to_numpy(dtype=bool)
    marks = pd.DataFrame({"N": 1, "Nref": reflective, "N+": correct, "Nref+": reflective & correct}, index=rows.index)
    counts = marks.astype(int).groupby([rows[key] for key in by]).sum()
    rewards = pd.DataFrame(rows["rewards"].tolist(), index=rows.index).add_prefix("reward_")
    marks_of_responses = {
        "truncated": ~rows["finished"],
        "no_answer": rows["verdict"] == "no answer",
        "timed_out": rows["verdict"] == "timed out",
    }
    means = rows.assign(**marks_of_responses)[["length", *marks_of_responses]].join(rewards)
    parts = [counts, means.groupby([rows[key] for key in by]).mean(), ratios(counts)]
    return pd.concat(parts, axis="columns").reset_index()


def words(rows: pd.DataFrame, settings: Scores) -> pd.DataFrame:
    """How many responses of each generation step have each reflection word."""
    found = words_in(rows["text"].tolist(), settings.reflection_words, settings.whole_words)
    counts = pd.DataFrame(found, index=rows.index).groupby(rows["generation_step"]).sum()
    return counts.reset_index().melt("generation_step", var_name="word", value_name="count")


def ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """The paper's five ratios from its four counts N, Nref, N+, Nref+."""
    n, ref, plus, both = (counts[name] for name in COUNTS)
    return pd.DataFrame(
        {
            "reflection_ratio": ratio(ref, n),
            "reflection_ratio_in_correct_answers": ratio(both, plus),
            "reflection_ratio_in_incorrect_answers": ratio(ref - both, n - plus),
            "correct_ratio_in_reflection_texts": ratio(both, ref),
            "correct_ratio_in_no_reflection_texts": ratio(plus - both, n - ref),
        }
    )


def ratio(part: pd.Series, whole: pd.Series) -> pd.Series:
    """Share of a whole, NaN where the whole is empty."""
    return part / whole.where(whole > 0)

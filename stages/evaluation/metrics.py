"""The numbers of the evaluation scheme (paper Sec. 4), each computed from pooled counts of response rows.

Every function takes the rows of one run (`stages.evaluation.rows`) and returns a tidy table. A share whose denominator
is empty is NaN: "no reflective response was right" and "there was no reflective response" are different facts, and 0
would say the first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from stages.evaluation.reflection import MATCHINGS, Matching
from stages.evaluation.rows import CELL

RUN = ["model", "dataset", "method", "seed"]
COUNTS = ["N", "Nref", "N+", "Nref+"]
EVALUATED = ["split", "epoch", "setting"]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def problems(rows: pd.DataFrame, types: Mapping[str, str] | None = None) -> pd.DataFrame:
    """What became of each evaluated problem.

    Args:
        rows: of a run.
        types: kind of problem by id.

    Returns:
        samples, responses to the problem; correct, how many of them are right; type, "" where it is not known.
    """
    evaluated = rows[rows["phase"] == "evaluate"]
    groups = evaluated.groupby([*EVALUATED, "problem"], sort=False)["correct"]
    found = groups.agg(samples="size", correct="sum").reset_index()
    kinds = found["problem"].map(dict(types or {})).fillna("")
    return found.assign(type=kinds)[[*EVALUATED, "problem", "type", "samples", "correct"]]


def accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of an evaluation, by split, epoch and setting.

    Returns:
        samples; problems; accuracy, the share of problems with a correct response (any of the samples); of the
        responses the shares mean_accuracy (correct), no_answer, timed_out (the judge's time) and truncated (cut off);
        length, their mean.
    """
    solved = problems(rows).assign(accuracy=lambda found: found["correct"] > 0).groupby(EVALUATED, sort=False)
    found = solved.agg(samples=("samples", "first"), problems=("problem", "size"), accuracy=("accuracy", "mean"))
    evaluated = rows[rows["phase"] == "evaluate"]
    responses = _marked(evaluated).groupby([evaluated[key] for key in EVALUATED], sort=False).mean()
    return found.join(responses.rename(columns={"correct": "mean_accuracy"})).reset_index()


def pass_at_k(rows: pd.DataFrame) -> pd.DataFrame:
    """Chance that one of k responses is right, for every k up to the number of responses n.

    Returns:
        pass_at_k, unbiased (Chen et al. 2021): the mean over problems of 1 - C(n - c, k) / C(n, k), c of n right;
        any_of_k, the share of problems that the first k samples solve.
    """
    evaluated = rows[rows["phase"] == "evaluate"].sort_values("sample", kind="stable")
    parts = []
    for cell, here in evaluated.groupby(EVALUATED, sort=False):
        correct = np.stack([values.to_numpy(dtype=bool) for _, values in here.groupby("problem")["correct"]])
        n, k = correct.shape[1], np.arange(correct.shape[1])
        # C(n - c, k) / C(n, k) as a product over the k draws: none of them takes one of the c.
        missed = np.clip(n - correct.sum(1, keepdims=True) - k, 0, None) / (n - k)
        table = {
            "samples": n,
            "k": k + 1,
            "pass_at_k": 1 - missed.cumprod(1).mean(0),
            "any_of_k": np.maximum.accumulate(correct, axis=1).mean(0),
        }
        parts.append(pd.DataFrame(dict(zip(EVALUATED, cell, strict=True)) | table))
    columns = [*EVALUATED, "samples", "k", "pass_at_k", "any_of_k"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def types(found: pd.DataFrame) -> pd.DataFrame:
    """Accuracy for each type of problem, from the table of `problems`."""
    solved = found.assign(accuracy=found["correct"] > 0).groupby([*EVALUATED, "type"], sort=False)
    return solved.agg(problems=("problem", "size"), accuracy=("accuracy", "mean")).reset_index()


def training(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the training responses by epoch, over all batches of the epoch together."""
    trained = rows[rows["phase"] == "train"]
    found = trained.groupby("epoch")["correct"].agg(responses="size", correct="sum").reset_index()
    return found.assign(accuracy=ratio(found["correct"], found["responses"]))


def responses(rows: pd.DataFrame) -> pd.DataFrame:
    """How many responses there are, how long, and what became of them, by generation step or evaluated epoch.

    Returns:
        responses; correct; length, its mean, quantiles (length_05 ...) and maximum; shares that were truncated, had
        no_answer, on which the judge timed_out; of training the means reward_*, before they are weighted, and
        rewarded_otherwise, the share that was rewarded by another verdict than it has now.
    """
    by = [rows[key] for key in CELL]
    groups = rows.groupby(CELL, sort=False)
    lengths = {f"length_{100 * q:02.0f}": groups["length"].quantile(q) for q in QUANTILES}
    counts = groups["correct"].agg(responses="size", correct="sum")
    marks = _marked(rows).drop(columns="correct")
    if "rewarded" in rows:
        otherwise = (rows["rewarded"].astype(bool) != rows["correct"]).astype(float)
        marks = marks.assign(rewarded_otherwise=otherwise.where(rows["phase"] == "train"))
    rewards = rows[[name for name in rows.columns if name.startswith("reward_")]]
    means = marks.join(rewards).groupby(by, sort=False).mean()
    spread = pd.DataFrame(lengths | {"length_max": groups["length"].max()})
    return counts.join(means[["length"]]).join(spread).join(means.drop(columns="length")).reset_index()


def reflection(rows: pd.DataFrame, found: Mapping[Matching, np.ndarray]) -> pd.DataFrame:
    """The paper's counts and ratios by generation step or evaluated epoch, for each way to match words.

    Args:
        rows: of a run.
        found: [rows, words] which responses have which words.

    Returns:
        N, Nref, N+, Nref+ (responses: all, with a reflection word, correct, both) and the five ratios.
    """
    correct = rows["correct"].to_numpy(dtype=bool)
    parts = []
    for matching in MATCHINGS:
        reflective = found[matching].any(axis=1)
        marks = pd.DataFrame({"N": 1, "Nref": reflective, "N+": correct, "Nref+": reflective & correct}).astype(int)
        counts = marks.groupby([rows[key].to_numpy() for key in CELL], sort=False).sum().rename_axis(CELL)
        parts.append(counts.join(ratios(counts)).reset_index().assign(matching=matching))
    table = pd.concat(parts, ignore_index=True)
    return table[[*CELL, "matching", *(name for name in table.columns if name not in (*CELL, "matching"))]]


def words(rows: pd.DataFrame, found: Mapping[Matching, np.ndarray], names: Sequence[str]) -> pd.DataFrame:
    """How many responses of each generation step or evaluated epoch have each word, for each way to match it."""
    parts = []
    for matching in MATCHINGS:
        marks = pd.DataFrame(found[matching].astype(int), columns=list(names))
        counts = marks.groupby([rows[key].to_numpy() for key in CELL], sort=False).sum().rename_axis(CELL)
        long = counts.reset_index().melt(CELL, var_name="word", value_name="count")
        parts.append(long.assign(matching=matching)[[*CELL, "matching", "word", "count"]])
    return pd.concat(parts, ignore_index=True)


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


def _marked(rows: pd.DataFrame) -> pd.DataFrame:
    """What is averaged over responses; NaN where nobody recorded it."""
    verdict = rows["verdict"]
    return pd.DataFrame(
        {
            "correct": rows["correct"].astype(float),
            "no_answer": (verdict == "no answer").astype(float).where(verdict.notna()),
            "timed_out": (verdict == "timed out").astype(float).where(verdict.notna()),
            "truncated": 1 - rows["finished"].astype(float),
            "length": rows["length"].astype(float),
        }
    )

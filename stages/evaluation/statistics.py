"""How sure the numbers are: curves, comparisons of methods and aggregates with intervals (docs/statistics.md).

Everything comes from the table of problems; a problem is solved if any of its samples is correct (the paper's Table 3).
Uncertainty has two sources. Other problems could have been asked, the same of all methods: problems are resampled, once
for all that was measured on them. And training could have gone otherwise: seeds differ.

Letters of shapes: B bootstrap samples, S seeds of a method, E epochs, P problems. An axis 1+B holds the sample itself
first and then its bootstrap samples, so that every statistic is written once for both.
"""

import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special, stats

from stages.config import Statistics

Array = NDArray[np.float64]
Pair = tuple[str, str]
Item = TypeVar("Item")

SMALLEST_P = 1e-12
ALL = "all"  # settings together, or models and data sets together
CELL = ["model", "dataset"]
PLANNED_PROBLEMS = (100, 200, 500, 1000)
PLANNED_SEEDS = (3, 5, 10)

ROW = [*CELL, "method", "over", "split", "setting", "epoch"]
COMPARED = ["difference", "low", "high", "p", "p_adjusted", "se", "df", "detectable"]
IMPROVED = ["probability_of_improvement", "poi_low", "poi_high"]
COLUMNS = {
    "curves": [
        *CELL,
        "method",
        "split",
        "setting",
        "epoch",
        "accuracy",
        "std",
        "low",
        "high",
        "seeds",
        "problems",
        "covers",
    ],
    "comparisons": [*ROW, *COMPARED, *IMPROVED, "seeds", "seeds_over", "problems", "covers"],
    "aggregates": ["method", "split", "setting", "epoch", "runs", "mean", "iqm", "iqm_low", "iqm_high", "covers"],
    "detectable": [*ROW, "problems", "seeds", "detectable"],
}

# --- resampling problems ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Accuracy of one run on one split under one setting.

    Attributes:
        epochs: [E] in their order.
        accuracy: [1+B, E].
    """

    epochs: NDArray[np.int64]
    accuracy: Array

    def at(self, epochs: NDArray[np.int64]) -> Array:
        """[1+B, len(epochs)] accuracy at some of the epochs."""
        return self.accuracy[:, np.searchsorted(self.epochs, epochs)]


@dataclass(frozen=True)
class Sample:
    """One model on one split of a data set: what every method made of the same problems.

    Attributes:
        problems: P.
        drawn: names the problems; equal for samples whose problems are the same and are drawn together.
        curves: by method, seed and setting.
    """

    model: str
    dataset: str
    split: str
    problems: int
    drawn: int
    curves: Mapping[str, Mapping[int, Mapping[str, Curve]]]

    def settings(self, *methods: str) -> list[str]:
        """Settings that every run of the methods has, in the table's order; none if a method was not run."""
        runs = [list(run) for method in methods for run in self.curves.get(method, {}).values()]
        if not all(method in self.curves for method in methods):
            return []
        return [setting for setting in runs[0] if all(setting in run for run in runs)]

    def of(self, method: str, names: Sequence[str]) -> list[Curve]:
        """A method's runs, each the mean over some settings."""
        return [_mean([run[name] for name in names]) for run in self.curves[method].values()]

    def is_trained(self, method: str) -> bool:
        """Whether another seed would be another model; the untrained model is evaluated at epoch 0 only."""
        return any((curve.epochs > 0).any() for run in self.curves[method].values() for curve in run.values())


def _mean(curves: Sequence[Curve]) -> Curve:
    epochs = reduce(np.intersect1d, [curve.epochs for curve in curves])
    return Curve(epochs, np.mean([curve.at(epochs) for curve in curves], axis=0))


def resample(problems: pd.DataFrame, settings: Statistics, methods: Collection[str] | None = None) -> list[Sample]:
    """The table of problems as accuracies, in the sample and in each bootstrap sample of its problems.

    Args:
        problems: of all evaluations.
        settings: of the bootstrap.
        methods: those that are needed; None for all.

    Raises:
        ValueError: two evaluations of a model on a split are not of the same problems.
    """
    # One sample after the other: the table of a large study should not be copied as a whole.
    places = problems.groupby([*CELL, "split"], sort=False, observed=True).indices
    found = []
    for sample, place in sorted(places.items(), key=lambda item: item[1][0]):
        rows = problems.iloc[place]
        rows = rows if methods is None else rows[rows["method"].isin(methods)]
        if len(rows):
            found.append(_sample(*cast(tuple[str, str, str], sample), rows, settings))
    return found


def _sample(model: str, dataset: str, split: str, rows: pd.DataFrame, settings: Statistics) -> Sample:
    problem, ids = pd.factorize(rows["problem"].astype(object), sort=True)
    keys = ["method", "seed", "setting", "epoch"]
    evaluation = rows.groupby(keys, sort=False, observed=True).ngroup().to_numpy()
    found = rows[keys].iloc[np.unique(evaluation, return_index=True)[1]].astype({"method": object, "setting": object})
    place = evaluation * len(ids) + problem
    times = np.bincount(place, minlength=len(found) * len(ids))
    if (wrong := np.flatnonzero(times != 1)).size:
        method, seed, setting, epoch = found.iloc[wrong[0] // len(ids)]
        raise ValueError(
            f"{model}/{dataset}/{method}/seed{seed}: {split}, epoch {epoch}, {setting}: has problem "
            f"{ids[wrong[0] % len(ids)]} {times[wrong[0]]} times; all runs of {model} on {dataset} must have the same "
            "problems, each once"
        )
    solved = np.empty((len(found), len(ids)))
    solved.flat[place] = rows["correct"].to_numpy() > 0
    drawn = zlib.crc32("\n".join([dataset, *map(str, ids)]).encode())
    counts = draws(len(ids), settings.replicates, np.random.default_rng([settings.seed, drawn]))
    accuracy = counts @ solved.T / len(ids)

    curves: dict[str, dict[int, dict[str, Curve]]] = {method: {} for method in found["method"].unique()}
    order = {name: number for number, name in enumerate(found["setting"].unique())}
    found = found.assign(place=np.arange(len(found)), order=found["setting"].map(order))
    for (method, seed, _), run in found.sort_values("epoch").groupby(["method", "seed", "order"]):
        curve = Curve(run["epoch"].to_numpy(dtype=np.int64), accuracy[:, run["place"]])
        curves[str(method)].setdefault(int(str(seed)), {})[run["setting"].iloc[0]] = curve
    return Sample(model, dataset, split, len(ids), drawn, curves)


def draws(problems: int, replicates: int, rng: np.random.Generator) -> Array:
    """[1+B, P] how often each problem is in the sample, once, and in its bootstrap samples, drawn with replacement."""
    drawn = rng.integers(problems, size=(replicates, problems)) + problems * np.arange(replicates)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=replicates * problems).reshape(replicates, problems)
    return np.concatenate([np.ones((1, problems)), counts])


# --- one number of a run ---------------------------------------------------------------------------------------------

# What is made of a run's curve: its curve, that of the same run on validation if there is one, and the epochs that both
# methods of a pair have; [1+B], or None if it cannot be.
Choice = Callable[[Curve, Curve | None, NDArray[np.int64]], Array | None]


def _trained(curve: Curve) -> Curve:
    """The evaluations after training began; of the untrained model the only one."""
    if not (after := curve.epochs > 0).any():
        return curve
    return Curve(curve.epochs[after], curve.accuracy[:, after])


def final(curve: Curve, validation: Curve | None, common: NDArray[np.int64]) -> Array:
    """Accuracy at the last epoch."""
    return curve.accuracy[:, -1]


def mean(curve: Curve, validation: Curve | None, common: NDArray[np.int64]) -> Array:
    """Accuracy, mean over the evaluated epochs."""
    return _trained(curve).accuracy.mean(axis=1)


def best(curve: Curve, validation: Curve | None, common: NDArray[np.int64]) -> Array:
    """Accuracy at the epoch that is best on validation, the first of equals.

    On validation itself the maximum is optimistic, and every bootstrap sample has its own.
    """
    curve = _trained(curve)
    if validation is None:
        return curve.accuracy.max(axis=1)
    epochs = np.intersect1d(curve.epochs, validation.epochs)
    if not epochs.size:
        return curve.accuracy.max(axis=1)
    return curve.at(epochs[[validation.at(epochs)[0].argmax()]])[:, 0]


def trend(curve: Curve, validation: Curve | None, common: NDArray[np.int64]) -> Array | None:
    """Growth of accuracy from the first common epoch to the last: least-squares slope times the epochs between them."""
    if len(common) < 2:
        return None
    x = common - common.mean()
    return curve.at(common) @ (x / (x @ x)) * (common[-1] - common[0])


EPOCHS: Mapping[str, Choice] = {"final": final, "mean": mean, "best": best}

# --- variance and interval -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Arm:
    """One method in a cell.

    Attributes:
        runs: [1+B, S] a statistic of each run.
        is_trained: whether another seed would be another model.
        problems: P.
    """

    runs: Array
    is_trained: bool
    problems: int

    @property
    def seeds(self) -> int:
        return self.runs.shape[1]

    @cached_property
    def mean(self) -> Array:
        """[1+B] over seeds."""
        return self.runs.mean(axis=1)

    @cached_property
    def seed_variance(self) -> float:
        """Of the mean over seeds, as the seeds' spread tells it: it contains the interaction too."""
        return float(self.runs[0].var(ddof=1)) / self.seeds if self.seeds > 1 else 0.0

    @cached_property
    def interaction(self) -> float:
        """Of the mean over seeds, the part through seeds that solve different problems, and through sampling."""
        if self.seeds == 1:
            return 0.0
        apart = self.runs[1:] - self.runs[1:].mean(axis=1, keepdims=True)
        return float(apart.var(axis=0, ddof=1).sum()) / (self.seeds - 1) / self.seeds * _unbiased(self.problems)


def _unbiased(problems: int) -> float:
    """A bootstrap variance is that of a population which is the sample: too small by this."""
    return problems / (problems - 1) if problems > 1 else 1.0


class Contrast(NamedTuple):
    """Two methods in one cell, on the same problems; without `over`, one method by itself."""

    drawn: int
    method: Arm
    over: Arm | None

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.method,) if self.over is None else (self.method, self.over)

    @property
    def replicates(self) -> Array:
        """[1+B]."""
        return self.method.mean if self.over is None else self.method.mean - self.over.mean


class Part(NamedTuple):
    """A component of a variance, and the degrees of freedom it is known with."""

    variance: float
    df: float


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: in accuracy.
        se: standard error.
        df: degrees of freedom; the interval is value ± t(df) se.
        tail: the components that p is from, where it is not from se and df.
    """

    value: float
    se: float
    df: float
    tail: tuple[Part, ...] = ()

    def interval(self, confidence: float, low: float = -np.inf, high: float = np.inf) -> tuple[float, float]:
        """Two-sided, clipped to what is possible."""
        half = float(special.stdtrit(self.df, (1 + confidence) / 2)) * self.se
        return max(self.value - half, low), min(self.value + half, high)

    def p(self, threshold: float = 0.0) -> float:
        """Two-sided, that the true value is the threshold."""
        away = abs(self.value - threshold)
        if self.tail:
            return tail_probability(away, self.tail)
        return float(2 * special.stdtr(self.df, -away / self.se)) if self.se > 0 else float(away == 0)

    def detectable(self, confidence: float, power: float) -> float:
        """The smallest true difference that is found with this power, from the noncentral t distribution."""
        critical = special.stdtrit(self.df, (1 + confidence) / 2)
        return float(special.nctdtrinc(self.df, 1 - power, critical)) * self.se


def half_width(p: float, parts: Sequence[Part]) -> float:
    """Of the interval with confidence 1 - p whose parts' squared half-widths add up (Howe 1974)."""
    return float(np.sqrt(sum(special.stdtrit(part.df, p / 2) ** 2 * part.variance for part in parts)))


def tail_probability(away: float, parts: Sequence[Part]) -> float:
    """The p whose interval just reaches as far away."""
    least, most = math.log(SMALLEST_P), math.log1p(-SMALLEST_P)
    if half_width(math.exp(most), parts) >= away:
        return 1.0
    if half_width(SMALLEST_P, parts) <= away:
        return SMALLEST_P
    return math.exp(optimize.brentq(lambda log_p: half_width(math.exp(log_p), parts) - away, least, most))


def welch(parts: Iterable[Part]) -> Part:
    """A sum of components of one kind (Satterthwaite 1946, Welch 1947)."""
    known = [part for part in parts if part.variance > 0]
    total = sum(part.variance for part in known)
    return Part(total, total**2 / sum(part.variance**2 / part.df for part in known)) if known else Part(0.0, np.inf)


def combined(value: float, parts: Iterable[Part], confidence: float) -> Estimate:
    """An estimate whose interval adds up the squares of the half-widths that its components would have alone.

    Howe (1974), Graybill and Wang (1980). Satterthwaite's degrees of freedom for all components together are too many
    where most of the variance is from two or three seeds: coverage falls to 91 % (docs/statistics.md). The degrees of
    freedom given are those of the t distribution that has this interval.
    """
    known = [part for part in parts if part.variance > 0]
    if not known:
        return Estimate(value, 0.0, np.inf)
    quantile = (1 + confidence) / 2
    se = float(np.sqrt(sum(part.variance for part in known)))
    half = float(np.sqrt(sum(special.stdtrit(part.df, quantile) ** 2 * part.variance for part in known)))
    few, many = min(part.df for part in known), max(part.df for part in known)
    df = few if few == many else float(np.clip(special.stdtridf(quantile, half / se), few, many))
    return Estimate(value, se, df)


def problem_parts(contrasts: Sequence[Contrast]) -> list[Part]:
    """Variance through the choice of problems, of the mean over contrasts; one part for all with the same problems.

    It is never taken for less than if one problem had come out otherwise for one seed: that nothing differed on these
    problems does not say that nothing would on others.
    """
    parts = []
    for drawn in dict.fromkeys(contrast.drawn for contrast in contrasts):
        same = [contrast for contrast in contrasts if contrast.drawn == drawn]
        problems = same[0].method.problems
        seeds = min(arm.seeds for contrast in same for arm in contrast.arms)
        replicates = np.sum([contrast.replicates[1:] for contrast in same], axis=0) / len(contrasts)
        least = 1 / (problems * len(contrasts)) ** 2 / seeds
        variance = float(replicates.var(ddof=1)) * _unbiased(problems)
        parts.append(Part(max(variance, least), max(problems - 1, 1)))
    return parts


def seed_part(contrasts: Sequence[Contrast]) -> tuple[Part, float]:
    """Variance as the spread over seeds tells it, of the mean over contrasts; and how much of that is interaction."""
    arms = [arm for contrast in contrasts for arm in contrast.arms if arm.is_trained and arm.seeds > 1]
    scale = len(contrasts) ** -2
    spread = welch(Part(scale * arm.seed_variance, arm.seeds - 1) for arm in arms)
    if arms and not spread.variance > 0:
        spread = Part(0.0, sum(arm.seeds - 1 for arm in arms))
    return spread, scale * sum(arm.interaction for arm in arms)


def once(through_problems: Part, through_seeds: Part, interaction: float) -> list[Part]:
    """The parts of a variance, with the interaction, which is in both, counted once.

    It is taken off the spread over seeds, of all of them together, so that cutting off at 0 adds less.
    """
    return [through_problems, Part(max(through_seeds.variance - interaction, 0.0), through_seeds.df)]


def with_seeds(through_problems: Part, through_seeds: Part, interaction: float) -> tuple[Part, ...]:
    """As `once`, but a quarter of the interaction stays with the seeds, whose part is then never 0.

    Few seeds that agree by chance do not say that seeds agree. Cut off at 0 their part leaves p as many degrees of
    freedom as there are problems, and p < 0.005 came two or three times too often (docs/statistics.md).
    """
    if through_seeds.df == math.inf:  # no seeds to differ
        return (through_problems,)
    share = interaction / 4
    seeds = max(through_seeds.variance - (interaction - share), share)
    parts = (Part(max(through_problems.variance - share, 0.0), through_problems.df), Part(seeds, through_seeds.df))
    return tuple(part for part in parts if part.variance > 0)


def estimate(contrasts: Sequence[Contrast], settings: Statistics) -> Estimate:
    """The mean over cells, which are fixed and count the same, over problems and seeds."""
    value = float(np.mean([contrast.replicates[0] for contrast in contrasts]))
    parts = welch(problem_parts(contrasts)), *seed_part(contrasts)
    return replace(combined(value, once(*parts), settings.confidence), tail=with_seeds(*parts))


def covers(contrasts: Sequence[Contrast]) -> str:
    """What an interval is about: one seed of a trained method says nothing about other seeds."""
    alone = any(arm.is_trained and arm.seeds == 1 for contrast in contrasts for arm in contrast.arms)
    return "problems" if alone else "seeds and problems"


def score_interval(share: Estimate, problems: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval for a share, with the number of problems that would have this standard error by themselves.

    Dean and Pagano (2015); it stays in [0, 1] and has a width at 0 and at 1.
    """
    p, t = share.value, float(special.stdtrit(share.df, (1 + confidence) / 2))
    n = p * (1 - p) / share.se**2 if share.se > 0 and 0 < p < 1 else problems
    center = (p + t**2 / (2 * n)) / (1 + t**2 / n)
    half = t / (1 + t**2 / n) * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    return max(float(center - half), 0.0), min(float(center + half), 1.0)


# --- hierarchical bootstrap percentiles ------------------------------------------------------------------------------


def reseeded(arm: Arm, rng: np.random.Generator) -> Array:
    """[1+B, S] with the seeds of every bootstrap sample drawn with replacement, in the order of their values."""
    values = arm.runs[:, np.argsort(arm.runs[0], kind="stable")]
    chosen = rng.integers(arm.seeds, size=values.shape)
    chosen[0] = np.arange(arm.seeds)
    return np.take_along_axis(values, chosen, axis=1)


def improvement(method: Array, over: Array) -> Array:
    """[1+B] probability that a run of `method` is better than one of `over`: Mann and Whitney's U over their pairs."""
    return (0.5 * (1 + np.sign(method[:, :, None] - over[:, None, :]))).mean(axis=(1, 2))


def percentiles(replicates: Array, confidence: float) -> tuple[float, float]:
    """Of a statistic's bootstrap samples [1+B]."""
    low, high = np.quantile(replicates[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# --- tables ----------------------------------------------------------------------------------------------------------


def curves(problems: pd.DataFrame, settings: Statistics) -> pd.DataFrame:
    """Accuracy by epoch: mean and standard deviation over seeds, interval over seeds and problems."""
    rows: list[list[Any]] = []
    for sample in resample(problems, settings):
        for method, runs in sample.curves.items():
            for setting in dict.fromkeys(name for run in runs.values() for name in run):
                of_method = [run[setting] for run in runs.values() if setting in run]
                for epoch in np.unique(np.concatenate([curve.epochs for curve in of_method])):
                    values = [curve.accuracy[:, curve.epochs == epoch] for curve in of_method if epoch in curve.epochs]
                    arm = Arm(np.concatenate(values, axis=1), sample.is_trained(method), sample.problems)
                    alone = [Contrast(sample.drawn, arm, None)]
                    found = estimate(alone, settings)
                    low, high = score_interval(found, sample.problems, settings.confidence)
                    std = float(arm.runs[0].std(ddof=1)) if arm.seeds > 1 else np.nan
                    where = [sample.model, sample.dataset, method, sample.split, setting, int(epoch)]
                    rows.append([*where, found.value, std, low, high, arm.seeds, sample.problems, covers(alone)])
    return pd.DataFrame(rows, columns=COLUMNS["curves"])


def comparisons(
    problems: pd.DataFrame, pairs: Sequence[Pair], settings: Statistics, threshold: float = 0.0
) -> pd.DataFrame:
    """Differences in accuracy between two methods, at the final, over the mean and at the best epoch.

    Args:
        problems: of all evaluations.
        pairs: (method, over).
        settings: of bootstrap and intervals.
        threshold: the difference that p is about.

    Returns:
        A row for every cell, and for all cells together if there are several; setting "all" is the mean over settings.
        p_adjusted is Holm's, over the rows with the same split, the same epoch and the same level of detail.
    """
    found = _compared(resample(problems, settings, _methods(pairs)), pairs, settings, EPOCHS, threshold)
    together = [found["model"] == ALL, found["setting"] == ALL]
    families = found.groupby(["split", "epoch", *(mask.rename(str(i)) for i, mask in enumerate(together))], sort=False)
    found["p_adjusted"] = families["p"].transform(holm)
    return found[COLUMNS["comparisons"]]


def trends(problems: pd.DataFrame, pairs: Sequence[Pair], settings: Statistics, threshold: float = 0.0) -> pd.DataFrame:
    """By how much the difference between two methods grows, a slope that may point beyond 1; rows as `comparisons`."""
    samples = resample(problems, settings, _methods(pairs))
    return _compared(samples, pairs, settings, {"trend": trend}, threshold, limit=np.inf)


def holm(p: pd.Series) -> pd.Series:
    """Step-down adjusted p (Holm 1979); what has no p is no member of the family."""
    ordered = p.dropna().sort_values(kind="stable")
    times = np.arange(len(ordered), 0, -1)  # the smallest has passed all of them, the largest only itself
    return (ordered * times).cummax().clip(upper=1).reindex(p.index)


def aggregates(problems: pd.DataFrame, settings: Statistics) -> pd.DataFrame:
    """Mean and interquartile mean over the runs of all cells, with an interval as Agarwal et al. (2021) report it."""
    samples = resample(problems, settings)
    rng = np.random.default_rng(settings.seed)
    rows: list[list[Any]] = []
    for split, method in _distinct((sample.split, method) for sample in samples for method in sample.curves):
        of_split = [sample for sample in samples if sample.split == split and method in sample.curves]
        for setting in [*_distinct(name for sample in of_split for name in sample.settings(method)), ALL]:
            for epoch, choice in EPOCHS.items():
                arms = [
                    arm
                    for sample in of_split
                    if (names := _named(setting, sample.settings(method)))
                    and (arm := _arm(samples, sample, method, names, choice, np.empty(0, dtype=np.int64)))
                ]
                if arms:
                    runs = np.concatenate([reseeded(arm, rng) for arm in arms], axis=1)
                    iqm = stats.trim_mean(runs, 0.25, axis=1)
                    where = [method, split, setting, epoch, runs.shape[1]]
                    covered = covers([Contrast(0, arm, None) for arm in arms])
                    rows.append([*where, runs[0].mean(), iqm[0], *percentiles(iqm, settings.confidence), covered])
    return pd.DataFrame(rows, columns=COLUMNS["aggregates"])


def detectable(problems: pd.DataFrame, pairs: Sequence[Pair], settings: Statistics) -> pd.DataFrame:
    """What a study with other numbers of problems and seeds could detect, if all varies as much as in this one.

    NaN where a trained method has one seed, which does not tell how much seeds vary.
    """
    rows: list[list[Any]] = []
    for where, [contrast] in _contrasts(resample(problems, settings, _methods(pairs)), pairs, EPOCHS):
        for planned in PLANNED_PROBLEMS:
            for seeds in PLANNED_SEEDS:
                study = _planned(contrast, planned, seeds, settings.confidence)
                least = study.detectable(settings.confidence, settings.power) if study else np.nan
                rows.append([*where, planned, seeds, least])
    return pd.DataFrame(rows, columns=COLUMNS["detectable"])


def _planned(contrast: Contrast, problems: int, seeds: int, confidence: float) -> Estimate | None:
    """A study of so many problems and seeds, from the components of variance of one problem and one seed."""
    if covers([contrast]) == "problems":
        return None
    [part] = problem_parts([contrast])
    trained = [arm for arm in contrast.arms if arm.is_trained]
    paired = max(part.variance - sum(arm.interaction for arm in contrast.arms), 0.0)
    interaction = sum(arm.interaction * (arm.seeds / seeds if arm.is_trained else 1.0) for arm in contrast.arms)
    between = max(sum((arm.seed_variance - arm.interaction) * arm.seeds for arm in trained), 0.0)
    through_problems = Part((paired + interaction) * contrast.method.problems / problems, problems - 1)
    return combined(0.0, [through_problems, Part(between / seeds, len(trained) * (seeds - 1))], confidence)


# --- who is compared with whom ---------------------------------------------------------------------------------------


def _methods(pairs: Sequence[Pair]) -> set[str]:
    return {method for pair in pairs for method in pair}


def _distinct(found: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(found))


def _named(setting: str, available: Sequence[str]) -> list[str]:
    """The settings that a row is about."""
    return list(available) if setting == ALL else [setting] if setting in available else []


def _validation(samples: Sequence[Sample], sample: Sample) -> Sample | None:
    """Where the epoch is chosen for a test; None on validation itself."""
    if sample.split == "validation":
        return None
    same = (s for s in samples if (s.model, s.dataset, s.split) == (sample.model, sample.dataset, "validation"))
    return next(same, None)


def _arm(
    samples: Sequence[Sample],
    sample: Sample,
    method: str,
    names: Sequence[str],
    choice: Choice,
    common: NDArray[np.int64],
) -> Arm | None:
    chosen_on = _validation(samples, sample)
    values = []
    for seed, run in sample.curves[method].items():
        validated = chosen_on.curves.get(method, {}).get(seed, {}) if chosen_on else {}
        validation = _mean([validated[name] for name in names]) if all(name in validated for name in names) else None
        values.append(choice(_mean([run[name] for name in names]), validation, common))
    known = [value for value in values if value is not None]
    return Arm(np.stack(known, axis=1), sample.is_trained(method), sample.problems) if known else None


def _common_epochs(sample: Sample, pair: Pair, names: Sequence[str]) -> NDArray[np.int64]:
    curves = [curve for method in pair for curve in sample.of(method, names)]
    common: NDArray[np.int64] = reduce(np.intersect1d, [curve.epochs for curve in curves])
    return common[common > 0]


def _contrasts(
    samples: Sequence[Sample], pairs: Sequence[Pair], choices: Mapping[str, Choice]
) -> Iterator[tuple[list[str], list[Contrast]]]:
    """Every row's model, dataset, method, over, split, setting and epoch, and its contrast."""
    for sample in samples:
        for method, over in pairs:
            settings = sample.settings(method, over)
            for setting in [*settings, ALL] if settings else []:
                names = _named(setting, settings)
                common = _common_epochs(sample, (method, over), names)
                for epoch, choice in choices.items():
                    arms = [_arm(samples, sample, name, names, choice, common) for name in (method, over)]
                    if arms[0] and arms[1]:
                        where = [sample.model, sample.dataset, method, over, sample.split, setting, epoch]
                        yield where, [Contrast(sample.drawn, arms[0], arms[1])]


def _compared(
    samples: Sequence[Sample],
    pairs: Sequence[Pair],
    settings: Statistics,
    choices: Mapping[str, Choice],
    threshold: float,
    limit: float = 1.0,
) -> pd.DataFrame:
    cells = list(_contrasts(samples, pairs, choices))
    together: dict[tuple[str, ...], list[Contrast]] = {}
    for where, contrast in cells:
        together.setdefault(tuple(where[2:]), []).extend(contrast)
    pooled = [([ALL, ALL, *where], contrasts) for where, contrasts in together.items() if len(contrasts) > 1]
    rng = np.random.default_rng(settings.seed)
    rows = []
    for where, contrasts in [*cells, *pooled]:
        found = estimate(contrasts, settings)
        low, high = found.interval(settings.confidence, -limit, limit)
        better = np.mean([improvement(*(reseeded(arm, rng) for arm in c.arms)) for c in contrasts], axis=0)
        poi_low, poi_high = percentiles(better, settings.confidence)
        drawn = {contrast.drawn: contrast.method.problems for contrast in contrasts}
        rows.append(
            dict(zip(ROW, where, strict=True))
            | {
                "difference": found.value,
                "low": low,
                "high": high,
                "p": found.p(threshold),
                "se": found.se,
                "df": found.df,
            }
            | {"detectable": found.detectable(settings.confidence, settings.power)}
            | {"probability_of_improvement": better[0], "poi_low": poi_low, "poi_high": poi_high}
            | {"seeds": min(c.method.seeds for c in contrasts), "seeds_over": min(c.arms[1].seeds for c in contrasts)}
            | {"problems": sum(drawn.values()), "covers": covers(contrasts)}
        )
    return pd.DataFrame(rows, columns=[c for c in COLUMNS["comparisons"] if c != "p_adjusted"])

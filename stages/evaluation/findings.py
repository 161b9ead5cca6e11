"""The declared hypotheses of `config/scores.yaml`, each with its effect, interval and verdict (docs/statistics.md).

A hypothesis is tested on all cells (model and data set) together, which count the same, for the study's first methods
of the kinds it names; every cell and every other pair of methods stands beside it as a detail. Runs are the unit: a
finding is about the method, not about the one model that a seed happened to give.

Letters of shapes: S seeds, T generation steps.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from tabulate import tabulate

from stages.config import DifferenceTest, Hypotheses, Scores, TrendTest
from stages.evaluation.statistics import ALL, CELL, Estimate, Part, combined, comparisons, holm, trends, welch

Array = NDArray[np.float64]
Finding = dict[str, Any]

EACH = "each"
STEP = [*CELL, "method", "seed", "epoch", "generation_step"]
UNITS = {
    "difference": "accuracy",
    "trend": "accuracy",
    "seed_variance": "ratio",
    "correlation": "correlation",
    "reflection_share": "share",
    "gain_without_reflection": "accuracy",
}
FEWEST_STEPS = 5  # of which an autocorrelation is estimated at all
NO_GAIN = "training accuracy did not rise, so there is no gain to tell the source of"
ONE_SEED = "a trained method has one seed: the interval is about one model and not about the method"


@dataclass(frozen=True)
class Effect:
    """An effect in one cell, or in all of them together.

    Attributes:
        value, low, high: in the unit of its test; NaN if there is nothing to test.
        p: two-sided, that the true effect is the threshold.
        seeds: the fewest that a trained method has in a cell.
        problems: in all cells; None where responses are counted.
        cells: how many it is the mean of.
        undecided: why there is no verdict whatever p is; "" if there may be one.
        more: what else a detail shows.
    """

    model: str
    dataset: str
    method: str
    over: str
    setting: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    seeds: int = 0
    problems: int | None = None
    cells: int = 1
    undecided: str = ""
    more: Mapping[str, float] = field(default_factory=dict)


class Study(NamedTuple):
    """What the tests read: the score tables, the scheme, and the kind of every method."""

    tables: Mapping[str, pd.DataFrame]
    scores: Scores
    methods: Mapping[str, str]

    def of_kind(self, kind: str) -> list[str]:
        return [method for method, its in self.methods.items() if its == kind]


# --- accuracy on problems --------------------------------------------------------------------------------------------


def difference(test: DifferenceTest, study: Study) -> list[Effect]:
    """Rows of the table of comparisons."""
    problems = study.tables["problems"]
    # The best epoch is chosen on validation, whatever split is asked for.
    splits = [test.split, "validation"] if test.epoch == "best" else [test.split]
    problems = problems[problems["split"].isin(splits)]
    found = comparisons(problems, _pairs(test, study), study.scores.statistics, test.threshold)
    found = found[(found["split"] == test.split) & (found["epoch"] == test.epoch)]
    together = found["setting"] == ALL
    return _compared(found[together if test.settings == "together" else ~together])


def trend(test: TrendTest, study: Study) -> list[Effect]:
    """Growth of the difference, mean over settings."""
    problems = study.tables["problems"]
    problems = problems[problems["split"] == test.split]
    found = trends(problems, _pairs(test, study), study.scores.statistics, test.threshold)
    return _compared(found[found["setting"] == ALL])


def _pairs(test: DifferenceTest | TrendTest, study: Study) -> list[tuple[str, str]]:
    return list(product(study.of_kind(test.method), study.of_kind(test.over)))


def _compared(found: pd.DataFrame) -> list[Effect]:
    row_of = ["method", "over", "setting"]
    cells = found[found["model"] != ALL].groupby(row_of).size().to_dict()
    return [
        Effect(
            model=row["model"],
            dataset=row["dataset"],
            method=row["method"],
            over=row["over"],
            setting=row["setting"],
            value=row["difference"],
            low=row["low"],
            high=row["high"],
            p=row["p"],
            seeds=row["seeds"],
            problems=row["problems"],
            cells=cells[tuple(row[key] for key in row_of)] if row["model"] == ALL else 1,
            undecided=ONE_SEED if row["covers"] == "problems" else "",
        )
        for row in found.to_dict("records")
    ]


# --- training responses ----------------------------------------------------------------------------------------------


def steps(study: Study, method: str) -> dict[tuple[str, str], dict[int, pd.DataFrame]]:
    """Counts, reflection ratio and mean length of a method's runs by generation step, by cell and seed."""
    matching = "word" if study.scores.whole_words else "substring"
    reflection, responses = study.tables["reflection"], study.tables["responses"]
    counted = reflection[(reflection["phase"] == "train") & (reflection["matching"] == matching)]
    length = responses[responses["phase"] == "train"][[*STEP, "length"]]
    rows = counted[counted["method"] == method].merge(length, on=STEP, validate="one_to_one")
    found: dict[tuple[str, str], dict[int, pd.DataFrame]] = {}
    for model, dataset in rows[CELL].drop_duplicates().itertuples(index=False, name=None):
        cell = rows[(rows["model"] == model) & (rows["dataset"] == dataset)].sort_values("generation_step")
        found[model, dataset] = {int(seed): cell[cell["seed"] == seed] for seed in sorted(cell["seed"].unique())}
    return found


def lag_one(series: Array) -> float:
    """Autocorrelation from one step to the next, of series [S, T] that have one in common.

    Less what an estimate from T steps is too small by, -(1 + 4 φ) / T (Marriott and Pope 1954, Kendall 1954); no series
    is taken to alternate.
    """
    steps = series.shape[1]
    apart = series - series.mean(axis=1, keepdims=True)
    found = float((apart[:, 1:] * apart[:, :-1]).sum() / (apart**2).sum())
    return min(max((steps * found + 1) / (steps - 4), 0.0), 0.99)


# --- response length and seeds ---------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """How response length varies in one cell.

    Attributes:
        ratio: variance of the seeds' means over that within a seed, from step to step.
        share: 1 / effective number of steps: what the ratio would be if seeds did not differ.
        between, within: degrees of freedom.
    """

    ratio: float
    share: float
    between: float
    within: float


def length_spread(lengths: Array) -> Spread:
    """Of mean lengths [S, T], after the mean over seeds at each step, which all follow, is taken off."""
    seeds, count = lengths.shape
    apart = lengths - lengths.mean(axis=0)
    level = apart.mean(axis=1)
    rest = apart - level[:, None]
    phi, lag = lag_one(rest), np.arange(1, count)
    # One independent step and a half is the least: with one there would be no variation within a seed.
    effective = max(count / (1 + 2 * float(((1 - lag / count) * phi**lag).sum())), 1.5)
    within = (rest**2).sum() / ((seeds - 1) * count * (1 - 1 / effective))
    between = (level**2).sum() / (seeds - 1)
    return Spread(float(between / within), 1 / effective, seeds - 1, (seeds - 1) * (effective - 1))


def component(spreads: Sequence[Spread], threshold: float, confidence: float) -> tuple[float, float, float, float]:
    """Variance component of seeds as a multiple of that within a seed, mean over cells; its interval; p of a threshold.

    The ratio of mean squares follows (1 + component / share) F (Searle, Casella and McCulloch 1992, Sec. 3.6); in
    several cells together, if these are alike.
    """
    ratio, share = (float(np.mean([spread[i] for spread in spreads])) for i in (0, 1))
    law = stats.f(sum(spread.between for spread in spreads), sum(spread.within for spread in spreads))
    few, many = law.ppf((1 - confidence) / 2), law.ppf((1 + confidence) / 2)
    low, high = (max(ratio / bound - share, 0.0) for bound in (many, few))
    at_threshold = ratio / (share + threshold)
    return max(ratio - share, 0.0), low, high, float(2 * min(law.cdf(at_threshold), law.sf(at_threshold)))


def seed_variance(test: Hypotheses, study: Study) -> list[Effect]:
    """Variance of length between seeds, over that from step to step."""
    confidence = study.scores.statistics.confidence
    effects = []
    for method in study.of_kind("rl"):
        spreads: list[tuple[Spread, int]] = []
        for cell, runs in steps(study, method).items():
            lengths = pd.concat([run.set_index("generation_step")["length"] for run in runs.values()], axis=1).dropna()
            where = Effect(*cell, method, "", "", seeds=len(runs))
            if reason := _no_spread(lengths.to_numpy().T):
                effects.append(replace(where, undecided=reason))
                continue
            spread = length_spread(lengths.to_numpy().T)
            spreads.append((spread, len(runs)))
            value, low, high, p = component([spread], test.threshold, confidence)
            more = {"effective_steps": 1 / spread.share, "steps": len(lengths)}
            effects.append(replace(where, value=value, low=low, high=high, p=p, more=more))
        if len(spreads) > 1:
            values = component([spread for spread, _ in spreads], test.threshold, confidence)
            seeds = min(number for _, number in spreads)
            effects.append(Effect(ALL, ALL, method, "", "", *values, seeds=seeds, cells=len(spreads)))
    return effects


def _no_spread(lengths: Array) -> str:
    if lengths.shape[0] < 2:
        return "one seed does not tell how seeds differ"
    if lengths.shape[1] < FEWEST_STEPS:
        return f"{lengths.shape[1]} generation steps, of at least {FEWEST_STEPS}"
    apart = lengths - lengths.mean(axis=0)
    return "" if np.ptp(apart, axis=1).max() > 0 else "response length does not vary from step to step"


# --- one number of each run ------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """A number of one run.

    Attributes:
        value: on the scale that it is averaged on.
        variance: through this run's own responses or steps, which would remain if all runs were alike.
        missing: why there is no value.
        more: what else a detail shows, mean over runs.
    """

    value: float
    variance: float = math.nan
    missing: str = ""
    more: Mapping[str, float] = {}


def correlation(run: pd.DataFrame) -> Measured:
    """Fisher's z of a run's reflection ratios and mean lengths, with the variance that autocorrelation leaves it.

    The number of independent steps is Bartlett's, T (1 - ab) / (1 + ab), for lag-one autocorrelations a and b (Bartlett
    1935; Pyper and Peterman 1998).
    """
    x, y = (run[column].to_numpy(dtype=np.float64) for column in ("reflection_ratio", "length"))
    if len(run) < FEWEST_STEPS:
        return Measured(math.nan, missing=f"{len(run)} generation steps, of at least {FEWEST_STEPS}")
    for name, series in (("the reflection ratio", x), ("response length", y)):
        if not np.ptp(series) > 0:
            return Measured(math.nan, missing=f"{name} does not change in a run")
    product = lag_one(x[None]) * lag_one(y[None])
    effective = max(len(run) * (1 - product) / (1 + product), 4.0)
    return Measured(
        _fisher(x, y),
        1 / (effective - 3),
        more={"first_differences": math.tanh(_fisher(np.diff(x), np.diff(y))), "effective_steps": effective},
    )


def _fisher(x: Array, y: Array) -> float:
    if not (np.ptp(x) > 0 and np.ptp(y) > 0):
        return math.nan
    r = float(np.corrcoef(x, y)[0, 1])
    return math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))


def reflection_share(run: pd.DataFrame) -> Measured:
    """Share of a run's training responses with a reflection word."""
    responses, reflective = float(run["N"].sum()), float(run["Nref"].sum())
    likely = (reflective + 0.5) / (responses + 1)  # of which there is a variance even if none or all reflect
    return Measured(reflective / responses, likely * (1 - likely) / responses)


def gain_without_reflection(run: pd.DataFrame) -> Measured:
    """Rise of the share of right answers without a reflection word, minus that with one, from first epoch to last."""
    counts = run.groupby("epoch")[["N", "N+", "Nref+"]].sum()
    if len(counts) < 2:
        return Measured(math.nan, missing="one epoch of training")
    responses, correct = counts["N"], counts["N+"]
    gain = (correct / responses).iloc[[0, -1]].diff().iloc[-1]
    value = (correct - 2 * counts["Nref+"]) / responses  # a response counts 1, -1 with reflection, 0 if it is wrong
    variance = ((correct + 0.5) / (responses + 1) - value**2).clip(lower=0) / responses
    difference, own = float(value.iloc[-1] - value.iloc[0]), float(variance.iloc[0] + variance.iloc[-1])
    return Measured(difference, own, more={"gain": float(gain)})


def mean_over_runs(cells: Sequence[Sequence[Measured]], confidence: float) -> Estimate:
    """Mean over cells of the mean over runs, by the spread over runs, which contains each run's own variance.

    Runs that agree by chance leave at least that; p then has no more degrees of freedom than there are runs.
    """
    value = float(np.mean([np.mean([run.value for run in runs]) for runs in cells]))
    scale = len(cells) ** -2
    own = scale * sum(float(np.mean([run.variance for run in runs])) / len(runs) for runs in cells)
    several = [np.array([run.value for run in runs]) for runs in cells if len(runs) > 1]
    spread = welch(Part(scale * float(values.var(ddof=1)) / len(values), len(values) - 1) for values in several)
    found = combined(value, [spread if spread.variance > own else Part(own, math.inf)], confidence)
    return replace(found, tail=(Part(max(spread.variance, own), spread.df),))


def over_runs(
    measure: Callable[[pd.DataFrame], Measured],
    scale: Callable[[float], float] = float,
    back: Callable[[float], float] = float,
) -> Callable[[Hypotheses, Study], list[Effect]]:
    """The test of a number of each run, averaged on the scale that `back` leads back from."""

    def test_runs(test: Hypotheses, study: Study) -> list[Effect]:
        confidence = study.scores.statistics.confidence

        def effect(where: Effect, cells: Sequence[Sequence[Measured]]) -> Effect:
            found = mean_over_runs(cells, confidence)
            low, high = map(back, found.interval(confidence))
            seeds = min(map(len, cells))
            names = dict.fromkeys(name for runs in cells for run in runs for name in run.more)
            more = {name: float(np.mean([run.more[name] for runs in cells for run in runs])) for name in names}
            p = found.p(scale(test.threshold))
            undecided = ONE_SEED if seeds == 1 else NO_GAIN if more.get("gain", 1.0) <= 0 else ""
            known = replace(where, seeds=seeds, cells=len(cells), undecided=undecided, more=more)
            return replace(known, value=back(found.value), low=low, high=high, p=p)

        effects = []
        for method in study.of_kind("rl"):
            known = []
            for cell, runs in steps(study, method).items():
                measured = [measure(run) for run in runs.values()]
                usable = [run for run in measured if not run.missing]
                where = Effect(*cell, method, "", "", seeds=len(usable))
                if usable:
                    known.append(usable)
                effects.append(effect(where, [usable]) if usable else replace(where, undecided=measured[0].missing))
            if len(known) > 1:
                effects.append(effect(Effect(ALL, ALL, method, "", ""), known))
        return effects

    return test_runs


TESTS: Mapping[str, Callable[[Any, Study], list[Effect]]] = {
    "difference": difference,
    "trend": trend,
    "seed_variance": seed_variance,
    "correlation": over_runs(correlation, math.atanh, math.tanh),
    "reflection_share": over_runs(reflection_share),
    "gain_without_reflection": over_runs(gain_without_reflection),
}

# --- verdicts --------------------------------------------------------------------------------------------------------


def findings(tables: Mapping[str, pd.DataFrame], scores: Scores, methods: Mapping[str, str]) -> list[Finding]:
    """One entry for each declared hypothesis, in their order, ready for JSON.

    Args:
        tables: problems, responses and reflection of the score tables.
        scores: the scheme, which declares the hypotheses.
        methods: kind (vanilla, sft, rl) by name, in the study's order.

    Returns:
        id, claim, source, test; effect with its interval low to high, in its unit; p, and p_adjusted by Holm over all
        findings that can be decided; direction and threshold; verdict and why; seeds, problems; details.
    """
    study = Study(tables, scores, methods)
    effects = {name: TESTS[test.test](test, study) for name, test in scores.findings.items()}
    headlines = {name: _headline(test, study, effects[name]) for name, test in scores.findings.items()}
    adjusted = holm(pd.Series({name: math.nan if e.undecided else e.p for name, e in headlines.items()}, dtype=float))
    family = int(adjusted.notna().sum())
    return [
        _finding(name, test, headlines[name], effects[name], float(adjusted[name]), family, scores)
        for name, test in scores.findings.items()
    ]


def verdict(effect: Effect, p: float, test: Hypotheses, confidence: float) -> str:
    """Supported or contradicted if p is small enough, by the side of the threshold that the effect is on."""
    if effect.undecided or math.isnan(p) or not p < 1 - confidence:
        return "undecided"
    return "supported" if (effect.value > test.threshold) == (test.direction == "above") else "contradicted"


def agreeing(effects: Sequence[Effect], test: Hypotheses) -> Effect:
    """Several settings as one effect, for a claim about every one of them.

    It is supported as surely as its least sure setting (an intersection-union test, Berger 1982: the largest p), and
    contradicted by a single setting (the smallest p on the wrong side, by Bonferroni times their number). The effect
    and interval are those of the setting that decides.
    """
    sign = 1 if test.direction == "above" else -1
    wrong = [effect for effect in effects if not sign * (effect.value - test.threshold) > 0]
    if wrong:
        worst = min(wrong, key=lambda effect: effect.p)
        shown = replace(worst, p=min(1.0, len(effects) * worst.p))
    else:
        shown = max(effects, key=lambda effect: effect.p)
    undecided = next((effect.undecided for effect in effects if effect.undecided), "")
    return replace(shown, undecided=undecided, more={effect.setting: effect.value for effect in effects})


def _headline(test: Hypotheses, study: Study, effects: Sequence[Effect]) -> Effect:
    """All cells together, for the first method of each kind."""
    kinds = [test.method, test.over] if isinstance(test, DifferenceTest | TrendTest) else ["rl"]
    names = [study.of_kind(kind)[:1] for kind in kinds]
    method, over, *_ = [*(name[0] if name else "" for name in names), ""]
    nothing = Effect(ALL, ALL, method, over, "", cells=0)
    if lacking := [kind for kind, name in zip(kinds, names, strict=True) if not name]:
        return replace(nothing, undecided=f"the study has no method of kind {lacking[0]}")
    of_pair = [effect for effect in effects if (effect.method, effect.over) == (method, over)]
    found = [effect for effect in of_pair if effect.model == ALL] or of_pair
    if isinstance(test, DifferenceTest) and test.settings == EACH and found:
        missing = {e.setting for e in of_pair} - {e.setting for e in found}
        return agreeing([*found, *(e for e in of_pair if e.setting in missing)], test)
    if known := [effect for effect in found if not math.isnan(effect.value)]:
        return known[0]
    return replace(found[0], cells=0) if found else replace(nothing, undecided=_nothing(test, method, over))


def _nothing(test: Hypotheses, method: str, over: str) -> str:
    if isinstance(test, TrendTest):
        return f"no cell has two epochs on {test.split} that {method} and {over} share"
    if isinstance(test, DifferenceTest):
        return f"no cell has both {method} and {over} on {test.split}"
    return f"there are no training responses of {method}"


def _finding(
    name: str, test: Hypotheses, effect: Effect, effects: Iterable[Effect], adjusted: float, family: int, scores: Scores
) -> Finding:
    confidence = scores.statistics.confidence
    said = verdict(effect, adjusted, test, confidence)
    return _plain(
        {
            "id": name,
            "claim": test.claim,
            "source": test.source,
            "test": test.test,
            "effect": effect.value,
            "unit": UNITS[test.test],
            "low": effect.low,
            "high": effect.high,
            "p": effect.p,
            "p_adjusted": adjusted,
            "direction": test.direction,
            "threshold": test.threshold,
            "verdict": said,
            "why": _why(test, effect, adjusted, family, confidence),
            "seeds": effect.seeds,
            "problems": effect.problems,
            "details": [_detail(test, detail, confidence) for detail in effects],
        }
    )


def _detail(test: Hypotheses, effect: Effect, confidence: float) -> Finding:
    return {
        "model": effect.model,
        "dataset": effect.dataset,
        "method": effect.method,
        "over": effect.over,
        "setting": effect.setting,
        "effect": effect.value,
        "low": effect.low,
        "high": effect.high,
        "p": effect.p,
        "verdict": verdict(effect, effect.p, test, confidence),
        "undecided": effect.undecided,
        **effect.more,
    }


def _why(test: Hypotheses, effect: Effect, adjusted: float, family: int, confidence: float) -> str:
    """The numbers that the verdict is from, in one sentence."""
    if math.isnan(effect.value):
        return f"Nothing to test: {effect.undecided}."
    unit = UNITS[test.test]
    who = f"{effect.method} over {effect.over}" if effect.over else effect.method
    if effect.setting not in ("", ALL):
        who += f" at {effect.setting}"
    side = "above" if effect.value > test.threshold else "below" if effect.value < test.threshold else "at"
    text = (
        f"{who}: {printed(effect.value, unit)} ({confidence:.0%} interval "
        f"{between(effect.low, effect.high, unit)}), {side} {printed(test.threshold, unit)}; "
        f"{_number(effect.seeds, 'seed')}"
    )
    text += f", {effect.problems} problems" if effect.problems is not None else ""
    text += f", {_number(effect.cells, 'cell')}; p = {effect.p:.2g}"
    text += f", {adjusted:.2g} after Holm's correction for {_number(family, 'finding')}" if adjusted == adjusted else ""
    if isinstance(test, DifferenceTest) and test.settings == EACH:
        text += "; " + ", ".join(f"{setting} {printed(value, unit)}" for setting, value in effect.more.items())
    if "first_differences" in effect.more:
        text += f"; of changes from step to step, which no common trend makes: {effect.more['first_differences']:.2f}"
    return text + (f"; undecided, since {effect.undecided}." if effect.undecided else ".")


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")


def _plain(value: Any) -> Any:
    """What JSON can say: NaN and infinity are null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


# --- for people ------------------------------------------------------------------------------------------------------


def printed(value: float | None, unit: str) -> str:
    """Differences in accuracy in points, shares in percent, ratios and correlations as they are."""
    if value is None:
        return "–"
    return {"accuracy": f"{100 * value:.1f} points", "share": f"{100 * value:.1f} %"}.get(unit, f"{value:.2f}")


def between(low: float, high: float, unit: str) -> str:
    """An interval; its unit stands once."""
    first, last = printed(low, unit), printed(high, unit)
    return f"{first.split(' ')[0]} to {last}"


def markdown(found: Sequence[Finding]) -> str:
    """The findings as a table, and below it why each has its verdict."""
    rows = [
        [
            entry["id"],
            entry["claim"],
            f"**{entry['verdict']}**",
            printed(entry["effect"], entry["unit"]),
            "–" if entry["low"] is None else between(entry["low"], entry["high"], entry["unit"]),
            f"{entry['direction']} {printed(entry['threshold'], entry['unit'])}",
            "–" if entry["p_adjusted"] is None else f"{entry['p_adjusted']:.2g}",
        ]
        for entry in found
    ]
    headings = ["", "Claim", "Verdict", "Effect", "Interval", "Claimed", "p"]
    align = ["left"] * 3 + ["right"] * 4
    table = tabulate(rows, headings, "pipe", colalign=align if rows else None, disable_numparse=True)
    return "\n".join([table, "", *(f"- {entry['id']}: {entry['why']}" for entry in found)]) + "\n"

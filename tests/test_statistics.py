"""Intervals whose truth is known: by hand, from the analysis of variance, and from simulated studies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.coverage import VARIATION, Truth, covered, studies
from stages.config import Statistics
from stages.evaluation import statistics
from stages.evaluation.statistics import Arm, Contrast, Estimate, Part, combined, estimate, improvement, welch

SETTINGS = Statistics(confidence=0.95, power=0.8, replicates=400, seed=0)
EXACT = Statistics(confidence=0.95, power=0.8, replicates=20000, seed=0)
PAIR = [("rl", "sft")]


def table(answers: Mapping[tuple[str, int, int], Sequence[int]], **same: Any) -> pd.DataFrame:
    """Problems a, b, ... and how often they were solved by (method, seed, epoch)."""
    where = {"model": "tiny", "dataset": "text", "split": "test", "setting": "pass@1", "samples": 1, **same}
    rows = [
        where | {"method": method, "seed": seed, "epoch": epoch, "problem": f"{i:03}", "correct": int(correct)}
        for (method, seed, epoch), solved in answers.items()
        for i, correct in enumerate(solved)
    ]
    return pd.DataFrame(rows)


def drawn(
    seeds: int = 3, problems: int = 60, epochs: Sequence[int] = (2, 4), seed: int = 0, **same: Any
) -> pd.DataFrame:
    """A study of chance: vanilla once, sft and rl with some seeds."""
    rng = np.random.default_rng(seed)
    difficulty = rng.random(problems)
    runs = [("vanilla", 0, 0)]
    runs += [(method, s, epoch) for method in ("sft", "rl") for s in range(seeds) for epoch in epochs]
    return table({run: rng.random(problems) < difficulty for run in runs}, **same)


def only(found: pd.DataFrame, **where: Any) -> pd.Series:
    for column, value in where.items():
        found = found[found[column] == value]
    assert len(found) == 1
    return found.iloc[0]


def solved(rows: pd.DataFrame, method: str, epoch: int) -> np.ndarray:
    """[S, P]."""
    chosen = rows[(rows["method"] == method) & (rows["epoch"] == epoch)]
    return chosen.pivot_table(index="seed", columns="problem", values="correct").to_numpy() > 0


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_and_spread_over_seeds():
    found = statistics.curves(table({("rl", 0, 2): [1, 0, 1, 0], ("rl", 1, 2): [1, 1, 1, 1]}), SETTINGS)
    row = only(found, epoch=2)
    assert (row["accuracy"], row["seeds"], row["problems"]) == (0.75, 2, 4)
    assert row["std"] == pytest.approx(0.5 / np.sqrt(2))
    assert 0 <= row["low"] < 0.75 < row["high"] <= 1


def test_any_correct_sample_solves_a_problem():
    found = statistics.curves(table({("rl", 0, 2): [8, 1, 0, 0]}, samples=8), SETTINGS)
    assert found["accuracy"].tolist() == [0.5]
    assert np.isnan(found["std"]).all()


def test_final_mean_and_best_epoch():
    runs = {("rl", 0, 2): [1, 1, 1, 0], ("rl", 0, 4): [1, 0, 0, 0], ("vanilla", 0, 0): [0, 0, 1, 0]}
    found = statistics.comparisons(table(runs, split="validation"), [("rl", "vanilla")], SETTINGS)
    of_setting = found[found["setting"] == "pass@1"].set_index("epoch")["difference"]
    assert of_setting.to_dict() == {"final": 0.0, "mean": 0.25, "best": 0.5}


def test_the_best_epoch_of_a_test_is_chosen_on_validation():
    validation = {("rl", 0, 2): [1, 1], ("rl", 0, 4): [1, 0], ("sft", 0, 2): [0, 0], ("sft", 0, 4): [0, 1]}
    test = {("rl", 0, 2): [0, 0], ("rl", 0, 4): [1, 1], ("sft", 0, 2): [1, 1], ("sft", 0, 4): [0, 0]}
    both = pd.concat([table(validation, split="validation"), table(test, split="test")])
    assert (
        only(statistics.comparisons(both, PAIR, SETTINGS), split="test", epoch="best", setting="all")["difference"] == 0
    )
    alone = statistics.comparisons(table(test), PAIR, SETTINGS)
    assert only(alone, epoch="best", setting="pass@1")["difference"] == 0
    assert only(alone, epoch="final", setting="pass@1")["difference"] == 1
    chosen = statistics.aggregates(both, SETTINGS)
    assert only(chosen, method="rl", split="test", setting="all", epoch="best")["mean"] == 0
    assert only(chosen, method="sft", split="test", setting="all", epoch="best")["mean"] == 0


def test_all_settings_together_are_those_that_both_methods_have():
    one = table({("rl", 0, 2): [1, 1], ("sft", 0, 2): [0, 0]}, setting="pass@1")
    two = table({("rl", 0, 2): [1, 0], ("sft", 0, 2): [0, 1]}, setting="pass@8")
    rl_only = table({("rl", 0, 2): [0, 0]}, setting="pass@2")
    found = statistics.comparisons(pd.concat([one, two, rl_only]), PAIR, SETTINGS)
    finals = found[found["epoch"] == "final"].set_index("setting")["difference"]
    assert finals.to_dict() == {"pass@1": 1.0, "pass@8": 0.0, "all": 0.5}


def test_a_trend_is_the_slope_times_the_epochs():
    rows = drawn(seeds=2, epochs=(1, 2, 4, 7))
    gap = [solved(rows, "rl", e).mean() - solved(rows, "sft", e).mean() for e in (1, 2, 4, 7)]
    expected = 6 * np.polyfit([1, 2, 4, 7], gap, 1)[0]
    assert only(statistics.trends(rows, PAIR, SETTINGS), setting="all")["difference"] == pytest.approx(expected)
    assert statistics.trends(drawn(epochs=(2,)), PAIR, SETTINGS).empty


def test_holm_by_hand():
    found = statistics.holm(pd.Series([0.01, 0.04, np.nan, 0.03]))
    assert found.tolist() == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)


def test_summaries_and_their_parts_are_families_apart():
    settings = [drawn(setting=setting, seed=i) for i, setting in enumerate(("a", "b", "c"))]
    found = statistics.comparisons(pd.concat(settings), [("rl", "sft"), ("rl", "vanilla")], SETTINGS)
    final = found[found["epoch"] == "final"]
    parts, together = final[final["setting"] != "all"], final[final["setting"] == "all"]
    assert len(parts) == 6 and len(together) == 2
    assert parts["p_adjusted"].min() == pytest.approx(min(6 * parts["p"].min(), 1))
    assert together["p_adjusted"].min() == pytest.approx(min(2 * together["p"].min(), 1))


def test_probability_of_improvement_is_mann_whitney():
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=(1, 4)), rng.integers(5, size=(1, 3))
    expected = stats.mannwhitneyu(x[0], y[0]).statistic / 12
    assert improvement(x.astype(float), y.astype(float))[0] == pytest.approx(expected)


def test_aggregates_are_over_the_runs_of_all_cells():
    cells = [drawn(dataset=dataset, seed=i) for i, dataset in enumerate(("text", "vision"))]
    row = only(statistics.aggregates(pd.concat(cells), SETTINGS), method="rl", setting="pass@1", epoch="final")
    runs = [run.mean() for cell in cells for run in solved(cell, "rl", 4)]
    assert row["runs"] == 6
    assert row["mean"] == pytest.approx(np.mean(runs))
    assert row["iqm"] == pytest.approx(np.mean(sorted(runs)[1:-1]))
    assert row["iqm_low"] < row["iqm"] < row["iqm_high"]


# --- against the analysis of variance --------------------------------------------------------------------------------


def components(arm: np.ndarray) -> tuple[float, float]:
    """Of the mean of [S, P]: variance as the spread of seeds gives it, and the interaction, from mean squares."""
    seeds, problems = arm.shape
    rest = arm - arm.mean(0) - arm.mean(1)[:, None] + arm.mean()
    return arm.mean(1).var(ddof=1) / seeds, (rest**2).sum() / ((seeds - 1) * (problems - 1)) / (seeds * problems)


@pytest.mark.parametrize("between", [0.0, 0.4])
def test_the_standard_error_is_that_of_the_crossed_design(between: float):
    rng = np.random.default_rng(1)
    runs = [(method, s, 2) for method in ("rl", "sft") for s in range(3)]
    rows = table({run: rng.random(80) < np.clip(0.5 + rng.normal(0, between), 0.1, 0.9) for run in runs})
    rl, sft = (solved(rows, method, 2) for method in ("rl", "sft"))
    through_problems = (rl.mean(0) - sft.mean(0)).var(ddof=1) / 80
    parts = [components(arm) for arm in (rl, sft)]
    through_seeds = max(sum(part[0] - part[1] for part in parts), 0)
    row = only(statistics.comparisons(rows, PAIR, EXACT), setting="pass@1", epoch="final")
    assert (through_seeds > through_problems) == bool(between)
    assert row["se"] == pytest.approx(np.sqrt(through_problems + through_seeds), rel=0.03)


def test_more_samples_of_an_untrained_model_are_not_more_models():
    rng = np.random.default_rng(2)
    rows = table({("vanilla", s, 0): rng.random(50) < share for s, share in enumerate((0.2, 0.5, 0.8))})
    trained = rows.assign(method="rl", epoch=2)
    widths = [np.ptp(statistics.curves(part, SETTINGS)[["low", "high"]].to_numpy()) for part in (rows, trained)]
    assert widths[0] < 0.5 * widths[1]


def test_one_component_alone_has_student_s_interval():
    found = combined(0.3, [Part(0.01, 4), Part(0.0, 99)], 0.95)
    assert found == Estimate(0.3, pytest.approx(0.1), 4)
    assert found.interval(0.95) == pytest.approx(stats.t.interval(0.95, 4, 0.3, 0.1))
    assert found.p() == pytest.approx(2 * stats.t.sf(3, 4))


def test_components_add_up_in_squares():
    alone = [combined(0, [part], 0.95).interval(0.95)[1] for part in (Part(0.01, 2), Part(0.02, 99))]
    both = combined(0, [Part(0.01, 2), Part(0.02, 99)], 0.95)
    assert both.se == pytest.approx(np.sqrt(0.03))
    assert both.interval(0.95)[1] == pytest.approx(np.hypot(*alone))


def test_welch_is_welch():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=4), rng.normal(0, 3, size=6)
    found = welch([Part(x.var(ddof=1) / 4, 3), Part(y.var(ddof=1) / 6, 5)])
    assert found.df == pytest.approx(stats.ttest_ind(x, y, equal_var=False).df)


def test_the_detectable_difference_is_found_with_its_power():
    found = Estimate(0.0, 0.02, 5.0)
    least = found.detectable(0.95, 0.8)
    assert stats.nct.sf(stats.t.ppf(0.975, 5), 5, least / 0.02) == pytest.approx(0.8, abs=1e-6)


def test_p_and_interval_agree():
    found = statistics.comparisons(drawn(seed=3), [("rl", "sft"), ("rl", "vanilla")], SETTINGS)
    outside = (found["low"] > 0) | (found["high"] < 0)
    assert ((found["p"] < 0.05) == outside).all()


def test_a_score_interval_has_a_width_where_all_is_solved():
    low, high = statistics.score_interval(Estimate(1.0, 0.0, np.inf), 20, 0.95)
    assert (low, high) == pytest.approx(tuple(stats.binomtest(20, 20).proportion_ci(method="wilson")))


def test_no_difference_on_these_problems_is_not_none_on_others():
    row = only(
        statistics.comparisons(table({("rl", 0, 2): [1] * 50, ("sft", 0, 2): [1] * 50}), PAIR, SETTINGS),
        epoch="final",
        setting="all",
    )
    assert row["low"] < 0 == row["difference"] < row["high"]
    assert row["p"] == 1


# --- several cells ---------------------------------------------------------------------------------------------------


def test_cells_count_the_same():
    cells = [drawn(dataset=dataset, problems=n, seed=n) for dataset, n in (("text", 40), ("vision", 80))]
    found = statistics.comparisons(pd.concat(cells), PAIR, EXACT)
    final = found[(found["epoch"] == "final") & (found["setting"] == "pass@1")].set_index("model")["difference"]
    assert final["all"] == pytest.approx(final["tiny"].mean())
    row = only(found, model="all", epoch="final", setting="pass@1")
    assert (row["seeds"], row["problems"]) == (3, 120)


def test_the_standard_error_over_cells_is_of_their_mean():
    runs = {(method, s, 2): [1] * (10 * s) + [0] * (40 - 10 * s) for method in ("rl", "sft") for s in (1, 2, 3)}
    cells = [table(runs, dataset=dataset) for dataset in ("text", "vision")]
    found = statistics.comparisons(pd.concat(cells), PAIR, EXACT)
    final = found[(found["epoch"] == "final") & (found["setting"] == "all")].set_index("dataset")["se"]
    assert final["all"] == pytest.approx(final["text"] / np.sqrt(2), rel=0.01)


def test_models_on_the_same_problems_are_no_independent_cells():
    """A second model that answers alike tells nothing new about other problems; the same of another data set does."""
    runs = {("rl", 0, 2): [1, 1, 0, 1] * 10, ("sft", 0, 2): [1, 0, 0, 1] * 10}
    errors = {
        key: only(statistics.comparisons(pd.concat([table(runs), table(runs, **{key: "other"})]), PAIR, EXACT), **where)
        for key, where in ((key, {"model": "all", "epoch": "final", "setting": "all"}) for key in ("model", "dataset"))
    }
    alone = only(statistics.comparisons(table(runs), PAIR, EXACT), epoch="final", setting="all")["se"]
    assert errors["model"]["se"] == pytest.approx(alone)
    assert errors["dataset"]["se"] == pytest.approx(alone / np.sqrt(2), rel=0.03)
    assert (errors["model"]["problems"], errors["dataset"]["problems"]) == (40, 80)


def test_a_skipped_method_gives_no_row():
    with_sft, without = drawn(dataset="text"), drawn(dataset="vision", seed=1)
    rows = pd.concat([with_sft, without[without["method"] != "sft"]])
    found = statistics.comparisons(rows, [("rl", "sft"), ("rl", "vanilla")], SETTINGS)
    assert set(found[found["over"] == "sft"]["dataset"]) == {"text"}
    assert set(found[found["over"] == "vanilla"]["dataset"]) == {"text", "vision", "all"}


# --- what must not matter --------------------------------------------------------------------------------------------


def test_the_order_of_rows_does_not_matter():
    rows = drawn()
    mixed = rows.sample(frac=1, random_state=0)
    for call in (
        lambda rows: statistics.comparisons(rows, [("rl", "sft"), ("rl", "vanilla")], SETTINGS),
        lambda rows: statistics.curves(rows, SETTINGS).sort_values(["method", "epoch"], ignore_index=True),
    ):
        pd.testing.assert_frame_equal(call(rows), call(mixed))


def test_names_of_seeds_do_not_matter():
    rows = drawn()
    renamed = rows.assign(seed=rows["seed"].map({0: 7, 1: 5, 2: 6}))
    found = [statistics.comparisons(each, PAIR, SETTINGS) for each in (rows, renamed)]
    pd.testing.assert_frame_equal(*found)


def test_swapping_the_methods_turns_the_sign():
    rows = drawn()
    there, back = (statistics.comparisons(rows, [pair], SETTINGS) for pair in (("rl", "sft"), ("sft", "rl")))
    for column, other in (("difference", "difference"), ("low", "high"), ("high", "low")):
        np.testing.assert_allclose(there[column], -back[other], atol=1e-12)
    np.testing.assert_allclose(there["p"], back["p"])
    np.testing.assert_allclose(there["probability_of_improvement"], 1 - back["probability_of_improvement"])


def test_the_same_settings_give_the_same_bytes():
    rows = drawn()
    assert (
        statistics.comparisons(rows, PAIR, SETTINGS).to_csv() == statistics.comparisons(rows, PAIR, SETTINGS).to_csv()
    )


# --- what cannot be said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("problems", "over"), [(100, 3), (400, None)])
def test_p_is_not_smaller_than_chance_makes_it(problems: int, over: int | None):
    """Verdicts rest on the tail, since p is corrected for many claims: of 1000 studies without a difference."""
    truth = replace(Truth(problems, 3, over, accuracy=(0.35, 0.35)), **VARIATION["seeds, much"])
    found = [statistics.estimate([study], SETTINGS).p() for study in studies(truth, 1000, SETTINGS)]
    assert np.mean(np.array(found) < 0.05) < 0.065
    assert np.mean(np.array(found) < 0.005) < 0.0105  # 0.013 if seeds that agree by chance were taken to agree


def test_p_is_that_of_the_interval_that_just_reaches():
    parts = (statistics.Part(0.01, 99), statistics.Part(0.02, 4))
    p = statistics.tail_probability(0.5, parts)
    assert statistics.half_width(p, parts) == pytest.approx(0.5)
    one = statistics.tail_probability(0.5, (statistics.Part(0.04, 7),))
    assert one == pytest.approx(2 * stats.t.sf(2.5, 7))  # one part is a plain t test


def test_one_seed_of_a_trained_method_covers_problems_only():
    found = statistics.comparisons(drawn(seeds=1), [("rl", "sft"), ("rl", "vanilla")], SETTINGS)
    assert set(found["covers"]) == {"problems"}
    assert set(statistics.comparisons(drawn(), [("rl", "vanilla")], SETTINGS)["covers"]) == {"seeds and problems"}
    assert statistics.detectable(drawn(seeds=1), PAIR, SETTINGS)["detectable"].isna().all()


def test_other_problems_are_an_error():
    rows = drawn()
    lacking = rows.drop(rows[(rows["method"] == "sft") & (rows["seed"] == 1)].index[7])
    with pytest.raises(ValueError) as error:
        statistics.comparisons(lacking, PAIR, SETTINGS)
    assert str(error.value) == (
        "tiny/text/sft/seed1: test, epoch 2, pass@1: has problem 007 0 times; all runs of tiny on text must "
        "have the same problems, each once"
    )


def test_without_rows_there_are_columns():
    empty = drawn().iloc[:0]
    for name, found in (
        ("curves", statistics.curves(empty, SETTINGS)),
        ("comparisons", statistics.comparisons(empty, PAIR, SETTINGS)),
        ("aggregates", statistics.aggregates(empty, SETTINGS)),
        ("detectable", statistics.detectable(empty, PAIR, SETTINGS)),
    ):
        assert found.empty and list(found.columns) == statistics.COLUMNS[name]


# --- planning --------------------------------------------------------------------------------------------------------


def test_a_study_is_planned_from_the_components_of_variance():
    truth = Truth(problems=100, seeds=3, over=3, seed=0.6, interaction=0.5)
    arms = truth.draw(np.random.default_rng(0))
    runs = {(method, s, 2): run for method, arm in zip(("rl", "sft"), arms, strict=True) for s, run in enumerate(arm)}
    grid = statistics.detectable(table(runs), PAIR, EXACT)
    grid = grid[(grid["setting"] == "pass@1") & (grid["epoch"] == "final")]

    spread, interaction = (sum(parts) for parts in zip(*map(components, arms), strict=True))
    paired = (arms[0].mean(0) - arms[1].mean(0)).var(ddof=1) / 100 - interaction
    assert paired > 0 and spread > interaction
    for problems, seeds in ((100, 3), (1000, 5), (200, 10)):
        through_problems = (paired + interaction * 3 / seeds) * 100 / problems
        through_seeds = (spread - interaction) * 3 / seeds
        parts = [Part(through_problems, problems - 1), Part(through_seeds, 2 * (seeds - 1))]
        least = combined(0, parts, 0.95).detectable(0.95, 0.8)
        assert only(grid, problems=problems, seeds=seeds)["detectable"] == pytest.approx(least, rel=0.03)


def test_a_plan_has_no_more_samples_of_an_untrained_model():
    """Its samples are what differs here: more seeds of a method that is always right change nothing."""
    rng = np.random.default_rng(0)
    runs = {("vanilla", s, 0): rng.random(100) < 0.5 for s in range(2)} | {("rl", s, 2): [1] * 100 for s in range(3)}
    grid = statistics.detectable(table(runs), [("rl", "vanilla")], SETTINGS)
    plan = grid[(grid["setting"] == "all") & (grid["epoch"] == "final")].set_index(["problems", "seeds"])["detectable"]
    assert plan[100, 10] == pytest.approx(plan[100, 3])


def test_more_seeds_do_not_make_up_for_few_problems_of_an_untrained_model():
    grid = statistics.detectable(drawn(), [("rl", "vanilla")], SETTINGS)
    plan = grid[(grid["setting"] == "all") & (grid["epoch"] == "final")].set_index(["problems", "seeds"])["detectable"]
    assert plan[100, 10] > plan[1000, 3]


# --- simulated truth -------------------------------------------------------------------------------------------------

STUDIES = 1000
FEW = Statistics(confidence=0.95, power=0.8, replicates=200, seed=0)


@pytest.mark.parametrize(
    "truth",
    [
        Truth(problems=100, seeds=3, over=3, seed=0.2),
        Truth(problems=100, seeds=5, over=5, seed=0.2, interaction=1.0),
        Truth(problems=400, seeds=3, over=3, accuracy=(0.65, 0.6), samples=8, seed=0.2, interaction=1.0),
        Truth(problems=100, seeds=5, over=5, accuracy=(0.97, 0.97), seed=0.4),
        Truth(problems=100, seeds=3, over=None, seed=0.1),
        Truth(problems=100, seeds=3, over=None, interaction=1.0),
    ],
    ids=lambda truth: f"{truth.problems}x{truth.seeds}, {truth.accuracy}",
)
def test_intervals_contain_the_true_difference(truth: Truth):
    ours, _ = covered(truth, STUDIES, FEW)
    assert 0.93 <= ours <= 0.97


def test_the_plain_bootstrap_is_too_sure_where_seeds_differ():
    ours, plain = covered(replace(Truth(problems=400), seed=0.4), STUDIES, FEW)
    assert plain < 0.88
    assert 0.93 <= ours <= 0.97


def test_an_effect_as_large_as_detectable_is_found_as_often_as_the_power_says():
    """Of known variance components, so that the plan is right: 5 seeds, 400 problems, seeds that matter."""
    truth = Truth(problems=400, seeds=5, over=5, accuracy=(0.5, 0.5), difficulty=0.0, correlation=0.0, seed=0.1)
    rng = np.random.default_rng(0)
    density = stats.norm.pdf(0)  # a share moves by so much for each standard deviation of ability
    variance = 2 / 5 * ((0.1 * density) ** 2 + 0.25 / 400)
    least = combined(0, [Part(variance, 8)], 0.95).detectable(0.95, 0.8)
    found = []
    for _ in range(600):
        first, second = replace(truth, accuracy=(0.5 + least, 0.5)).draw(rng)
        arms = [Arm(_resampled(solved, rng), True, 400) for solved in (first, second)]
        found.append(estimate([Contrast(0, *arms)], FEW).p() < 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)


def _resampled(solved: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return statistics.draws(solved.shape[1], FEW.replicates, rng) @ solved.T / solved.shape[1]

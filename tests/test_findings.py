"""Hypotheses with their verdicts: by hand, on simulated truth, and where nothing can be said."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import signal

from stages.config import Scores, Statistics
from stages.evaluation import findings as module
from stages.evaluation.findings import Effect, Measured, findings, markdown, mean_over_runs

SCORES = Scores.model_validate_json(json.dumps(yaml.safe_load(Path("config/scores.yaml").read_text(encoding="utf-8"))))
SCORES = SCORES.model_copy(update={"statistics": Statistics(confidence=0.95, power=0.8, replicates=400, seed=0)})
KINDS = {"vanilla": "vanilla", "sft": "sft", "rl": "rl"}
EPOCHS = (2, 4, 6)


def asked(*names: str, **changes: Any) -> Scores:
    """The scheme with some of its findings."""
    chosen = {name: SCORES.findings[name].model_copy(update=changes) for name in names}
    return SCORES.model_copy(update={"findings": chosen})


def problems(
    shares: Mapping[tuple[str, int], float], seeds: int = 3, count: int = 200, setting: str = "pass@1", seed: int = 0
) -> pd.DataFrame:
    """Which problems each seed solves, by chance; `shares` are those expected, by method and epoch."""
    rng = np.random.default_rng(seed)
    where = {"model": "tiny", "dataset": "text", "setting": setting, "samples": 1}
    parts = [
        pd.DataFrame({**where, "split": split, "method": method, "seed": s, "epoch": epoch, "problem": ids})
        .assign(correct=(rng.random(count) < share).astype(int))
        .astype({"problem": str})
        for split in ("validation", "test")
        for ids in [np.arange(count)]
        for (method, epoch), share in shares.items()
        for s in range(seeds if epoch else 1)
    ]
    return pd.concat(parts, ignore_index=True)


def shares(vanilla: float, sft: Sequence[float], rl: Sequence[float]) -> dict[tuple[str, int], float]:
    found = {("vanilla", 0): vanilla}
    for method, of_method in (("sft", sft), ("rl", rl)):
        found |= {(method, epoch): share for epoch, share in zip(EPOCHS, of_method, strict=False)}
    return found


BETTER = problems(shares(0.3, (0.3, 0.3, 0.3), (0.5, 0.6, 0.7)))
ALIKE = problems(shares(0.5, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def run(
    n: Sequence[int],
    reflective: Sequence[int],
    correct: Sequence[int],
    both: Sequence[int],
    length: Sequence[float],
    epoch: Sequence[int] | None = None,
    **where: Any,
) -> pd.DataFrame:
    """A training by generation step: the four counts, and the mean length."""
    same = {"model": "tiny", "dataset": "text", "method": "rl", "seed": 0, "phase": "train", "split": "train"} | where
    counts = {"N": n, "Nref": reflective, "N+": correct, "Nref+": both, "length": length}
    found = pd.DataFrame({"generation_step": range(1, len(n) + 1), **counts})
    return found.assign(
        **same,
        epoch=[1] * len(n) if epoch is None else epoch,
        setting="train",
        matching="word",
        reflection_ratio=found["Nref"] / found["N"],
    )


def simulated(seed: int, steps: int = 40, level: float = 0.0, **where: Any) -> pd.DataFrame:
    """A run whose length follows its reflection."""
    rng = np.random.default_rng(seed)
    reflective = rng.binomial(200, np.linspace(0.1, 0.3, steps))
    correct = rng.binomial(200, np.linspace(0.2, 0.5, steps))
    both = np.minimum(correct, reflective) // 3
    length = 100 + level + reflective + rng.normal(0, 5, steps)
    epoch = np.repeat([1, 2], steps // 2)
    return run([200] * steps, reflective, correct, both, length, epoch, seed=seed, **where)


def tables(solved: pd.DataFrame, runs: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    training = pd.concat(runs, ignore_index=True) if runs else run([1], [0], [0], [0], [1]).iloc[:0]
    substrings = training.assign(matching="substring", Nref=training["N"], reflection_ratio=1.0)
    reflection = pd.concat([training, substrings], ignore_index=True).drop(columns="length")
    return {"problems": solved, "reflection": reflection, "responses": training[[*module.STEP, "phase", "length"]]}


TRAINED = [simulated(seed) for seed in range(3)]


def test_every_declared_hypothesis_has_its_entry():
    found = findings(tables(BETTER, TRAINED), SCORES, KINDS)
    assert [entry["id"] for entry in found] == list(SCORES.findings)
    for entry in found:
        assert entry["verdict"] in ("supported", "contradicted", "undecided")
        assert entry["why"].endswith(".") and entry["seeds"] == 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    text = markdown(found)
    assert all(entry["claim"] in text and entry["why"] in text for entry in found)


# --- accuracy on problems --------------------------------------------------------------------------------------------


def test_a_clear_difference_is_supported_and_the_other_way_round_contradicted():
    [there] = findings(tables(BETTER, []), asked("F3b"), KINDS)
    [back] = findings(tables(BETTER, []), asked("F3b"), {"vanilla": "vanilla", "sft": "rl", "rl": "sft"})
    assert (there["verdict"], back["verdict"]) == ("supported", "contradicted")
    assert (there["effect"], there["low"]) == pytest.approx((-back["effect"], -back["high"]))
    accuracy = BETTER[(BETTER["split"] == "test") & (BETTER["epoch"] == 6)].groupby("method")["correct"].mean()
    assert there["effect"] == pytest.approx(accuracy["rl"] - accuracy["sft"])
    assert (there["unit"], there["problems"], there["seeds"]) == ("accuracy", 200, 3)


def test_a_claim_that_something_falls_is_supported_from_below():
    falls = problems(shares(0.6, (0.3, 0.3, 0.3), (0.6, 0.6, 0.6)))
    [entry] = findings(tables(falls, []), asked("F3d"), KINDS)
    assert entry["verdict"] == "supported" and entry["effect"] < 0


def test_the_threshold_counts():
    [entry] = findings(tables(BETTER, []), asked("F3b", threshold=0.7), KINDS)
    assert entry["verdict"] == "contradicted"
    [entry] = findings(tables(BETTER, []), asked("F3b", threshold=0.38), KINDS)
    assert entry["verdict"] == "undecided"


def test_a_gap_that_widens():
    [entry] = findings(tables(BETTER, []), asked("F3c"), KINDS)
    assert entry["verdict"] == "supported"
    assert entry["effect"] == pytest.approx(0.2, abs=0.1)
    [entry] = findings(tables(ALIKE, []), asked("F3c"), KINDS)
    assert entry["verdict"] == "undecided"


def test_a_gap_over_one_epoch_is_no_trend():
    one = BETTER[BETTER["epoch"].isin([0, 2])]
    [entry] = findings(tables(one, []), asked("F3c"), KINDS)
    assert (entry["verdict"], entry["effect"]) == ("undecided", None)
    assert entry["why"] == "Nothing to test: no cell has two epochs on test that rl and sft share."


def test_no_difference_is_rarely_a_finding():
    verdicts = []
    for seed in range(40):
        solved = problems(shares(0.5, (0.5,), (0.5,)), count=100, seed=seed)
        verdicts += [entry["verdict"] for entry in findings(tables(solved, []), asked("F3b"), KINDS)]
    assert verdicts.count("undecided") >= 35


def test_all_settings_must_agree():
    def entry(*of_settings: pd.DataFrame) -> dict[str, Any]:
        named = [part.assign(setting=f"setting {i}") for i, part in enumerate(of_settings)]
        return findings(tables(pd.concat(named), []), asked("F5b"), KINDS)[0]

    worse = problems(shares(0.7, (0.3, 0.3, 0.3), (0.4, 0.4, 0.4)))
    assert entry(BETTER, BETTER)["verdict"] == "supported"
    assert entry(worse, worse)["verdict"] == "contradicted"
    assert entry(BETTER, ALIKE)["verdict"] == "undecided"
    mixed = entry(BETTER, worse)  # one setting is enough against every
    assert mixed["verdict"] == "contradicted"
    assert mixed["effect"] < 0 and "at setting 1" in mixed["why"]
    assert entry(ALIKE, ALIKE)["verdict"] == "undecided"


def test_a_fall_of_accuracy_has_no_gain_to_explain():
    """Fewer right answers with reflection and without: the difference is positive, and no claim about a gain."""
    counts = {"N": [1000, 1000], "N+": [500, 300], "Nref+": [300, 100]}
    measured = module.gain_without_reflection(pd.DataFrame(counts | {"epoch": [1, 2]}))
    assert measured.value == pytest.approx(0.2) and measured.more["gain"] == pytest.approx(-0.2)


def test_the_least_sure_setting_decides():
    test = SCORES.findings["F5b"]
    sure, unsure = (
        Effect("m", "d", "rl", "vanilla", name, value, 0, 1, p)
        for name, value, p in (("a", 0.1, 0.001), ("b", 0.3, 0.04))
    )
    assert module.agreeing([sure, unsure], test).p == 0.04
    assert module.agreeing([sure, unsure], test).value == 0.3
    against = replace(sure, value=-0.1, p=0.02)
    assert module.agreeing([sure, unsure, against], test).p == pytest.approx(3 * 0.02)
    assert module.agreeing([replace(against, p=0.9), unsure], test).p == 1.0


def test_several_methods_of_a_kind_stand_in_the_details():
    other = BETTER[BETTER["method"] == "rl"].assign(method="grpo")
    kinds = {"vanilla": "vanilla", "sft": "sft", "grpo": "rl", "rl": "rl"}
    [entry] = findings(tables(pd.concat([BETTER, other]), []), asked("F3b"), kinds)
    assert entry["why"].startswith("grpo over sft: ")
    assert [detail["method"] for detail in entry["details"]] == ["grpo", "rl"]


def test_cells_are_averaged_and_a_skipped_method_leaves_its_cell_out():
    vision = problems(shares(0.3, (0.4, 0.4, 0.4), (0.5, 0.5, 0.5)), seed=1).assign(dataset="vision")
    [both] = findings(tables(pd.concat([BETTER, vision]), []), asked("F3b"), KINDS)
    by_cell = {detail["dataset"]: detail["effect"] for detail in both["details"]}
    assert both["effect"] == pytest.approx((by_cell["text"] + by_cell["vision"]) / 2)
    assert both["problems"] == 400 and "2 cells" in both["why"]
    skipped = pd.concat([BETTER, vision[vision["method"] != "sft"]])
    [one] = findings(tables(skipped, []), asked("F3b"), KINDS)
    assert one["effect"] == pytest.approx(by_cell["text"], abs=1e-9) and "1 cell;" in one["why"]


# --- what cannot be decided ------------------------------------------------------------------------------------------


def test_one_seed_decides_nothing():
    solved = problems(shares(0.3, (0.3, 0.3, 0.3), (0.5, 0.6, 0.9)), seeds=1)
    for entry in findings(tables(solved, TRAINED[:1]), SCORES, KINDS):
        assert entry["verdict"] == "undecided" and entry["p_adjusted"] is None
        assert "one seed" in entry["why"]
        assert {detail["verdict"] for detail in entry["details"]} == {"undecided"}


def test_without_a_method_there_is_nothing_to_test():
    alone = BETTER[BETTER["method"] != "sft"]
    kinds = {"vanilla": "vanilla", "rl": "rl"}
    found = {entry["id"]: entry for entry in findings(tables(alone, TRAINED), SCORES, kinds)}
    assert found["F3b"]["why"] == "Nothing to test: the study has no method of kind sft."
    assert found["F5b"]["verdict"] == "supported"
    found = findings(tables(BETTER.iloc[:0], []), SCORES, {"vanilla": "vanilla"})
    assert {entry["verdict"] for entry in found} == {"undecided"}
    found = findings(tables(BETTER.iloc[:0], []), SCORES, KINDS)
    assert {entry["effect"] for entry in found} == {None}
    assert found[0]["why"] == "Nothing to test: there are no training responses of rl."


def test_what_cannot_be_decided_is_no_member_of_the_family():
    found = {entry["id"]: entry for entry in findings(tables(BETTER, []), asked("F2", "F3b", "F3c"), KINDS)}
    p = sorted(found[name]["p"] for name in ("F3b", "F3c"))
    assert sorted(found[name]["p_adjusted"] for name in ("F3b", "F3c")) == pytest.approx(
        [2 * p[0], max(2 * p[0], p[1])]
    )
    assert "for 2 findings" in found["F3c"]["why"]


def test_reflection_that_never_changes_correlates_with_nothing():
    still = [run([10] * 8, [0] * 8, [5] * 8, [0] * 8, range(8), seed=seed) for seed in range(3)]
    [entry] = findings(tables(BETTER, still), asked("F2"), KINDS)
    assert (entry["verdict"], entry["effect"]) == ("undecided", None)
    assert entry["why"] == "Nothing to test: the reflection ratio does not change in a run."


def test_one_epoch_has_no_gain():
    runs = [part.assign(epoch=1) for part in TRAINED]
    [entry] = findings(tables(BETTER, runs), asked("F4b"), KINDS)
    assert entry["why"] == "Nothing to test: one epoch of training."


def test_few_steps_say_nothing():
    runs = [simulated(seed, steps=4) for seed in range(3)]
    for entry in findings(tables(BETTER, runs), asked("F1", "F2"), KINDS):
        assert entry["why"] == "Nothing to test: 4 generation steps, of at least 5."


# --- training responses ----------------------------------------------------------------------------------------------


def test_seed_variance_by_hand():
    """Seeds at -2, 0, 2 around a common rise, two of them alternating by 1: variances 4 and 20 / 18, less 1 / 10."""
    alternating = np.array([1.0, -1.0] * 5)
    lengths = np.stack([-2 + alternating, np.zeros(10), 2 - alternating]) + np.arange(10) ** 2
    spread = module.length_spread(lengths)
    assert spread == pytest.approx((3.6, 0.1, 2, 18))
    assert module.component([spread], 1.0, 0.95)[0] == pytest.approx(3.5)


def test_reflection_share_by_hand():
    runs = [run([100], [count], [0], [0], [1], seed=seed) for seed, count in enumerate((10, 20, 30))]
    [entry] = findings(tables(BETTER, runs), asked("F4a"), KINDS)
    assert entry["effect"] == pytest.approx(0.2)
    assert entry["verdict"] == "supported" and entry["unit"] == "share"
    estimate = mean_over_runs([[module.reflection_share(part) for part in runs]], 0.95)
    assert estimate.se == pytest.approx(0.1 / math.sqrt(3))


def test_substrings_are_counted_where_the_scheme_says_so():
    scores = asked("F4a").model_copy(update={"whole_words": False})
    [entry] = findings(tables(BETTER, TRAINED), scores, KINDS)
    assert entry["effect"] == 1.0 and entry["verdict"] == "contradicted"


def test_gain_without_reflection_by_hand():
    """Right without reflection 20 % to 50 %, with it 10 % to 20 %: a rise of 30 points minus one of 10."""
    part = run([50, 50, 100], [10, 30, 60], [10, 20, 70], [0, 10, 20], [1, 1, 1], epoch=[1, 1, 3])
    found = module.gain_without_reflection(part)
    assert found.value == pytest.approx((0.5 - 0.2) - (0.2 - 0.1))
    first, last = (20 - 10) / 100, (50 - 20) / 100
    assert found.variance == pytest.approx((0.3 - first**2 + 0.7 - last**2) / 100, rel=0.02)


def test_runs_that_agree_by_chance_keep_the_variance_of_their_responses():
    alike = [[Measured(0.1, 0.0004)] * 3]
    assert mean_over_runs(alike, 0.95).se == pytest.approx(math.sqrt(0.0004 / 3))


def test_first_differences_stand_beside_a_correlation():
    """Two series that only share a rise: a correlation of levels, none of what changes from step to step."""
    rng = np.random.default_rng(0)
    rise = np.linspace(0, 1, 60)
    part = run(
        [1000] * 60,
        (300 + 300 * rise + rng.normal(0, 20, 60)).astype(int),
        [0] * 60,
        [0] * 60,
        rise + rng.normal(0, 0.05, 60),
    )
    found = module.correlation(part)
    assert math.tanh(found.value) > 0.9
    assert abs(found.more["first_differences"]) < 0.3


def test_correlation_by_hand():
    part = run([4] * 6, [0, 2, 1, 3, 0, 4], [0] * 6, [0] * 6, [1, 3, 2, 4, 1, 5])
    assert module.correlation(part.assign(length=[2.0, 1, 5, 3, 3, 1])).value == pytest.approx(
        math.atanh(np.corrcoef([0, 2, 1, 3, 0, 4], [2, 1, 5, 3, 3, 1])[0, 1])
    )
    assert math.tanh(module.correlation(part).value) == pytest.approx(1)


def test_correlations_are_averaged_as_fisher_s_z():
    [entry] = findings(tables(BETTER, TRAINED), asked("F2"), KINDS)
    r = [np.corrcoef(part["reflection_ratio"], part["length"])[0, 1] for part in TRAINED]
    assert entry["effect"] == pytest.approx(np.tanh(np.arctanh(r).mean()))
    assert entry["low"] < entry["effect"] < entry["high"] < 1


# --- simulated truth -------------------------------------------------------------------------------------------------


def autoregressive(rng: np.random.Generator, phi: float, size: tuple[int, int]) -> np.ndarray:
    """[S, T] of variance 1."""
    noise = rng.standard_normal((size[0], size[1] + 100)) * math.sqrt(1 - phi**2)
    return signal.lfilter([1], [1, -phi], noise, axis=1)[:, 100:]


def test_autocorrelation_of_few_steps_is_not_estimated_too_small():
    series = autoregressive(np.random.default_rng(0), 0.5, (2000, 30))
    assert np.mean([module.lag_one(each[None]) for each in series]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("phi", "naive_below"), [(0.0, 1.0), (0.8, 0.75)])
def test_autocorrelated_steps_count_for_less(phi: float, naive_below: float):
    rng, truth, steps = np.random.default_rng(0), 0.5, 80
    ours, naive = [], []
    for _ in range(600):
        shared, own = autoregressive(rng, phi, (2, steps))
        other = truth * shared + math.sqrt(1 - truth**2) * own
        found = module.correlation(pd.DataFrame({"reflection_ratio": shared, "length": other}))
        off = abs(found.value - math.atanh(truth))
        ours.append(off < 1.96 * math.sqrt(found.variance))
        naive.append(off < 1.96 / math.sqrt(steps - 3))
    assert 0.92 <= np.mean(ours) <= 0.985
    assert np.mean(naive) < naive_below


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_the_interval_of_seed_variance_contains_it(truth: float):
    rng = np.random.default_rng(0)
    inside, naive = [], []
    for _ in range(600):
        lengths = autoregressive(rng, 0.6, (3, 60)) + math.sqrt(truth) * rng.standard_normal((3, 1))
        spread = module.length_spread(lengths + rng.standard_normal(60))
        _, low, high, p = module.component([spread], truth, 0.95)
        inside.append(low <= truth <= high)
        assert (p >= 0.05) == (low <= truth <= high) or low == truth == 0
        naive.append(module.component([spread._replace(share=1 / 60)], truth, 0.95)[3] < 0.05)
    assert 0.91 <= np.mean(inside) <= 0.98
    assert truth or np.mean(naive) > 0.2


@pytest.mark.parametrize(("between", "own"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.01)])
def test_the_mean_over_runs_covers_runs_and_responses(between: float, own: float):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(1000):
        values = rng.normal(0, math.sqrt(between + own), (2, 3))
        found = mean_over_runs([[Measured(float(value), own) for value in cell] for cell in values], 0.95)
        low, high = found.interval(0.95)
        inside.append(low <= 0 <= high)
    assert 0.93 <= np.mean(inside) <= 0.985


# --- what must not matter --------------------------------------------------------------------------------------------


def test_the_order_of_rows_and_names_of_seeds_do_not_matter():
    given = tables(BETTER, TRAINED)
    names = {0: 4, 1: 9, 2: 6}
    mixed = {
        name: part.sample(frac=1, random_state=0).assign(seed=part["seed"].map(names)) for name, part in given.items()
    }
    for one, other in zip(findings(given, SCORES, KINDS), findings(mixed, SCORES, KINDS), strict=True):
        for key in ("effect", "low", "high", "p_adjusted", "verdict"):
            assert one[key] == (other[key] if isinstance(one[key], str) else pytest.approx(other[key]))


def test_no_hypothesis_gives_an_empty_table():
    assert findings(tables(BETTER, TRAINED), asked(), KINDS) == []
    assert "Verdict" in markdown([])

"""Score tables of studies of any shape, as figures and pages read them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

RUN = ["model", "dataset", "method", "seed"]
WORDS = ("re-check", "rethink", "try again", "verify", "wait", "yet")
SETTINGS = {"pass@8 t=1.0": 8, "pass@1 t=0.01": 1}
COLUMNS = {
    "accuracy": "split epoch setting samples problems accuracy mean_accuracy no_answer timed_out truncated length",
    "pass_at_k": "split epoch setting samples k pass_at_k any_of_k",
    "types": "split epoch setting type problems accuracy",
    "training": "epoch responses correct accuracy",
    "responses": "phase split epoch generation_step setting responses correct length unit truncated no_answer "
    "timed_out",
    "reflection": "phase split epoch generation_step setting matching N Nref N+ Nref+ reflection_ratio "
    "reflection_ratio_in_correct_answers reflection_ratio_in_incorrect_answers correct_ratio_in_reflection_texts "
    "correct_ratio_in_no_reflection_texts",
    "words": "phase split epoch generation_step setting matching word count",
    "updates": "epoch generation_step gradient_step kl_loss ratio clip_fraction entropy tokens sampler_gap "
    "sampler_gap_max sampler_outside",
    "health": "check value bound verdict about",
}
COMPARED = ["model", "dataset", "method", "over", "split", "setting", "epoch"]
BOUNDS = {"kl": 1.0, "clip_fraction": 0.2, "entropy_left": 0.1, "first_ratio": 0.001, "truncated": 0.1}
BOUNDS |= {"sampler_gap": 0.01, "sampler_gap_max": 0.5, "sampler_outside": 0.02, "timed_out": 0.0}
GAIN = {"vanilla": 0.0, "sft": 0.05, "rl": 0.15, "other": 0.1}


def score_tables(
    methods: Mapping[str, str],
    *,
    seeds: int = 2,
    epochs: Sequence[int] = (2, 4),
    steps: int = 6,
    splits: Sequence[str] = ("validation", "test"),
    settings: Mapping[str, int] = SETTINGS,
    words: Sequence[str] = WORDS,
    types: Sequence[str] = ("angle", "length"),
    cell: tuple[str, str] = ("tiny", "text"),
) -> dict[str, pd.DataFrame]:
    """Every score table of one model on one data set.

    Args:
        methods: kind by method.
        seeds: their number.
        epochs: that are evaluated.
        steps: generation steps of RL.
        splits: that are evaluated.
        settings: samples by generation setting.
        words: reflection words; the last is in no response.
        types: of problems.
        cell: model and data set.
    """
    random = np.random.default_rng(0)
    rows: dict[str, list[tuple[object, ...]]] = {name: [] for name in COLUMNS}
    for method, kind in methods.items():
        for seed in range(seeds):
            run = (*cell, method, seed)
            for split in splits:
                for epoch in [0] if kind == "vanilla" else epochs:
                    for setting, samples in settings.items():
                        here = (*run, split, epoch, setting)
                        right = 0.3 + GAIN[kind] + 0.02 * random.random()
                        rows["accuracy"].append((*here, samples, 40, right, right, 0.25, 0.5, 0.0, 90.0))
                        ks = range(1, samples + 1)
                        rows["pass_at_k"] += [(*here, samples, k, right * k / samples, right) for k in ks]
                        rows["types"] += [(*here, name, 20, right + 0.1 * random.random()) for name in types]
            if kind == "rl":
                rows["training"] += [(*run, epoch, 64, 32, 0.3 + epoch / 20 + 0.01 * seed) for epoch in epochs]
                rows["health"] += [(*run, check, 0.0, bound, "sound", "") for check, bound in BOUNDS.items()]
                for step in range(1, steps + 1):
                    _train(rows, run, step, words, random)
    found = {name: pd.DataFrame(rows[name], columns=[*RUN, *texts.split()]) for name, texts in COLUMNS.items()}
    return found | {"comparisons": _comparisons(methods, cell, splits, settings, seeds)}


def _train(
    rows: dict[str, list[tuple[object, ...]]],
    run: tuple[object, ...],
    step: int,
    words: Sequence[str],
    random: np.random.Generator,
) -> None:
    """One generation step of RL; every third has no response with a reflection word."""
    here = (*run, "train", "train", 1, step, "train")
    length, share = 90.0 + step + 10 * random.random(), random.random() / 4
    rows["responses"].append((*here, 64, 32, length, "tokens", share / 10, 0.1, 0.0))
    reflective = 16 if step % 3 else 0
    undone = 0.4 if reflective else np.nan
    for matching in ("word", "substring"):
        counts = (64, reflective, 32, reflective // 2)
        rows["reflection"].append((*here, matching, *counts, share, share, share, undone, 0.5))
        rows["words"] += [
            (*here, matching, word, 0 if word == words[-1] else int(random.integers(9)) + (matching == "substring"))
            for word in words
        ]
    for update in (1, 2):
        ratio = 1.0 if update == 1 else 1.01
        now = (0.02 * step, ratio, 0.1 * share, 0.5 / step, 900, 1e-4 * (1 + share), 0.05, 0.002)
        rows["updates"].append((*run, 1, step, 2 * step + update - 2, *now))


def _comparisons(
    methods: Mapping[str, str],
    cell: tuple[str, str],
    splits: Sequence[str],
    settings: Mapping[str, int],
    seeds: int,
) -> pd.DataFrame:
    """Of every two methods of different kinds."""
    covers = "seeds and problems" if seeds > 1 else "problems"
    found = [
        (*cell, method, over, split, setting, epoch, GAIN[kind] - GAIN[methods[over]], -0.02, 0.2, seeds, 40, covers)
        for method, kind in methods.items()
        for over in methods
        if GAIN[kind] > GAIN[methods[over]]
        for split in splits
        for setting in (*settings, "all")
        for epoch in ("final", "mean")
    ]
    return pd.DataFrame(found, columns=[*COMPARED, "difference", "low", "high", "seeds", "problems", "covers"])


def write_scores(folder: Path, tables: Mapping[str, pd.DataFrame], methods: Mapping[str, str]) -> Path:
    """The tables as the score stage leaves them."""
    folder.mkdir(parents=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "methods.json").write_text(json.dumps(methods))
    (folder / "scheme.json").write_text(json.dumps({"whole_words": True}))
    return folder

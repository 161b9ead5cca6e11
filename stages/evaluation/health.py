"""Was a training sound? What its records say, beside declared bounds (`config/scores.yaml`)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from stages.config import Health


class Check(NamedTuple):
    """One question to a run's records.

    Attributes:
        check: its name, that of its bound.
        value: the worst of the run; NaN where nothing was recorded.
        bound: what it must not be above (entropy_left: below).
        verdict: sound, suspicious, or unknown without a value.
        about: what is asked.
    """

    check: str
    value: float
    bound: float
    verdict: str
    about: str


ABOUT = {
    "first_ratio": "how far the mean ratio of a generation step's first update is from 1 at most; by construction not "
    "at all, unless old log-probabilities had a pass of their own (beta_rew, importance_cap)",
    "sampler_gap": "mean distance of sampler and learner log-probabilities, in nats, worst generation step",
    "sampler_gap_max": "the largest distance of a token",
    "sampler_outside": "share of tokens whose ratio, learner to sampler, is outside 0.8 to 1.25, worst generation step",
    "kl": "mean KL to the reference, in nats a token, worst update",
    "clip_fraction": "share of tokens that are clipped, worst update",
    "entropy_left": "entropy of the last generation step as a share of the first one's",
    "truncated": "share of responses that are cut off, worst generation step",
    "timed_out": "share of responses on which the judge ran out of time",
    "rewarded_otherwise": "share of responses whose reward is not what the judge says now",
    "not_finite": "updates whose loss or gradient is no number",
}


def checks(updates: pd.DataFrame, responses: pd.DataFrame, bounds: Health) -> pd.DataFrame:
    """The checks of one RL run.

    Args:
        updates: its optimiser steps.
        responses: its table of `metrics.responses`.
        bounds: declared.
    """
    return pd.DataFrame(list(_checks(updates, responses[responses["phase"] == "train"], bounds)), columns=Check._fields)


def _checks(updates: pd.DataFrame, responses: pd.DataFrame, bounds: Health) -> Iterator[Check]:
    steps = updates.sort_values("gradient_step").groupby("generation_step")
    entropy = steps["entropy"].mean()
    share = responses["responses"] / responses["responses"].sum()
    values = {
        "first_ratio": (steps["ratio"].first() - 1).abs().max(),
        "sampler_gap": steps["sampler_gap"].mean().max(),
        "sampler_gap_max": updates["sampler_gap_max"].max(),
        "sampler_outside": steps["sampler_outside"].mean().max(),
        "kl": updates["kl_loss"].max(),
        "clip_fraction": updates["clip_fraction"].max(),
        "entropy_left": entropy.iloc[-1] / entropy.iloc[0] if len(entropy) else np.nan,
        "truncated": responses["truncated"].max(),
        "timed_out": (responses["timed_out"] * share).sum(),
        "rewarded_otherwise": (responses["rewarded_otherwise"] * share).sum(skipna=False),
    }
    for name, value in values.items():
        bound = getattr(bounds, name)
        sound = value >= bound if name == "entropy_left" else value <= bound
        verdict = "unknown" if pd.isna(value) else "sound" if sound else "suspicious"
        yield Check(name, float(value), bound, verdict, ABOUT[name])
    broken = int((~np.isfinite(updates[["loss", "grad_norm"]].to_numpy(dtype=float))).any(axis=1).sum())
    yield Check("not_finite", broken, 0, "suspicious" if broken else "sound", ABOUT["not_finite"])

"""The record tables: one row a response, one row an optimiser step. Every number of the study is computed from them.

A table is a JSON Lines file, columns in the order given here, so that equal runs have equal bytes.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["correct", "incorrect", "no answer", "timed out"]


@dataclass(frozen=True)
class ResponseRow:
    """One response of training or evaluation.

    Attributes:
        run: model/dataset/method/seedK.
        epoch: of training, from 1; in evaluation the finished epochs of the weights, 0 for the base model.
        generation_step: of training, from 1; 0 in evaluation.
        setting: name of the generation setting; "train" in training.
        problem: the problem's id.
        sample: which of the responses to the same problem in the same setting, from 0.
        text: the response without special tokens.
        answer: the problem's answer.
        length: tokens, the end token included.
        finished: ended by itself, not cut off.
        rewards: of training, by name, before they are weighted.
        verdict: of training, what the judge said when it was rewarded; evaluation is judged apart (`VerdictRow`).
        judge: version of that judge.
    """

    run: str
    phase: Literal["train", "evaluate"]
    split: Literal["train", "validation", "test"]
    epoch: int
    generation_step: int
    setting: str
    problem: str
    sample: int
    text: str
    answer: str
    length: int
    finished: bool
    rewards: dict[str, float]
    verdict: Outcome | None
    judge: str | None


@dataclass(frozen=True)
class VerdictRow:
    """What the judge says of one response of an evaluation; in the order of its responses.

    Attributes:
        problem, sample: of the response.
        found: the answer that was found in it; None without one.
        wanted: what it was compared with.
        judge: version of the judge.
    """

    problem: str
    sample: int
    verdict: Outcome
    found: str | None
    wanted: str
    judge: str


@dataclass(frozen=True)
class UpdateRow:
    """One optimiser step. Means are over the update's response tokens; SFT has only loss, grad_norm, lr and tokens.

    Attributes:
        gradient_step: from 1.
        policy_loss, kl_loss: the loss's two terms, kl_loss before its weight.
        ratio: pi_theta / pi_old.
        clip_fraction: share of tokens whose ratio is outside 1 +- epsilon.
        entropy: of the policy's distribution over the vocabulary, in nats.
        grad_norm: before clipping.
        lr: learning rate of the step.
        tokens: response tokens of the update.
        sampler_gap, sampler_gap_max: between the tokens' log-probabilities as the sampler and as the learner computed
            them before the first update of the generation step, in nats, without their sign; mean and largest.
        sampler_outside: share of tokens whose probability is, by the learner, less than 0.8 or more than 1.25 times the
            sampler's.
    """

    run: str
    epoch: int
    generation_step: int
    gradient_step: int
    loss: float
    policy_loss: float | None
    kl_loss: float | None
    ratio: float | None
    clip_fraction: float | None
    entropy: float | None
    grad_norm: float
    lr: float
    tokens: int
    sampler_gap: float | None
    sampler_gap_max: float | None
    sampler_outside: float | None


Row = ResponseRow | VerdictRow | UpdateRow


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a table, which begins to exist with its first."""
    lines = (json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def read(path: Path) -> "pd.DataFrame":
    """A whole table; `rewards` stays a column of dicts.

    Raises:
        ValueError: a line is not a row.
    """
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not a JSON row ({error}); was its writer interrupted?") from None
    import pandas as pd  # what only writes records starts without it

    return pd.DataFrame(rows)

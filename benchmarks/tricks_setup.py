"""What a trick is tried on, and how it is timed with it and without (benchmarks/tricks.py)."""

import contextlib
import io
import math
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import rollout
from benchmarks.models import SIZES, TRAINED, build
from benchmarks.step import Loop
from stages.config import GeneratedProblems, Sampling
from stages.data.prepare import prepare
from stages.model.logprobs import Scorer
from stages.model.sequences import Sequences
from stages.rl.data_flow import Queries, make_queries
from stages.rl.response_collection import NativeCollector

GROUP = 8
LEAST = 0.2  # seconds of a measurement: what takes less is done several times

Call = Callable[[], object]
Seconds = tuple[float, float]  # by the wall's clock, and by the CPU's
Way = Callable[[], Seconds]
Scored = Callable[[Sequences], Tensor]
quietly = contextlib.nullcontext
instead = mock.patch.object


class Pair(NamedTuple):
    """A trick in one case, with it and without; a note is printed beside it."""

    case: str
    ours: Way
    plain: Way
    note: str = ""


def here(case: str, ours: Call, plain: Call, *, note: str = "") -> Pair:
    """Two calls in this process; a number of tokens that one gives is what its seconds are divided by.

    Raises:
        ValueError: they give different tensors. Of what is drawn, whole numbers, a few may differ: a draw can fall on
            the edge of two words, and what is drawn after it differs.
    """
    (a, with_it), (b, without) = clocked(ours), clocked(plain)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = torch.isclose(a.double(), b.double(), rtol=0, atol=1e-3).double().mean().item()
        if same < (0.999 if a.is_floating_point() else 0.9):
            raise ValueError(f"{case}: only {same:.0%} of the numbers are the same in both ways")
    return Pair(case, with_it, without, note)


def clocked(call: Call) -> tuple[object, Way]:
    """What a call gives, and how it is timed."""
    took, given = 0.0, None
    for _ in range(2):  # the first is cold
        if took < LEAST:
            start = time.perf_counter()
            given = call()
            took = time.perf_counter() - start
    times = math.ceil(LEAST / took)

    def way() -> Seconds:
        start, used = time.perf_counter(), time.process_time()
        found = [call() for _ in range(times)]
        work = sum(one if isinstance(one, int) else 1 for one in found)
        return (time.perf_counter() - start) / work, (time.process_time() - used) / work

    return given, way


def measured(pair: Pair, pairs: int) -> dict[str, Any]:
    """Both ways in turn; which one begins changes."""
    found: list[dict[str, Seconds]] = []
    for turn in range(pairs):
        ways = [("with", pair.ours), ("without", pair.plain)]
        found.append({name: way() for name, way in (ways if turn % 2 == 0 else reversed(ways))})
    row: dict[str, Any] = {"case": pair.case, "note": pair.note, "pairs": found}
    for i, clock in enumerate(("wall", "cpu")):
        row[clock] = {name: statistics.median(one[name][i] for one in found) for name in ("with", "without")}
        row[clock]["ratio"] = statistics.median(one["without"][i] / one["with"][i] for one in found)
    return row


class Bench:
    """What a trick is tried on."""

    def __init__(self, given: Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder

    def built(self, model: str) -> Path:
        """The folder of a model and its problems; of the trained one four times as many."""
        if not (folder := self.folder / model).exists():
            with contextlib.redirect_stderr(io.StringIO()):
                if model != "trained":
                    build(folder, SIZES[model], self.given.problems, self.given.pixels)
                    return folder
                folder.mkdir()
                many = {"train": 4 * self.given.problems, "validation": 1, "test": 1}
                prepare(GeneratedProblems(source="generated", mode="vision", seed=0, **many), folder)
                (folder / "base").mkdir()
                (folder / "base/checkpoint").symlink_to(TRAINED)
        return folder

    def loop(self, model: str = "", *, keeps: bool = True) -> Loop:
        """A new one, of the size that was asked for if no other is."""
        return Loop(self.built(model or self.given.size), self.given.pixels, keeps=keeps)

    def lengths(self) -> list[int]:
        """Tokens of the trained model's responses."""
        loop = self.loop("trained")
        found: list[int] = (sampled(loop, asked(loop), rollout.LIMIT) >= 0).sum(1).tolist()
        return found


def asked(loop: Loop) -> Queries:
    """All problems, `GROUP` times each."""
    return make_queries(loop.problems, loop.vlm, GROUP)


@torch.no_grad()
def sampled(loop: Loop, queries: Queries, tokens: int) -> Tensor:
    """[B, tokens] of responses, -1 on padding."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=tokens)
    found = NativeCollector(loop.vlm, shared=True).collect(queries, [sampling] * len(queries), range(len(queries)))
    ids = found.token_ids.masked_fill(~found.mask, -1)
    return F.pad(ids, (0, tokens - ids.shape[1]), value=-1)


def answered(loop: Loop, group_size: int, lengths: Sequence[int]) -> Sequences:
    """Random responses of some lengths; problems begin again where there are not enough."""
    problems = [loop.problems[i % len(loop.problems)] for i in range(len(lengths) // group_size)]
    q, longest = make_queries(problems, loop.vlm, group_size), max(lengths)
    ids = torch.randint(20, 200, (len(q), longest), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return Sequences(q.token_ids, q.mask, q.position_ids, q.features, q.group, ids, mask)


def passes(case: str, loop: Loop, *ways: tuple[Scored, Sequence[Sequences]]) -> Iterator[Pair]:
    """Log-probabilities of some batches, without and with their gradient."""
    calls = [partial(run, loop, *way) for way in ways]
    yield here(f"{case}, forward", *map(torch.no_grad(), calls))
    yield here(f"{case}, forward and backward", *calls)


def run(loop: Loop, scored: Scored, batches: Sequence[Sequences]) -> Tensor:
    """All log-probabilities, in ascending order."""
    found = []
    for batch in batches:
        logprobs = scored(batch)
        found.append(logprobs.detach())
        if torch.is_grad_enabled():
            logprobs.sum().backward()
    loop.vlm.model.zero_grad()
    return torch.cat(found).sort().values


def packed(loop: Loop) -> Scored:
    """[T] log-probabilities as the project computes them."""
    scorer = Scorer(loop.vlm.model)
    return lambda s: scorer(s, with_entropy=False)[0]


def picked(logits: Tensor, s: Sequences) -> Tensor:
    """[T] log-probabilities of response tokens, from logits [T, W]."""
    return logits.log_softmax(-1).gather(1, s.response_ids[s.response_mask][:, None])[:, 0]

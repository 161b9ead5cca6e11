"""What each trick is worth: `python benchmarks/tricks.py [TRICK ...]`; they are listed under their functions.

Each does the same work in two ways: by the project's own code, and by a plain version that is written here. Both have
to give the same numbers. Then they are timed in turn, in one process on one thread; what is a property of a process is
measured in processes of its own.

Models: `laptop` and `wide` have random weights and say as many tokens as they are asked for, `words` is the laptop's
with 152,000 words, and `tiny` is the trained one in models/, whose responses end by themselves.

Prints the seconds of both ways, and without / with: how many times faster the trick makes it, by the wall's clock and
by the CPU's, which other work on the machine hardly changes. Medians over pairs; of a ratio, of the pairs' ratios.
Writes benchmarks/results/tricks.json, each trick when it is done, beside those that were measured before.
"""

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import rollout, step
from benchmarks.common import chosen, keep, positive
from benchmarks.runs import COMPUTE, method_of
from benchmarks.step import Loop, machine
from benchmarks.tricks_setup import (
    GROUP,
    Bench,
    Pair,
    Seconds,
    answered,
    asked,
    here,
    instead,
    measured,
    packed,
    passes,
    picked,
    quietly,
    sampled,
)
from benchmarks.tricks_unused import compiling, products, static_cache
from stages.model.compute import set_up
from stages.model.sequences import Sequences
from stages.model.vlm import VLM, hidden_states, look
from stages.rl import response_collection
from stages.rl.data_flow import Queries, make_queries
from stages.rl.drawing import choose

RESULTS = Path(__file__).parent / "results" / "tricks.json"


# --- the tricks ------------------------------------------------------------------------------------------------------


def features(bench: Bench) -> Iterator[Pair]:
    """What is made of pictures is kept; or they are looked at in every step, or in each of its three passes."""
    loop, forgetful = bench.loop(), bench.loop(keeps=False)
    method = method_of(len(loop.problems), GROUP, bench.given.tokens[0])
    kept = partial(loop.step, loop.problems, method, quietly)
    yield here("every step", kept, partial(forgetful.step, loop.problems, method, quietly))
    yield here("every pass", kept, partial(loop.step, loop.problems, method, looking_first(loop)))


def looking_first(loop: Loop) -> step.Around:
    """Each phase that has a pass begins with the vision tower; patches are there, as the processor has cut them."""
    vlm, pictures = loop.vlm, [[problem.picture()] for problem in loop.problems]
    made = vlm.processor(text=[*map(vlm.render, loop.problems)], images=pictures, padding=True, return_tensors="pt")
    grids = made["image_grid_thw"]
    patches = made["pixel_values"].split(grids.prod(1).tolist())

    def around(phase: str) -> contextlib.nullcontext[None]:
        for picture, grid in zip(patches, grids, strict=True) if phase != "looking" else ():
            look(vlm.model, picture, grid)
        return contextlib.nullcontext()

    return around


def prefill(bench: Bench) -> Iterator[Pair]:
    """A prompt is read once, and kept once, for its siblings; or for each of them."""
    loop = bench.loop()
    each = make_queries([problem for problem in loop.problems for _ in range(GROUP)], loop.vlm, 1)
    for tokens in (1, *bench.given.tokens):
        ways = (partial(sampled, loop, queries, tokens) for queries in (asked(loop), each))
        yield here(f"responses of {tokens}", *ways)


def leaving(bench: Bench) -> Iterator[Pair]:
    """Rows that are finished leave the batch; or go on until all are."""
    loop = bench.loop("trained")
    call = partial(sampled, loop, asked(loop), rollout.LIMIT)
    yield here("trained", call, instead(response_collection, "LEAVING", 1.0)(call))


def siblings(bench: Bench) -> Iterator[Pair]:
    """Siblings' query is in a row once; or each response has one of its own."""
    loop = bench.loop()
    for tokens in bench.given.tokens:
        beside = answered(loop, GROUP, [tokens] * GROUP)
        apart = replace(beside, group=torch.arange(GROUP))
        yield from passes(f"responses of {tokens}", loop, (packed(loop), [beside]), (packed(loop), [apart]))


def packing(bench: Bench) -> Iterator[Pair]:
    """Sequences of real lengths lie in one row; or in a batch that is padded on the right."""
    loop = bench.loop()
    batch = [answered(loop, 1, bench.lengths()[:16])]
    yield from passes("16 rows", loop, (packed(loop), batch), (partial(padded, loop), batch))


def padded(loop: Loop, s: Sequences) -> Tensor:
    """[T] log-probabilities. There is no mask: nothing real looks at what is behind the end of its row."""
    asked, said = s.query_mask.sum(1, keepdim=True), s.response_mask.sum(1, keepdim=True)
    after = s.position_ids.amax(dim=(0, 2))[:, None] + 1 + torch.arange(s.response_ids.shape[1])
    token_ids = torch.cat([s.query_ids, s.response_ids], dim=1)
    position_ids = torch.cat([s.position_ids, after.expand(3, -1, -1)], dim=2)
    reach = torch.arange(int((asked + said).max()))
    places = (s.query_ids.shape[1] - asked + reach).clamp(max=token_ids.shape[1] - 1)
    token_ids, position_ids = token_ids.gather(1, places), position_ids.gather(2, places.expand(3, -1, -1))
    hidden = hidden_states(loop.vlm.model, token_ids, position_ids, s.features)
    drawn_from = (reach >= asked - 1) & (reach < asked + said - 1)
    return picked(loop.vlm.model.lm_head(hidden[drawn_from]), s)


def decoder(bench: Bench) -> Iterator[Pair]:
    """Decoding by our own code; or by the model's forward and transformers' cache. Both read a prompt once."""
    loop = bench.loop()
    for tokens in bench.given.tokens:
        call = partial(sampled, loop, asked(loop), tokens)
        yield here(f"responses of {tokens}", call, instead(response_collection, "begin", begin)(call))


class Forward:
    """transformers' forward and cache, as a `Decoder`."""

    def __init__(self, vlm: VLM, q: Queries) -> None:
        one = slice(None, None, q.group_size)
        self.model, self.mask, self.position = vlm.model, q.mask, q.position_ids.amax(dim=(0, 2)) + 1
        self.cache = DynamicCache(config=vlm.model.config.get_text_config())
        given = q.token_ids[one], q.position_ids[:, one], q.features[one], q.mask[one]
        self.hidden = hidden_states(vlm.model, *given, past_key_values=self.cache).repeat_interleave(q.group_size, 0)
        self.cache.batch_repeat_interleave(q.group_size)

    def logits(self) -> Tensor:
        """[B, W] of each row's next token."""
        found: Tensor = self.model.lm_head(self.hidden[:, -1])
        return found

    def step(self, token_ids: Tensor) -> Tensor:
        self.mask = F.pad(self.mask, (0, 1), value=True)
        self.hidden = self.model.model(
            input_ids=token_ids[:, None],
            position_ids=self.position[None, :, None].expand(3, -1, -1),
            attention_mask=self.mask.long(),
            past_key_values=self.cache,
        ).last_hidden_state
        self.position = self.position + 1
        return self.logits()

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows.nonzero()[:, 0])
        self.mask, self.position = self.mask[rows], self.position[rows]


def begin(vlm: VLM, queries: Queries, room: int) -> tuple[Forward, Tensor]:
    plain = Forward(vlm, queries)
    return plain, plain.logits()


def collector(bench: Bench) -> Iterator[Pair]:
    """The collector; or transformers' `generate`. Seconds of a token."""
    loop = bench.loop("trained")
    yield here("trained", *(partial(way, loop.vlm, loop.problems, 0) for way in (rollout.ours, rollout.generate)))


def drawing(bench: Bench) -> Iterator[Pair]:
    """A token is found in two steps; or by one softmax and one cumulative sum, in float64."""
    random, rows = torch.Generator().manual_seed(0), GROUP * bench.given.problems
    ones, banned_ids = torch.ones(rows), torch.arange(4)
    for words in (550, 152_000):
        logits, noise = 3 * torch.randn(rows, words, generator=random), torch.rand(rows, generator=random).double()
        ours = partial(choose, logits.clone(), ones, ones, noise, banned_ids)
        plain = partial(by_one_sum, logits, noise, banned_ids)
        yield here(f"{rows} rows, {words} words", partial(first, ours), partial(first, plain))


def first(call: Callable[[], tuple[Tensor, ...]]) -> Tensor:
    return call()[0]


def by_one_sum(logits: Tensor, noise: Tensor, banned_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `choose` gives at temperature and top_p 1."""
    logprobs = logits.log_softmax(1)
    edges = logits.index_fill(1, banned_ids, -torch.inf).double().softmax(1).cumsum(1)
    chosen = torch.searchsorted(edges, noise[:, None], right=True).clamp(max=logits.shape[1] - 1)
    return chosen[:, 0], logprobs.gather(1, chosen)[:, 0], logprobs[:, banned_ids].exp().sum(1)


def head(bench: Bench) -> Iterator[Pair]:
    """The vocabulary head is asked for response tokens; or for all."""
    for model in ("laptop", "words"):
        loop = bench.loop(model)
        for group_size in (1, GROUP):
            batch = [answered(loop, group_size, [bench.given.tokens[0]] * GROUP)]
            ways = ((scored, batch) for scored in (packed(loop), partial(everywhere, loop)))
            yield from passes(f"{model}, group size {group_size}", loop, *ways)


def everywhere(loop: Loop, s: Sequences) -> Tensor:
    """[T] log-probabilities, from logits of all tokens."""
    row, model = s.side_by_side(), loop.vlm.model
    hidden = hidden_states(model, row.token_ids, row.position_ids, row.features, layout=row.layout)
    return picked(model.lm_head(hidden)[0].index_select(0, row.drawn_from), s)


def sorting(bench: Bench) -> Iterator[Pair]:
    """Rows of like length are in a pass together; or in the order that they have."""
    loop, lengths = bench.loop(), bench.lengths()
    s = answered(loop, 1, lengths)
    both = s.in_parts(16), torch.arange(len(lengths)).split(16)
    yield from passes(f"{len(lengths)} rows", loop, *((packed(loop), [*map(s.take, parts)]) for parts in both))


def fresh(bench: Bench) -> Iterator[Pair]:
    """The first update finds old log-probabilities itself; or they have a pass of their own. A whole step."""
    loop = bench.loop()
    for tokens in bench.given.tokens:
        call = partial(loop.step, loop.problems, method_of(len(loop.problems), GROUP, tokens), quietly)
        yield here(f"responses of {tokens}", call, instead(step, "fresh_rows", mock.Mock(return_value=0))(call))


def adamw(bench: Bench) -> Iterator[Pair]:
    """AdamW in one pass over weights, gradient and moments; or in one for each of its operations."""
    for model in ("laptop", "words"):
        trained = bench.loop(model).learner.weights.values()
        ways = []
        for fused in (True, False):
            weights = [torch.randn_like(weight, requires_grad=True) for weight in trained]
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            ways.append(torch.optim.AdamW(weights, lr=1e-5, fused=fused).step)
        yield here(model, *ways)


# --- properties of a process -----------------------------------------------------------------------------------------


def heap(bench: Bench) -> Iterator[Pair]:
    """Not used: freed memory stays in the process; or malloc gives it back to the system. Updates, in fresh processes.

    What lengths that grow leave behind is never asked for again, so that the process grows as well.
    """

    def update(model: str, *more: str) -> Seconds:
        with started(bench, model, *more) as worker:
            return together([worker], "update")

    for model in ("laptop", "words"):
        yield Pair(model, partial(update, model, "--keeps-freed"), partial(update, model))


def processes(bench: Bench) -> Iterator[Pair]:
    """Processes x threads that do steps beside each other; or one of one thread. Seconds of a step, of all together."""
    if len(os.sched_getaffinity(0)) == 1:
        print("processes    skipped: there is one core")
        return
    with contextlib.ExitStack() as stack:
        ones, twos = ([stack.enter_context(started(bench, "laptop", f"--threads={n}")) for _ in "12"] for n in "12")
        alone = partial(together, ones[:1], "step")
        for case, workers in {"1 x 2": twos[:1], "2 x 1": ones, "2 x 2": twos}.items():
            yield Pair(f"laptop, {case}", partial(together, workers, "step"), alone)


def started(bench: Bench, model: str, *more: str) -> subprocess.Popen[str]:
    """A process that is warm, and does generation steps for some seconds whenever it is told to."""
    given = bench.given
    sizes = {"problems": given.problems, "pixels": given.pixels, "seconds": given.seconds, "tokens": given.tokens[0]}
    command = [sys.executable, __file__, "--work", str(bench.built(model)), *more]
    command += [f"--{name}={value}" for name, value in sizes.items()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    return process


def work(given: argparse.Namespace) -> None:
    """What it does: prints for each line that it reads the seconds of a step, and of its update."""
    if given.keeps_freed:
        trim_threshold, mmap_max = -1, -4  # names of glibc's malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        assert mallopt(trim_threshold, -1) and mallopt(mmap_max, 0)
    loop = Loop(Path(given.work), given.pixels)
    torch.set_num_threads(given.threads)
    once = partial(loop.timed, loop.problems, method_of(len(loop.problems), GROUP, given.tokens[0]))
    once()
    print("warm", flush=True)
    for _ in sys.stdin:
        clocks, end = [once()], time.perf_counter() + given.seconds
        while time.perf_counter() < end:
            clocks.append(once())
        both = [*zip(*((clock.seconds, clock.cpu) for clock in clocks), strict=True)]
        of_step = [statistics.mean(sum(phases.values()) for phases in of) for of in both]
        of_update = [statistics.mean(phases["update"] for phases in of) for of in both]
        print(json.dumps({"step": of_step, "update": of_update}), flush=True)


def together(workers: Sequence[subprocess.Popen[str]], phase: str) -> Seconds:
    """Seconds in which one more is done, whoever of them does it."""
    for worker in workers:
        print(file=worker.stdin, flush=True)
    found = [json.loads(worker.stdout.readline() if worker.stdout else "")[phase] for worker in workers]
    rate = sum(1 / wall for wall, _ in found)
    return 1 / rate, sum(cpu / wall for wall, cpu in found) / rate


TRICKS: dict[str, Callable[[Bench], Iterator[Pair]]] = {
    trick.__name__: trick
    for trick in (
        *(features, prefill, leaving, siblings, packing, decoder, collector, drawing, head, sorting, fresh, adamw),
        *(heap, processes),
        *(products, static_cache, compiling),  # the last, for what was not compiled in time may go on beside it
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tricks", nargs="*", metavar="TRICK", help=f"of {', '.join(TRICKS)}; default: all")
    parser.add_argument("--size", choices=("laptop", "wide"), default="laptop", help="where no other model is named")
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument(
        "--tokens", type=positive, nargs="+", default=[64, 256], help="of a response; some take the first"
    )
    parser.add_argument("--problems", type=positive, default=4, help=f"of a step, {GROUP} responses to each")
    parser.add_argument("--pixels", type=positive, default=64 * 64, help="of a picture; 256 are an image token")
    parser.add_argument("--seconds", type=float, default=5, help="that a process of its own works for")
    parser.add_argument("--patience", type=int, default=60, help="seconds that torch.compile may take")
    parser.add_argument("--work", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--keeps-freed", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given)
        return
    names = chosen(parser, given.tricks, TRICKS)
    set_up(COMPUTE)
    settings = {name: getattr(given, name) for name in ("pairs", "tokens", "problems", "pixels", "seconds")}
    print(f"{'trick':12} {'case':42} {'with, s':>10} {'without, s':>10} {'ratio':>7} {'CPU ratio':>9}")
    for name in names:
        rows = []
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            for pair in TRICKS[name](Bench(given, Path(folder))):
                rows.append(row := measured(pair, given.pairs))
                seconds = "{with:10.4g} {without:10.4g} {ratio:7.2f}".format(**row["wall"])
                print(f"{name:12} {pair.case:42} {seconds} {row['cpu']['ratio']:9.2f}  {pair.note}", flush=True)
        keep(given.out, {f"{name}, {given.size}": {"machine": machine(), "asked": settings, "cases": rows}})


if __name__ == "__main__":
    main()

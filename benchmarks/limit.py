"""How near a generation step is to what the machine can do: `python benchmarks/limit.py [MODEL ...]`.

What a step needs is counted from the model's sizes (`benchmarks.flops`); what the machine gives is measured: products
of float32 matrices of the model's own sizes, and how fast as much memory is read as decoding has to read. Their
quotient is the limit. Each measurement is a process of its own on one thread: the machine, some steps, and the machine
again. Pictures are looked at once and their features are kept, so that looking is apart.

    looking             vision tower and connector; the seconds are also of preparing pictures and prompts
    log-probabilities   one forward pass by the reference; one by the policy of what later updates learn from
    update              a forward and a backward pass; AdamW's passes over the weights are not counted
    sampling            the larger of the forward pass's operations, and of the memory that is read: weights once a
                        token, keys and values of each prompt and each response once a token

Phases that had less than a whole core shared it with something else, and say nothing of the limit.

Prints for each model, length and phase what is needed, the limit, the seconds, limit / seconds, and beside it what
torch's counter counts: over what is needed, and over what packed rows should compute (`benchmarks.flops`), which has
to be near 1. Writes benchmarks/results/limit.json. `--profile PHASE` prints torch's profile of one phase instead.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import flops
from benchmarks.common import chosen, keep, positive, printed_by
from benchmarks.models import SIZES, build
from benchmarks.runs import method_of
from benchmarks.step import PHASES, Clock, Loop, machine
from stages.config import RL
from stages.data.problem import Problem
from stages.model.architecture import Architecture
from stages.model.vocabulary import LOGITS
from stages.rl.data_flow import Queries

RESULTS = Path(__file__).parent / "results" / "limit.json"
MODELS = ("laptop", "words", "wide")
GROUP = 8
SECONDS = 0.3  # of each measurement of the machine
# What torch does not count: the operation in place, and those of a CPU, which are counted as those of a GPU are.
OF_CPU = {
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of many calls."""
    call()
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def matrix_rate(of: Architecture, tokens: int) -> float:
    """Operations a second of products of matrices: the best of the model's own and a square one."""
    shapes = {(tokens, a, b) for a, b in of.linear.values()} | {(1024, 1024, 1024)}
    shapes.add((min(tokens, max(1, LOGITS // of.vocabulary)), of.width, of.vocabulary))
    rates = []
    for m, k, n in sorted(shapes):
        product = partial(torch.mm, torch.randn(m, k), torch.randn(k, n), out=torch.empty(m, n))
        rates.append(2 * m * k * n / best(product))
    return max(rates)


def memory_rate(size: float) -> float:
    """Bytes a second of reading `size` bytes again and again: by a triad (two are read, one is written) or a dot."""
    a, b, c = (torch.ones(max(1, int(size) // 3 // flops.FLOAT)) for _ in range(3))
    triad = 3 * a.nbytes / best(lambda: torch.add(b, c, alpha=2.0, out=a))
    x, y = (torch.ones(max(1, int(size) // 2 // flops.FLOAT)) for _ in range(2))
    return max(triad, 2 * x.nbytes / best(lambda: torch.dot(x, y)))


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """In this process: what each phase needs, its limit and its seconds."""
    torch.set_num_threads(1)
    loop, (new_tokens,) = Loop(folder, given.pixels), given.tokens
    of, method = loop.architecture, method_of(given.problems, GROUP, new_tokens, given.rows, given.updates)
    problems, others = loop.problems[: given.problems], loop.problems[given.problems : 2 * given.problems]

    clock = Clock()
    queries = loop.step(problems, method, clock)  # pictures are looked at, and everything is warm
    batch = batch_of(queries, new_tokens)
    passes = given.problems * GROUP // method.forward_batch_size
    read = flops.decoded_bytes(of, batch)
    rates = [(matrix_rate(of, batch.read // passes), memory_rate(read / new_tokens))]
    steps = [loop.timed(problems, method) for _ in range(given.steps)]
    rates.append((matrix_rate(of, batch.read // passes), memory_rate(read / new_tokens)))
    matrices, memory = (max(both) for both in zip(*rates, strict=True))

    needed = needed_by(loop, batch, given)
    limits = {phase: operations / matrices for phase, operations in needed.items()}
    limits["sampling"] = max(limits["sampling"], read / memory)
    seconds = {phase: statistics.median(step.seconds[phase] for step in steps) for phase in PHASES}
    had = [step.cpu[phase] / step.seconds[phase] for step in steps for phase in PHASES[1:]]
    return {
        "matrices": matrices,
        "memory": memory,
        "read": read,
        "core": min(had),
        "needed": needed,
        "limits": limits,
        "seconds": seconds | {"looking": clock.seconds["looking"]},
        "counted": counted(loop, others, method, given) if given.count else None,
    }


def batch_of(queries: Queries, new_tokens: int) -> flops.Batch:
    return flops.Batch(tuple(queries.mask.sum(1)[::GROUP].tolist()), GROUP, new_tokens)


def needed_by(loop: Loop, batch: flops.Batch, given: argparse.Namespace) -> dict[str, float]:
    """Operations of each phase."""
    of = loop.architecture
    once = flops.forward(of, batch).total
    pictures = len(batch.prompts) * flops.looking(of, loop.config["vision_config"], given.pixels // of.patch**2)
    return {
        "looking": pictures,
        "sampling": once,
        "log-probabilities": once * scored(given),
        "update": flops.update(of, batch).total,
    }


def scored(given: argparse.Namespace) -> float:
    """Passes over all rows: the reference's, and the policy's but for the first update's."""
    return 2 - 1 / given.updates


def counted(
    loop: Loop, problems: list[Problem], method: RL, given: argparse.Namespace
) -> dict[str, list[float | None]]:
    """Of each phase what torch counts, over what is needed, and over what packed rows should compute.

    Args:
        loop: the model.
        problems: whose pictures have not been looked at.
        method: the settings.
        given: the command line.
    """
    found: dict[str, float] = {}

    @contextmanager
    def counting(phase: str) -> Iterator[None]:
        with FlopCounterMode(display=False, custom_mapping=OF_CPU) as counter:
            yield
        found[phase] = counter.get_total_flops()

    batch = batch_of(loop.step(problems, method, counting), method.sampling.max_new_tokens)
    of, needed = loop.architecture, needed_by(loop, batch, given)
    in_parts = of.vocabulary * method.ppo_backward_batch_size * method.sampling.max_new_tokens > LOGITS
    packed = {  # decoding is not
        "looking": needed["looking"],
        "log-probabilities": flops.packed_forward(of, batch).total * scored(given),
        "update": flops.packed_update(of, batch, in_parts=in_parts).total,
    }
    return {
        phase: [found[phase] / needed[phase], found[phase] / packed[phase] if phase in packed else None]
        for phase in PHASES
    }


def profile(given: argparse.Namespace, folder: Path) -> None:
    """Print which operations one phase of a step spends its time on."""
    torch.set_num_threads(1)
    loop, (new_tokens,) = Loop(folder, given.pixels), given.tokens
    method = method_of(given.problems, GROUP, new_tokens, given.rows, given.updates)
    problems = loop.problems[: given.problems]
    if given.profile != "looking":  # which is done once
        loop.step(problems, method, lambda _: nullcontext())
    profiler = torch.profiler.profile()
    loop.step(problems, method, lambda phase: profiler if phase == given.profile else nullcontext())
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=60))


def process(given: argparse.Namespace, folder: Path, new_tokens: int, *more: str) -> str:
    """What a fresh process prints that measures, or profiles."""
    sizes = [f"--{name}={getattr(given, name)}" for name in ("problems", "pixels", "rows", "updates", "steps")]
    return printed_by(__file__, "--measure", folder, "--tokens", new_tokens, *sizes, *more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; default: all")
    parser.add_argument("--tokens", type=positive, nargs="+", default=[64, 256], help="of every response")
    parser.add_argument("--problems", type=positive, default=4, help=f"of a step, each with {GROUP} responses")
    parser.add_argument("--pixels", type=positive, default=256 * 256, help="of every picture; 256 are an image token")
    parser.add_argument("--rows", type=positive, default=GROUP, help="responses of a forward or backward pass")
    parser.add_argument("--updates", type=positive, default=1, help="optimiser steps")
    parser.add_argument("--steps", type=positive, default=1, help="that are timed, in each process")
    parser.add_argument("--turns", type=positive, default=5, help="processes for each measurement")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--profile", choices=PHASES, help="print torch's profile of a phase, and measure nothing")
    parser.add_argument("--count", action="store_true", help="used by the script itself")
    parser.add_argument("--measure", metavar="FOLDER", help="of a model that is built; used by the script itself")
    given = parser.parse_args()
    if given.measure and given.profile:
        profile(given, Path(given.measure))
        return
    if given.measure:
        print(json.dumps(measure(given, Path(given.measure))))
        return
    models = chosen(parser, given.models, MODELS)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for model in models:
            build(Path(name, model), SIZES[model], 2 * given.problems, given.pixels)
        for turn in range(1 if given.profile else given.turns):
            for model, tokens in itertools.product(models, given.tokens):
                print(f"{model}, {tokens} tokens, turn {turn + 1}", file=sys.stderr, flush=True)
                if given.profile:
                    print(process(given, Path(name, model), tokens, "--profile", given.profile))
                    continue
                said = process(given, Path(name, model), tokens, *(("--count",) if turn == 0 else ()))
                found.setdefault((model, tokens), []).append(json.loads(said.splitlines()[-1]))
    if given.profile:
        return
    asked = {key: value for key, value in vars(given).items() if key not in ("profile", "count", "measure", "out")}
    about = {"machine": machine(), "asked": asked}
    for (model, tokens), of_process in found.items():
        keep(given.out, {f"{model}, {tokens}": about | shown(model, tokens, of_process)})


def shown(model: str, tokens: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over turns, printed."""
    median = statistics.median
    matrices, memory, core = (median(turn[name] for turn in turns) for name in ("matrices", "memory", "core"))
    print(
        f"\n{model}, responses of {tokens} tokens: products of matrices {matrices / 1e9:.1f} GFLOP/s; memory "
        f"{memory / 1e9:.1f} GB/s, {turns[0]['read'] / 1e9:.2f} GB read by decoding; phases had at least "
        f"{core:.0%} of a core"
    )
    print(
        f"{'phase':18} {'GFLOP':>8} {'limit, s':>9} {'took, s':>9} {'limit/took':>11} {'GFLOP/s':>8} "
        f"{'counted/needed':>15} {'counted/packed':>15}"
    )
    rows = {}
    for phase in PHASES:
        row = rows[phase] = {
            "needed": turns[0]["needed"][phase],
            "limit": median(turn["limits"][phase] for turn in turns),
            "seconds": median(turn["seconds"][phase] for turn in turns),
            "share": median(turn["limits"][phase] / turn["seconds"][phase] for turn in turns),
            "counted": turns[0]["counted"][phase],
        }
        rate = row["needed"] / row["seconds"] / 1e9
        more, checked = row["counted"]
        print(
            f"{phase:18} {row['needed'] / 1e9:8.2f} {row['limit']:9.3f} {row['seconds']:9.3f} {row['share']:11.2f} "
            f"{rate:8.1f} {more:15.2f} {f'{checked:.3f}' if phase != 'sampling' else '-':>15}",
            flush=True,
        )
    return {"matrices": matrices, "memory": memory, "core": core, "read": turns[0]["read"], "phases": rows}


if __name__ == "__main__":
    main()

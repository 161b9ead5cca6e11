"""How costs grow with what is asked: `python benchmarks/growth.py [WHAT ...]`.

    group       responses to a problem            pixels      of a picture, 256 an image token
    tokens      of a response                     answers     problems that are judged and scored
    problems    of a generation step              runs        of the paper's study, planned by a dry run
    vocabulary  words of the model

Each at some sizes, the sizes in turn in one process on one thread, medians; runs alone are processes of their own. For
each phase the slope of seconds over size, both in logarithms: 1 is linear, 2 quadratic. Least squares over all sizes
and over the larger half, where what every call costs counts less. Beside them the slopes of the operations that are
needed (`benchmarks.flops`); of judging, scoring and planning that is 1. A phase is marked whose slope over the larger
half is ROOM above what is asked. Pictures are looked at in every step here.

Prints, and writes benchmarks/results/growth.json.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import flops
from benchmarks.common import chosen, keep, positive
from benchmarks.models import SIZES, Size, build
from benchmarks.overhead import larger, planned
from benchmarks.runs import RULES, method_of
from benchmarks.scores import text
from benchmarks.step import Loop, machine
from stages.evaluation import score
from stages.evaluation.answers import Judge

RESULTS = Path(__file__).parent / "results" / "growth.json"
PIXELS = 64 * 64
ROOM = 0.2
WHAT: dict[str, tuple[int, ...]] = {
    "group": (4, 8, 16, 32, 64),
    "tokens": (16, 32, 64, 128, 256),
    "problems": (2, 4, 8, 16, 32),
    "vocabulary": (1_000, 4_000, 16_000, 64_000),
    "pixels": (64 * 64, 128 * 128, 256 * 256, 384 * 384),
    "answers": (400, 800, 1600, 3200),
    "runs": (100, 200, 400, 800),
}


@dataclass(frozen=True)
class Way:
    """One size.

    Attributes:
        seconds: of each phase, measured once.
        asked: what each phase needs, in any unit.
    """

    seconds: Callable[[], dict[str, float]]
    asked: dict[str, float]


def of_step(loop: Loop, problems: int, group_size: int, new_tokens: int, pixels: int = PIXELS) -> Way:
    """A generation step; a pass has a group, or eight rows."""
    method = method_of(problems, group_size, new_tokens, pass_rows=max(8, group_size))
    asked = loop.problems[:problems]
    queries = loop.step(asked, method, lambda _: contextlib.nullcontext())  # once, to warm up
    prompts = tuple(queries.mask.sum(1)[::group_size].tolist())
    of, batch = loop.architecture, flops.Batch(prompts, group_size, new_tokens)
    once = flops.forward(of, batch).total
    looking = problems * flops.looking(of, loop.config["vision_config"], pixels // of.patch**2)
    needed = {"looking": looking, "sampling": once, "log-probabilities": once, "update": flops.update(of, batch).total}
    return Way(lambda: loop.timed(asked, method).seconds, needed)


def built(folder: Path, size: Size, problems: int) -> Path:
    """A model and problems, in a new folder."""
    with contextlib.redirect_stderr(io.StringIO()):
        build(folder, size, problems, PIXELS)
    return folder


def steps(what: str, sizes: Sequence[int], folder: Path) -> dict[int, Way]:
    """Of all that changes a generation step."""
    most, laptop = max(sizes) if what == "problems" else 2, SIZES["laptop"]
    if what == "vocabulary":
        places = {size: built(folder / str(size), replace(laptop, vocabulary=size), most) for size in sizes}
        return {size: of_step(Loop(place, PIXELS, keeps=False), 2, 4, 16) for size, place in places.items()}
    place = built(folder / "model", laptop, most)
    if what == "pixels":
        return {size: of_step(Loop(place, size, keeps=False), 2, 4, 16, size) for size in sizes}
    loop, usual = Loop(place, PIXELS, keeps=False), {"problems": 2, "group": 4, "tokens": 16}
    return {size: of_step(loop, *(usual | {what: size}).values()) for size in sizes}


def answers(sizes: Sequence[int], folder: Path) -> dict[int, Way]:
    """Judging and scoring the responses of an evaluation: two methods, four samples of each problem."""

    def of_size(size: int) -> Way:
        files = {method: folder / f"{method}{size}.jsonl" for method in ("vanilla", "rl")}
        random = Random(size)
        for path in files.values():
            path.write_text("\n".join(map(json.dumps, responses(random, size))) + "\n", encoding="utf-8")
        rows = [*responses(random, size)]
        given = [f"{method}={path}" for method, path in files.items()]

        def seconds() -> dict[str, float]:
            start = time.perf_counter()
            with Judge(workers=1) as judge:
                judge.verdicts([row["text"] for row in rows], [row["answer"] for row in rows], RULES)
            judged = time.perf_counter()
            with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
                score.main([*given, "--out", f"{out}/scores"])
            return {"judging": judged - start, "scoring": time.perf_counter() - judged}

        return Way(seconds, {"judging": size, "scoring": size})

    return {size: of_size(size) for size in sizes}


def responses(random: Random, problems: int) -> Iterator[dict[str, Any]]:
    """As `python -m stages.evaluation.score` reads them."""
    for i in range(problems):
        answer = 10 + i % 80
        for sample in range(4):
            row = {"split": "test", "epoch": 1, "problem": f"p{i}", "sample": sample, "finished": True, "length": 400}
            yield row | {"text": text(random, answer), "answer": str(answer)}


def runs(sizes: Sequence[int], folder: Path) -> dict[int, Way]:
    """Dry runs of large studies."""

    def of_size(size: int) -> Way:
        study = larger(folder, size)

        def seconds() -> dict[str, float]:
            with tempfile.TemporaryDirectory() as place:
                return {"planning": planned(Path(place), study)}

        return Way(seconds, {"planning": size})

    return {size: of_size(size) for size in sizes}


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """By least squares, in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def shown(what: str, ways: dict[int, Way], turns: Sequence[dict[int, dict[str, float]]]) -> dict[str, Any]:
    """The table of one thing that grows, printed."""
    sizes = [*ways]
    half = slice(len(sizes) // 2, None)
    columns = "".join(f"{size:>9}" for size in sizes)
    print(f"\n{what:18} {columns}   {'slope':>6} {'asked':>6}   {'larger':>6} {'asked':>6}")
    table: dict[str, Any] = {"sizes": sizes}
    for phase in next(iter(ways.values())).asked:
        seconds = [statistics.median(turn[size][phase] for turn in turns) for size in sizes]
        asked = [way.asked[phase] for way in ways.values()]
        row = {
            "slope": slope(sizes, seconds),
            "asked": slope(sizes, asked),
            "slope_of_larger": slope(sizes[half], seconds[half]),
            "asked_of_larger": slope(sizes[half], asked[half]),
        }
        columns = "".join(f"{found:9.3f}" for found in seconds)
        told = f"{row['slope']:6.2f} {row['asked']:6.2f}   {row['slope_of_larger']:6.2f} {row['asked_of_larger']:6.2f}"
        mark = "  more than asked" if row["slope_of_larger"] > row["asked_of_larger"] + ROOM else ""
        print(f"{phase:18} {columns}   {told}{mark}", flush=True)
        table[phase] = row | {"seconds": seconds}
    return table


OTHERS: dict[str, Callable[[Sequence[int], Path], dict[int, Way]]] = {"answers": answers, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=f"of {', '.join(WHAT)}; default: all")
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--sizes", type=positive, nargs="+", help="instead of those that are usual")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.sizes and len(set(given.sizes)) < 4:
        parser.error("--sizes: at least four, for a slope over the larger half")
    for what in chosen(parser, given.what, WHAT):
        sizes = given.sizes or WHAT[what]
        with tempfile.TemporaryDirectory() as name:
            folder, start = Path(name), time.perf_counter()
            ways = OTHERS.get(what, partial(steps, what))(sizes, folder)
            turns = [{size: way.seconds() for size, way in ways.items()} for _ in range(given.turns)]
            keep(given.out, {what: {"machine": machine(), "turns": given.turns} | shown(what, ways, turns)})
            print(f"  {what}: {time.perf_counter() - start:.0f} s in all", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

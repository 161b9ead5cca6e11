"""Speed and memory beside TRL 1.16: `make trl && .venv/trl/bin/python benchmarks/trl_speed.py --core 1`.

RL: seconds of a generation step with one update, by GRPO, 8 responses a problem, all of exactly as many tokens; SFT:
seconds of an update. Both by the trainers themselves (`stages.rl.train`, `stages.sft.train`, GRPOTrainer, SFTTrainer),
from step to step, so that reading data and keeping records count; float32, one thread, one core, each measurement in a
process of its own, the ways in turn. Same problems, pictures and token counts, which are compared step by step; the
reward costs next to nothing, and nobody saves. Points: the laptop's model (a), the same with 152,000 words (b), and a
wider, deeper one (c).

Ways: `glassbox` in a first epoch, every picture is new; `glassbox_later` in a later one, pictures' features are kept;
`trl`, with the settings of `trl_setup.py`, all of whose epochs are the same; and `trl_responses`, TRL with its
vocabulary head on response tokens only, which no setting gives on a CPU, but which it does on a GPU.

Phases of an RL step, apart from the `rest`:
- preparing: prompts, pictures and, ours, what the vision tower makes of them, once for all that follows; TRL: all of
  the generation side that is neither sampling nor scoring. It looks at the pictures in each pass of the phases below.
- sampling: the collector; TRL: `generate`.
- scoring: log-probabilities of old policy and reference; TRL: of the reference, an on-policy update needs no others.
- updating: forward, backward, AdamW. An update of SFT is preparing and updating.

Beside the seconds that pass, those of the CPU are kept (`cpu`): other work on the machine hardly changes them.

Memory: the most that the process had (resident) after its model was loaded, and how much that is beyond what it had
then. Writes benchmarks/results/trl_speed.json after each measurement; what is in it already is not measured again, and
the points or lengths that are asked for are added to it. Linux only.
"""

import argparse
import contextlib
import importlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch

from benchmarks.common import commit, found_by, positive, printed_by, write
from benchmarks.runs import unjudged
from benchmarks.trl_setup import (
    POINTS,
    Work,
    build,
    even,
    grpo_trainer,
    head_on_responses_only,
    our_run,
    require_trl,
    sft_trainer,
    trl_model,
)
from stages.data.problem import Problem, read_problems
from stages.evaluation.answers import Verdict
from stages.provenance import hardware, package_versions
from stages.training.run import Means
from stages.training.schedule import batches

RESULTS = Path(__file__).parent / "results" / "trl_speed.json"
OURS, THEIRS = ("glassbox", "glassbox_later"), ("trl", "trl_responses")
WAYS = (*OURS, *THEIRS)
CLOCKS = {"wall": "Seconds", "cpu": "Seconds of the CPU"}
PHASES = ("preparing", "sampling", "scoring", "updating", "rest")
COLUMNS = dict.fromkeys(("whole", *PHASES), ".3f") | {"sampled/s": ".0f", "peak_mb": ".0f", "growth_mb": ".0f"}
COMPARED = ("whole", "sampling", "scoring", "updating", "peak_mb", "growth_mb")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
MICRO, PIXELS, SOLUTION = 16, 256 * 256, 64


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        length: tokens of every response; of every solution.
        problems: of a step.
        warm_up, steps: that are dropped, and that are measured.
    """

    method: str
    point: str
    length: int
    problems: int
    warm_up: int
    steps: int

    @property
    def work(self) -> Work:
        return Work(self.method, self.problems, self.length, MICRO, PIXELS, self.warm_up + self.steps)


# --- one measurement, in a process of its own ------------------------------------------------------------------------


class AllSteps(BaseException):
    """The last step is over; no error, so that no trainer handles it."""


class Watch:
    """Seconds and tokens of each step, and the process's memory.

    Within a phase another one may go on, whose seconds are only its own.

    Args:
        steps: after which the training is stopped.
        phase: that goes on where no other does.
    """

    def __init__(self, steps: int, phase: str) -> None:
        self._last = steps
        self.steps: list[dict[str, dict[str, float]]] = []
        self.tokens: list[tuple[int, int]] = []
        self._counted = (0, 0)
        self._seconds: dict[str, dict[str, float]] = self._none()
        self._phases = [phase]
        self._since = self._now()
        self._loaded = 0.0

    def model_is_loaded(self) -> None:
        """From now on memory grows, and its most is counted anew."""
        self._loaded = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def memory(self) -> dict[str, float]:
        """The most that the process had since its model was loaded, and beyond what it had then, in megabytes."""
        peak = resident("VmHWM")
        return {"peak_mb": peak, "growth_mb": peak - self._loaded}

    def begin(self, phase: str) -> None:
        self._charge()
        self._phases.append(phase)

    def end(self) -> None:
        self._charge()
        self._phases.pop()

    def timed(self, phase: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*given: Any, **named: Any) -> Any:
            self.begin(phase)
            try:
                return inner(*given, **named)
            finally:
                self.end()

        return outer

    def count(self, prompts: torch.Tensor, responses: torch.Tensor) -> None:
        """Real tokens by their masks."""
        read, written = self._counted
        self._counted = read + int(prompts.sum()), written + int(responses.sum())

    def next_step(self) -> None:
        """One is over.

        Raises:
            AllSteps: it was the last.
        """
        self._charge()
        self.steps.append({clock: {"whole": sum(phases.values()), **phases} for clock, phases in self._seconds.items()})
        self.tokens.append(self._counted)
        self._seconds, self._counted = self._none(), (0, 0)
        if len(self.steps) == self._last:
            raise AllSteps

    def _charge(self) -> None:
        now = self._now()
        for clock, phases in self._seconds.items():
            phases[self._phases[-1]] += now[clock] - self._since[clock]
        self._since = now

    @staticmethod
    def _now() -> dict[str, float]:
        return {"wall": time.perf_counter(), "cpu": time.process_time()}

    @staticmethod
    def _none() -> dict[str, dict[str, float]]:
        return {clock: defaultdict(float) for clock in CLOCKS}


def measure(task: Task, way: str, folder: Path) -> dict[str, Any]:
    """Train in this process."""
    torch.set_num_threads(1)
    problems = read_problems(folder / "train.jsonl")
    by_step = [chosen for _, _, chosen in batches(problems, task.problems, 1, 0)]
    # The loop of SFT has no function for an update.
    watch = Watch(task.work.steps, "updating" if way in OURS and task.method == "sft" else "rest")
    if way in OURS:
        ours(task, folder, by_step if way == "glassbox_later" else [], watch)
    else:
        if way == "trl_responses":
            head_on_responses_only()
        theirs(task, folder, [problem for chosen in by_step for problem in chosen], watch)
    return {"seconds": watch.steps[task.warm_up :], "tokens": watch.tokens[task.warm_up :], **watch.memory()}


def ours(task: Task, folder: Path, seen: list[list[Problem]], watch: Watch) -> None:
    """The stage's own training, stopped where it would save what it has learnt; some problems were seen before."""
    names = ("stages.rl.train", "stages.sft.train", "stages.training.run", "stages.training.job")
    modules: list[Any] = [importlib.import_module(name) for name in names]
    rl, sft, run, job = modules
    load, make_collector, make_trajectory = run.load, rl.make_collector, rl.make_trajectory
    golden_sequences = sft.golden_sequences

    def loads(*given: Any, **named: Any) -> Any:
        vlm = load(*given, **named)
        watch.model_is_loaded()
        for some in seen:
            vlm.prompts(some)
        return vlm

    def collector(*given: Any, **named: Any) -> Any:
        made = make_collector(*given, **named)
        made.collect = watch.timed("sampling", made.collect)
        return made

    def trajectory(*given: Any, **named: Any) -> Any:
        made = make_trajectory(*given, **named)
        watch.count(made.queries.mask, made.responses.mask)
        rows = zip(made.responses.token_ids, made.responses.mask, strict=True)
        return replace(made, scores=torch.tensor([even(ids[real].tolist()) for ids, real in rows]))

    def golden(*given: Any, **named: Any) -> Any:
        made = golden_sequences(*given, **named)
        watch.count(made.query_mask, made.response_mask)
        return made

    def finish_step(*_: Any, **__: Any) -> None:
        watch.next_step()

    run.load, job.Job.finish_step, rl.Judge = loads, finish_step, Unjudged
    rl.make_queries = watch.timed("preparing", rl.make_queries)
    rl.make_collector = collector
    rl.make_trajectory = watch.timed("scoring", trajectory)
    rl.update_policy = watch.timed("updating", rl.update_policy)
    sft.golden_sequences = watch.timed("preparing", golden)
    loop = rl if task.method == "rl" else sft
    with contextlib.suppress(AllSteps):
        loop.train(our_run(task.work, folder), Means(largest_gap=100.0))


class Unjudged:
    """In the place of the judge, whose work TRL has not."""

    def __init__(self, **_: Any) -> None: ...

    def __enter__(self) -> "Unjudged":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def verdicts(self, texts: Sequence[str], answers: Sequence[str], **_: Any) -> list[Verdict]:
        return unjudged(texts, answers)


def theirs(task: Task, folder: Path, problems: list[Problem], watch: Watch) -> None:
    """TRL's trainer, with a clock around its methods."""
    from datasets import Dataset  # noqa: F401  these are read before the memory is looked at
    from transformers import TrainerCallback
    from trl import GRPOTrainer, SFTTrainer  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.begin("updating")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.end()
            watch.next_step()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [even(ids) for ids in completion_ids]

    def scored(*given: Any, **named: Any) -> Any:
        """The same method gives the reference's log-probabilities and, within an update, the policy's."""
        inner = log_probabilities if torch.is_grad_enabled() else watch.timed("scoring", log_probabilities)
        return inner(*given, **named)

    def generated(*given: Any) -> Any:
        made = generation(*given)
        watch.count(made["prompt_mask"], made["completion_mask"])
        return made

    def loss(model: Any, inputs: Any, **named: Any) -> Any:
        learnt = inputs["labels"] != -100
        watch.count(inputs["attention_mask"].bool() & ~learnt, learnt)
        return inner_loss(model, inputs, **named)

    model: Any = trl_model(folder)
    watch.model_is_loaded()
    if task.method == "rl":
        trainer = grpo_trainer(task.work, folder, model, problems, reward)
        generation = trainer._generate_and_score_completions
        log_probabilities = trainer._get_per_token_logps_and_entropies
        model.generate = watch.timed("sampling", model.generate)
        trainer._generate_and_score_completions = watch.timed("preparing", generated)
        trainer._get_per_token_logps_and_entropies = scored
    else:
        trainer = sft_trainer(task.work, folder, model, problems)
        inner_loss, trainer.compute_loss = trainer.compute_loss, loss
        trainer.data_collator = watch.timed("preparing", trainer.data_collator)
    trainer.add_callback(Steps())
    with contextlib.suppress(AllSteps):
        trainer.train()


def resident(what: str) -> float:
    """Megabytes of this process: now (VmRSS), or at most (VmHWM)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status[what].split()[0]) / 1000


# --- all of them -----------------------------------------------------------------------------------------------------


def tasks(asked: argparse.Namespace) -> Iterator[Task]:
    for method in asked.methods:
        for name in asked.points:
            point = POINTS[name]
            warm_up = point.warm_up if asked.warm_up is None else asked.warm_up
            steps = asked.steps or point.steps
            if method == "sft":
                yield Task(method, name, asked.solution, asked.solutions or point.solutions, warm_up, steps)
            else:
                for length in asked.lengths:
                    yield Task(method, name, length, asked.prompts or point.prompts, warm_up, steps)


def measured(task: Task, way: str, built: Path) -> dict[str, Any]:
    """In a copy of what was built for the task, which is built if it is not."""
    said = json.dumps(asdict(task))
    if not built.is_dir():
        printed_by(__file__, "--build", built, said, **ONE_THREAD)
    with tempfile.TemporaryDirectory(dir=built.parent) as name:
        folder = shutil.copytree(built, Path(name, "copy"))
        return found_by(__file__, "--measure", folder, way, said, **ONE_THREAD)


def check_tokens(task: Task, found: Sequence[dict[str, Any]]) -> None:
    """All ways have read and written the same number of tokens in each step."""
    counts = {json.dumps(one["tokens"]) for one in found if is_of(one, task)}
    if len(counts) > 1:
        sys.exit(f"{task}: not the same work, tokens of prompts and responses by step: {' or '.join(sorted(counts))}")
    if counts:
        for read, written in json.loads(counts.pop()):
            if written != task.work.rows * task.length or read <= task.work.rows * PIXELS // 256:
                sys.exit(f"{task}: {read} tokens of prompts and {written} of responses are not what was asked for")


def check_version(task: Task, found: Sequence[dict[str, Any]], asked: argparse.Namespace) -> None:
    """What is missing must not be compared with what another version of the code took."""
    there = {(one["way"], one["pair"]): one.get("commit") for one in found if is_of(one, task)}
    others = sorted(str(version) for version in set(there.values()) - {commit()})
    if others and any((way, pair + 1) not in there for way in asked.ways for pair in range(asked.pairs)):
        sys.exit(f"{asked.out}: {task} is of {' and '.join(others)}, and this is {commit()}: take another --out")


def is_of(one: dict[str, Any], task: Task, **more: Any) -> bool:
    return all(one[name] == value for name, value in (asdict(task) | more).items())


def summary(found: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By clock and task, medians of each way, and of TRL's ratios to Glassbox in the same pair."""
    names = list(Task.__dataclass_fields__)
    kinds = dict.fromkeys(tuple(one[name] for name in names) for one in found)
    return {clock: [_summary(Task(*kind), found, clock) for kind in kinds] for clock in CLOCKS}


def _summary(task: Task, found: Sequence[dict[str, Any]], clock: str) -> dict[str, Any]:
    values: dict[str, dict[int, dict[str, float]]] = {}  # by way and pair
    for one in found:
        if is_of(one, task):
            values.setdefault(one["way"], {})[one["pair"]] = _of(one, clock)
    ways = {
        way: {name: statistics.median(one[name] for one in pairs.values()) for name in next(iter(pairs.values()))}
        for way, pairs in values.items()
    }
    ratios: dict[str, dict[str, Any]] = {}
    for way, mine in ((way, mine) for way in THEIRS for mine in OURS if values.keys() >= {way, mine}):
        both = [(values[way][pair], values[mine][pair]) for pair in sorted(values[way].keys() & values[mine].keys())]
        for name in COMPARED:
            if known := [a[name] / b[name] for a, b in both if a[name] and b[name]]:
                spread = {"median": statistics.median(known), "min": min(known), "max": max(known)}
                ratios.setdefault(f"{way} / {mine}", {})[name] = spread | {"pairs": len(known)}
    return {"task": asdict(task), "ways": ways, "ratios": ratios}


def _of(one: dict[str, Any], clock: str) -> dict[str, float]:
    """A measurement's median step by phase, tokens a second, and memory."""
    steps = [step[clock] for step in one["seconds"]]
    phases = {name: statistics.median(step.get(name, 0.0) for step in steps) for name in ("whole", *PHASES)}
    if one["method"] == "rl":
        written = statistics.median(tokens for _, tokens in one["tokens"])
        phases["sampled/s"] = written / phases["sampling"]
    return phases | {"peak_mb": one["peak_mb"], "growth_mb": one["growth_mb"]}


def show(tables: dict[str, list[dict[str, Any]]]) -> None:
    """Of each task, a line of medians for each way, and one for TRL's ratio to each of ours."""
    for clock, table in tables.items():
        heads = " ".join(f"{name.removesuffix('_mb'):>9}" for name in COLUMNS)
        print(f"\n{CLOCKS[clock]:42} {heads}   range of the whole step's ratio")
        for row in table:
            about = "{method} {point} {length}".format(**row["task"])
            for way, medians in row["ways"].items():
                print(f"{about + ' ' + way:42}", _cells(medians))
            for both, of in row["ratios"].items():
                ratios, whole = {name: ratio["median"] for name, ratio in of.items()}, of["whole"]
                spread = f"{whole['min']:.2f} to {whole['max']:.2f}, {whole['pairs']} pairs"
                print(f"{about + ' ' + both:42}", _cells(ratios, ".2f"), f"  {spread}")


def _cells(values: dict[str, float], digits: str | None = None) -> str:
    """The columns of a line, blank where there is nothing."""
    return " ".join(
        f"{values[name]:9{digits or usual}}" if values.get(name) else " " * 9 for name, usual in COLUMNS.items()
    )


def compare(asked: argparse.Namespace) -> None:
    """Measure what is asked for and is not there yet, all ways in turn, and keep it after each measurement."""
    require_trl()
    machine = hardware() | package_versions("torch", "transformers", "trl")
    os.sched_setaffinity(0, {asked.core})
    contents: dict[str, Any] = {
        "machine": machine,
        "micro_batch": MICRO,
        "pixels": PIXELS,
        "threads": 1,
        "summary": {},
        "measurements": [],
    }
    if asked.out.is_file():
        contents = json.loads(asked.out.read_text(encoding="utf-8"))
        if contents["machine"] != machine:
            sys.exit(f"{asked.out} is of {contents['machine']}, and this is {machine}: take another --out")
    found = contents["measurements"]
    for task in tasks(asked):
        check_version(task, found, asked)
        with tempfile.TemporaryDirectory() as name:
            for pair in range(1, asked.pairs + 1):
                for way in asked.ways:
                    if any(is_of(one, task, way=way, pair=pair) for one in found):
                        continue
                    begun = time.monotonic()
                    about = asdict(task) | {"way": way, "pair": pair, "commit": commit()}
                    one = about | measured(task, way, Path(name, "built"))
                    found.append(one)
                    check_tokens(task, found)
                    write(asked.out, contents | {"summary": summary(found)})
                    seconds = statistics.median(step["wall"]["whole"] for step in one["seconds"])
                    said = f"{task.method} {task.point} {task.length} {way}, pair {pair}: {seconds:.2f} s a step"
                    print(f"{said} ({time.monotonic() - begun:.0f} s in all)", flush=True)
    show(summary(found))


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=("rl", "sft"), default=["rl", "sft"])
    parser.add_argument("--points", nargs="+", choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--lengths", nargs="+", type=positive, default=[64, 256], help="tokens of every response")
    parser.add_argument("--solution", type=positive, default=SOLUTION, help="tokens of every solution")
    parser.add_argument("--pairs", type=positive, default=5, help="measurements of each way")
    parser.add_argument("--prompts", type=positive, help="problems of a generation step; default: by point, 4, 4, 2")
    parser.add_argument("--solutions", type=positive, help="of an update of SFT; default: by point, 32, 32, 16")
    parser.add_argument(
        "--warm-up",
        type=positive,
        help="steps that are dropped, for the first begins with the process; default: by point, 2, 2, 1",
    )
    parser.add_argument("--steps", type=positive, help="steps that are measured; default: by point, 3, 3, 2")
    cores = sorted(os.sched_getaffinity(0))
    parser.add_argument("--core", type=int, choices=cores, default=cores[-1], help="that everything runs on")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what was measured, and measure nothing")
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = command_line()
    asked = parser.parse_args()
    if asked.build:
        folder, task = Path(asked.build[0]), Task(**json.loads(asked.build[1]))
        build(POINTS[task.point], task.work, folder, task.length if task.method == "sft" else None)
        return
    if asked.measure:
        print(json.dumps(measure(Task(**json.loads(asked.measure[2])), asked.measure[1], Path(asked.measure[0]))))
        return
    if asked.show:
        if not asked.out.is_file():
            parser.error(f"--out: {asked.out} is not there")
        show(summary(json.loads(asked.out.read_text(encoding="utf-8"))["measurements"]))
        return
    compare(asked)


if __name__ == "__main__":
    main()

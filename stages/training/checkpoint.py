"""Saved states of a job, from which the next try goes on as if nothing had happened.

A state is a folder that appears under its name when all of it is on the disk; its state.json tells sizes and hashes of
all that belongs to it. Records and weights grow in `records`, outside the rule's outputs, which Snakemake removes when
a job fails; a state knows how long they were. Layout of what `Checkpoints` keeps for each run:

    0a1b2c3d4e5f.lock       held while a process works on it
    0a1b2c3d4e5f/           fingerprint of what the job computes, from what
        records/            responses.jsonl, updates.jsonl, weights/epoch2.safetensors: what is published at the end
        step000120/         state.json; with weights and optimiser also the files of torch.distributed.checkpoint
        step000110/         the state before
        refused/            what lay here and is of something else
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from stages.files import GrowingFile, sha256, sha256_of_beginning, synced, unwritable, why_full, write_synced
from stages.training.world import World

KEPT = 2
PATIENCE = 120  # seconds until a lock is free whose owner is gone or about to go; NFS takes 90 after a lost machine

log = logging.getLogger(__name__)
# One process is meant, and is told so by no_dist.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


@dataclass(frozen=True)
class State:
    """Where a job was.

    Attributes:
        step: finished steps (generation steps of RL, updates of SFT, batches of an evaluation).
        complete: that was the last step; only the records are still to be published.
        schedule: of the learning rate.
        records: length in bytes and sha256 of each table.
        weights: size in bytes of each epoch's weights.
        files: size in bytes and sha256 of the state's own files.
        identity: what the job computes, from what.
        tries: when and where it was worked on.
    """

    step: int
    complete: bool
    schedule: dict[str, Any]
    records: dict[str, tuple[int, str]]
    weights: dict[str, int]
    files: dict[str, tuple[int, str]]
    identity: dict[str, Any]
    tries: list[dict[str, Any]]


class TornError(ValueError):
    """A state is not whole."""


class Checkpoints:
    """The states of one job.

    Args:
        root: of all states of the run, whatever it computed then.
        identity: what the job computes, from what; a state of another identity is not gone on with.
        world: the processes of the job.

    Attributes:
        notes: what was said about states that could not be used.
    """

    def __init__(self, root: Path, identity: dict[str, Any], world: World) -> None:
        self.identity, self.world = identity, world
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.folder = root / digest[:12]
        self.records = self.folder / "records"
        self.notes: list[str] = []
        self._tables: dict[str, GrowingFile] = {}
        self.saved: int | None = None  # step of the last good state

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
            ValueError: another one works here, and goes on to.
        """
        if not self.world.is_first:
            yield
            return
        end = time.monotonic() + PATIENCE
        while (lock := self._locked()) is None:
            if time.monotonic() > end:
                owner = self._lock.read_text(encoding="utf-8") or "another process"
                raise ValueError(
                    f"{self.folder} is in use by {owner}: the same job runs already; stop that one, or wait for it"
                )
            time.sleep(0.2)
        with lock:
            yield

    @property
    def _lock(self) -> Path:
        return self.folder.with_suffix(".lock")

    def _locked(self) -> TextIO | None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self._lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            self._note(f"{self.folder}: this file system has no locks; nothing keeps a second process out")
        if os.fstat(lock.fileno()).st_nlink == 0:  # its owner was done, and removed it
            lock.close()
            return None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        return lock

    def _note(self, text: str) -> None:
        self.notes.append(text)
        log.warning(text)

    def latest(self) -> State | None:
        """The last state that is whole and of this job; the records are cut to its length."""
        return self.world.first(self._latest() if self.world.is_first else None)

    def _latest(self) -> State | None:
        self.records.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial)
        found = None
        torn = []
        for path in sorted(self.folder.glob("step*"), reverse=True):
            try:
                state = read_state(path)
                if differing := differences(state.identity, self.identity):
                    self._note(f"{path} is refused: {'; '.join(differing)}")
                    break
                check(path, state, self.records)
            except TornError as reason:
                self._note(str(reason))
                torn.append(path)
                continue
            found = state
            break
        if found:
            for path in torn:
                shutil.rmtree(path)
        elif any(self.folder.glob("step*")):
            self._note(f"{self.folder}: no state can be used, so the job begins anew; what there is lies in refused/")
            self._put_aside()
        if not found:
            self._name_others()
        self.saved = found.step if found else None
        self._cut(found)
        return found

    def _put_aside(self) -> None:
        """What lies here with all its records, so that it can be moved to where it belongs."""
        target = self.folder / "refused"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for path in [self.records, *self.folder.glob("step*")]:
            path.rename(target / path.name)
        self.records.mkdir()

    def _name_others(self) -> None:
        """Why the states of other tries of this run are not gone on with."""
        for path in sorted(self.folder.parent.glob("*/step*")):
            if path.parent != self.folder:
                try:
                    told = "; ".join(differences(read_state(path).identity, self.identity))
                except TornError as reason:
                    told = str(reason)
                self._note(f"{path} is not used: {told}")

    def _cut(self, state: State | None) -> None:
        """Leave of the records what the state knows."""
        tables, weights = (state.records, state.weights) if state else ({}, {})
        for path in [path for path in self.records.rglob("*") if path.is_file()]:
            name = path.relative_to(self.records).as_posix()
            if name in tables:
                os.truncate(path, tables[name][0])
            elif name not in weights:
                path.unlink()

    def load(self, state: State, tensors: dict[str, Tensor]) -> None:
        """Fill tensors with the state's values, each process its part, whatever the processes were that saved it."""
        load(tensors, checkpoint_id=self._path(state.step), no_dist=self.world.size == 1)

    def save(
        self,
        step: int,
        tensors: dict[str, Tensor],
        schedule: dict[str, Any],
        tries: Sequence[dict[str, Any]],
        *,
        complete: bool = False,
    ) -> None:
        """Save the state after a step, and forget all but the last few; of a complete one, all others.

        Raises:
            ValueError: the disk is full or cannot be written; the last good state is as it was.
        """
        partial = self.folder / f".{self._path(step).name}.partial"
        try:
            if self.world.is_first:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
            self.world.wait()
            if tensors:
                save(tensors, checkpoint_id=partial, no_dist=self.world.size == 1)
            files = self._own_files(partial)
            if self.world.is_first:
                tables, weights = self._recorded()
                state = State(step, complete, schedule, tables, weights, files, self.identity, list(tries))
                write_synced(partial / "state.json", sealed(state))
                synced(partial)
                shutil.rmtree(self._path(step), ignore_errors=True)
                partial.rename(self._path(step))
                synced(self.folder)
        except (Exception, CheckpointException) as error:  # which is no Exception, and hides the system's own
            why = why_full(error) or unwritable(self.folder) or str(error)
            if self.world.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            before = f"the last good state is of step {self.saved}" if self.saved else "there is no state before it"
            raise ValueError(f"the state after step {step} was not saved: {why}; {before}") from error
        if self.world.is_first:
            for path in sorted(self.folder.glob("step*"))[: -1 if complete else -KEPT]:
                shutil.rmtree(path, ignore_errors=True)
        self.world.wait()  # nobody ends before it is saved
        self.saved = step

    def _own_files(self, partial: Path) -> dict[str, tuple[int, str]]:
        """Size and hash of the state's files; each process reads those that it wrote."""
        mine = [path for path in partial.iterdir() if _writer(path.name) == self.world.rank]
        parts = self.world.gather({path.name: (path.stat().st_size, sha256(path)) for path in mine})
        return {name: told for part in parts for name, told in part.items()}

    def _recorded(self) -> tuple[dict[str, tuple[int, str]], dict[str, int]]:
        tables = sorted(self.records.glob("*.jsonl"))
        for path in (*tables, self.records):
            synced(path)
        weights = sorted(self.records.glob("weights/*.safetensors"))
        return (
            {table.name: self._tables.setdefault(table.name, GrowingFile(table)).sha256() for table in tables},
            {path.relative_to(self.records).as_posix(): path.stat().st_size for path in weights},
        )

    def remove(self) -> None:
        """Nobody needs the states any more."""
        if self.world.is_first:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step{step:06}"


def remove_complete(root: Path) -> None:
    """Remove the states of a run whose results somebody has taken up; unfinished tries stay, and are named."""
    for path in [path for path in root.glob("*") if path.is_dir()]:
        states = sorted(path.glob("step*"))
        try:
            complete = not states or read_state(states[-1]).complete
        except TornError:
            complete = False
        if complete:
            shutil.rmtree(path, ignore_errors=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        else:
            log.warning("%s stays: an unfinished try of other settings, code or inputs; remove it by hand", states[-1])


def sealed(state: State) -> str:
    """A state with the hash of what it says."""
    told = json.dumps(asdict(state), sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(told.encode()).hexdigest(), "state": asdict(state)}) + "\n"


def read_state(path: Path) -> State:
    """What a state's own file says.

    Raises:
        TornError: it is missing or damaged, or of another version of this code.
    """
    try:
        raw = json.loads((path / "state.json").read_text(encoding="utf-8"))
        told = json.dumps(raw["state"], sort_keys=True)
        if raw["sha256"] != hashlib.sha256(told.encode()).hexdigest() or path.name != f"step{raw['state']['step']:06}":
            raise TornError(f"{path} is torn: state.json is not what was written")
        return State(**raw["state"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TornError(f"{path} is torn: state.json: {error}") from None
    except (TypeError, KeyError) as error:
        raise TornError(f"{path} is of another version: state.json: {error}") from None


def check(path: Path, state: State, records: Path) -> None:
    """All that a state tells of is there and as it was.

    Raises:
        TornError: something is not.
    """
    for name, (size, digest) in state.files.items():
        _same(path / name, size, path)
        if sha256(path / name) != digest:
            raise TornError(f"{path} is torn: {name} is not what was written")
    for name, (size, digest) in state.records.items():
        _same(records / name, size, path, longer=True)
        if sha256_of_beginning(records / name, size) != digest:
            raise TornError(f"{path} is torn: {records / name} is not what was written")
    for name, size in state.weights.items():
        _same(records / name, size, path)


def _same(file: Path, size: int, state: Path, longer: bool = False) -> None:
    found = file.stat().st_size if file.is_file() else None
    if found is None or found < size or (found > size and not longer):
        told = "is missing" if found is None else f"has {found} bytes and not {size}"
        raise TornError(f"{state} is torn: {file} {told}")


def _writer(name: str) -> int:
    """The rank that wrote a file of torch.distributed.checkpoint: __RANK_PART.distcp, all else is the first's."""
    named = re.match(r"__(\d+)_", name)
    return int(named[1]) if named else 0


def differences(saved: Any, here: Any, key: str = "") -> list[str]:
    """Each key in which two nested settings differ, with both values."""
    if isinstance(saved, dict) and isinstance(here, dict):
        keys: Iterable[str] = sorted(saved.keys() | here.keys())
        parts = (differences(saved.get(k), here.get(k), f"{key}.{k}" if key else k) for k in keys)
        return [line for part in parts for line in part]
    return [] if saved == here else [f"{key} is {saved!r} there and {here!r} here"]

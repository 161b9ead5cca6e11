"""Is a response's answer right? A hard time limit, exact arithmetic for plain numbers, math-verify for all else.

`is_correct` judges one pair, a `Judge` judges many. Reading and comparing plain numbers happens in this process, in
time linear in the text. Everything else goes to worker processes (`answer_worker`), which are started when the first
such pair comes, and are killed and replaced when one takes too long: that answer is "timed out", not in silence wrong.
"""

import atexit
import functools
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Self, cast

from stages.config import JudgeRules
from stages.evaluation.comparison import Task, UndecidedError, decide, look
from stages.records import Outcome

VERSION = f"answers-2 math-verify-{version('math-verify')}"

# What somebody expects who asks about any two texts.
DEFAULT = JudgeRules(where="text", form="expression", relative_tolerance=1e-9, decimals=4, percent="unit")


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one response, and what it compared: the answer found, if any, and the one wanted."""

    outcome: Outcome
    found: str | None
    wanted: str

    @property
    def correct(self) -> bool:
        return self.outcome == "correct"

    def __bool__(self) -> bool:
        return self.correct


class Worker:
    """One process that does mathematics, started when it is first asked, and again after it had to be killed."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.seconds, self.memory = seconds, memory
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, task: Task, rules: JudgeRules) -> dict[str, Any] | None:
        """The worker's reply; None if it took too long or died of the task."""
        question = json.dumps({**task._asdict(), "rules": rules.model_dump()}) + "\n"
        for _ in range(2):
            process = self.process if self.process and self.process.poll() is None else self._start()
            with suppress(BrokenPipeError):
                if line := _exchange(process, question.encode(), time.monotonic() + self.seconds):
                    return cast(dict[str, Any], json.loads(line))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            was_killed = process.returncode == -signal.SIGKILL  # by somebody else, which says nothing about the task
            self.stop()
            if not was_killed:
                return None
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        self.stop()
        command = [sys.executable, "-P", "-m", "stages.evaluation.answer_worker", str(self.seconds), str(self.memory)]
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # A scheduler says SIGTERM to all processes of a job; one that finishes its step needs its workers until then.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # what is blocked is inherited
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": path},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Importing sympy takes longer than most answers and does not count against their time.
        if cast(IO[bytes], self.process.stdout).readline() != b"ready\n":
            raise RuntimeError(f"the judge's worker did not start: {' '.join(command)}")
        os.set_blocking(cast(IO[bytes], self.process.stdin).fileno(), False)
        return self.process

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.communicate()
        self.process = None


def _exchange(process: subprocess.Popen[bytes], question: bytes, deadline: float) -> bytes | None:
    """The line with which a process answers a question; None if it has not by the deadline, or ended.

    Raises:
        BrokenPipeError: it ended before it took the question.
    """
    stdin, stdout = (cast(IO[bytes], pipe).fileno() for pipe in (process.stdin, process.stdout))
    answer = b""
    while not answer.endswith(b"\n"):
        poll = select.poll()
        poll.register(stdin if question else stdout, select.POLLOUT if question else select.POLLIN)
        if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            return None
        if question:
            question = question[os.write(stdin, question) :]
        elif piece := os.read(stdout, 2**16):
            answer += piece
        else:
            return None
    return answer


class Judge:
    """Judges many responses; worker processes stay alive until it is closed."""

    def __init__(
        self, workers: int = 1, seconds: float = 5.0, memory: int = 2 * 2**30, remembered: int = 10_000
    ) -> None:
        """A judge.

        Args:
            workers: processes for what is not a plain number.
            seconds: that one answer may take.
            memory: bytes of address space that a worker may use.
            remembered: verdicts of workers that are kept, the latest used ones.
        """
        self.workers = [Worker(seconds, memory) for _ in range(workers)]
        self.remembered = remembered
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="judge")
        self._known: OrderedDict[tuple[Task, JudgeRules], Verdict] = OrderedDict()
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def verdicts(self, responses: Sequence[str], answers: Sequence[str], rules: JudgeRules = DEFAULT) -> list[Verdict]:
        """A verdict for each response and the answer to its problem.

        Raises:
            ValueError: there are more responses than answers, or fewer.
        """
        if self._owner != os.getpid():
            raise RuntimeError("a Judge cannot be used in a forked process: make one there")
        found: list[Verdict | Task] = [
            _at_once(response, answer, rules) for response, answer in zip(responses, answers, strict=True)
        ]
        tasks = dict.fromkeys(item for item in found if isinstance(item, Task))
        judged = dict(zip(tasks, self._threads.map(lambda task: self._ask(task, rules), tasks), strict=True))
        return [judged[item] if isinstance(item, Task) else item for item in found]

    def _ask(self, task: Task, rules: JudgeRules) -> Verdict:
        with self._lock:
            if (task, rules) in self._known:
                self._known.move_to_end((task, rules))
                return self._known[task, rules]
        worker = self._idle.get()
        try:
            reply = worker.ask(task, rules)
        finally:
            self._idle.put(worker)
        verdict = Verdict(**reply) if reply else Verdict("timed out", task.found, task.wanted)
        if verdict.outcome == "timed out":  # of a busy moment, perhaps
            return verdict
        with self._lock:
            self._known[task, rules] = verdict
            if len(self._known) > self.remembered:
                self._known.popitem(last=False)
        return verdict

    def close(self) -> None:
        """End the workers. In a forked child they are left alone, because they are the parent's."""
        if self._owner != os.getpid():
            return
        self._threads.shutdown()
        for worker in self.workers:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _at_once(response: str, answer: str, rules: JudgeRules) -> Verdict | Task:
    """The verdict where it takes no mathematics, else what to ask a worker."""
    task = look(response, answer, rules)
    if task is None:
        return Verdict("no answer", None, answer)
    try:
        right = _decided(task.found, task.wanted, rules)
    except UndecidedError:
        return task
    return Verdict("correct" if right else "incorrect", task.found, task.wanted)


@functools.lru_cache(maxsize=100_000)
def _decided(found: str, wanted: str, rules: JudgeRules) -> bool:
    """As `decide`; many responses give the same answer to the same problem."""
    return decide(found, wanted, rules)


@functools.cache
def _judge_of(process: int) -> Judge:
    """The judge of one process: a forked child starts workers of its own."""
    judge = Judge()
    atexit.register(judge.close)
    return judge


def is_correct(response: str, answer: str, rules: JudgeRules = DEFAULT) -> Verdict:
    """Whether a response's answer is the problem's answer; the verdict is true only if it is."""
    verdict = _at_once(response, answer, rules)
    return verdict if isinstance(verdict, Verdict) else _judge_of(os.getpid()).verdicts([response], [answer], rules)[0]

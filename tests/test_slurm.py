"""The workflow on a real Slurm: two virtual nodes of this machine, started and stopped here (tests/slurm).

The tests are in the order in which they save time: while one looks at its run, others go on.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import STUDY
from tests.test_workflow import Repository

ROOT = Path(__file__).parent.parent
CONFIGURATION = Path("/etc/slurm/slurm.conf")
MODEL = "qwen2_5_vl_tiny"
CELL = f"{MODEL}/geometry_vision"
RL = f"rl/{CELL}/grpo/seed0"
EPOCHS = 50  # of two steps; RL then takes longer than a minute
TRAINING = {"memory_mb": 1500, "minutes": 10, "nodes": 1, "processes": 1, "sharded": False, "save_every": 1}
OTHERS = {"memory_mb": 1500, "minutes": 10}
MEMORY = STUDY["resources"]["memory"]


def missing() -> str | None:
    """What this machine lacks for a cluster of its own."""
    if os.geteuid() != 0:
        return "needs root, to start a Slurm cluster"
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        return "needs Slurm (Debian: slurm-wlm and munge)"
    if CONFIGURATION.exists() and "ClusterName=glassbox-test" not in CONFIGURATION.read_text():
        return f"{CONFIGURATION} belongs to another cluster"
    return None


pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


def said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def state(job: str) -> str:
    return said_by("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")


class Run:
    """Snakemake on the login node, which is this machine, while it runs and after."""

    def __init__(self, repository: Repository, folder: Path, arguments: tuple[str, ...]) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".log")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(repository.folder)}
        command = ["snakemake", "--workflow-profile", "profiles/slurm", "--configfile", "config/cluster.yaml"]
        # This cluster has no database; and a test need not wait for a network file system.
        command += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "10"]
        command += ["--latency-wait", "5", "--directory", str(folder), *arguments]
        with self.output.open("w") as out:
            self.process = subprocess.Popen(command, cwd=repository.folder, env=environment, stdout=out, stderr=out)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def jobs(self, rule: str = "") -> list[str]:
        """Slurm's numbers of the jobs of a rule, or of all, so far."""
        return re.findall(rf"submitted with SLURM jobid (\d+) \(log: \S*/logs/slurm/rule_{rule}", self.said)

    def until(self, happens: Callable[[], object], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not happens():
            assert self.process.poll() is None and time.monotonic() < end, self.said[-5000:]
            time.sleep(0.5)

    def ends(self, code: int = 0, seconds: float = 240) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        assert self.process.returncode == code, self.said[-5000:]

    def log(self, stage: str) -> str:
        path = self.folder / f"logs/{stage}.log"
        return path.read_text() if path.exists() else ""

    def steps(self, stage: str) -> int:
        """Of a training, as its progress line counts them."""
        return max(map(int, re.findall(rf" (\d+)/{2 * EPOCHS} \[", self.log(stage))), default=0)


Start = Callable[..., Run]
GPU = tuple[str, str]  # Slurm's job, CUDA_VISIBLE_DEVICES


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts Snakemake in a folder, on a repository with a small study; as long as it is there, so is the cluster."""
    repository = Repository(tmp_path_factory.mktemp("repository"))
    study = repository.changed(
        {
            "study.models": [MODEL],
            "study.methods": ["vanilla", "sft", "grpo"],
            "study.seeds": [0],
            "study.evaluate_every": EPOCHS,
            "data.geometry_vision.epochs": EPOCHS,
            "evaluate.settings": {"pass@1 t=0.6": {"samples": 1, "temperature": 0.6, "top_p": 1.0}},
            "resources": {"memory": MEMORY, "sft": TRAINING, "rl": TRAINING, "evaluate": OTHERS, "other": OTHERS},
        }
    )
    (repository.folder / study).rename(repository.folder / "config/cluster.yaml")
    two = TRAINING | {"nodes": 2, "processes": 2}
    repository.changed({"study.models": [MODEL], "study.methods": ["sft"], "study.seeds": [0], "resources.sft": two})
    up = [ROOT / "tests/slurm/up.sh", tmp_path_factory.mktemp("cluster")]
    runs: list[Run] = []

    def start(folder: Path, *arguments: str) -> Run:
        runs.append(Run(repository, folder, arguments))
        return runs[-1]

    with Path("/etc/slurm/glassbox-test.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one cluster a machine, which other tests may be using
        try:
            started = subprocess.run(up, capture_output=True, text=True)
            assert started.returncode == 0, started.stderr
            yield start
        finally:
            for run in runs:
                run.process.kill()
            subprocess.run([ROOT / "tests/slurm/down.sh"], check=True)


def gpus(folder: Path) -> set[GPU]:
    """Of the trainings that run now in a working directory."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            arguments = (process / "cmdline").read_bytes().decode().split("\0")
            pairs = (pair.partition("=") for pair in (process / "environ").read_bytes().decode().split("\0"))
            environment = {name: value for name, _, value in pairs}
            is_ours = (process / "cwd").readlink() == folder and "SLURM_JOB_ID" in environment
            if is_ours and {"stages.sft.train", "stages.rl.train"} & set(arguments):
                found.add((environment["SLURM_JOB_ID"], environment.get("CUDA_VISIBLE_DEVICES", "")))
    return found


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, set[GPU]]:
    """The study from data to page, as far as its trainings, and their GPUs; the rest goes on beside other tests."""
    on_one_node = [f"{rule}:{resource}" for rule in ("sft", "rl") for resource in ("gpu=1", "slurm_partition=spot")]
    overwritten = ("--set-resources", *on_one_node, "judge:judging=1", "judge:runtime=5")
    run = start(tmp_path_factory.mktemp("whole") / "run", "--retries", "0", *overwritten)
    seen: set[GPU] = set()

    def trained() -> bool:
        nonlocal seen
        seen |= gpus(run.folder)
        return {state(job) for job in run.jobs("rl") + run.jobs("sft")} == {"COMPLETED"}

    run.until(trained, seconds=400)
    return run, seen


def prepared(whole: tuple[Run, set[GPU]], folder: Path) -> Path:
    """What a training needs, in a folder of its own."""
    for stage in ("data", "base", "preflight"):
        shutil.copytree(whole[0].folder / "results" / stage, folder / "results" / stage)
    return folder


def same_training(run: Run, other: Run) -> bool:
    ours, theirs = run.folder / "results", other.folder / "results"
    files = [f"{RL}/responses.jsonl", f"{RL}/updates.jsonl", f"weights/{RL}/epochs/epoch{EPOCHS}.safetensors"]
    return all((ours / file).read_bytes() == (theirs / file).read_bytes() for file in files)


@pytest.fixture(scope="module")
def limited(start: Start, whole: tuple[Run, set[GPU]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that takes longer than its minute, just started."""
    signal = ("--default-resources", "slurm_partition=gpu", "slurm_extra='--signal=TERM@5'")
    folder = prepared(whole, tmp_path_factory.mktemp("limited") / "run")
    target = f"results/{RL}/responses.jsonl"
    return start(folder, "--set-resources", "rl:runtime=1", *signal, "--retries", "20", target)


@pytest.fixture(scope="module")
def failing(start: Start, whole: tuple[Run, set[GPU]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An evaluation of a training without its base model, just started."""
    folder = prepared(whole, tmp_path_factory.mktemp("failing") / "run")
    shutil.rmtree(folder / f"results/base/{MODEL}/checkpoint")
    return start(folder, "--retries", "0", f"results/evaluate/{CELL}/sft/seed0/responses.jsonl")


@pytest.fixture(scope="module")
def two_nodes(start: Start, whole: tuple[Run, set[GPU]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training with a process on each of two nodes, just started."""
    folder = prepared(whole, tmp_path_factory.mktemp("two_nodes") / "run")
    study = ("--configfile", "config/changed.yaml")
    return start(folder, *study, "--retries", "0", f"results/sft/{CELL}/sft/seed0/provenance.json")


def test_jobs_side_by_side_have_gpus_of_their_own(whole: tuple[Run, set[GPU]]) -> None:
    run, seen = whole
    assert {job for job, _ in seen} == {*run.jobs("sft"), *run.jobs("rl")}
    assert {gpu for _, gpu in seen} == {"0", "1"}
    assert "gres:gpu:1" in said_by("scontrol", "show", "job", run.jobs("rl")[0])


def test_a_job_is_cancelled_then_requeued_while_its_node_is_drained(
    start: Start, whole: tuple[Run, set[GPU]], limited: Run, failing: Run, two_nodes: Run, tmp_path: Path
) -> None:
    """The training with the time limit runs beside it, on the other node, and so do those that other tests look at."""
    arguments = ("--set-resources", "rl:slurm_partition=spot", "--retries", "1", f"results/{RL}/responses.jsonl")
    run = start(prepared(whole, tmp_path / "run"), *arguments)
    run.until(lambda: run.steps(RL) >= 3)
    said_by("scancel", run.jobs()[0])
    run.until(lambda: len(run.jobs()) == 2)
    run.until(lambda: "resumes after step" in run.log(RL))
    again = run.jobs()[1]
    said_by("scontrol", "update", "nodename=node2", "state=drain", "reason=test")
    said_by("scontrol", "requeue", again)
    run.until(lambda: state(again) == "PENDING")
    time.sleep(10)  # longer than Slurm needs to start it again
    assert state(again) == "PENDING" and run.process.poll() is None
    said_by("scontrol", "update", "nodename=node2", "state=resume")
    run.ends()
    assert len(run.jobs()) == 2  # what is requeued is not submitted again
    assert "resumes after step" in run.log(RL)
    assert same_training(run, whole[0])


def test_a_training_on_two_nodes(two_nodes: Run) -> None:
    two_nodes.ends()
    [job] = two_nodes.jobs("sft")
    said = said_by("scontrol", "show", "job", job)
    assert "JobState=COMPLETED" in said and "NumNodes=2" in said and "NumTasks=2" in said
    assert "2 process(es) on 2 nodes" in two_nodes.log(f"sft/{CELL}/sft/seed0")


def test_a_job_that_fails(failing: Run) -> None:
    failing.ends(code=1)
    [job] = failing.jobs("sft")
    assert state(job) == "FAILED"
    assert not failing.jobs("evaluate")  # of what is not there
    assert f"logs/sft/{CELL}/sft/seed0.log" in failing.said
    assert failing.log(f"sft/{CELL}/sft/seed0").splitlines()[-1] in failing.said  # the reason itself


def test_what_this_cluster_cannot_do_is_not_submitted(start: Start, tmp_path: Path) -> None:
    overwritten = ("rl:gpu=3", "sft:slurm_partition=gpuu", "evaluate:runtime=300", "judge:judging=1")
    run = start(tmp_path / "run", "--set-resources", *overwritten)
    run.ends(code=1)
    assert run.said[run.said.index("The cluster cannot run this study:") :].splitlines()[1:] == [
        "--set-resources: sft: slurm_partition: gpuu, but there is no partition gpuu here (allowed: gpu, spot)",
        "--set-resources: rl: gpu: 3, that is 3 GPUs on a node, but a node of partition gpu has 2",
        "--set-resources: evaluate: runtime: 300, but partition gpu ends jobs after 240",
    ]


def test_from_data_to_page(whole: tuple[Run, set[GPU]]) -> None:
    run, _ = whole
    run.ends()
    assert "<svg" in (run.folder / "results/report/report.html").read_text()
    kept = [path.relative_to(run.folder / "logs/slurm").parts[0] for path in run.folder.glob("logs/slurm/**/*.log")]
    # What needs the network or a moment ran on the login node; four jobs of the judge were one for Slurm.
    ran = ["data", "evaluate", "evaluate", "evaluate", "preflight", "rl", "scores", "sft"]
    assert sorted(kept) == ["group_judges_judge", *(f"rule_{rule}" for rule in ran)]
    [judges] = (path.stem for path in run.folder.glob("logs/slurm/group_judges_judge/*.log"))
    assert {state(job) for job in [judges, *run.jobs()]} == {"COMPLETED"}
    group = said_by("scontrol", "show", "job", judges)
    assert "TimeLimit=00:20:00" in group and "TRES=cpu=1,mem=1500M" in group  # one after another


def test_a_time_limit_costs_nothing_but_a_new_try(whole: tuple[Run, set[GPU]], limited: Run) -> None:
    limited.ends(seconds=900)  # on a busy machine a minute is short, and there are many
    first, *others = limited.jobs()
    assert state(first) in ("FAILED", "TIMEOUT") and state(others[-1]) == "COMPLETED"
    assert "resumes after step" in limited.log(RL)
    assert same_training(limited, whole[0])

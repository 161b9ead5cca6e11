"""Where a stage computes: no GPU twice at a time, and an end that says what the stage said."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from stages.devices import lease, visible
from stages.launch import Asked, check, command, srun, threads

ROOT = Path(__file__).parent.parent
TIMES = """
import os, sys, time
devices, begin = os.environ["CUDA_VISIBLE_DEVICES"], time.monotonic()
time.sleep(float(sys.argv[2]))
with open(sys.argv[1], "a") as file:
    file.write(f"{begin} {time.monotonic()} {devices}\\n")
"""
# What a trainer does when it is told to stop: it ends its step, saves, and says "again".
TRAINER = """
import os, signal, sys, time
from pathlib import Path
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
rank = os.environ.get("RANK", "0")
Path(sys.argv[1], f"begun{rank}").write_text(str(os.getpid()))
end = time.monotonic() + 60
while not told and time.monotonic() < end:
    time.sleep(0.05)
time.sleep(1 + int(rank))
Path(sys.argv[1], f"saved{rank}").touch()
sys.exit(75)
"""
# It leaves a child behind that still uses the device, and says so in a file.
PARENT = """
import os, sys, time
from pathlib import Path
if os.fork() == 0:
    Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""
ENVIRONMENT = """
import json, os, sys
from pathlib import Path
names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION"]
seen = {name: os.environ.get(name) for name in names} | {"arguments": sys.argv[2:]}
Path(sys.argv[1], os.environ.get("RANK", "alone")).write_text(json.dumps(seen))
"""
CODE = "import sys; sys.exit(int(sys.argv[1]))"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the launcher on a machine with the devices a and b; what still runs at the end is killed."""
    for name, code in {"times": TIMES, "trainer": TRAINER, "parent": PARENT, "seen": ENVIRONMENT, "code": CODE}.items():
        (tmp_path / f"{name}.py").write_text(code)
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        call = [sys.executable, "-m", "stages.launch", *map(str, arguments)]
        environ = machine(tmp_path) | environment
        started.append(subprocess.Popen(call, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr
        process.stderr.close()


def machine(folder: Path) -> dict[str, str]:
    """The environment on a machine with two devices, outside Slurm."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return ours | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "CUDA_VISIBLE_DEVICES": "a,b",
        "GLASSBOX_GPU_LOCKS": str(folder / "locks"),
    }


def appeared(path: Path, seconds: float = 60) -> Path:
    """Wait for a file."""
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.02)
    return path


def gone(process: int, seconds: float = 10) -> bool:
    """Whether a process, or all but its entry in the table, has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def uses(path: Path) -> list[tuple[float, float, str]]:
    """When each device was in use, from the file that `times` writes."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(float(begin), float(end), device) for begin, end, devices in rows for device in devices.split(",")]


def clashes(used: list[tuple[float, float, str]]) -> int:
    """How often two jobs were on one device at a time, by comparing all with all."""
    return sum(
        one[2] == other[2] and one[0] < other[1] and other[0] < one[1]
        for index, one in enumerate(used)
        for other in used[:index]
    )


# --- a device has one user at a time ---------------------------------------------------------------------------------


def test_no_device_has_two_users(start: Start, tmp_path: Path) -> None:
    random = Random(0)
    wanted = [random.choice([1, 2]) for _ in range(16)]
    jobs = [start("--gpus", str(count), "times", tmp_path / "used", "0.15") for count in wanted]
    assert [job.wait(60) for job in jobs] == [0] * 16
    used = uses(tmp_path / "used")
    assert len(used) == sum(wanted)
    assert clashes(used) == 0
    assert {device for *_, device in used} == {"a", "b"}


def test_two_jobs_of_one_device_run_at_once(start: Start, tmp_path: Path) -> None:
    for _ in range(2):
        start("--gpus", "1", "trainer", tmp_path)
        appeared(tmp_path / "begun0").unlink()


def test_who_waits_says_so_once(start: Start, tmp_path: Path) -> None:
    first = start("--gpus", "1", "trainer", tmp_path)
    appeared(tmp_path / "begun0")
    second = start("--gpus", "2", "times", tmp_path / "used", "0")
    time.sleep(1)
    assert second.poll() is None
    first.terminate()
    assert second.communicate(timeout=30)[1].splitlines() == [
        "launch: waiting for 2 of the GPUs a, b",
        "launch: times in 1 process(es) on GPU a, b",
    ]
    assert first.wait() == 75


def test_a_killed_job_gives_its_device_back(start: Start, tmp_path: Path) -> None:
    holder = start("--gpus", "2", "trainer", tmp_path)
    appeared(tmp_path / "begun0")
    holder.kill()
    assert start("--gpus", "2", "times", tmp_path / "used", "0").wait(30) == 0


def test_a_child_that_lives_on_keeps_the_device(start: Start, tmp_path: Path) -> None:
    holder = start("--gpus", "2", "parent", tmp_path / "child")
    child = int(appeared(tmp_path / "child").read_text())
    holder.kill()
    holder.wait()
    waiting = start("--gpus", "1", "times", tmp_path / "used", "0")
    time.sleep(1)
    assert waiting.poll() is None
    os.kill(child, signal.SIGKILL)
    assert waiting.wait(30) == 0


def test_without_gpus_none_is_visible(start: Start, tmp_path: Path) -> None:
    assert start("seen", tmp_path).wait(30) == 0
    assert '"CUDA_VISIBLE_DEVICES": ""' in (tmp_path / "alone").read_text()


def test_locks_are_open_to_every_user_whatever_the_first_one_hides(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        assert lease(1, {"CUDA_VISIBLE_DEVICES": "MIG-1/2", "GLASSBOX_GPU_LOCKS": str(tmp_path / "new")}) == ["MIG-1/2"]
    finally:
        os.umask(mask)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new", *(tmp_path / "new").iterdir())]
    assert modes == [0o1777, 0o444]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_two_users_do_not_get_the_same_device() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is nobody else's to enter
        Path(folder).chmod(0o755)
        environ = {"CUDA_VISIBLE_DEVICES": "a", "GLASSBOX_GPU_LOCKS": f"{folder}/locks"}
        lease(1, environ)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                signal.alarm(2)  # the end, if it waits for the device
                lease(1, environ)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM


# --- which devices there are -----------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with an nvidia-smi that knows two devices, and a scontrol that knows two nodes."""
    folder = tmp_path / "tools"
    folder.mkdir()
    nodes = (
        'case "$2" in hostnames) printf "node7\\nnode9\\n" ;; node) echo "NodeName=$3 NodeAddr=10.0.0.7 Port=1" ;; esac'
    )
    for name, code in {"nvidia-smi": "printf '0, GPU-x\\n1, GPU-y\\n'", "scontrol": nodes}.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("named", "devices"),
    [
        (None, ["GPU-x", "GPU-y"]),
        ("1", ["GPU-y"]),
        ("GPU-y, 0", ["GPU-y", "GPU-x"]),
        ("MIG-z", ["MIG-z"]),
        ("", []),
        ("-1", []),
    ],
)
def test_a_device_has_one_name_however_it_is_chosen(tools: Path, named: str | None, devices: list[str]) -> None:
    environ = {"PATH": str(tools)} | ({} if named is None else {"CUDA_VISIBLE_DEVICES": named})
    assert visible(environ) == devices


def test_slurms_devices_are_taken_as_they_are(tools: Path, tmp_path: Path) -> None:
    environ = {"PATH": str(tools), "GLASSBOX_GPU_LOCKS": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}
    # Each job's only device is its number 0: they do not wait for each other, nor for who is not in Slurm.
    taken = [lease(1, environ | ({"SLURM_JOB_ID": job} if job else {})) for job in ("", "7", "8")]
    assert taken == [["GPU-x"], ["0"], ["0"]]
    with pytest.raises(ValueError) as error:
        lease(2, environ | {"SLURM_JOB_ID": "9"})
    assert str(error.value).startswith("2 GPU(s) asked for, 1 visible (0): lower resources.<stage>.processes in the")


def test_no_gpu_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        lease(1, {"PATH": str(tmp_path)})
    assert str(error.value) == (
        "1 GPU(s) asked for, 0 visible (none): lower resources.<stage>.processes in the study file, tell snakemake how"
        " many there are (--resources gpu=N), or choose compute.device: cpu"
    )


def test_a_lock_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError) as error:
        lease(1, {"CUDA_VISIBLE_DEVICES": "a", "GLASSBOX_GPU_LOCKS": str(tmp_path / "file")})
    assert str(error.value).startswith("no lock on a GPU: ")
    assert str(error.value).endswith("; GLASSBOX_GPU_LOCKS=FOLDER names another folder")


# --- what is started -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "processes", "gpus", "message"),
    [
        (1, 0, 0, "--nodes 1 --processes 0 --gpus 0: at least one node and one process"),
        (2, 3, 0, "--nodes 2 must divide --processes 3"),
        (
            1,
            2,
            1,
            "the study asks for 2 processes with a GPU each (resources.rl.processes), snakemake allows 1"
            " (--resources gpu=1)",
        ),
        (2, 2, 0, "2 nodes (resources.<stage>.nodes) need Slurm, and this is no Slurm job: set nodes: 1"),
    ],
)
def test_what_cannot_run_is_refused(nodes: int, processes: int, gpus: int, message: str) -> None:
    with pytest.raises(ValueError) as error:
        check(Asked(nodes, processes, gpus, "stages.rl.train", []), {})
    assert str(error.value) == message


def test_several_processes_may_run_without_a_gpu() -> None:
    check(Asked(1, 2, 0, "stages.rl.train", []), {})


def test_one_process_is_the_stage_itself() -> None:
    assert command(Asked(1, 1, 1, "stages.rl.train", ["run.json"]), {}) == [
        *[sys.executable, "-m", "stages.rl.train", "run.json"]
    ]


def test_on_several_nodes_it_is_started_again_once_on_each() -> None:
    started = srun(Asked(2, 8, 8, "stages.rl.train", ["run.json"]))
    again = started.index(sys.executable)
    assert started[0] == "srun"
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gpus-per-node=4"} < set(started[:again])
    assert started[again:] == [
        *[sys.executable, "-m", "stages.launch", "--nodes=2", "--processes=8", "--gpus=8"],
        *["stages.rl.train", "run.json"],
    ]
    assert not [
        option for option in srun(Asked(2, 2, 0, "stages.rl.train", [])) if "gpu" in option and "=0" not in option
    ]


def test_all_nodes_meet_on_the_first(tools: Path) -> None:
    step = {"SLURM_JOB_ID": "1234567", "SLURM_STEP_NODELIST": "node[7,9]", "PATH": f"{tools}:/bin"}
    calls = [command(Asked(2, 8, 8, "stages.rl.train", []), step | {"SLURM_NODEID": node}) for node in "01"]
    for node, call in zip("01", calls, strict=True):
        assert {"--num_machines=2", "--num_processes=8", f"--machine_rank={node}"} < set(call)
        assert {"--main_process_ip=10.0.0.7", "--main_process_port=19567"} < set(call)


def test_the_threads_of_the_job_are_shared() -> None:
    asked = Asked(1, 4, 0, "stages.rl.train", [])
    assert threads(asked, {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "2", "HOME": "/"}) == {
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "1",
    }


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_exit_code_is_the_stages(start: Start, code: int) -> None:
    assert start("code", str(code)).wait(30) == code


def test_two_processes_are_one_world(start: Start, tmp_path: Path) -> None:
    # A user's own settings of accelerate do not matter.
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate/default_config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: fp16\nuse_cpu: false\n"
        "gpu_ids: '5,6'\nnum_machines: 3\nmachine_rank: 2\nmain_process_ip: 10.9.9.9\nmain_process_port: 1\n"
        "num_processes: 6\nsame_network: false\nrdzv_backend: c10d\ndebug: true\n"
    )
    options = ["--processes", "2", "--gpus", "2", "seen", tmp_path, "--save-every", "3"]
    job = start(*options, HF_HOME=str(tmp_path), OMP_NUM_THREADS="6")
    assert job.wait(60) == 0
    for rank in "01":
        assert (tmp_path / rank).read_text() == (
            f'{{"RANK": "{rank}", "WORLD_SIZE": "2", "LOCAL_RANK": "{rank}", "CUDA_VISIBLE_DEVICES": "a,b", '
            '"OMP_NUM_THREADS": "3", "ACCELERATE_MIXED_PRECISION": "no", "arguments": ["--save-every", "3"]}'
        )


def launcher_twice(launcher: int, _: list[int]) -> None:
    os.kill(launcher, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(launcher, signal.SIGTERM)


def group(launcher: int, _: list[int]) -> None:
    os.killpg(launcher, signal.SIGTERM)


def everybody(launcher: int, workers: list[int]) -> None:
    for process in (*workers, launcher):
        os.kill(process, signal.SIGTERM)


@pytest.mark.parametrize("tell", [launcher_twice, group, everybody])
def test_who_is_told_to_stop_saves_and_says_again(
    start: Start, tmp_path: Path, tell: Callable[[int, list[int]], None]
) -> None:
    job = start("--processes", "2", "--gpus", "2", "trainer", tmp_path)
    workers = [int(appeared(tmp_path / f"begun{rank}").read_text()) for rank in (0, 1)]
    tell(job.pid, workers)
    log = job.communicate(timeout=60)[1]
    assert job.returncode == 75
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert "Traceback" not in log


def test_a_process_that_dies_takes_the_others_with_it(start: Start, tmp_path: Path) -> None:
    job = start("--processes", "2", "trainer", tmp_path)
    first, second = (int(appeared(tmp_path / f"begun{rank}").read_text()) for rank in (0, 1))
    os.kill(first, signal.SIGKILL)
    assert job.wait(60) == 128 + signal.SIGKILL
    assert gone(second)


@pytest.mark.skipif(not Path("/usr/bin/setpriv").exists(), reason="needs setpriv")
def test_no_process_outlives_its_launcher(start: Start, tmp_path: Path) -> None:
    job = start("--processes", "2", "--gpus", "2", "trainer", tmp_path)
    workers = [int(appeared(tmp_path / f"begun{rank}").read_text()) for rank in (0, 1)]
    job.kill()
    assert all(gone(worker) for worker in workers)
    assert start("--gpus", "2", "times", tmp_path / "used", "0").wait(30) == 0


# --- by way of Snakemake ---------------------------------------------------------------------------------------------

SNAKEFILE = """
rule all:
    input: expand("done/{job}", job=range(6))

rule job:
    output: "done/{job}"
    resources: gpu=lambda w: 1 + int(w.job) % 2
    shell: "python -m stages.launch --gpus {resources.gpu} times used 0.3; touch {output}"

rule pair:
    output: "pair"
    resources: gpu=2
    shell: "python -m stages.launch --processes 2 --gpus {resources.gpu} times used 0; touch {output}"
"""


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "Snakefile").write_text(SNAKEFILE)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    call = [sys.executable, "-m", "snakemake", "--cores", "8", *arguments]
    return subprocess.run(call, cwd=folder, env=machine(folder) | {"PATH": path}, capture_output=True, text=True)


@pytest.mark.parametrize("limit", [["--resources", "gpu=2"], []])  # without a limit Snakemake starts all at once
def test_snakemakes_jobs_get_devices_of_their_own(tmp_path: Path, limit: list[str]) -> None:
    (tmp_path / "times.py").write_text(TIMES)
    ran = snakemake(tmp_path, *limit)
    assert ran.returncode == 0, ran.stderr
    used = uses(tmp_path / "used")
    assert len(used) == 3 * 1 + 3 * 2
    assert clashes(used) == 0


def test_snakemakes_limit_is_not_a_silent_one(tmp_path: Path) -> None:
    ran = snakemake(tmp_path, "--resources", "gpu=1", "--", "pair")
    assert ran.returncode != 0
    assert (
        "launch: the study asks for 2 processes with a GPU each (resources.<stage>.processes), snakemake allows 1"
        " (--resources gpu=1)" in ran.stderr
    )

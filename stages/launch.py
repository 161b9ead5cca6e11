"""Start a stage where it may compute: `python -m stages.launch [--nodes N] [--processes P] [--gpus G] MODULE ARGS...`.

- One process: it becomes `python -m MODULE ARGS...`, with G GPUs of its own.
- P processes: it becomes their launcher (`stages.workers`).
- N nodes, under Slurm: it becomes an `srun` that starts this again once on each node, for P / N processes.

It ends as the stage does. A stage that is told to stop and can go on later exits with 75.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from stages.devices import VISIBLE, lease

ON_ITS_NODE = "GLASSBOX_ON_ITS_NODE"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Asked(NamedTuple):
    """What to start.

    Attributes:
        nodes: machines.
        processes: of all nodes together.
        gpus: of all nodes together, 0 to compute without.
        module: of the stage.
        arguments: of the stage.
    """

    nodes: int
    processes: int
    gpus: int
    module: str
    arguments: list[str]


def main() -> None:
    asked = _parsed()
    environ = dict(os.environ)
    try:
        check(asked, environ)
        if asked.nodes > 1 and ON_ITS_NODE not in environ:
            environ[ON_ITS_NODE] = "1"
            call = srun(asked)
            where = f"{asked.nodes} nodes"
        else:
            devices = lease(asked.gpus // asked.nodes, environ)
            environ |= {VISIBLE: ",".join(devices)} | threads(asked, environ)
            call = command(asked, environ)
            where = f"GPU {', '.join(devices)}" if devices else "no GPU"
    except ValueError as mistake:
        sys.exit(f"launch: {mistake}")
    print(f"launch: {asked.module} in {asked.processes} process(es) on {where}", file=sys.stderr, flush=True)
    os.execvpe(call[0], call, environ)


def _parsed() -> Asked:
    parser = argparse.ArgumentParser(prog="python -m stages.launch")
    parser.add_argument("--nodes", type=int, default=1, help="machines; more than one only under Slurm")
    parser.add_argument("--processes", type=int, default=1, help="of all nodes together")
    parser.add_argument("--gpus", type=int, default=0, help="of all nodes together")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return Asked(**vars(parser.parse_args()))


def check(asked: Asked, environ: Mapping[str, str]) -> None:
    """Whether it can be started at all.

    Raises:
        ValueError: it cannot.
    """
    nodes, processes, gpus, *_ = asked
    if nodes < 1 or processes < 1 or gpus < 0:
        raise ValueError(f"--nodes {nodes} --processes {processes} --gpus {gpus}: at least one node and one process")
    if processes % nodes:
        raise ValueError(f"--nodes {nodes} must divide --processes {processes}")
    # Snakemake lowers a job's GPUs to its own limit and does not say so.
    if processes > 1 and gpus not in (0, processes):
        stage = asked.module.rpartition(".")[0].removeprefix("stages.") or "<stage>"
        raise ValueError(
            f"the study asks for {processes} processes with a GPU each (resources.{stage}.processes), snakemake allows"
            f" {gpus} (--resources gpu={gpus})"
        )
    if nodes > 1 and "SLURM_JOB_ID" not in environ:
        raise ValueError(f"{nodes} nodes (resources.<stage>.nodes) need Slurm, and this is no Slurm job: set nodes: 1")


def srun(asked: Asked) -> list[str]:
    """Start this module again, once on each node of the Slurm job.

    To be told to stop, a job starts it from its batch step (the plugin's `mpi` resource): an srun that gets SIGTERM
    itself, as all in another step do, kills what it started.
    """
    nodes, processes, gpus, module, arguments = asked
    return [
        *["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"],
        *([f"--gpus-per-node={gpus // nodes}"] if gpus else []),
        # Nodes end together; after one that ended alone the others would wait for its processes.
        *["--kill-on-bad-exit=0", "--wait=60"],
        *[sys.executable, "-m", "stages.launch"],
        *[f"--nodes={nodes}", f"--processes={processes}", f"--gpus={gpus}", module, *arguments],
    ]


def command(asked: Asked, environ: Mapping[str, str]) -> list[str]:
    """What this process becomes, on its node."""
    stage = [sys.executable, "-m", asked.module, *asked.arguments]
    if asked.processes == 1:
        return stage
    # No process may outlive its launcher, whose lease on the GPUs ends with it.
    bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv", path=environ.get("PATH")) else []
    return [
        *[sys.executable, "-m", "stages.workers"],
        # What is left out is taken from the user's accelerate configuration. Without a GPU, --multi_gpu only means
        # processes that torchrun starts; --cpu would be MPI.
        *["--multi_gpu", f"--num_processes={asked.processes}", f"--num_machines={asked.nodes}", "--gpu_ids=all"],
        *["--mixed_precision=no", "--dynamo_backend=no", "--rdzv_backend=static"],
        *(_meeting_point(environ) if asked.nodes > 1 else ["--main_process_port=0"]),
        *["--no_python", *bound, *stage],
    ]


def _meeting_point(environ: Mapping[str, str]) -> list[str]:
    """Where the processes of several nodes find each other; the same on each node without asking another."""
    first = _scontrol("hostnames", environ["SLURM_STEP_NODELIST"], environ=environ).split()[0]
    # Slurm's name for a node need not be one that the network knows; the address is.
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("node", first, environ=environ))
    host = address[1] if address else first
    port = 15000 + int(environ["SLURM_JOB_ID"]) % 10000
    return [f"--machine_rank={environ['SLURM_NODEID']}", f"--main_process_ip={host}", f"--main_process_port={port}"]


def _scontrol(*show: str, environ: Mapping[str, str]) -> str:
    return subprocess.run(["scontrol", "show", *show], env=environ, capture_output=True, text=True, check=True).stdout


def threads(asked: Asked, environ: Mapping[str, str]) -> dict[str, str]:
    """The threads of each process: Snakemake names those of the job."""
    named = {name: environ[name] for name in THREADS if environ.get(name, "").isdigit()}
    return {name: str(max(1, int(count) // asked.processes)) for name, count in named.items()}


if __name__ == "__main__":
    main()

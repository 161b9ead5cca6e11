"""Where a result comes from: versions, commit, hardware, time, and the hashes of its inputs."""

import json
import os
import platform
import re
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stages.files import sha256

PACKAGES = ("glassbox", "torch", "transformers", "tokenizers", "datasets", "math-verify", "numpy", "pandas", "pillow")


STARTED = time.time()  # a job imports this before it works


def write_provenance(folder: Path, inputs: list[Path]) -> None:
    """Write `folder`/provenance.json, when all else is done.

    `seconds` are of wall-clock since this module was imported, which a job does before it works.
    """
    provenance = {
        "started": datetime.fromtimestamp(STARTED, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - STARTED, 1),
        "hardware": hardware(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "inputs": {str(path): sha256(path) for path in inputs},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def hardware() -> dict[str, str | int | float | None]:
    """The machine that this job has: processor, its cores, memory in GB, GPUs if nvidia-smi lists any."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
    }


def _processor() -> str:
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source that runs, with "+" if it is changed; None outside a git checkout."""
    here = Path(__file__).parent
    return _output("git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")


def _output(*command: str) -> str | None:
    """What a command prints; None where there is no such command, or it fails or prints nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None

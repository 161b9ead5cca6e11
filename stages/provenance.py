"""Where a result comes from: versions, commit and the hashes of its inputs."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stages.files import sha256

PACKAGES = ("glassbox", "torch", "transformers", "tokenizers", "datasets", "math-verify", "numpy", "pandas", "pillow")


def write_provenance(folder: Path, inputs: list[Path]) -> None:
    """Write `folder`/provenance.json."""
    provenance = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "inputs": {str(path): sha256(path) for path in inputs},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source that runs, with "+" if it is changed; None outside a git checkout."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

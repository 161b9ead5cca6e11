"""What benchmarks have in common: names that they are asked for, processes of their own, and results that they keep."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def chosen(parser: ArgumentParser, asked: Sequence[str], known: Iterable[str]) -> list[str]:
    """What was asked for, or all; the command ends if a name is not known."""
    names = [*known]
    if unknown := [name for name in asked if name not in names]:
        parser.error(f"{unknown[0]!r} is not known (known: {', '.join(map(repr, names))})")
    return [*asked] or names


def positive(text: str) -> int:
    """A whole number of the command line."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def check_device(parser: ArgumentParser, device: str) -> None:
    """The command ends if there is no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU")


def printed_by(script: str, *arguments: object, **environment: str) -> str:
    """What a script prints in a process of its own; if it fails, this one ends with what it said."""
    command = [sys.executable, script, *map(str, arguments)]
    found = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{' '.join(command)}\n{found.stdout}{found.stderr}")
    return found.stdout


def found_by(script: str, *arguments: object, **environment: str) -> Any:
    """The same, of which the last line is JSON."""
    return json.loads(printed_by(script, *arguments, **environment).splitlines()[-1])


@cache
def commit() -> str | None:
    """The version of the code, with "+" if a file is changed that is not a result; None outside a git checkout."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return f"{head}+" if head and changed else head


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def keep(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """Add what was found to a file, with the version of the code, in the place of what it had under the same names."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write(path, table | {name: {"commit": commit()} | one for name, one in found.items()})


def write(path: Path, contents: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)

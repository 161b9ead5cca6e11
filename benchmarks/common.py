"""What benchmarks have in common: the names that they are asked for, and the results that they keep."""

import json
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def chosen(parser: ArgumentParser, asked: Sequence[str], known: Iterable[str]) -> list[str]:
    """What was asked for, or all; the command ends if a name is not known."""
    names = [*known]
    if unknown := [name for name in asked if name not in names]:
        parser.error(f"{unknown[0]!r} is not known (known: {', '.join(names)})")
    return [*asked] or names


def keep(path: Path, found: dict[str, Any]) -> None:
    """Add what was found to a file, in the place of what it had under the same names; whole or not at all."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write(path, table | found)


def write(path: Path, contents: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)

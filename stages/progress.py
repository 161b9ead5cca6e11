"""Progress of long work: a bar on a terminal, a line every few seconds in a log file."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class _Lines:
    """A log file's view of tqdm: what would redraw the bar begins a new line."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(items: Iterable[Item], name: str, total: int | None = None) -> "tqdm[Item]":
    """Iterate with a progress bar; `set_postfix` shows the latest numbers on it."""
    if sys.stderr.isatty():
        return tqdm(items, desc=name, total=total, dynamic_ncols=True)
    log: Any = _Lines()
    return tqdm(items, desc=name, total=total, file=log, mininterval=5, maxinterval=30, ascii=True, ncols=160)

"""Progress of long work: a bar on a terminal, a line every few seconds in a log file."""

import sys
from collections.abc import Iterable
from functools import partial
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


def progress(
    items: Iterable[Item], name: str, total: int | None = None, done: int = 0, *, quiet: bool = False
) -> "tqdm[Item]":
    """Iterate with a progress bar; `set_postfix` shows the latest numbers on it.

    Args:
        items: what is still to be done.
        name: before the bar.
        total: of all items.
        done: items that an earlier try did.
        quiet: show nothing.
    """
    bar: Any = partial(tqdm, items, desc=name, total=total, initial=done, disable=quiet)
    if sys.stderr.isatty():
        return bar(dynamic_ncols=True)
    return bar(file=_Lines(), mininterval=5, maxinterval=30, ascii=True, ncols=160)

"""Whether a Snakemake runs in a directory, so that a lock that a dead one left can be told from a living one's."""

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import TextIO

PLACE = Path(".snakemake")


def mark_running() -> TextIO:
    """Hold a lock that the system takes back when this process is gone, whatever becomes of it."""
    PLACE.mkdir(exist_ok=True)
    file = (PLACE / "running").open("a", encoding="utf-8")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def somebody_runs() -> bool:
    """Whether a Snakemake runs here; where the file system has no locks, it may."""
    PLACE.mkdir(exist_ok=True)
    with (PLACE / "running").open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def lock_of_a_dead_one() -> bool:
    """Whether Snakemake's lock is there and no Snakemake is."""
    return any((PLACE / "locks").glob("*")) and not somebody_runs()

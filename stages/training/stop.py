"""Being told to stop: Slurm says SIGTERM before a time limit, a preemption or a `scancel`; a user presses Ctrl-C."""

import signal
from types import FrameType

AGAIN = 75  # exit status of a job that was stopped and can go on: EX_TEMPFAIL of sysexits.h
_asked = False


def listen() -> None:
    """From now on SIGTERM and the first SIGINT are only noted; SIGTERM may come several times."""
    global _asked
    _asked = False
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGINT, _note)


def asked() -> bool:
    """Whether this process was told to stop."""
    return _asked


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    if number == signal.SIGINT:  # who presses Ctrl-C again does not want to wait for the step's end
        signal.signal(signal.SIGINT, signal.SIG_DFL)

"""Several processes of one stage: `python -m stages.workers ACCELERATE-LAUNCH-ARGS...`.

It is `accelerate launch` but for its end. There a signal ends the launcher with an exception, a second signal leaves
the processes alone in the middle of their work, and every end but the good one is a traceback and exit code 1. Here
SIGTERM and SIGINT are handed on, the processes end as they like, and the exit code is that of the first that failed.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Start the processes and wait for them.

    Args:
        arguments: of `accelerate launch`.

    Returns:
        0 if all ended well; else the exit code of the first that did not, 128 + its number if a signal killed it. The
        others have then been told to stop (SIGTERM), and 30 seconds later killed; so processes that save something wait
        for each other before they end.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    asked = launch_command_parser().parse_args(arguments)
    # torchrun takes over the signals in this list, which it does not accept empty; SIGTERM and SIGINT are ours.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGUSR2"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _hand_on)
    try:
        launch_command(asked)
    except ChildFailedError as failed:
        rank, first = failed.get_first_failure()
        print(f"launch: process {rank} was the first to end, with {first.exitcode}", file=sys.stderr)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


def _hand_on(number: int, _: FrameType | None) -> None:
    """Tell each process; the launcher waits for them."""
    processes = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    if not processes:
        sys.exit(128 + number)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(int(process), number)


if __name__ == "__main__":
    main()

"""How long a step takes to start: `python benchmarks/start.py`.

Each step is only imported, in a process of its own, with Python's garbage collector as `stages/__init__.py` leaves it
and as Python has it, in turn. Prints the median seconds of the whole process, and the median of the paired ratios.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.common import positive

STEPS = (
    *("stages.data.prepare", "stages.model.preflight", "stages.sft.train", "stages.rl.train"),
    *("stages.evaluation.evaluate", "stages.evaluation.judge", "stages.evaluation.score"),
    *("stages.report.figures", "stages.report.report"),
)
AS_PYTHON_HAS_IT = "import atexit, gc, stages; gc.set_threshold(700, 10, 10); atexit.unregister(gc.freeze); "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=positive, default=5)
    pairs = parser.parse_args().pairs
    print(f"{'step':30} {'ours, s':>10} {'plain, s':>10} {'plain / ours':>14}")
    for step in STEPS:
        both = [(seconds(f"import {step}"), seconds(f"{AS_PYTHON_HAS_IT}import {step}")) for _ in range(pairs)]
        ours, plain = map(statistics.median, zip(*both, strict=True))
        ratio = statistics.median(theirs / mine for mine, theirs in both)
        print(f"{step:30} {ours:10.2f} {plain:10.2f} {ratio:14.2f}")


def seconds(code: str) -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - start


if __name__ == "__main__":
    main()

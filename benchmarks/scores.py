"""How long scoring takes and how much memory: `python benchmarks/scores.py`.

The paper's longest run, 150 generation steps of 896 responses of about 400 tokens, made up and written as JSONL, is
scored by the public command in a process of its own on one core. A quarter of the responses reflect, and each has an
answer for the judge. Prints the seconds and the peak resident memory; `--steps` and `--responses` make it smaller.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

TOKENS = 400
WORDS = ["the", "angle", "of", "triangle", "is", "equal", "to", "side", "length", "therefore", "we", "have", "segment"]


def text(random: Random, answer: int) -> str:
    """About 400 tokens that end with a boxed answer; a quarter of them reflect."""
    body = " ".join(random.choices(WORDS, k=TOKENS - 40))
    said = random.choice([answer, answer + 1])
    again = f" So x = 180 - {said} = {180 - said}. Wait, let me re-check. So x = {said}."
    return f"{body}.{again if random.random() < 0.25 else ''} The answer is \\boxed{{{said}}}"


def write(path: Path, steps: int, responses: int) -> None:
    random = Random(0)
    with path.open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            for i in range(responses):
                answer = random.randrange(10, 90)
                row = {"split": "train", "epoch": (step - 1) // 5 + 1, "step": step, "problem": f"p{i}", "sample": 0}
                row |= {"text": text(random, answer), "answer": str(answer), "length": TOKENS, "finished": True}
                file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--responses", type=int, default=896)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rl.jsonl")
        write(path, given.steps, given.responses)
        command = [sys.executable, "-m", "stages.evaluation.score", str(path), "--out", f"{folder}/scores"]
        one_core = lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # noqa: E731
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=one_core)
        seconds = time.monotonic() - start
        size = path.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    rows = given.steps * given.responses
    print(f"{rows} responses, {size:.0f} MB: {seconds:.1f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()

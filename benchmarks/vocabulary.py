"""The memory and time of log-probabilities in parts, against all logits at once: `python benchmarks/vocabulary.py`.

For each size of vocabulary and number of response tokens: forward and backward of a sum of log-probabilities, both ways
in turn, each in a process of its own. Memory is by how much the process grows (on a GPU: what torch has allocated),
without hidden states, head and their gradients, which both have.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.common import check_device

WIDTH, PAIRS = 256, 5
SIZES = [(words, tokens) for words in (20_000, 152_000) for tokens in (512, 2048)]


def measured(way: str, words: int, tokens: int, device: str) -> tuple[float, float]:
    """MB and seconds of one forward and backward pass."""
    from stages.model.vocabulary import plain, token_logprobs

    torch.set_num_threads(1)
    random = torch.Generator(device).manual_seed(0)
    hidden = (3 * WIDTH**-0.5 * torch.randn(tokens, WIDTH, generator=random, device=device)).requires_grad_()
    head = torch.randn(words, WIDTH, generator=random, device=device, requires_grad=True)
    token_ids = torch.randint(words, (tokens,), generator=random, device=device)
    token_logprobs(hidden[:8], head, token_ids[:8])[0].sum().backward()  # gradients are there, libraries are loaded
    before, start = peak(device), time.perf_counter()
    logprobs, _ = token_logprobs(hidden, head, token_ids) if way == "parts" else plain(hidden, head, token_ids, False)
    logprobs.sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return peak(device) - before, time.perf_counter() - start


def peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else getrusage(RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    check_device(parser, given.device)
    if given.one:
        way, words, tokens = given.one
        print(json.dumps(measured(way, int(words), int(tokens), given.device)))
        return
    print(
        f"{'words':>8} {'tokens':>7} {'parts MB':>9} {'whole MB':>9} {'memory':>7} {'time':>6}   (medians of {PAIRS})"
    )
    for words, tokens in SIZES:
        found: dict[str, list[tuple[float, float]]] = {"parts": [], "whole": []}
        for _ in range(PAIRS):
            for way, results in found.items():
                call = [sys.executable, __file__, "--device", given.device, "--one", way, str(words), str(tokens)]
                results.append(tuple(json.loads(subprocess.check_output(call, cwd=Path(__file__).parents[1]))))
        memory = {way: statistics.median(mb for mb, _ in results) for way, results in found.items()}
        ratio = statistics.median(p[1] / w[1] for p, w in zip(found["parts"], found["whole"], strict=True))
        share = memory["parts"] / memory["whole"]
        print(f"{words:>8} {tokens:>7} {memory['parts']:>9.0f} {memory['whole']:>9.0f} {share:>7.2f} {ratio:>6.2f}")


if __name__ == "__main__":
    main()

"""What exactness costs, and what it is worth: `python benchmarks/engine.py [--device cpu|cuda] [SIZE ...]`.

Random models of three sizes; weights and passes in float32, weights in float32 beside passes in bfloat16, and all in
bfloat16. By the stages' own trainings, each in a process of its own, the ways in turn: tokens a second of sampling and
of updating apart, how much memory was taken, and how far the loss of SFT is from float32's, update by update. Prints a
line a size and way, and writes benchmarks/results/engine.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.common import check_device, chosen, commit, found_by, write
from benchmarks.memory import Case
from benchmarks.models import SIZES
from benchmarks.runs import Device, DType

RESULTS = Path(__file__).parent / "results" / "engine.json"
WAYS: dict[str, tuple[DType, DType]] = {
    "float32": ("float32", "float32"),
    "exact": ("float32", "bfloat16"),
    "bfloat16": ("bfloat16", "bfloat16"),
}
DEFAULT = {"cpu": ("tiny", "20M", "100M"), "cuda": ("tiny", "100M", "3B")}
TURNS = 3


def measure(case: Case, folder: Path, device: Device) -> dict[str, Any]:
    """Train in this process, with a clock around sampling and updates."""
    from stages.rl import response_collection
    from stages.rl import train as rl
    from stages.sft import train as sft

    seconds = {"sampling": 0.0, "updating": 0.0}

    def timed(name: str, inner: Any) -> Any:
        def outer(*given: Any) -> Any:
            start = time.perf_counter()
            found = inner(*given)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name] += time.perf_counter() - start
            return found

        return outer

    before = getrusage(RUSAGE_SELF).ru_maxrss
    from stages.training.run import Means

    run: Any = case.run(folder, device)
    if case.method == "sft":
        sft.train(run)
    else:
        rl.update_policy = timed("updating", rl.update_policy)
        native: Any = response_collection.NativeCollector
        native.collect = timed("sampling", native.collect)
        rl.train(run, Means(largest_gap=100.0))  # whatever the gap: it is what is asked
    peak = (
        torch.cuda.max_memory_allocated() / 1e6
        if device == "cuda"
        else (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1e3
    )
    updates = [json.loads(line) for line in (folder / "out/updates.jsonl").read_text().splitlines()]
    tokens = sum(update["tokens"] for update in updates)
    rates = {name: tokens / spent for name, spent in seconds.items() if spent}
    gaps = [update["sampler_gap"] for update in updates if update["sampler_gap"] is not None]
    return {"rates": rates, "peak_mb": peak, "losses": [update["loss"] for update in updates], "gaps": gaps}


def measured(case: Case, device: Device) -> dict[str, Any]:
    """The same in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        case.build(Path(folder))
        return found_by(__file__, "--device", device, "--measure", folder, repr(case))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--measure", metavar="FOLDER", help="of a case that is built; used by the script itself")
    parser.add_argument("cases", nargs="*", help=f"sizes of models, of {', '.join(SIZES)}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    asked = parser.parse_args()
    check_device(parser, asked.device)
    if asked.measure:
        print(json.dumps(measure(eval(asked.cases[0]), Path(asked.measure), asked.device)))
        return
    table: dict[str, Any] = {
        "device": asked.device,
        "torch": torch.__version__,
        "commit": commit(),
        "turns": TURNS,
        "sizes": {},
    }
    print(
        f"{'size':6} {'way':9} {'sampled/s':>10} {'updated/s':>10} {'peak MB':>8} {'gap':>9} "
        f"{'loss, largest distance':>23}"
    )
    for size in chosen(parser, asked.cases or DEFAULT[asked.device], SIZES):
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        losses = {}
        for turn in range(TURNS):
            for way, (kept_in, used_in) in WAYS.items():
                runs[way].append(
                    measured(Case(size, rows=8, update=4, micro=2, kept_in=kept_in, used_in=used_in), asked.device)
                )
                if turn == 0:
                    case = Case(size, "sft", rows=8, micro=4, kept_in=kept_in, used_in=used_in)
                    losses[way] = measured(case, asked.device)["losses"]
        for way, found in runs.items():
            rates = {name: statistics.median(one["rates"][name] for one in found) for name in ("sampling", "updating")}
            distance = max(abs(a - b) / b for a, b in zip(losses[way], losses["float32"], strict=True))
            row = {
                **rates,
                "peak_mb": statistics.median(one["peak_mb"] for one in found),
                "gap": statistics.mean(found[0]["gaps"]),
                "losses": losses[way],
            }
            table["sizes"].setdefault(size, {})[way] = row
            print(
                f"{size:6} {way:9} {row['sampling']:10.0f} {row['updating']:10.0f} {row['peak_mb']:8.0f} "
                f"{row['gap']:9.1e} {distance:23.2%}",
                flush=True,
            )
    if not asked.cases or asked.out != RESULTS:
        write(asked.out, table)


if __name__ == "__main__":
    main()

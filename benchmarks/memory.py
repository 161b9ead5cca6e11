"""What the planner predicts against what runs take: `python benchmarks/memory.py [--device cpu|cuda] [CASE ...]`.

Each case is two generation steps of RL, or two updates of SFT, of a random model, by the stages' own `train` in a fresh
process. On a CPU the bytes of live tensors are counted, operation by operation, and beside them the most memory that
the process had; on a GPU, what torch allocated. Prints a line a moment and writes benchmarks/results/memory.json.
"""

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.common import check_device, chosen, commit, found_by, write
from benchmarks.models import SIZES, Family, build
from benchmarks.runs import ADAMW, Device, DType, method_of, run_of
from stages.config import RL, SFT, Compute, LearnerSettings, Memory, RLRun, SFTRun
from stages.model.advice import ADAPTERS
from stages.model.architecture import read_architecture
from stages.model.memory import MB, PROGRAM, Lengths, Plan, Setup, plan
from stages.provenance import hardware

RESULTS = Path(__file__).parent / "results" / "memory.json"


@dataclass(frozen=True)
class Case:
    """One run: of two steps, so that AdamW has its moments in the second.

    Attributes:
        size: of the model, by name.
        method: sft or rl.
        rows: problems of a step.
        group: responses to each.
        update: responses of an update.
        micro: rows of a backward pass.
        new_tokens: of every response.
        pixels: of every picture; 256 are an image token.
    """

    size: str
    method: Literal["sft", "rl"] = "rl"
    rows: int = 4
    group: int = 1
    update: int = 4
    micro: int = 2
    new_tokens: int = 40
    pixels: int = 128 * 256
    tied: bool = True
    checkpointing: bool = False
    lora: bool = False
    kept_in: DType = "float32"
    used_in: DType = "float32"
    family: Family = "qwen2_5_vl"

    def build(self, folder: Path) -> None:
        """Its model and problems."""
        build(folder, SIZES[self.size], 2 * self.rows, self.pixels, tied=self.tied, family=self.family)

    def run(self, folder: Path, device: Device) -> RLRun | SFTRun:
        """Its training, in the folder where it is built."""
        compute = Compute(device=device, dtype=self.used_in, threads=1)
        learner = LearnerSettings(dtype=self.kept_in, lora=ADAPTERS if self.lora else None)
        return run_of(self.settings, folder, self.pixels, compute, learner)

    @property
    def settings(self) -> RL | SFT:
        """Of its method."""
        if self.method == "sft":
            return SFT(optimizer=ADAMW, batch_size=self.rows, backward_batch_size=self.micro)
        return method_of(
            self.rows,
            self.group,
            self.new_tokens,
            self.micro,
            updates=self.rows * self.group // self.update,
            algorithm="reinforce_plus_plus",
        )


CASES = {
    "tiny": Case("tiny"),
    "tiny, long responses": Case("tiny", new_tokens=512),
    "tiny, siblings": Case("tiny", rows=2, group=4, update=8, micro=4, new_tokens=80),
    "tiny, sft": Case("tiny", "sft"),
    "20M": Case("20M"),
    "20M, untied": Case("20M", tied=False),
    "20M, bfloat16": Case("20M", kept_in="bfloat16", used_in="bfloat16"),
    "20M, float32 over bfloat16": Case("20M", used_in="bfloat16"),
    "20M, float32 over bfloat16, checkpointing": Case("20M", used_in="bfloat16", checkpointing=True),
    "20M, LoRA over bfloat16": Case("20M", lora=True, used_in="bfloat16"),
    "20M, Qwen3-VL": Case("20M", family="qwen3_vl"),
    "20M, siblings": Case("20M", rows=2, group=4, update=8, micro=4, new_tokens=160),
    "20M, siblings, float32 over bfloat16, checkpointing": Case(
        "20M", rows=2, group=4, micro=4, new_tokens=160, used_in="bfloat16", checkpointing=True
    ),
    "100M": Case("100M"),
    "100M, micro-batch 4": Case("100M", micro=4),
    "100M, checkpointing": Case("100M", checkpointing=True),
    "100M, LoRA": Case("100M", lora=True),
    "100M, sft": Case("100M", "sft"),
    "300M": Case("300M"),
    "300M, checkpointing, micro-batch 4": Case("300M", checkpointing=True, micro=4),
}


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that an operation has seen and that are alive, and their most in each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = 0
        self.peaks: dict[str, int] = {}
        self.phase = "before"
        self._resize = torch.UntypedStorage.resize_

    def begin(self, phase: str) -> None:
        """Peaks are of this phase from now on."""
        self.phase = phase
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.live)

    def __enter__(self) -> "LiveTensors":
        def resize(storage: torch.UntypedStorage, size: int) -> Any:  # FSDP2 empties storages that stay
            found = self._resize(storage, size)
            self._see_storage(storage)
            return found

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, found)):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return found

    def see(self, tensor: torch.Tensor) -> None:
        """Count a tensor as long as it lives."""
        if hasattr(tensor, "_local_tensor"):
            self.see(tensor._local_tensor)
        elif tensor.device.type != "meta":
            self._see_storage(tensor.untyped_storage())

    def _see_storage(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.sizes:
            weakref.finalize(storage, self._gone, key)
        self.live += size - self.sizes.get(key, 0)
        self.sizes[key] = size
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.live)

    def _gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)


class AllocatedOnGPU:
    """The same of what torch has allocated on a GPU."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.phase = "before"

    def begin(self, phase: str) -> None:
        """Peaks are of this phase from now on."""
        most = torch.cuda.max_memory_allocated()
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), most)
        torch.cuda.reset_peak_memory_stats()
        self.phase = phase

    def __enter__(self) -> "AllocatedOnGPU":
        return self

    def __exit__(self, *error: Any) -> None:
        self.begin("after")


def predicted(case: Case, folder: Path, device: Device) -> Plan:
    """What the planner says of it, without what the program takes beside tensors."""
    run = case.run(folder, device)
    found = json.loads((folder / "preflight/preflight.json").read_text())
    prompt, image, learnt = (found[f"{name}_tokens"]["train"]["max"] for name in ("prompt", "image", "learnt"))
    memory = Memory(
        gpu_mb=None,
        activation_checkpointing=case.checkpointing,
        offload_reference=False,
        kv_cache_mb=1,
        feature_memory_mb=100,
        feature_disk_mb=0,
    )
    setup = Setup(
        model="random",
        stage=case.method,
        method=case.method,
        architecture=read_architecture(json.loads(Path(run.base, "config.json").read_text())),
        lengths=Lengths(prompt, image, learnt, measured=True),
        settings=run.settings,
        learner=run.learner,
        engine="native",
        compute=run.compute,
        memory=memory,
        problems=2 * case.rows,
        processes=1,
        sharded=False,
        limit=None,
    )
    made = plan(setup)
    without = {
        name: {part: size for part, size in parts.items() if part != "program"} for name, parts in made.moments.items()
    }
    return dataclasses.replace(made, moments=without)


def measure(case: Case, folder: Path, device: Device) -> dict[str, int]:
    """Run it in this process: the most bytes of live tensors at each moment, and the most memory of the process."""
    from stages.rl import train as rl
    from stages.rl.response_collection import NativeCollector
    from stages.sft import train as sft
    from stages.training.run import Means

    watch = AllocatedOnGPU() if device == "cuda" else LiveTensors()

    def at(owner: Any, name: str, moment: str, after: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            watch.begin(moment)
            try:
                return inner(*args, **kwargs)
            finally:
                watch.begin(after)

        setattr(owner, name, outer)

    loop = rl if case.method == "rl" else sft
    at(loop, "make_queries" if case.method == "rl" else "golden_sequences", "looking", "learning")
    if case.method == "rl":
        at(NativeCollector, "collect", "sampling", "between")
        at(rl, "make_trajectory", "scoring", "between")
        at(rl, "update_policy", "learning", "between")
    at(sys.modules["stages.training.learner"].Learner, "step", "moving", "learning")
    means = Means(activation_checkpointing=case.checkpointing, feature_memory_mb=100, largest_gap=100.0)
    with watch:
        loop.train(case.run(folder, device), means)
    return watch.peaks | {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def compared(case: Case, device: Device) -> dict[str, Any]:
    """Prediction and measurement, by moment and at the worst of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.build(folder)
        measured: dict[str, int] = found_by(__file__, "--device", device, "--measure", folder, repr(case))
        made = predicted(case, folder, device)
    said_by_moment = {name: made.total(name) for name in made.moments}
    # Two moments of the plan that cannot be told apart from outside.
    for extra, moment in (("reading", "sampling"), ("summing", "learning")):
        if extra in said_by_moment:
            said_by_moment[moment] = max(said_by_moment[moment], said_by_moment.pop(extra))
    moments = {name: (said, measured[name]) for name, said in said_by_moment.items() if name in measured}
    peak = max(size for name, size in measured.items() if name not in ("process", "before", "after"))
    return {
        "case": dataclasses.asdict(case),
        "parts": made.moments[made.worst],
        "worst": made.worst,
        "moments": moments,
        "total": (made.peak, peak),
        "process": (made.peak + PROGRAM["cpu"], measured["process"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--measure", metavar="FOLDER", help="of a case that is built; used by the script itself")
    parser.add_argument("cases", nargs="*", help=f"default: all of {', '.join(map(repr, CASES))}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    asked = parser.parse_args()
    check_device(parser, asked.device)
    if asked.measure:
        print(json.dumps(measure(eval(asked.cases[0]), Path(asked.measure), asked.device)))
        return
    about = {"device": asked.device, "torch": torch.__version__, "machine": hardware()}
    kept = json.loads(asked.out.read_text()) if asked.out.is_file() else about
    found = kept.pop("cases", {})
    if kept != about:
        parser.error(f"{asked.out} is of {kept}, and this is {about}: take another --out")
    for name in chosen(parser, asked.cases, CASES):
        found[name] = of_case = {"commit": commit()} | compared(CASES[name], asked.device)
        print(f"\n{name}: predicted, measured MB, ratio")
        for moment, (said, measured) in {**of_case["moments"], **{k: of_case[k] for k in ("total", "process")}}.items():
            print(f"  {moment:10} {said / MB:9.1f} {measured / MB:9.1f} {said / measured:6.2f}", flush=True)
        write(asked.out, about | {"cases": found})


if __name__ == "__main__":
    main()

"""The collector against transformers' `generate` on the same work: `python benchmarks/rollout.py`.

32 problems, 4 responses each, the same model and limits; the two alternate in one process, medians of seven rounds. The
collector's pictures are looked at in the first, uncounted round, as in training, where a problem comes back every
epoch; `generate` looks at them each time.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from stages.config import Compute, GeneratedProblems, PromptSettings, Sampling
from stages.data.prepare import prepare
from stages.data.problem import Problem, read_problems
from stages.model.vlm import VLM, load
from stages.rl.data_flow import make_queries
from stages.rl.response_collection import NativeCollector

GROUP, LIMIT, ROUNDS = 4, 96, 7


def ours(vlm: VLM, problems: list[Problem], seed: int) -> int:
    queries = make_queries(problems, vlm, GROUP)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=LIMIT)
    responses = NativeCollector(vlm).collect(
        queries, [sampling] * len(queries), [seed + i for i in range(len(queries))]
    )
    return int(responses.mask.sum())


def generate(vlm: VLM, problems: list[Problem], seed: int) -> int:
    torch.manual_seed(seed)
    inputs = vlm.processor(
        text=[vlm.render(problem) for problem in problems],
        images=[[problem.picture()] for problem in problems],
        padding=True,
        return_tensors="pt",
    )
    ids = vlm.model.generate(
        **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=GROUP, max_new_tokens=LIMIT
    )
    return int((ids[:, inputs["input_ids"].shape[1] :] != vlm.processor.tokenizer.pad_token_id).sum())


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    vlm = load(
        Path(__file__).parents[1] / "models/qwen2_5_vl_tiny",
        Compute(device="cpu", dtype="float32", threads=1),
        PromptSettings(instruction="", min_pixels=256, max_pixels=4096),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = GeneratedProblems(source="generated", mode="vision", seed=0, train=32, validation=1, test=1)
        prepare(data, folder)
        problems = read_problems(folder / "train.jsonl")
        rates: dict[str, list[float]] = {"collector": [], "generate": []}
        for seed in range(ROUNDS + 1):  # the first round warms up
            for name, sample in (("collector", ours), ("generate", generate)):
                start = time.perf_counter()
                tokens = sample(vlm, problems, seed)
                rates[name].append(tokens / (time.perf_counter() - start))
    medians = {name: statistics.median(rate[1:]) for name, rate in rates.items()}
    for name, rate in medians.items():
        print(f"{name}: {rate:.0f} tokens/s")
    print(f"ratio: {medians['collector'] / medians['generate']:.2f}")


if __name__ == "__main__":
    main()

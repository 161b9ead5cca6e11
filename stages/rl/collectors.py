"""The collector that a run asks for."""

import json
from collections.abc import Sequence
from pathlib import Path

from stages.config import EvaluateRun, RLRun
from stages.model.vlm import VLM
from stages.rl.response_collection import Collector, NativeCollector
from stages.rl.vllm_collector import VLLMCollector


def make_collector(run: RLRun | EvaluateRun, vlm: VLM, kv_cache_mb: int, *, own_weights: bool = False) -> Collector:
    """What answers a run's queries.

    Args:
        run: its settings.
        vlm: the model of the run, as its base has it.
        kv_cache_mb: memory for a vLLM engine's keys and values, in MB.
        own_weights: the model cannot answer while it is trained, so that the native collector needs a copy.
    """
    if run.engine == "native":
        return NativeCollector(vlm.with_own_weights()) if own_weights else NativeCollector(vlm, shared=True)
    if isinstance(run, RLRun):
        longest = _longest_prompt(run, ["train"]) + run.settings.sampling.max_new_tokens
    else:
        longest = _longest_prompt(run, run.settings.splits) + run.settings.max_new_tokens
    return VLLMCollector(vlm, Path(run.base), run.compute, longest, kv_cache_mb)


def _longest_prompt(run: RLRun | EvaluateRun, splits: Sequence[str]) -> int:
    """Tokens of the longest prompt of some splits, as the preflight measured them."""
    found = json.loads(Path(run.preflight, "preflight.json").read_text(encoding="utf-8"))["prompt_tokens"]
    return max(found[split]["max"] for split in splits if found[split])

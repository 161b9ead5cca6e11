"""What was tried to be faster, and is not used: `python benchmarks/tricks.py products static_cache compiling`."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import rollout
from benchmarks.tricks_setup import GROUP, Bench, Call, Pair, answered, here, instead, packed, run
from stages.model import shared_prefix
from stages.model.decoder import norm
from stages.model.shared_prefix import make_layout, tree_attention


def products(bench: Bench) -> Iterator[Pair]:
    """Attention and its gradient by explicit products; or by torch's own kernel, which is what is used."""
    module = bench.loop("laptop").vlm.model.model.language_model.layers[0].self_attn
    lengths = torch.randint(70, 101, (16,), generator=torch.Generator().manual_seed(0))
    layout, total = make_layout(lengths), int(lengths.sum())
    query, key, value = (torch.randn(1, heads, total, 32, requires_grad=True) for heads in (4, 2, 2))

    def call() -> Tensor:
        found, _ = tree_attention(module, query, key, value, layout, scaling=module.scaling)
        found.sum().backward()
        return found.detach()

    yield here(f"16 rows, {total} tokens", instead(shared_prefix, "sdpa_attention_forward", by_products)(call), call)


def by_products(_: Any, query: Tensor, key: Tensor, value: Tensor, __: None, *, scaling: float) -> tuple[Tensor, None]:
    """Causal attention of [N, heads, L, D]; heads that share a key lie side by side."""
    count, heads, length, width = query.shape
    folded = query.reshape(count, key.shape[1], -1, width)
    later = torch.ones(length, length, dtype=torch.bool).triu(1).repeat(heads // key.shape[1], 1)
    weights = (folded @ key.transpose(2, 3) * scaling).masked_fill(later, -torch.inf).softmax(-1)
    return (weights @ value).view(query.shape).transpose(1, 2), None


def static_cache(bench: Bench) -> Iterator[Pair]:
    """`generate` with transformers' static cache; or with its dynamic one. Seconds of a token."""
    loop = bench.loop("trained")
    call = partial(rollout.generate, loop.vlm, loop.problems, 0)
    yield here("trained", instead(loop.vlm.model.generation_config, "cache_implementation", "static")(call), call)


def compiling(bench: Bench) -> Iterator[Pair]:
    """torch.compile of decoding's MLP, and of the blocks of an update; or as they are."""
    loop, other = bench.loop(), bench.loop()
    rows = torch.randn(GROUP * bench.given.problems, loop.architecture.width)
    mlp = torch.no_grad()(partial(after_attention, loop.vlm.model.model.language_model.layers[0], rows))
    yield from compiled(bench, "decoding's MLP", torch.compile(mlp), mlp)
    for block in other.vlm.model.model.language_model.layers:
        block.compile(dynamic=True)
    batch = [answered(loop, GROUP, [bench.given.tokens[0]] * GROUP)]
    yield from compiled(bench, "an update's passes", *(partial(run, of, packed(of), batch) for of in (other, loop)))


def after_attention(layer: Any, hidden: Tensor) -> Tensor:
    """[B, H] as the `Decoder` has it."""
    inner, mlp = norm(hidden, layer.post_attention_layernorm), layer.mlp
    return hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(inner)) * mlp.up_proj(inner))


class TooLong(BaseException):
    """No error, so that no compiler handles it."""


def compiled(bench: Bench, case: str, ours: Call, plain: Call) -> Iterator[Pair]:
    """A pair, if it is compiled in time."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(bench.given.patience)
    start = time.perf_counter()
    try:
        with mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(bench.folder / "compiled")):  # nothing is in it
            ours()
        signal.alarm(0)
    except TooLong:
        print(f"compiling    {case}: not compiled within {bench.given.patience} s")
        return
    yield here(case, ours, plain, note=f"compiled in {time.perf_counter() - start:.0f} s")

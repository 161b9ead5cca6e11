"""Operations and bytes that are needed, by hand; and what packed rows compute, against torch's counter."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops
from benchmarks.limit import OF_CPU
from stages.model.logprobs import Scorer
from stages.model.sequences import Sequences
from stages.model.vlm import VLM, load
from stages.model.vocabulary import token_logprobs
from tests.conftest import PROMPT
from tests.test_memory import architecture_of, queries
from tests.test_sampler import COMPUTE, MODELS

# Prompts of 3 and 5 tokens, two responses of 2 tokens to each; the last token of a response is not read.
BATCH = flops.Batch((3, 5), 2, 2)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return load(Path(MODELS / "qwen2_5_vl_tiny"), COMPUTE, PROMPT)


def test_tokens_and_pairs_by_hand() -> None:
    assert BATCH.drawn == 8
    assert BATCH.read == 3 + 5 + 4
    assert BATCH.seen == (6 + 2 * 4) + (15 + 2 * 6)
    assert BATCH.packed == (9 + 2 * 4) + (25 + 2 * 6)


def test_a_pass_by_hand(vlm: VLM) -> None:
    """Six states are asked for a token: two of each prompt's second tokens, and the prompts' ends."""
    of = architecture_of(vlm)
    block = sum(weight.numel() for weight in vlm.model.model.language_model.layers[0].parameters() if weight.ndim == 2)
    assert flops.forward(of, BATCH).linear == 2 * 12 * of.layers * block
    assert flops.forward(of, BATCH).attention == 2 * 2 * 41 * of.layers * of.heads * of.head_width
    assert flops.forward(of, BATCH).head == 2 * 6 * of.vocabulary * of.width
    assert flops.update(of, BATCH).total == 3 * flops.forward(of, BATCH).total
    assert flops.packed_forward(of, BATCH).head == 2 * 8 * of.vocabulary * of.width


@pytest.mark.parametrize("in_parts", [False, True])
def test_packed_rows_compute_what_torch_counts(vlm: VLM, in_parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_parts:
        monkeypatch.setitem(token_logprobs.__kwdefaults__, "limit", 1)
    q = queries(vlm, 2, 4, 40)
    ids, mask = torch.randint(50, 200, (8, 10)), torch.ones(8, 10, dtype=torch.bool)
    asked = Sequences(q.token_ids, q.mask, q.position_ids, q.features, q.group, ids, mask)
    of, batch = architecture_of(vlm), flops.Batch((40, 40), 4, 10)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False, custom_mapping=OF_CPU) as counter:
            logprobs, _ = Scorer(vlm.model)(asked, with_entropy=False)
            if counts:
                logprobs.sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == pytest.approx(flops.packed_forward(of, batch).total, rel=1e-3)
    assert counts[1] == pytest.approx(flops.packed_update(of, batch, in_parts=in_parts).total, rel=0.02)

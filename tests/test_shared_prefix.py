"""Many sequences in one row against each of them alone, through transformers' own attention."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stages.data.problem import Problem
from stages.model.logprobs import Scorer, response_logprobs
from stages.model.sequences import Sequences
from stages.model.shared_prefix import make_layout
from stages.model.vlm import VLM, hidden_states, load
from stages.rl.data_flow import make_queries
from tests.conftest import PROMPT
from tests.layouts import write_tiny
from tests.test_sampler import COMPUTE, MODELS, problems  # noqa: F401


@pytest.fixture(scope="module", params=["qwen2_5_vl_tiny", "qwen2_vl_tiny", "qwen3_vl"])
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VLM:
    if request.param == "qwen3_vl":
        return load(write_tiny(tmp_path_factory.mktemp("model"), "qwen3_vl"), COMPUTE, PROMPT)
    return load(MODELS / request.param, COMPUTE, PROMPT)


def answered(vlm: VLM, problems: list[Problem], group_size: int) -> Sequences:  # noqa: F811
    """Random responses of 1 to 9 tokens, the first of one."""
    q, random = make_queries(problems, vlm, group_size), torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 10, (len(q),), generator=random)
    lengths[0], lengths[-1] = 1, 1
    ids = torch.randint(20, 200, (len(q), 9), generator=random)
    mask = torch.arange(9) < lengths[:, None]
    return Sequences(q.token_ids, q.mask, q.position_ids, q.features, q.group, ids, mask)


def alone(vlm: VLM, s: Sequences, row: int) -> Tensor:
    """[R] log-probabilities of one response, by the model as it is, with nothing beside it and nothing padded."""
    query, response = s.query_mask[row], s.response_mask[row]
    ids = torch.cat([s.query_ids[row][query], s.response_ids[row][response]])
    positions = s.position_ids[:, row][:, query]
    after = positions.max() + 1 + torch.arange(int(response.sum()))
    positions = torch.cat([positions, after.expand(3, -1)], dim=1)
    hidden = hidden_states(vlm.model, ids[None], positions[:, None], [s.features[row]])[0]
    asked = int(query.sum())
    logprobs = vlm.model.lm_head(hidden[asked - 1 : -1]).log_softmax(-1)
    found: Tensor = logprobs.gather(1, ids[asked:, None])[:, 0]
    return found


def plain(vlm: VLM, s: Sequences) -> Tensor:
    rows = [alone(vlm, s, row) for row in range(len(s.query_ids))]
    return torch.stack([torch.nn.functional.pad(row, (0, 9 - len(row))) for row in rows])


def weighted(logprobs: Tensor) -> Tensor:
    """A number to which every token adds something of its own."""
    return (logprobs * torch.linspace(-1, 2, logprobs.numel()).view_as(logprobs)).sum()


@pytest.mark.parametrize("group_size", [1, 3])
def test_each_sequence_is_computed_as_if_alone(vlm: VLM, problems: list[Problem], group_size: int) -> None:  # noqa: F811
    s = answered(vlm, problems, group_size)
    assert_close(response_logprobs(Scorer(vlm.model), s), plain(vlm, s), atol=2e-5, rtol=0)


def test_responses_may_all_be_of_one_token(vlm: VLM, problems: list[Problem]) -> None:  # noqa: F811
    """Nothing is drawn from it, so that only prompts are read."""
    s = answered(vlm, problems[:2], 3)
    s = dataclasses.replace(s, response_mask=s.response_mask & (torch.arange(9) == 0))
    found = response_logprobs(Scorer(vlm.model), s)
    assert_close(found, plain(vlm, s), atol=2e-5, rtol=0)
    found.sum().backward()
    vlm.model.zero_grad()


@pytest.mark.parametrize("group_size", [1, 3])
def test_the_gradient_is_that_of_each_alone(vlm: VLM, problems: list[Problem], group_size: int) -> None:  # noqa: F811
    s = answered(vlm, problems[:3], group_size)
    weights = [weight for weight in vlm.model.parameters() if weight.requires_grad]
    beside = torch.autograd.grad(weighted(response_logprobs(Scorer(vlm.model), s)), weights)
    apart = torch.autograd.grad(weighted(plain(vlm, s)), weights)
    for a, b in zip(beside, apart, strict=True):
        assert b.abs().max() > 0
        assert_close(a, b, atol=1e-4 * float(b.abs().max()), rtol=1e-3)


def test_a_part_may_cut_a_group(vlm: VLM, problems: list[Problem]) -> None:  # noqa: F811
    s = answered(vlm, problems, 3)
    whole = plain(vlm, s)
    for rows in s.in_parts(4):
        assert_close(response_logprobs(Scorer(vlm.model), s.take(rows)), whole[rows], atol=2e-5, rtol=0)


def test_a_query_is_there_once_and_nothing_is_padded(vlm: VLM, problems: list[Problem]) -> None:  # noqa: F811
    s = answered(vlm, problems, 3)
    asked, said = s.query_mask[::3].sum(), s.response_mask.sum()
    row = s.side_by_side()
    assert row.token_ids.numel() == asked + said - len(s.query_ids)  # without each response's last token
    assert len(row.features) == len(problems)
    one = s.take(torch.arange(0, 15, 3)).side_by_side()
    assert one.token_ids.numel() == asked + s.response_mask[::3].sum() - 5
    assert one.layout.branches is None


def test_parts_have_siblings_together_and_every_row_once(vlm: VLM, problems: list[Problem]) -> None:  # noqa: F811
    s = answered(vlm, problems, 4)
    parts = s.in_parts(8)
    assert torch.cat(parts).sort().values.tolist() == list(range(20))
    groups = [set(s.group[rows].tolist()) for rows in parts]
    assert sorted(map(len, groups)) == [1, 2, 2] and len(set.union(*groups)) == 5
    longest = [(s.query_mask.sum(1) + s.response_mask.sum(1))[rows].max().item() for rows in parts]
    assert longest == sorted(longest)


def test_parts_go_by_the_longest_of_a_group_and_not_by_its_size() -> None:
    """By hand: groups of three rows of 3 tokens, one of 8, two of 2 and 5, one of 4; one token each is the query's."""
    said = torch.tensor([2, 2, 2, 7, 1, 4, 3])
    mask = torch.arange(7) < said[:, None]
    ids, group = torch.zeros_like(mask, dtype=torch.long), torch.tensor([4, 4, 4, 1, 2, 2, 3])
    one = torch.ones(7, 1, dtype=torch.bool)
    s = Sequences(ids[:, :1], one, ids[None, :, :1].expand(3, -1, -1), [torch.empty(0)] * 7, group, ids, mask)
    assert [rows.tolist() for rows in s.in_parts(2)] == [[0, 1], [2, 6], [4, 5], [3]]


def test_who_sees_whom() -> None:
    """By hand: trunks of 2 and 1 tokens; branches of 1 and 2 on the first, of 1 on the second."""
    layout = make_layout(torch.tensor([2, 1]), torch.tensor([1, 2, 1]), torch.tensor([0, 0, 1]))
    branches = layout.branches
    assert branches
    assert layout.trunks.tolist() == [[0, 1], [2, 2]]
    assert branches.places.tolist() == [[3, 3], [4, 5], [6, 6]]
    assert layout.back.tolist() == [0, 1, 2, 4, 6, 7, 8]
    assert branches.sees[1, 0].tolist() == [[True, True, True, False], [True, True, True, True]]
    assert branches.sees[2, 0, 0].tolist() == [True, False, True, False]


def test_all_blocks_have_one_mask() -> None:
    """Two prompts of 2 and 1 tokens, a response of 2 to the first; for two heads and their type."""
    branches = make_layout(torch.tensor([2, 1]), torch.tensor([2]), torch.tensor([0])).branches
    assert branches is not None
    mask = branches.mask(2, torch.float32)
    assert mask is branches.mask(2, torch.float32)
    row = [[0, 0, 0, -torch.inf], [0, 0, 0, 0]]
    assert_close(mask, torch.tensor([[row + row]]))
    assert branches.mask(1, torch.bfloat16).dtype == torch.bfloat16

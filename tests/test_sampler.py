"""The sampler and the scorer against plain transformers: processor, left padding, pixel values, token types."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText

from stages.config import Compute, Sampling
from stages.data.problem import Problem
from stages.model.decoder import Decoder
from stages.model.logprobs import Scorer, response_logprobs
from stages.model.vlm import VLM, load
from stages.rl.data_flow import Queries, make_queries
from stages.rl.drawing import choose
from stages.rl.response_collection import NativeCollector, Responses
from stages.rl.trajectory_generation import sequences_of
from tests.conftest import PROMPT
from tests.layouts import write_tiny

MODELS = Path(__file__).parent.parent / "models"
COMPUTE = Compute(device="cpu", dtype="float32", threads=1)
ROUNDED = COMPUTE.model_copy(update={"dtype": "bfloat16"})
HOT = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=20)
GREEDY = Sampling(temperature=0.01, top_p=0.001, max_new_tokens=20)


@pytest.fixture(scope="module", params=["qwen2_5_vl_tiny", "qwen2_vl_tiny", "qwen3_vl"])
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VLM:
    """The committed models; of Qwen3-VL one with random weights."""
    if request.param == "qwen3_vl":
        return load(write_tiny(tmp_path_factory.mktemp("model"), "qwen3_vl"), COMPUTE, PROMPT)
    return load(MODELS / request.param, COMPUTE, PROMPT)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    """Questions of several lengths with pictures of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = [(64, 64), (256, 256), (32, 96), (100, 40), (48, 48)]
    questions = ["Find x.", "What is x?", "The angles are 20, 75 and x. What is x?", "Find the perimeter.", "x?"]
    made = []
    for i, (size, question) in enumerate(zip(sizes, questions, strict=True)):
        noise = torch.rand(size[1], size[0], 3, generator=torch.Generator().manual_seed(i))
        path = folder / f"{i}.png"
        Image.fromarray((noise * 255).byte().numpy()).save(path)
        made.append(Problem(question, "7", "", str(i), path))
    return made


def collect(vlm: VLM, problems: list[Problem], group_size: int, sampling: Sampling) -> tuple[Queries, Responses]:
    queries = make_queries(problems, vlm, group_size)
    return queries, NativeCollector(vlm).collect(queries, [sampling] * len(queries), list(range(len(queries))))


@torch.no_grad()
def plain_logprobs(vlm: VLM, queries: Queries, responses: Responses, **changed: Any) -> Tensor:
    """[B, R] by the public way: processor, one left-padded batch, pixel values, no cache, the model's positions."""
    inputs = vlm.processor(
        text=[vlm.render(problem) for problem in queries.problems],
        images=[[problem.picture()] for problem in queries.problems],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    zeros = torch.zeros_like(responses.token_ids)
    # transformers' own attention; ours is for decoding.
    plain = AutoModelForImageTextToText.from_pretrained(vlm.model.config._name_or_path)
    logits = plain(
        input_ids=torch.cat([inputs["input_ids"], responses.token_ids], 1),
        attention_mask=torch.cat([inputs["attention_mask"], responses.mask.long()], 1),
        mm_token_type_ids=torch.cat([inputs["mm_token_type_ids"], zeros], 1),
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        **changed,
    ).logits
    logprobs = logits[:, inputs["input_ids"].shape[1] - 1 : -1].log_softmax(-1)
    return logprobs.gather(2, responses.token_ids[..., None])[..., 0] * responses.mask


def test_sampled_and_scored_logprobs_are_those_of_a_plain_forward_pass(vlm: VLM, problems: list[Problem]) -> None:
    queries, responses = collect(vlm, problems, 2, HOT)
    plain = plain_logprobs(vlm, queries, responses)
    assert responses.mask.sum() > 50
    assert_close(responses.logprobs * responses.mask, plain, atol=1e-4, rtol=0)
    with torch.no_grad():
        scored = response_logprobs(Scorer(vlm.model), sequences_of(queries, responses))
    assert_close(scored, plain, atol=1e-4, rtol=0)


@torch.no_grad()
def gap(vlm: VLM, problems: list[Problem]) -> float:
    """Mean nats a token between sampler and learner, of three siblings each."""
    queries, responses = collect(vlm, problems, 3, HOT)
    assert responses.mask.sum() > 50
    scored = response_logprobs(Scorer(vlm.model), sequences_of(queries, responses))
    return ((scored - responses.logprobs).abs().sum() / responses.mask.sum()).item()


def test_a_head_of_its_own_is_not_the_embedding(vlm: VLM, problems: list[Problem]) -> None:
    untied = vlm.with_own_weights()
    embedding = untied.model.get_input_embeddings().weight
    untied.model.lm_head.weight = nn.Parameter(embedding.flip(0))
    assert gap(untied, problems) < 1e-5


def test_norms_of_queries_and_of_keys_are_told_apart(tmp_path: Path, problems: list[Problem]) -> None:
    vlm = load(write_tiny(tmp_path, "qwen3_vl"), COMPUTE, PROMPT)
    torch.manual_seed(0)
    for layer in vlm.model.model.language_model.layers:
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            nn.init.uniform_(norm.weight, 0.2, 3)
    assert gap(vlm, problems) < 1e-5


@pytest.mark.parametrize("name", ["qwen2_5_vl_tiny", "qwen2_vl_tiny"])
def test_large_products_of_queries_and_keys_are_not_rounded(name: str, problems: list[Problem]) -> None:
    """Beside biases of 20 bfloat16 would round products to whole nats: a gap of 0.06, of 0.006 if only they are not."""
    vlm = load(MODELS / name, ROUNDED, PROMPT)
    torch.manual_seed(0)
    for layer in vlm.model.model.language_model.layers:
        for project in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            nn.init.normal_(project.bias, std=20)
    assert gap(vlm, problems) < 0.02


def test_text_positions_for_images_would_be_noticed(vlm: VLM, problems: list[Problem]) -> None:
    """The released code's 2-D position ids, which transformers spreads over all three axes."""
    queries, responses = collect(vlm, problems, 1, HOT)
    mask = torch.cat([queries.mask, responses.mask], 1)
    flat = (mask.long().cumsum(1) - 1).clamp(min=0)
    wrong = plain_logprobs(vlm, queries, responses, position_ids=flat)
    assert (wrong - responses.logprobs * responses.mask).abs().max() > 0.01


def test_kept_features_are_what_the_vision_tower_says_again(vlm: VLM, problems: list[Problem]) -> None:
    kept = vlm.prompts(problems)
    assert vlm.prompts(problems)[0].features is kept[0].features
    for problem, prompt in zip(problems, kept, strict=True):
        inputs = vlm.processor.image_processor(problem.picture(), return_tensors="pt")
        with torch.no_grad():
            again = vlm.model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        levels = [again.pooler_output, *getattr(again, "deepstack_features", [])]
        assert_close(prompt.features, torch.cat(levels, dim=1), atol=1e-5, rtol=0)


def test_greedy_sampling_is_generate(vlm: VLM, problems: list[Problem]) -> None:
    _, responses = collect(vlm, problems, 1, GREEDY)
    for problem, text in zip(problems, responses.texts, strict=True):
        inputs = vlm.processor(text=[vlm.render(problem)], images=[[problem.picture()]], return_tensors="pt")
        plain = AutoModelForImageTextToText.from_pretrained(vlm.model.config._name_or_path)
        ids = plain.generate(**inputs, do_sample=False, max_new_tokens=GREEDY.max_new_tokens)
        generated = vlm.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text == generated


def test_a_response_does_not_depend_on_its_neighbours(vlm: VLM, problems: list[Problem]) -> None:
    together = make_queries(problems, vlm, 1)
    all_at_once = NativeCollector(vlm).collect(together, [HOT] * 5, [10, 11, 12, 13, 14])
    for i, problem in enumerate(problems):
        alone = NativeCollector(vlm).collect(make_queries([problem], vlm, 1), [HOT], [10 + i])
        assert alone.texts[0] == all_at_once.texts[i]


@pytest.mark.parametrize(
    "limits",
    [(1, 1, 20, 20, 20, 20), (6, 3, 2, 40, 40, 33, 4, 5, 6), (20, 1, 1, 1, 9, 20, 20, 5, 5)],
    ids=["with their first token", "whole prompts", "some of each prompt"],
)
def test_rows_that_leave_do_not_disturb_the_others(vlm: VLM, problems: list[Problem], limits: tuple[int, ...]) -> None:
    """Three siblings each, each as if it were alone."""
    sampling = [HOT.model_copy(update={"max_new_tokens": limit}) for limit in limits]
    queries = make_queries(problems[: len(limits) // 3], vlm, 3)
    together = NativeCollector(vlm).collect(queries, sampling, range(len(limits)))
    for row, problem in enumerate(queries.problems):
        alone = NativeCollector(vlm).collect(make_queries([problem], vlm, 1), [sampling[row]], [row])
        real = together.mask[row]
        assert torch.equal(together.token_ids[row, real], alone.token_ids[0])
        assert_close(together.logprobs[row, real], alone.logprobs[0], atol=1e-4, rtol=0)


def test_nothing_is_kept_of_a_row_beyond_its_end(
    vlm: VLM, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of eight ends with its first token, and is decoded on until more leave; what comes then is not a number."""
    queries = make_queries(problems[:4], vlm, 2)
    sampling = [HOT.model_copy(update={"max_new_tokens": limit}) for limit in (1, *[8] * 7)]
    plain = NativeCollector(vlm).collect(queries, sampling, range(8))
    step, spoilt = Decoder.step, []

    def broken(decoder: Decoder, token_ids: Tensor) -> Tensor:
        logits = step(decoder, token_ids)
        if len(logits) == 8:
            logits[0] = torch.nan
            spoilt.append(0)
        return logits

    monkeypatch.setattr(Decoder, "step", broken)
    responses = NativeCollector(vlm).collect(queries, sampling, range(8))
    assert spoilt and responses.mask[0].sum() == 1
    assert (responses.token_ids[~responses.mask] == vlm.processor.tokenizer.pad_token_id).all()
    assert (responses.logprobs[~responses.mask] == 0).all()
    assert_close(responses.logprobs, plain.logprobs, atol=0, rtol=0)
    assert responses.texts == plain.texts


def test_siblings_share_a_prefill_and_nothing_else(vlm: VLM, problems: list[Problem]) -> None:
    _, grouped = collect(vlm, problems[:2], 3, HOT)
    repeated = make_queries([p for p in problems[:2] for _ in range(3)], vlm, 1)
    assert NativeCollector(vlm).collect(repeated, [HOT] * 6, list(range(6))).texts == grouped.texts
    assert len(set(grouped.texts)) > 2


def test_a_response_that_is_cut_off_is_not_finished(vlm: VLM, problems: list[Problem]) -> None:
    short = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=3)
    queries = make_queries(problems[:2], vlm, 1)
    responses = NativeCollector(vlm).collect(queries, [short, HOT], [1, 2])
    assert responses.mask[0].sum() == 3 and not responses.finished[0]
    stops = torch.isin(responses.token_ids, vlm.stop_ids) & responses.mask
    assert stops.any(1).tolist() == responses.finished.tolist()
    assert (stops.sum(1) <= 1).all(), "nothing comes after an end token"


def test_a_vision_placeholder_is_never_drawn() -> None:
    logits = torch.zeros(50, 10)
    logits[:, 3] = 100.0
    noise = torch.linspace(0, 0.999, 50).double()
    drawn = choose(logits, torch.ones(50), torch.ones(50), noise, torch.tensor([3])).token_ids
    assert 3 not in drawn and len(drawn.unique()) == 9


def test_the_drawn_tokens_have_the_asked_distribution() -> None:
    """By hand: weights 1:2:4:1 at temperature 1; top_p 0.7 leaves the two heaviest; temperature 0.01 the heaviest."""
    logits = torch.log(torch.tensor([[1.0, 2.0, 4.0, 1.0]])).repeat(8000, 1)
    noise = (torch.arange(8000).double() + 0.5) / 8000
    one, none = torch.ones(8000), torch.tensor([], dtype=torch.long)
    assert choose(logits, one, one, noise, none).token_ids.bincount().tolist() == [1000, 2000, 4000, 1000]
    nucleus = choose(logits, one, 0.7 * one, noise, none).token_ids.bincount(minlength=4).tolist()
    assert nucleus[0] == nucleus[3] == 0 and abs(nucleus[1] - 8000 / 3) < 2
    assert (choose(logits, 0.01 * one, one, noise, none).token_ids == 2).all()

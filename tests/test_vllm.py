"""vLLM as the sampler, for real, on a CPU: `make vllm`, then `pytest -m vllm tests/test_vllm.py` with its Python."""

import copy
import dataclasses
import gc
import os
import random
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from stages.config import Compute, GeneratedProblems, RLRun, Sampling
from stages.data.prepare import prepare
from stages.data.problem import Problem, read_problems
from stages.model.compute import set_up
from stages.model.features import IN_MEMORY, Features
from stages.model.logprobs import Scorer, response_logprobs
from stages.model.vlm import VLM, load
from stages.records import read
from stages.rl.collectors import make_collector
from stages.rl.data_flow import Queries, make_queries
from stages.rl.response_collection import Collector, NativeCollector, Responses
from stages.rl.trajectory_generation import sequences_of
from stages.rl.vllm_collector import VLLMCollector
from stages.training import stop
from tests.conftest import PROMPT
from tests.layouts import write_checkpoint, write_tiny
from tests.test_workflow import Repository, as_yaml
from tests.tries import prepared, run_of

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
COMPUTE = Compute(device="cpu", dtype="float32", threads=1)
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=24)
CLOSE = 1e-4
STARTS = {"PYTHONPATH": str(ROOT)}

with_vllm = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM (make vllm)")]


def marked(test: Any) -> Any:
    for mark in with_vllm:
        test = mark(test)
    return test


@pytest.fixture(scope="module", params=["qwen2_5_vl_tiny", "qwen2_vl_tiny"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(model: str) -> VLM:
    set_up(COMPUTE)
    return load(MODELS / model, COMPUTE, PROMPT)


@pytest.fixture(scope="module")
def engine(model: str, base: VLM) -> VLLMCollector:
    """One for all tests of a model: it takes seconds to start."""
    return VLLMCollector(base, MODELS / model, COMPUTE, longest=400, kv_cache_mb=200)


@pytest.fixture
def sampler(engine: VLLMCollector, base: VLM) -> VLLMCollector:
    """The engine with the base's weights."""
    engine.load(language_weights(base))
    return engine


@pytest.fixture
def policy(base: VLM) -> VLM:
    """A model to be changed, with pictures that it looks at itself."""
    return VLM(copy.deepcopy(base.model), base.processor, base.instruction, Features(IN_MEMORY, str))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    """Two that the model has learnt to answer, and two with noise for a picture that has to be resized."""
    folder = tmp_path_factory.mktemp("problems")
    prepare(GeneratedProblems(source="generated", mode="vision", seed=0, train=8, validation=4, test=4), folder)
    made = read_problems(folder / "train.jsonl")[:2]
    for i, (height, width) in enumerate([(130, 256), (31, 96)]):
        noise = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(i))
        path = folder / f"{i}.png"
        Image.fromarray((noise * 255).byte().numpy()).save(path)
        made.append(Problem("What is x?", "7", "", f"p{i}", path))
    return made


def language_weights(vlm: VLM) -> Iterator[tuple[str, Tensor]]:
    for name, weight in vlm.model.named_parameters():
        if not name.startswith("model.visual."):
            yield name, weight


def seeds_of(rows: int) -> list[int]:
    """Of 64 bits, as the runs have them."""
    return [2**64 - 1 - 1000 * row for row in range(rows)]


def collect(collector: Collector, vlm: VLM, problems: list[Problem], group_size: int = 4) -> tuple[Queries, Responses]:
    queries = make_queries(problems, vlm, group_size)
    return queries, collector.collect(queries, [SAMPLING] * len(queries), seeds_of(len(queries)))


def gap(vlm: VLM, queries: Queries, responses: Responses) -> float:
    """The largest difference between what sampler and learner give a token."""
    with torch.no_grad():
        learnt = response_logprobs(Scorer(vlm.model), sequences_of(queries, responses))
    return float((learnt - responses.logprobs).abs().max())


# --- responses -------------------------------------------------------------------------------------------------------


@marked
def test_four_responses_to_each_picture(sampler: VLLMCollector, base: VLM, problems: list[Problem]) -> None:
    queries, responses = collect(sampler, base, problems)
    assert len(responses.texts) == 16 and responses.token_ids.shape == responses.mask.shape == responses.logprobs.shape
    assert responses.logprobs.dtype == torch.float32 and (responses.logprobs[~responses.mask] == 0).all()
    assert len({tuple(ids.tolist()) for ids in responses.token_ids[:4]}) > 1
    for ids, real, finished in zip(responses.token_ids, responses.mask, responses.finished, strict=True):
        said = ids[real]
        assert not torch.isin(said, base.banned_ids).any()
        assert not torch.isin(said[:-1], base.stop_ids).any()  # they end a response, and stand in it
        assert torch.isin(said[-1], base.stop_ids) == finished
        assert finished or len(said) == SAMPLING.max_new_tokens
    assert 0 < responses.finished.sum() < 16  # both ways to end are seen
    assert gap(base, queries, responses) < CLOSE


@marked
def test_a_row_depends_on_its_own_seed_sampling_and_nothing_else(
    sampler: VLLMCollector, base: VLM, problems: list[Problem]
) -> None:
    _, all_rows = collect(sampler, base, problems)
    alone = make_queries(problems[1:2], base, group_size=2)
    short = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=2)
    again = sampler.collect(alone, [SAMPLING, short], [seeds_of(16)[6], seeds_of(16)[5]])
    length = int(all_rows.mask[6].sum())
    assert again.token_ids[0, :length].tolist() == all_rows.token_ids[6, :length].tolist()
    assert again.token_ids[1, :2].tolist() == all_rows.token_ids[5, :2].tolist()
    assert again.mask[1].sum() == 2 and not again.finished[1]


@marked
def test_without_randomness_both_collectors_say_the_same(
    sampler: VLLMCollector, base: VLM, problems: list[Problem]
) -> None:
    queries = make_queries(problems, base, group_size=1)
    greedy = [Sampling(temperature=0.01, top_p=0.001, max_new_tokens=24)] * 4
    said, expected = (one.collect(queries, greedy, seeds_of(4)) for one in (sampler, NativeCollector(base)))
    assert said.texts == expected.texts
    assert_close(said.token_ids, expected.token_ids)
    assert_close(said.finished, expected.finished)


@marked
def test_a_log_probability_is_at_its_rows_temperature(
    sampler: VLLMCollector, policy: VLM, problems: list[Problem]
) -> None:
    """The ban, which is put on before, is undone at any."""
    queries = make_queries(problems, policy, group_size=1)
    cold = [Sampling(temperature=0.6, top_p=1.0, max_new_tokens=24)] * 4
    responses = sampler.collect(queries, cold, seeds_of(4))
    with torch.no_grad():
        policy.model.model.language_model.norm.weight /= 0.6  # logits at 1 are then what they were at 0.6
    assert gap(policy, queries, responses) < CLOSE


# --- weights ---------------------------------------------------------------------------------------------------------


@marked
def test_sampler_and_learner_agree_before_and_after_every_push(
    sampler: VLLMCollector, policy: VLM, problems: list[Problem]
) -> None:
    """Five steps of policy gradient for short responses; tied embeddings, norms and fused layers all change."""
    optimizer = torch.optim.AdamW((weight for _, weight in language_weights(policy)), lr=3e-3)
    former = copy.deepcopy(policy.model)
    for _ in range(5):
        queries, responses = collect(sampler, policy, problems)
        assert gap(policy, queries, responses) < CLOSE
        lengths = responses.mask.sum(1).float()
        advantages = (lengths.mean() - lengths)[:, None] / 10
        logprobs = response_logprobs(Scorer(policy.model), sequences_of(queries, responses))
        former.load_state_dict(policy.model.state_dict())
        (-(advantages * logprobs).sum() / responses.mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        queries, stale = collect(sampler, policy, problems)  # not pushed yet
        assert gap(dataclasses.replace(policy, model=former), queries, stale) < CLOSE
        assert gap(policy, queries, stale) > 100 * CLOSE
        sampler.load(language_weights(policy))
        assert gap(policy, *collect(sampler, policy, problems)) < CLOSE


@marked
def test_nothing_that_was_computed_with_former_weights_is_used(
    sampler: VLLMCollector, base: VLM, policy: VLM, problems: list[Problem]
) -> None:
    """Neither keys and values of the same prompt, nor features of the same picture."""
    long = "What is x? " * 40  # vLLM's prefix cache keeps blocks of 128 tokens on a CPU
    problems = [dataclasses.replace(problem, question=long) for problem in problems]
    collect(sampler, base, problems)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    sampler.load(policy.model.named_parameters())
    try:
        assert gap(policy, *collect(sampler, policy, problems)) < CLOSE
    finally:
        sampler.load(base.model.named_parameters())


@marked
def test_weights_are_taken_one_by_one(sampler: VLLMCollector, base: VLM) -> None:
    """No more of them live at once than are fused into one layer: q, k, v and their biases."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def gathered() -> Iterator[tuple[str, Tensor]]:
        nonlocal most
        for name, weight in language_weights(base):
            whole = weight.detach().clone()
            alive.add(whole)
            most = max(most, len(alive))
            yield name, whole
            del whole

    sampler.load(gathered())
    gc.collect()
    assert 1 < most <= 8 and not alive


@marked
def test_a_weight_that_is_missing_is_an_error(sampler: VLLMCollector, base: VLM) -> None:
    name = "model.language_model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(ValueError, match=f"1 weights were not given to vLLM, {name} among them"):
        sampler.load((other, weight) for other, weight in language_weights(base) if other != name)


class Recorded:
    """In vLLM's place: writes down what it is told."""

    def __init__(self, **options: Any) -> None:
        self.options, self.told = options, list[str]()
        self.llm_engine = self

    def collective_rpc(self, method: Any, kwargs: dict[str, Any] | None = None) -> None:
        for _ in (kwargs or {}).get("weights_iterator", ()):
            pass
        self.told.append(method if isinstance(method, str) else method.__name__)

    def sleep(self, level: int) -> None:
        self.told.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.told.append(f"wake {tags}")

    def reset_prefix_cache(self) -> None:
        self.told.append("reset_prefix_cache")

    def reset_encoder_cache(self) -> None:
        self.told.append("reset_encoder_cache")


def test_on_a_gpu_the_engine_sleeps_between_rest_and_load(
    model: str, base: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights come before keys and values need their memory; the vision tower, which does not come, is kept."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Recorded, SamplingParams=None))
    gpu = Compute(device="cuda", dtype="bfloat16", threads=1)
    sampler = VLLMCollector(base, MODELS / model, gpu, longest=400, kv_cache_mb=200)
    engine = sampler.engine
    assert engine.options["enable_sleep_mode"] and engine.options["sleep_preserve_parameter_names"] == ["visual.*"]
    pushed = ["reload_weights", "_prepare_tied_head"]
    reset = ["reset_prefix_cache", "reset_encoder_cache"]
    sampler.load(language_weights(base))
    sampler.rest()
    sampler.load(language_weights(base))
    sampler.load(language_weights(base))
    asleep = ["sleep 2", "wake ['weights']", *pushed, "wake ['kv_cache']", *reset]
    assert engine.told == [*pushed, *reset, *asleep, *pushed, *reset]


# --- bad input -------------------------------------------------------------------------------------------------------


@marked
def test_a_prompt_that_vllm_reads_otherwise_is_an_error(
    sampler: VLLMCollector, base: VLM, problems: list[Problem]
) -> None:
    queries = make_queries(problems[-1:], base, group_size=1)
    image = queries.token_ids[0].tolist().index(base.model.config.image_token_id)
    wrong = torch.cat([queries.token_ids[:, : image + 1], queries.token_ids[:, image:]], dim=1)  # one feature too many
    more = dataclasses.replace(queries, token_ids=wrong, mask=torch.ones_like(wrong, dtype=torch.bool))
    length = queries.token_ids.shape[1]
    with pytest.raises(
        ValueError, match=f"p1: vLLM reads a prompt of {length} tokens, our processor wrote {length + 1}"
    ):
        sampler.collect(more, [SAMPLING], seeds_of(1))


@pytest.fixture
def broken(policy: VLM, problems: list[Problem]) -> VLM:
    """A policy that would say nothing but `<|image_pad|>`."""
    with torch.no_grad():
        # One large vector in all that attention gives makes every hidden state alike; a placeholder is made to fit it.
        policy.model.model.language_model.layers[-1].self_attn.v_proj.bias += 1000
        alike: list[Tensor] = []
        hook = policy.model.lm_head.register_forward_pre_hook(lambda _, hidden: alike.append(hidden[0].mean(0)))
        collect(NativeCollector(policy), policy, problems)
        hook.remove()
        placeholder = policy.model.config.image_token_id
        policy.model.get_input_embeddings().weight[placeholder] = 60 * alike[0] / alike[0].square().sum()
    return policy


VISION_ONLY = "of the policy's probability is on vision placeholders"


@marked
def test_a_policy_of_vision_tokens_only_is_an_error(
    sampler: VLLMCollector, broken: VLM, problems: list[Problem]
) -> None:
    sampler.load(language_weights(broken))
    with pytest.raises(ValueError, match=VISION_ONLY):
        collect(sampler, broken, problems)


def test_so_it_is_where_transformers_sample(broken: VLM, problems: list[Problem]) -> None:
    with pytest.raises(ValueError, match=VISION_ONLY):
        collect(NativeCollector(broken), broken, problems)


def test_a_study_that_wants_vllm_where_there_is_none_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    run = run_of("grpo", prepared(tmp_path), tmp_path / "run")
    assert isinstance(run, RLRun)
    wanted = run.model_copy(update={"engine": "vllm"})
    vlm = load(Path(run.base), COMPUTE, PROMPT)
    with pytest.raises(ValueError, match="vLLM is not installed; with a GPU: pip install"):
        make_collector(wanted, vlm, kv_cache_mb=200)


@marked
def test_a_cache_too_small_for_one_response_is_an_error(model: str, base: VLM) -> None:
    with pytest.raises(
        ValueError, match=r"vLLM does not start with resources\.memory\.kv_cache_mb=1 and \d+ tokens a row: .*KV cache"
    ):
        VLLMCollector(base, MODELS / model, COMPUTE, longest=4000, kv_cache_mb=1)


# --- the learner's process -------------------------------------------------------------------------------------------


@marked
def test_the_learners_process_stays_as_it_was(model: str, base: VLM, problems: list[Problem]) -> None:
    stop.listen()
    torch.set_num_threads(2)
    me = psutil.Process()

    def state() -> list[Any]:
        return [
            signal.getsignal(signal.SIGTERM),
            signal.getsignal(signal.SIGINT),
            torch.set_num_threads,
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            dict(os.environ),
            random.getstate(),
            str(np.random.get_state()),  # noqa: NPY002
            torch.get_rng_state().tolist(),
            me.children(recursive=True),
        ]

    before = state()
    sampler = VLLMCollector(base, MODELS / model, COMPUTE, longest=400, kv_cache_mb=200)
    collect(sampler, base, problems)
    assert state() == before
    files = me.num_fds()
    for _ in range(3):
        sampler.load(language_weights(base))
        collect(sampler, base, problems)
        sampler.rest()
    assert state() == before and me.num_fds() == files
    set_up(COMPUTE)


@marked
@pytest.mark.parametrize(
    ("write", "name"),
    [(write_checkpoint, "qwen2_vl_2b"), (write_checkpoint, "qwen2_5_vl_7b"), (write_tiny, "qwen3_vl")],
)
def test_checkpoints_as_the_hub_has_them(
    write: Callable[[Path, str], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tied and untied heads, several shards, Qwen3-VL's levels of features: loaded, asked, and given other weights."""
    for variable, value in STARTS.items():  # vLLM looks at a class that is new to it in a process of its own
        monkeypatch.setenv(variable, value)
    set_up(COMPUTE)
    picture = tmp_path / "picture.png"
    noise = torch.rand(80, 90, 3, generator=torch.Generator().manual_seed(0))
    Image.fromarray((noise * 255).byte().numpy()).save(picture)
    vlm = load(write(tmp_path / "checkpoint", name), COMPUTE, PROMPT.model_copy(update={"max_pixels": 96 * 96}))
    sampler = VLLMCollector(vlm, tmp_path / "checkpoint", COMPUTE, longest=200, kv_cache_mb=200)
    asked = [Problem("What is x?", "7", "", "p", picture)]
    assert gap(vlm, *collect(sampler, vlm, asked)) < CLOSE
    with torch.no_grad():
        for weight in vlm.model.parameters():
            if weight.requires_grad:
                weight.mul_(1.05)
    assert gap(vlm, *collect(sampler, vlm, asked)) > CLOSE  # not pushed yet
    sampler.load(language_weights(vlm))
    assert gap(vlm, *collect(sampler, vlm, asked)) < CLOSE


@marked
def test_two_processes_have_an_engine_each(tmp_path: Path) -> None:
    """Weights in two parts, put together for both; one process alone says the same."""
    data = prepared(tmp_path)
    answers = []
    for processes in (1, 2):
        folder = tmp_path / f"{processes}"
        run = run_of("grpo", data, folder)
        folder.mkdir()
        wanted = run.model_copy(update={"engine": "vllm"})
        (folder / "run.json").write_text(wanted.canonical_json())
        command = [sys.executable, "-m", "stages.launch", "--nodes", "1", "--processes", f"{processes}", "--gpus", "0"]
        command += ["stages.rl.train", f"{folder}/run.json", "--sharded", f"{processes - 1}", "--kv-cache-mb", "200"]
        ran = subprocess.run(command, env=os.environ | STARTS, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-5000:]
        updates = read(folder / "results/updates.jsonl")
        assert updates.sampler_gap_max.max() < CLOSE and updates.grad_norm.max() > 1e-2
        answers.append((folder / "results/responses.jsonl").read_bytes())
    assert answers[0] == answers[1]


@marked
def test_a_study_samples_with_vllm_from_data_to_report(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    study = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    study["study"] |= {"models": ["qwen2_5_vl_tiny"], "methods": ["vanilla", "reinforce_plus_plus"], "seeds": [0]}
    study["data"]["geometry_vision"]["epochs"] = 1
    study["base"] = {"qwen2_5_vl_tiny": study["base"]["qwen2_5_vl_tiny"]}
    del study["sft"]["sft"], study["rl"]["grpo"]
    study["collector"] = {"engine": "vllm", "largest_gap": CLOSE}
    study["resources"]["memory"]["kv_cache_mb"] = 200
    (tmp_path / "config/vllm.yaml").write_text(as_yaml(study))
    ran = repository.snakemake(study="config/vllm.yaml")
    logs = "\n".join(f"{p}:\n{p.read_text()[-2000:]}" for p in tmp_path.glob("logs/**/*.log"))
    assert ran.returncode == 0, ran.stderr[-5000:] + logs[-10000:]
    results = tmp_path / "results"
    for method in ("vanilla", "reinforce_plus_plus"):
        answered = read(results / f"evaluate/qwen2_5_vl_tiny/geometry_vision/{method}/seed0/responses.jsonl")
        assert len(answered) == 16 * 10 and answered.text.str.contains("boxed").any()
    updates = read(results / "rl/qwen2_5_vl_tiny/geometry_vision/reinforce_plus_plus/seed0/updates.jsonl")
    assert len(updates) == 4 and updates.sampler_gap_max.max() < CLOSE
    assert "<svg" in (results / "report/report.html").read_text()

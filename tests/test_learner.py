"""What trains a model of 7B: exact weights beside rounded passes, blocks computed twice, adapters, and when to stop."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing import assert_close

from stages.config import Compute, EvaluateRun, LearnerSettings, LoRA, RLRun
from stages.data.problem import read_problems
from stages.evaluation.evaluate import evaluate
from stages.files import sha256
from stages.model.logprobs import Scorer, response_logprobs
from stages.model.lora import add_adapters, language_weights, without_adapters
from stages.model.vlm import VLM, frozen_copy, load
from stages.records import read
from stages.rl import train as rl
from stages.rl.algorithms import truncated_importance
from stages.rl.data_flow import make_queries
from stages.rl.mismatch import check_mismatch, mismatch
from stages.rl.policy_update import update_policy
from stages.rl.reference import AdaptersOff, Copy
from stages.rl.response_collection import NativeCollector, Responses
from stages.rl.trajectory_generation import Trajectory, make_trajectory, sequences_of
from stages.seeds import seed_of
from stages.training.distribution import distributed
from stages.training.errors import StepError
from stages.training.learner import Learner
from stages.training.run import Means
from stages.training.weights import load_weights
from stages.training.world import World
from tests.conftest import PROMPT, judged
from tests.test_algorithms import ADAMW, METHOD
from tests.tries import MODELS, prepared, run_of

ROUNDED = Compute(device="cpu", dtype="bfloat16", threads=1)
EXACT = Compute(device="cpu", dtype="float32", threads=1)
ADAPTERS = LoRA(rank=4, alpha=8.0, layers=("q_proj", "v_proj", "down_proj"))
SAMPLING = METHOD.sampling.model_copy(update={"max_new_tokens": 30})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"))


def vlm_of(compute: Compute = EXACT) -> VLM:
    return load(MODELS / "qwen2_5_vl_tiny", compute, PROMPT)


def trajectory_of(vlm: VLM, data: Path) -> Trajectory:
    """Eight responses to four problems."""
    queries = make_queries(read_problems(data / "train.jsonl")[:4], vlm, 2)
    responses = NativeCollector(vlm).collect(queries, [SAMPLING] * 8, list(range(8)))
    base = nullcontext(Scorer(frozen_copy(vlm.model)))
    return make_trajectory(queries, responses, Scorer(vlm.model), base, METHOD, judged)


def update(learner: Learner, trajectory: Trajectory, **changed: Any) -> Any:
    method = METHOD.model_copy(update=changed)
    rows = len(trajectory.queries)
    (found,) = update_policy(learner, trajectory, method, World().share(rows, rows))
    return found


def weights_of(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.tensors().items() if name.startswith("weight.")}


# --- exact weights, rounded passes -----------------------------------------------------------------------------------


def test_a_pass_of_exact_weights_is_the_rounded_models(data: Path) -> None:
    vlm = vlm_of(ROUNDED)
    plain = frozen_copy(vlm.model)
    sequences = sequences_of(*_asked(vlm, data))
    learner = Learner(vlm.model, ADAMW, 10, World(), kept_in=torch.float32)
    with torch.no_grad():
        assert torch.equal(response_logprobs(learner.policy, sequences), response_logprobs(Scorer(plain), sequences))


def _asked(vlm: VLM, data: Path) -> tuple[Any, Responses]:
    queries = make_queries(read_problems(data / "train.jsonl")[:4], vlm, 2)
    return queries, NativeCollector(vlm).collect(queries, [SAMPLING] * 8, list(range(8)))


def test_small_updates_are_rounded_away_in_bfloat16_only(data: Path) -> None:
    """Steps of 1e-5, as the paper's: next to a weight of 0.08 bfloat16 knows no number nearer than 5e-4."""
    moved = {}
    small = ADAMW.model_copy(update={"learning_rate": 1e-5, "warmup_ratio": 0.0, "weight_decay": 0.0})
    for name, kept_in in (("exact", torch.float32), ("rounded", None)):
        vlm = vlm_of(ROUNDED)
        trajectory = trajectory_of(vlm, data)
        learner = Learner(vlm.model, small, 10, World(), kept_in=kept_in)
        before = weights_of(learner)
        update(learner, trajectory)
        after = weights_of(learner)
        changed = sum(int((_local(after[key]) != _local(value)).sum()) for key, value in before.items())
        moved[name] = changed / sum(value.numel() for value in before.values())
    assert moved["exact"] > 0.8 and moved["rounded"] < 0.4, moved


def _local(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def test_what_is_kept_of_exact_weights_is_what_samples(data: Path) -> None:
    vlm = vlm_of(ROUNDED)
    trajectory, plain = trajectory_of(vlm, data), frozen_copy(vlm.model)
    learner = Learner(vlm.model, ADAMW.model_copy(update={"warmup_ratio": 0.0}), 10, World(), kept_in=torch.float32)
    update(learner, trajectory)
    kept = dict(learner.whole_weights())
    assert {weight.dtype for weight in kept.values()} == {torch.bfloat16}
    assert {value.dtype for value in learner.tensors().values()} == {torch.float32}
    sampler = NativeCollector(replace(vlm, model=plain))
    sampler.load(learner.language_weights())
    own = dict(plain.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in kept.items())


def test_several_backward_passes_add_up_in_float32(data: Path) -> None:
    vlm = vlm_of(ROUNDED)
    trajectory = trajectory_of(vlm, data)
    learner = Learner(vlm.model, ADAMW, 10, World(), kept_in=torch.float32)
    for rows in torch.arange(8).split(1):
        part = sequences_of(trajectory.queries, trajectory.responses).take(rows)
        learner.backward(-response_logprobs(learner.policy, part).sum() / 100, ["x"])
    gradients = [weight.grad for weight in learner.weights.values()]
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}


# --- blocks computed twice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_in", [None, torch.float32], ids=["plain", "exact"])
def test_checkpointed_activations_change_no_bit(data: Path, kept_in: torch.dtype | None) -> None:
    """And blocks really run twice: the second time for the gradient."""
    found, runs = {}, {}
    for checkpointed in (False, True):
        vlm = vlm_of(EXACT if kept_in is None else ROUNDED)
        trajectory = trajectory_of(vlm, data)
        if checkpointed:
            vlm.model.gradient_checkpointing_enable({"use_reentrant": False})
        learner = Learner(vlm.model, ADAMW.model_copy(update={"warmup_ratio": 0.0}), 10, World(), kept_in=kept_in)
        counted: list[int] = []
        vlm.model.model.language_model.layers[0].input_layernorm.register_forward_hook(
            lambda *_, counted=counted: counted.append(1)
        )
        update(learner, trajectory, ppo_backward_batch_size=4)
        found[checkpointed] = {name: _local(value) for name, value in weights_of(learner).items()}
        runs[checkpointed] = len(counted)
    assert runs == {False: 2, True: 4}
    for name, value in found[False].items():
        assert torch.equal(value, found[True][name]), name


def test_sampling_goes_on_while_activations_are_checkpointed(data: Path) -> None:
    """transformers keeps no cache while it trains with checkpoints."""
    vlm = vlm_of()
    queries, before = _asked(vlm, data)
    vlm.model.gradient_checkpointing_enable({"use_reentrant": False})
    learner = Learner(vlm.model, ADAMW, 10, World())
    response_logprobs(learner.policy, sequences_of(queries, before))  # with a gradient
    after = NativeCollector(vlm).collect(queries, [SAMPLING] * 8, list(range(8)))
    assert torch.equal(before.token_ids, after.token_ids) and torch.equal(before.logprobs, after.logprobs)


# --- adapters --------------------------------------------------------------------------------------------------------


def adapted(compute: Compute = EXACT, noise: float = 0.05) -> VLM:
    """A model whose adapters are not those that change nothing."""
    vlm = vlm_of(compute)
    add_adapters(vlm.model, ADAPTERS, torch.float32, seed=1)
    random = torch.Generator().manual_seed(0)
    for name, weight in vlm.model.named_parameters():
        if ".lora_B." in name:
            weight.data = torch.randn(weight.shape, generator=random) * noise
    return vlm


def test_adapters_begin_as_the_base_and_are_all_that_trains(data: Path) -> None:
    vlm = vlm_of()
    trajectory = trajectory_of(vlm, data)
    sequences = sequences_of(trajectory.queries, trajectory.responses)
    base = response_logprobs(Scorer(vlm.model), sequences)
    add_adapters(vlm.model, ADAPTERS, torch.float32, seed=1)
    assert torch.equal(response_logprobs(Scorer(vlm.model), sequences), base)
    before = {name: weight.detach().clone() for name, weight in vlm.model.named_parameters()}
    learner = Learner(vlm.model, ADAMW.model_copy(update={"warmup_ratio": 0.0}), 10, World())
    assert update(learner, trajectory).grad_norm > 0
    for name, weight in vlm.model.named_parameters():
        # At first only B has a gradient: A is multiplied by it.
        assert torch.equal(weight, before[name]) == (".lora_B." not in name) or ".lora_A." in name, name
    assert len(learner.weights) == 2 * 3 * len(vlm.model.model.language_model.layers)


def test_the_reference_is_the_base_with_adapters_off(data: Path) -> None:
    plain, vlm = vlm_of(), adapted()
    queries, responses = _asked(plain, data)
    sequences = sequences_of(queries, responses)
    base, changed = response_logprobs(Scorer(plain.model), sequences), response_logprobs(Scorer(vlm.model), sequences)
    assert (base - changed).abs().max() > 0.01
    with AdaptersOff(Scorer(vlm.model)).scoring() as reference:
        assert torch.equal(response_logprobs(reference, sequences), base)
    assert torch.equal(response_logprobs(Scorer(vlm.model), sequences), changed)
    with pytest.raises(KeyboardInterrupt), without_adapters(vlm.model):
        raise KeyboardInterrupt
    assert torch.equal(response_logprobs(Scorer(vlm.model), sequences), changed)


def test_a_sampler_takes_over_merged_weights_under_the_bases_names(data: Path) -> None:
    vlm, plain = adapted(), vlm_of()
    named = {name for name, _ in plain.model.named_parameters() if not name.startswith("model.visual.")}
    assert {name for name, _ in language_weights(vlm.model)} == named
    NativeCollector(plain).load(language_weights(vlm.model))
    queries, responses = _asked(plain, data)
    sequences = sequences_of(queries, responses)
    found = response_logprobs(Scorer(plain.model), sequences)
    assert_close(found, response_logprobs(Scorer(vlm.model), sequences), atol=2e-4, rtol=0)


def test_equal_seeds_have_equal_adapters_and_disturb_nobody() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = adapted(noise=0.0)
    assert torch.equal(torch.rand(3), expected)
    second = adapted(noise=0.0)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


# --- whole runs ------------------------------------------------------------------------------------------------------


def rl_run(data: Path, folder: Path, compute: Compute = EXACT, **learner: Any) -> RLRun:
    run = run_of("grpo", data, folder)
    assert isinstance(run, RLRun)
    settings = LearnerSettings.model_validate({"dtype": "float32", "lora": None} | learner)
    return run.model_copy(update={"compute": compute, "learner": settings})


@pytest.fixture(params=["adapters", "exact"])
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"adapters": {"lora": ADAPTERS}, "exact": {"compute": ROUNDED}}[request.param]


def test_a_run_is_stopped_and_goes_on_to_equal_bytes(
    kind: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With adapters, and with exact weights, blocks computed twice and an offloaded reference."""
    means = Means(save_every=1, activation_checkpointing=True, offload_reference=True)
    whole, cut = rl_run(data, tmp_path / "whole", **kind), rl_run(data, tmp_path / "cut", **kind)
    rl.train(whole, means)
    make = rl.make_queries
    calls: list[int] = []

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(*given)

    monkeypatch.setattr(rl, "make_queries", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rl.train(cut, means)
    rl.train(cut, means)
    for name in ("responses.jsonl", "updates.jsonl", "weights/epoch2.safetensors"):
        assert sha256(Path(whole.out, name)) == sha256(Path(cut.out, name)), name
    updates = read(Path(whole.out, "updates.jsonl"))
    assert updates.grad_norm.min() > 0
    # Every generation step begins with the policy that answered, and what it answers it finds as likely as it said.
    first = updates.groupby("generation_step").first()
    assert first.ratio.to_numpy() == pytest.approx(1, abs=1e-6)
    assert updates.sampler_gap_max.max() < (1e-4 if "lora" in kind else 0.2)
    assert updates.kl_loss.iloc[-1] > 0  # while the reference is the base


def test_trained_adapters_are_loaded_again(data: Path, tmp_path: Path) -> None:
    run = rl_run(data, tmp_path, lora=ADAPTERS)
    rl.train(run)
    path = Path(run.weights, "epoch2.safetensors")
    assert all(".lora_" in name for name in load_file(path))
    vlm = vlm_of()
    with pytest.raises(ValueError, match=r"epoch2.safetensors: not weights of this model"):
        load_weights(path, vlm.model)
    add_adapters(vlm.model, ADAPTERS, torch.float32, seed=0)
    load_weights(path, vlm.model)
    saved, own = load_file(path), dict(vlm.model.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in saved.items())
    assert any(weight.abs().max() > 0 for name, weight in saved.items() if ".lora_B." in name)


def test_adapters_answer_the_evaluation(data: Path, tmp_path: Path) -> None:
    policy, base = adapted(noise=0.3), vlm_of()
    path = tmp_path / "epoch2.safetensors"
    save_file({name: weight.data for name, weight in policy.model.named_parameters() if weight.requires_grad}, path)
    evaluated = run_of("evaluate", data, tmp_path / "evaluate", path)
    assert isinstance(evaluated, EvaluateRun)
    evaluate(evaluated.model_copy(update={"lora": ADAPTERS}))
    said = read(Path(evaluated.out, "responses.jsonl"))

    problems = read_problems(data / "test.jsonl")[:2]
    seeds = [seed_of("evaluation", 3, "test", 2, p.id, "pass@2", sample) for p in problems for sample in range(2)]
    sampling = METHOD.sampling.model_copy(update={"max_new_tokens": 40})
    texts = {
        name: NativeCollector(vlm).collect(make_queries(problems, vlm, 2), [sampling] * 4, seeds).texts
        for name, vlm in (("policy", policy), ("base", base))
    }
    wanted = [p.id for p in problems for _ in range(2)]
    found = said[(said.split == "test") & said.problem.isin(wanted)].text.tolist()
    assert found == texts["policy"] != texts["base"]


# --- broken numbers --------------------------------------------------------------------------------------------------


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A way to break the weights before the third generation step."""
    make = rl.make_queries
    calls: list[int] = []

    def broken(problems: Any, vlm: VLM, group_size: int) -> Any:
        calls.append(1)
        if len(calls) == 3:
            breaks.work(vlm)
        return make(problems, vlm, group_size)

    class Breaks:
        work: Any = None

    breaks = Breaks()
    monkeypatch.setattr(rl, "make_queries", broken)
    return breaks


def test_broken_weights_stop_a_run_with_its_problems_and_its_state(data: Path, tmp_path: Path, breaks: Any) -> None:
    run = rl_run(data, tmp_path)
    norm = "model.language_model.norm.weight"
    breaks.work = lambda vlm: dict(vlm.model.named_parameters())[norm].data.fill_(float("nan"))
    with pytest.raises(SystemExit) as stopped:
        rl.train(run, Means(save_every=1))
    told = str(stopped.value)
    assert told.startswith(
        "qwen2_5_vl_tiny/text/grpo/seed3, step 3: the sampler's log-probabilities of responses are not"
    )
    asked = {problem.id for problem in read_problems(data / "train.jsonl")}
    assert len([problem for problem in asked if problem in told]) == 8
    assert "Its state after step 2 is kept, to be gone on from.\nThe same command would end here again." in told
    breaks.work = None
    rl.train(run, Means(save_every=1))  # goes on, and ends
    assert read(Path(run.out, "updates.jsonl")).generation_step.max() == 4


@pytest.mark.parametrize("what", ["loss", "norm of the gradient"])
def test_what_is_not_finite_changes_no_weight(data: Path, what: str) -> None:
    vlm = vlm_of()
    trajectory = trajectory_of(vlm, data)
    learner = Learner(vlm.model, ADAMW.model_copy(update={"warmup_ratio": 0.0}), 10, World())
    before = weights_of(learner)
    ids = [problem.id for problem in trajectory.queries.problems]
    if what == "loss":
        trajectory.ref_logprobs[5, 0] = float("inf")
        named, spared = {ids[5]}, set(ids) - {ids[4]} - {ids[5]}
    else:
        learner.weights["model.language_model.norm.weight"].register_hook(lambda gradient: gradient * float("inf"))
        named, spared = set(ids), set()
    with pytest.raises(StepError, match=rf"^the {what} is (nan|inf|-inf), with problems ") as stopped:
        update(learner, trajectory, algorithm="grpo", ppo_backward_batch_size=1)
    assert all(problem in str(stopped.value) for problem in named)
    assert not any(problem in str(stopped.value) for problem in spared)
    for name, value in weights_of(learner).items():
        assert torch.equal(value, before[name]), name


# --- sampler and learner ---------------------------------------------------------------------------------------------


def shifted(trajectory: Trajectory, by: Tensor) -> Trajectory:
    """The same, whose sampler gave tokens other log-probabilities."""
    responses = replace(trajectory.responses, logprobs=trajectory.old_logprobs + by * trajectory.responses.mask)
    return replace(trajectory, responses=responses)


def test_the_mismatch_is_measured(data: Path) -> None:
    """By hand: one response's tokens are 0.1 nats off, another's 0.3, which is a ratio beyond 1.25."""
    trajectory = trajectory_of(vlm_of(), data)
    by = torch.zeros(8, 1)
    by[2], by[5] = 0.1, -0.3
    lengths = trajectory.responses.mask.sum(1).double()
    found = mismatch(shifted(trajectory, by), torch.arange(8), World())
    assert found.gap == pytest.approx((0.1 * lengths[2] + 0.3 * lengths[5]).item() / lengths.sum().item(), rel=1e-5)
    assert found.gap_max == pytest.approx(0.3, rel=1e-5)
    assert found.outside == pytest.approx((lengths[5] / lengths.sum()).item())
    check_mismatch(shifted(trajectory, by), 0.3, World())
    with pytest.raises(
        StepError, match=r"more than collector\.largest_gap=0\.01: .* Likely causes: the sampler has not"
    ):
        check_mismatch(shifted(trajectory, by), 0.01, World())


def test_a_sampler_with_old_weights_stops_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rl_run(data, tmp_path)
    stale = VLM.with_own_weights
    monkeypatch.setattr(rl, "make_collector", lambda run, vlm, *_, **__: _Stale(stale(vlm)))
    with pytest.raises(SystemExit, match=r"step [23]: sampler and learner differ by .* the last weights"):
        rl.train(run, Means(save_every=1, largest_gap=1e-3))


class _Stale(NativeCollector):
    """One that never takes over weights."""

    def load(self, weights: Any) -> None:
        for _ in weights:
            pass


def test_importance_is_truncated() -> None:
    """By hand: a token twice as likely to the learner, half as likely, and ten times."""
    old, sampled = torch.log(torch.tensor([[0.4, 0.2, 0.5]])), torch.log(torch.tensor([[0.2, 0.4, 0.05]]))
    assert_close(truncated_importance(old, sampled, cap=2.5), torch.tensor([[2.0, 0.5, 2.5]]))


def test_importance_weighs_the_policy_loss_and_not_the_kl(data: Path) -> None:
    vlm = vlm_of()
    trajectory = trajectory_of(vlm, data)
    other = shifted(trajectory, torch.full((8, 1), -0.5))  # the learner finds all tokens e^0.5 times as likely

    def policy_loss(trajectory: Trajectory, cap: float | None) -> float:
        learner = Learner(vlm_of().model, ADAMW, 10, World())
        return float(update(learner, trajectory, importance_cap=cap).policy_loss)

    plain = policy_loss(trajectory, None)
    assert policy_loss(other, None) == plain != 0
    assert policy_loss(other, 10.0) == pytest.approx(plain * 2.718281828**0.5, rel=1e-4)
    assert policy_loss(other, 1.5) == pytest.approx(plain * 1.5, rel=1e-4)


@pytest.mark.parametrize("offload", [False, True])
def test_a_copied_reference_stays_the_base(data: Path, offload: bool) -> None:
    vlm = vlm_of()
    trajectory = trajectory_of(vlm, data)
    sequences = sequences_of(trajectory.queries, trajectory.responses)
    before = response_logprobs(Scorer(vlm.model), sequences)
    reference = Copy(Scorer(vlm.model), World(), offload=offload)
    learner = Learner(vlm.model, ADAMW.model_copy(update={"warmup_ratio": 0.0}), 10, World())
    update(learner, trajectory)
    with reference.scoring() as base, torch.no_grad():
        found = response_logprobs(base, sequences)
    assert torch.equal(found, before)


def test_after_a_pass_a_reference_is_in_parts_again(data: Path) -> None:
    """A head that stayed whole would cost as much as the largest part of a small model."""
    vlm = vlm_of(ROUNDED)
    sequences = sequences_of(*_asked(vlm, data))
    reference = distributed(Scorer(frozen_copy(vlm.model)), World(), torch.float32)
    with torch.no_grad():
        response_logprobs(reference, sequences)
    whole = {name for name, weight in reference.named_parameters() if not isinstance(weight, DTensor)}
    assert whole and all(name.startswith("model.model.visual.") for name in whole)


def test_an_offloaded_reference_moves_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: where it is told to go, in its order."""
    told: list[str] = []
    vlm = vlm_of()
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: told.append(f"{device}"))
    reference = Copy(Scorer(vlm.model), World(), offload=True)
    reference.device = torch.device("cuda")
    assert told == ["cpu"] * 2  # blocks and head
    with reference.scoring():
        assert told[2:] == ["cuda"] * 2
    assert told[4:] == ["cpu"] * 2


def test_a_run_checkpoints_and_lets_its_sampler_rest(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded, asked, at rest: in each of four steps; and the blocks are those that compute twice."""
    calls: list[str] = []

    class Recording(NativeCollector):
        def load(self, weights: Any) -> None:
            calls.append("load")

        def collect(self, *given: Any) -> Responses:
            calls.append("collect")
            assert self.vlm.model.is_gradient_checkpointing
            return super().collect(*given)

        def rest(self) -> None:
            calls.append("rest")

    monkeypatch.setattr(rl, "make_collector", lambda run, vlm, *_, **__: Recording(vlm))
    rl.train(rl_run(data, tmp_path), Means(activation_checkpointing=True))
    assert calls == ["load", "collect", "rest"] * 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_offloaded_reference_is_on_the_gpu_only_while_it_is_asked() -> None:
    vlm = vlm_of(Compute(device="cuda", dtype="bfloat16", threads=1))
    reference = Copy(Scorer(vlm.model), World(), offload=True)
    assert {weight.device.type for weight in reference.language[0].parameters()} == {"cpu"}
    with reference.scoring():
        assert {weight.device.type for weight in reference.language[0].parameters()} == {"cuda"}
    assert {weight.device.type for weight in reference.language[0].parameters()} == {"cpu"}


def test_without_memory_a_run_tells_what_would_take_less(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest GPU is too small in the third step."""
    run, calls = rl_run(data, tmp_path), []
    work = rl.update_policy

    def too_large(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return work(*given)

    monkeypatch.setattr(rl, "update_policy", too_large)
    with pytest.raises(SystemExit) as stopped:
        rl.train(run, Means(save_every=1))
    told = str(stopped.value)
    assert "grpo/seed3, step 3: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)" in told
    assert "What would take less:" in told
    assert told.endswith("Its state after step 2 is kept, to be gone on from.")
    rl.train(run, Means(save_every=1, activation_checkpointing=True))  # takes up the same state
    assert read(Path(run.out, "updates.jsonl")).generation_step.max() == 4

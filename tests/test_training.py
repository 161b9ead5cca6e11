"""Updates from outside: what moves, what does not, and that something is learnt."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stages.config import RL, SFT, RLRun, Sampling, SFTRun
from stages.data.boxes import boxed
from stages.data.problem import Problem, read_problems
from stages.files import sha256
from stages.model.logprobs import Scorer, response_logprobs
from stages.model.vlm import VLM, frozen_copy, load
from stages.records import read
from stages.rl import train as rl
from stages.rl import trajectory_generation
from stages.rl.data_flow import make_queries
from stages.rl.policy_update import update_policy
from stages.rl.response_collection import NativeCollector
from stages.rl.trajectory_generation import Trajectory, fresh_rows, make_trajectory
from stages.sft import train as sft
from stages.training.errors import StepError
from stages.training.learner import Learner
from stages.training.schedule import batches
from stages.training.world import Share, World
from tests.conftest import PROMPT, RULES, judged
from tests.test_algorithms import ADAMW, METHOD
from tests.tries import COMPUTE, MODELS, WHOLE, prepared

METHODS = {
    "reinforce_plus_plus": METHOD,
    "grpo": METHOD.model_copy(update={"algorithm": "grpo"}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=["qwen2_5_vl_tiny", "qwen2_vl_tiny"])
def vlm(request: pytest.FixtureRequest) -> VLM:
    return load(MODELS / request.param, COMPUTE, PROMPT)


def trajectory_of(vlm: VLM, problems: list[Problem], method: RL, fresh: int = 0) -> Trajectory:
    sampling = method.sampling.model_copy(update={"max_new_tokens": 60})
    queries = make_queries(problems, vlm, method.group_size)
    responses = NativeCollector(vlm).collect(queries, [sampling] * len(queries), list(range(len(queries))))
    base = nullcontext(Scorer(frozen_copy(vlm.model)))
    return make_trajectory(queries, responses, Scorer(vlm.model), base, method, judged, fresh)


def learner_of(vlm: VLM) -> Learner:
    return Learner(vlm.model, ADAMW, 10, World())


def everything(trajectory: Trajectory) -> Share:
    """The share of the only process."""
    rows = len(trajectory.queries)
    return World().share(rows, rows)


def gradients(vlm: VLM, trajectory: Trajectory, method: RL) -> list[Tensor]:
    """The gradient of one update, before clipping: with plain SGD of rate 1 it is how far the weights move."""
    before = [weight.detach().clone() for weight in vlm.model.parameters()]
    settings = ADAMW.model_copy(update={"clip_grad_norm": 1e9})
    learner = Learner(vlm.model, settings, 10, World())
    learner.optimizer = torch.optim.SGD(learner.weights.values(), lr=1.0)
    update_policy(learner, trajectory, method, everything(trajectory))
    moved = [b - w.detach() for b, w in zip(before, vlm.model.parameters(), strict=True)]
    with torch.no_grad():
        for weight, b in zip(vlm.model.parameters(), before, strict=True):
            weight.copy_(b)
    return moved


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_first_update_starts_at_ratio_one_and_no_kl(vlm: VLM, data: Path, method: RL) -> None:
    trajectory = trajectory_of(vlm, read_problems(data / "train.jsonl")[:4], method)
    assert_close(trajectory.old_logprobs, trajectory.ref_logprobs, atol=0, rtol=0)
    (update,) = update_policy(learner_of(vlm), trajectory, method, everything(trajectory))
    assert update.ratio == pytest.approx(1, abs=1e-6)
    assert update.kl_loss == pytest.approx(0, abs=1e-9)
    assert update.clip_fraction == 0 and update.entropy > 0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_first_update_finds_its_old_logprobs_itself(vlm: VLM, data: Path, method: RL) -> None:
    """Two updates of four rows: as if the policy had scored all eight before."""
    method = method.model_copy(update={"ppo_batch_size": 4, "ppo_backward_batch_size": 2, "ppo_epochs": 2})
    problems = read_problems(data / "train.jsonl")[:4]
    found = []
    for fresh in (0, fresh_rows(method, 1)):
        trajectory = trajectory_of(vlm, problems, method, fresh)
        known = trajectory.old_logprobs.abs().sum(1) > 0
        assert known.tolist() == [False] * fresh + [True] * (8 - fresh)
        before = {name: weight.detach().clone() for name, weight in vlm.model.named_parameters()}
        updates = update_policy(learner_of(vlm), trajectory, method, everything(trajectory))
        found.append((trajectory.old_logprobs, [(u.loss, u.ratio, u.grad_norm, u.sampler_gap) for u in updates]))
        vlm.model.load_state_dict(before, strict=False)
    (scored, updates), (fresh_ones, theirs) = found
    assert_close(fresh_ones, scored, atol=1e-5, rtol=0)
    assert len(theirs) == 4 and theirs[0][1] == 1 and theirs[2][1] != 1
    for ours, other in zip(updates, theirs, strict=True):
        assert ours == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_adamw_in_one_pass_is_adamw(vlm: VLM) -> None:
    """Against torch's plain loop over weights, which rounds otherwise."""
    learner = learner_of(vlm)
    learner.clip_grad_norm = 1e9
    plain = [weight.detach().clone().requires_grad_() for weight in learner.weights.values()]
    settings = {name: learner.optimizer.defaults[name] for name in ("lr", "betas", "eps", "weight_decay")}
    optimizer = torch.optim.AdamW(plain, **settings, foreach=False)
    before, random = [weight.detach().clone() for weight in plain], torch.Generator().manual_seed(0)
    for _ in range(5):
        optimizer.param_groups[0]["lr"] = learner.scheduler.get_last_lr()[0]
        for ours, other in zip(learner.weights.values(), plain, strict=True):
            ours.grad = torch.randn(ours.shape, generator=random)
            other.grad = ours.grad.clone()
        learner.step([])
        optimizer.step()
    for ours, other, old in zip(learner.weights.values(), plain, before, strict=True):
        assert_close(ours.detach() - old, other.detach() - old, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("fresh", [0, 4])
@pytest.mark.parametrize("wrong", [slice(0, 4), slice(4, 8)], ids=["rows of the first", "rows of the second"])
def test_a_gap_in_any_row_stops_before_the_first_update(vlm: VLM, data: Path, wrong: slice, fresh: int) -> None:
    """Two updates of four rows; the sampler is 1 nat a token off in the rows of one of them."""
    method = METHOD.model_copy(update={"ppo_batch_size": 4, "ppo_backward_batch_size": 2})
    trajectory = trajectory_of(vlm, read_problems(data / "train.jsonl")[:4], method, fresh)
    trajectory.responses.logprobs[wrong] += 1
    learner = learner_of(vlm)
    before = {name: weight.detach().clone() for name, weight in vlm.model.named_parameters()}
    with pytest.raises(StepError, match="sampler and learner differ by"):
        update_policy(learner, trajectory, method, everything(trajectory), largest_gap=0.1)
    assert learner.scheduler.last_epoch == 0
    for name, weight in vlm.model.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_old_logprobs_that_are_needed_before_are_computed_before() -> None:
    assert fresh_rows(METHOD, 1) == METHOD.ppo_batch_size and fresh_rows(METHOD, 2) == METHOD.ppo_batch_size // 2
    assert fresh_rows(METHOD.model_copy(update={"beta_rew": 0.1}), 1) == 0
    assert fresh_rows(METHOD.model_copy(update={"importance_cap": 2.0}), 1) == 0


def test_only_the_language_model_moves(vlm: VLM, data: Path) -> None:
    before = {name: w.detach().clone() for name, w in vlm.model.named_parameters()}
    trajectory = trajectory_of(vlm, read_problems(data / "train.jsonl")[:4], METHOD)
    update_policy(learner_of(vlm), trajectory, METHOD, everything(trajectory))
    for name, weight in vlm.model.named_parameters():
        assert torch.equal(weight, before[name]) == (".visual." in name) == (not weight.requires_grad), name


@pytest.mark.parametrize("loss_average", ["response", "token"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_backward_batches_are_only_about_memory(vlm: VLM, data: Path, method: RL, loss_average: str) -> None:
    method = method.model_copy(update={"loss_average": loss_average})
    trajectory = trajectory_of(vlm, read_problems(data / "train.jsonl")[:4], method)
    whole = gradients(vlm, trajectory, method)
    assert max(g.abs().max() for g in whole) > 1e-4
    for size in (1, 2):
        cut = gradients(vlm, trajectory, method.model_copy(update={"ppo_backward_batch_size": size}))
        for a, b in zip(whole, cut, strict=True):
            assert_close(a, b, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_padding_and_order_do_not_change_the_gradient(vlm: VLM, data: Path, method: RL) -> None:
    problems = read_problems(data / "train.jsonl")[:4]
    trajectory = trajectory_of(vlm, problems, method)
    plain = gradients(vlm, trajectory, method)
    for changed in (widened(trajectory, 3), reordered(trajectory, torch.tensor([4, 5, 0, 1, 6, 7, 2, 3]))):
        for a, b in zip(plain, gradients(vlm, changed, method), strict=True):
            assert_close(a, b, atol=2e-5, rtol=1e-3)


def widened(t: Trajectory, by: int) -> Trajectory:
    """The same trajectory with columns of padding on both sides."""

    def right(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, by))

    def left(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (by, 0))

    q, r = vars(t.queries).copy(), vars(t.responses).copy()
    q |= {"token_ids": left(q["token_ids"]), "mask": left(q["mask"]), "position_ids": left(q["position_ids"])}
    r |= {key: right(r[key]) for key in ("token_ids", "mask", "logprobs")}
    return Trajectory(
        type(t.queries)(**q),
        type(t.responses)(**r),
        right(t.old_logprobs),
        right(t.ref_logprobs),
        t.verdicts,
        t.rewards,
        t.scores,
    )


def reordered(t: Trajectory, order: Tensor) -> Trajectory:
    """The same trajectory with its rows in another order."""
    q, r = vars(t.queries).copy(), vars(t.responses).copy()
    q |= {"token_ids": q["token_ids"][order], "mask": q["mask"][order], "position_ids": q["position_ids"][:, order]}
    q |= {key: [q[key][i] for i in order] for key in ("problems", "features")} | {"group": q["group"][order]}
    r |= {key: r[key][order] for key in ("token_ids", "mask", "logprobs", "finished")}
    r["texts"] = [r["texts"][i] for i in order]
    rewards = {name: values[order] for name, values in t.rewards.items()}
    return Trajectory(
        type(t.queries)(**q),
        type(t.responses)(**r),
        t.old_logprobs[order],
        t.ref_logprobs[order],
        [t.verdicts[i] for i in order],
        rewards,
        t.scores[order],
    )


def test_a_response_that_was_cut_off_has_no_score(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eq. 1 gives the reward at the end token, and it has none."""
    always = {"accuracy": lambda text, verdict: 1.0, "language": lambda text, verdict: 1.0}
    monkeypatch.setattr(trajectory_generation, "REWARDS", always)
    vlm = load(MODELS / "qwen2_5_vl_tiny", COMPUTE, PROMPT)
    problems = read_problems(data / "train.jsonl")[:4]
    queries = make_queries(problems, vlm, 2)
    short = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=40)
    responses = NativeCollector(vlm).collect(queries, [short] * 8, list(range(8)))
    base = nullcontext(Scorer(frozen_copy(vlm.model)))
    trajectory = make_trajectory(queries, responses, Scorer(vlm.model), base, METHOD, judged)
    assert responses.finished.any() and not responses.finished.all()
    assert trajectory.scores.tolist() == [2.0 if finished else 0.0 for finished in responses.finished]


def test_a_trivial_reward_is_learnt(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with a 7 at the end, whatever is asked: from near chance, one in ten, to nearly always, in a minute."""
    # The last digit of the answer: asked for 7 alone, the base hardly ever says it and there is nothing to learn from.
    seven = {"accuracy": lambda text, answer: float((boxed(text) or "").endswith("7")), "language": lambda t, a: 0.0}
    monkeypatch.setattr(trajectory_generation, "REWARDS", seven)
    torch.manual_seed(0)
    vlm = load(MODELS / "qwen2_5_vl_tiny", COMPUTE, PROMPT)
    problems = read_problems(data / "train.jsonl")
    method = METHOD.model_copy(
        update={
            "batch_size": 16,
            "group_size": 4,
            "forward_batch_size": 32,
            "ppo_batch_size": 32,
            "ppo_backward_batch_size": 16,
            "beta_loss": 0.0,
        }
    )
    learner = Learner(vlm.model, ADAMW.model_copy(update={"learning_rate": 5e-4}), 1000, World())
    reference = Scorer(frozen_copy(vlm.model))
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=60)
    shares = []
    for step in range(40):
        queries = make_queries(problems, vlm, 4)
        responses = NativeCollector(vlm).collect(queries, [sampling] * 64, [step * 64 + i for i in range(64)])
        trajectory = make_trajectory(queries, responses, learner.policy, nullcontext(reference), method, judged)
        update_policy(learner, trajectory, method, everything(trajectory))
        shares.append(trajectory.rewards["accuracy"].mean().item())
        if shares[-1] > 0.95:
            break
    assert shares[0] < 0.2 and shares[-1] > 0.9, shares


def run_settings(data: Path, out: Path, kind: str) -> dict[str, object]:
    return {
        "out": str(out),
        "model": "qwen2_5_vl_tiny",
        "dataset": "text",
        "method": kind,
        "seed": 3,
        "base": str(data / "base" / "checkpoint"),
        "data": str(data),
        "preflight": str(data / "preflight"),
        "checkpoints": str(out.with_name(f"{out.name}.checkpoints")),
        "prompt": PROMPT,
        "compute": COMPUTE,
        "epochs": 2,
        "save_epochs": (2,),
        "weights": str(out / "weights"),
        "learner": WHOLE,
    }


def test_the_same_rl_run_twice_has_equal_bytes(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        common = run_settings(data, tmp_path / name, "rl")
        rl.train(RLRun(**common, judge=RULES, engine="native", settings=METHOD))  # type: ignore[arg-type]
    files = ["responses.jsonl", "updates.jsonl", "weights/epoch2.safetensors"]
    assert [sha256(tmp_path / "a" / f) for f in files] == [sha256(tmp_path / "b" / f) for f in files]
    rows = read(tmp_path / "a" / "responses.jsonl")
    assert len(rows) == 2 * 16 * 2 and rows.generation_step.max() == 8
    assert json.loads((tmp_path / "a" / "provenance.json").read_text())["packages"]["torch"]


def test_sft_learns_its_solutions_and_nothing_of_the_question(data: Path, tmp_path: Path) -> None:
    settings = SFT(optimizer=ADAMW, batch_size=8, backward_batch_size=4)
    run = SFTRun(**run_settings(data, tmp_path / "sft", "sft"), settings=settings)  # type: ignore[arg-type]
    sft.train(run)
    loss = read(tmp_path / "sft" / "updates.jsonl").loss
    assert len(loss) == 4 and 0 < loss.iloc[-1] < loss.iloc[0]

    vlm = load(MODELS / "qwen2_5_vl_tiny", COMPUTE, PROMPT)
    problems = read_problems(data / "train.jsonl")[:8]
    golden = sft.golden_sequences(problems, vlm)
    decoded = [
        vlm.processor.tokenizer.decode(ids[m]) for ids, m in zip(golden.response_ids, golden.response_mask, strict=True)
    ]
    assert decoded == [problem.solution + "<|im_end|>" for problem in problems]

    prompts = [vlm.render(problem) for problem in problems]
    labels = golden.response_ids[golden.response_mask]
    with torch.no_grad():
        ours = -response_logprobs(Scorer(vlm.model), golden).sum() / len(labels)
        plain = []
        for prompt, problem in zip(prompts, problems, strict=True):
            text = prompt + problem.solution + "<|im_end|>"
            inputs = vlm.processor(text=[text], images=[[problem.picture()]], return_tensors="pt")
            answer = len(vlm.processor.tokenizer(problem.solution + "<|im_end|>")["input_ids"])
            logits = vlm.model(**inputs).logits[0, -answer - 1 : -1]
            plain.append(torch.nn.functional.cross_entropy(logits, inputs["input_ids"][0, -answer:], reduction="sum"))
    assert_close(ours, sum(plain) / len(labels), atol=1e-5, rtol=1e-5)


def test_sft_without_solutions_says_so_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    bare = tmp_path / "bare"
    bare.mkdir()
    for part in ("images", "base", "preflight"):
        (bare / part).symlink_to(data / part)
    (bare / "train.jsonl").write_text("".join(json.dumps(row | {"solution": ""}) + "\n" for row in rows))
    settings = SFT(optimizer=ADAMW, batch_size=8, backward_batch_size=4)
    with pytest.raises(SystemExit, match="16 of 16 train problems have no 'solution'"):
        sft.train(SFTRun(**run_settings(bare, tmp_path / "out", "sft"), settings=settings))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_response_that_cannot_fit_stops_before_the_model_is_loaded(data: Path, tmp_path: Path) -> None:
    method = METHOD.model_copy(update={"sampling": METHOD.sampling.model_copy(update={"max_new_tokens": 5000})})
    (tmp_path / "base.json").write_text("{}")
    settings = run_settings(data, tmp_path / "out", "rl") | {"base": str(tmp_path / "nowhere")}
    with pytest.raises(SystemExit, match="and 5000 of response, but the model's context is 4096"):
        rl.train(RLRun(**settings, judge=RULES, engine="native", settings=method))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_every_epoch_sees_whole_batches_in_an_order_of_its_own() -> None:
    seen = list(batches(list(range(10)), 4, epochs=2, seed=1))
    assert [(epoch, step) for epoch, step, _ in seen] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    first, second = ([i for e, _, items in seen if e == epoch for i in items] for epoch in (1, 2))
    assert len(set(first)) == len(set(second)) == 8 and first != second
    assert seen == list(batches(list(range(10)), 4, epochs=2, seed=1))
    assert seen != list(batches(list(range(10)), 4, epochs=2, seed=2))

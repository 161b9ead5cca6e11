"""Loss and gradient beside TRL 1.16, on the same tensors: `make trl && .venv/trl/bin/python benchmarks/trl_parity.py`.

A random Qwen2.5-VL with pictures; siblings' responses of different lengths, advantages of both signs, a reference and
an old policy that are not the policy, so that some tokens are clipped. Ours is what `update_policy` hands to the
learner, in several backward batches; theirs is what `GRPOTrainer._compute_loss` gives, in several micro-batches, with
the same tokens, masks, advantages, and old and reference log-probabilities, but by a forward pass of its own: padded
rows, a picture for each. SFT is the loop's own lines against `SFTTrainer.compute_loss`. Prints a line a comparison;
exit code 1 if a loss is further apart than 1e-5 or a gradient's cosine is not above 0.9999.

Both clip the ratio to 1 +- epsilon and take the smaller objective, and add beta times the k3 estimate of the KL at the
current policy, with its gradient. Different by definition (* in the table shows by how much):

- TRL 1.16 multiplies k3 by the ratio unless `use_bias_correction_kl` is False, as it is here; Eq. 1 does not.
- TRL's bnpo takes the mean over a micro-batch's tokens, then over micro-batches; ours over all tokens of the update, as
  TRL's dapo does. With one micro-batch they are the same.
- TRL divides by a group's sample deviation plus 1e-4, GRPO here by its population deviation plus 1e-6, and a response
  that is cut off gets no reward here. So advantages are made once, by ours, and given to both.
- Without an old policy TRL takes the current log-probabilities, detached; here they are given.
- TRL's chat template would end a solution with one more token, a line break; both learn prompt, solution, end.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from torch import Tensor, nn

from benchmarks.common import positive
from benchmarks.runs import unjudged
from benchmarks.trl_setup import (
    GROUP,
    POINTS,
    Work,
    build,
    even,
    grpo_trainer,
    head_on_responses_only,
    our_run,
    require_trl,
    sft_trainer,
    trl_model,
)
from stages.config import RL, RLRun
from stages.data.problem import Problem, read_problems
from stages.model.logprobs import Scorer, response_logprobs
from stages.model.vlm import VLM, frozen_copy, load
from stages.provenance import hardware, package_versions
from stages.rl.data_flow import make_queries
from stages.rl.policy_update import advantages_of, update_policy
from stages.rl.response_collection import Responses
from stages.rl.trajectory_generation import Trajectory, make_trajectory, sequences_of
from stages.sft.train import golden_sequences
from stages.training.learner import Learner
from stages.training.world import World

LARGEST_LOSS, SMALLEST_COSINE = 1e-5, 0.9999
BETA = 0.1  # large enough for the KL to matter
# How far old policy and reference are from the policy, as the deviation of what is added to each weight.
OLD, REFERENCE = 0.002, 0.01


@dataclass(frozen=True)
class Found:
    """A loss, and its gradient by the names of the trained weights."""

    loss: float
    gradient: dict[str, Tensor]


class Watched(Learner):
    """A learner that keeps an update's gradient and changes no weight."""

    gradient: dict[str, Tensor]

    def step(self, problems: Sequence[str]) -> tuple[float, float]:
        self.gradient = gradient_of(self.model)
        return 0.0, 0.0


def gradient_of(model: nn.Module) -> dict[str, Tensor]:
    """Of the trained weights by name; they have none afterwards."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, name
            found[name], weight.grad = weight.grad, None
    return found


# --- ours ------------------------------------------------------------------------------------------------------------


def moved(model: Any, seed: int, deviation: float) -> Scorer:
    """A copy of a model whose language weights are a little different."""
    other = frozen_copy(model)
    random = torch.Generator().manual_seed(seed)
    for name, weight in other.named_parameters():
        if not name.startswith("model.visual."):
            weight.add_(deviation * torch.randn(weight.shape, generator=random))
    return Scorer(other)


def trajectory_of(vlm: VLM, problems: list[Problem], method: RL) -> Trajectory:
    """Responses of random tokens, 1 to R, as an old policy would have them."""
    random = torch.Generator().manual_seed(0)
    queries = make_queries(problems, vlm, GROUP)
    rows, longest = len(queries), method.sampling.max_new_tokens
    lengths = torch.randint(1, longest + 1, (rows,), generator=random)
    lengths[0] = longest
    mask = torch.arange(longest) < lengths[:, None]
    drawn = torch.randint(vlm.processor.tokenizer.vocab_size, (rows, longest), generator=random)
    token_ids = torch.where(mask, drawn, vlm.processor.tokenizer.pad_token_id)
    finished = torch.ones(rows, dtype=torch.bool)
    responses = Responses([""] * rows, token_ids, mask, finished, torch.zeros(rows, longest))
    reference = nullcontext(moved(vlm.model, 1, REFERENCE))
    made = make_trajectory(queries, responses, Scorer(vlm.model), reference, method, unjudged)
    with torch.no_grad():
        old = response_logprobs(moved(vlm.model, 2, OLD), sequences_of(queries, responses))
    scores = torch.tensor([even(ids[real].tolist()) for ids, real in zip(token_ids, mask, strict=True)])
    return replace(made, old_logprobs=old, scores=scores)


def our_grpo(learner: Watched, trajectory: Trajectory, method: RL) -> Found:
    rows = len(trajectory.queries)
    (update,) = update_policy(learner, trajectory, method, World().share(rows, block=rows))
    if not 0 < update.clip_fraction < 1:
        sys.exit(f"{update.clip_fraction:.0%} of the tokens are clipped; some, and not all, should be")
    return Found(update.loss, learner.gradient)


def our_sft(learner: Watched, vlm: VLM, problems: list[Problem], micro: int) -> Found:
    """As `stages.sft.train` has it."""
    sequences = golden_sequences(problems, vlm)
    tokens = int(sequences.response_mask.sum())
    loss = 0.0
    for rows in sequences.in_parts(micro):
        part: Tensor = -response_logprobs(learner.policy, sequences.take(rows)).sum() / tokens
        learner.backward(part, [problems[row].id for row in rows.tolist()])
        loss += part.item()
    learner.step([])
    return Found(loss, learner.gradient)


# --- theirs ----------------------------------------------------------------------------------------------------------


def trl_grpo(
    work: Work, folder: Path, trajectory: Trajectory, advantages: Tensor, loss_type: str, beta: float, **more: bool
) -> Found:
    """TRL's loss and gradient in micro-batches, of rows in their order."""
    queries, responses = trajectory.queries, trajectory.responses
    problems = queries.problems[::GROUP]
    settings = {"loss_type": loss_type, "beta": beta, **more}
    trainer = grpo_trainer(work, folder, trl_model(folder), problems, no_reward, **settings)
    inputs = trainer.processing_class(
        text=[
            trainer.processing_class.apply_chat_template(conversation(p), add_generation_prompt=True) for p in problems
        ],
        images=[[problem.picture()] for problem in problems],
        padding=True,
        return_tensors="pt",
    )
    same("prompts", inputs["input_ids"].repeat_interleave(GROUP, 0), queries.token_ids)
    kinds = inputs["mm_token_type_ids"].repeat_interleave(GROUP, 0)
    pixels = inputs["pixel_values"].view(len(problems), -1, inputs["pixel_values"].shape[1])
    loss, model = 0.0, trainer.model.train()
    trainer.current_gradient_accumulation_steps = work.rows // work.micro
    for rows in torch.arange(work.rows).split(work.micro):
        part = trainer._compute_loss(
            model,
            {
                "prompt_ids": queries.token_ids[rows],
                "prompt_mask": queries.mask[rows].long(),
                "completion_ids": responses.token_ids[rows],
                "completion_mask": responses.mask[rows].long(),
                "advantages": advantages[rows],
                "old_per_token_logps": trajectory.old_logprobs[rows],
                "ref_per_token_logps": trajectory.ref_logprobs[rows],
                "num_items_in_batch": responses.mask.sum(),
                "pixel_values": pixels[rows // GROUP].flatten(0, 1),
                "image_grid_thw": inputs["image_grid_thw"][rows // GROUP],
                "num_images": [1] * len(rows),
                "mm_token_type_ids": torch.cat([kinds[rows], torch.zeros_like(responses.token_ids[rows])], dim=1),
            },
        )
        part.backward()
        loss += part.item()
    return Found(loss, gradient_of(model))


def trl_sft(work: Work, folder: Path, problems: list[Problem], vlm: VLM) -> Found:
    trainer = sft_trainer(work, folder, trl_model(folder), problems)
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]
    check_tokens(batches, problems, vlm)
    tokens = sum((batch["labels"] != -100).sum() for batch in batches)
    loss, model = 0.0, trainer.model.train()
    for batch in batches:
        part = trainer.compute_loss(model, batch, num_items_in_batch=tokens)
        part.backward()
        loss += part.item()
    return Found(loss, gradient_of(model))


def conversation(problem: Problem) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": problem.question}]}]


def no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def check_tokens(batches: Sequence[Any], problems: list[Problem], vlm: VLM) -> None:
    """TRL learns the same tokens of the same rows."""
    ours = golden_sequences(problems, vlm)
    theirs = [
        (ids[real.bool()], labels[labels != -100])
        for batch in batches
        for ids, real, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]
    for i, (whole, learnt) in enumerate(theirs):
        golden = ours.response_ids[i, ours.response_mask[i]]
        same("solutions", learnt, golden)
        same("rows", whole, torch.cat([ours.query_ids[i, ours.query_mask[i]], golden]))


def same(what: str, theirs: Tensor, ours: Tensor) -> None:
    if not torch.equal(theirs, ours):
        sys.exit(f"the {what} of TRL are other tokens than ours")


# --- side by side ----------------------------------------------------------------------------------------------------


def comparisons(folder: Path, work: Work) -> Iterator[tuple[str, Found, Found, bool]]:
    """Name, ours, theirs, and whether they have to agree."""
    run = our_run(work, folder)
    assert isinstance(run, RLRun)
    vlm = load(Path(run.base), run.compute, run.prompt)
    problems = read_problems(folder / "train.jsonl")[: work.problems]
    learner = Watched(vlm.model, run.settings.optimizer, 1, World())
    trajectory = trajectory_of(vlm, problems, run.settings)
    share = World().share(work.rows, block=work.rows)
    advantages = advantages_of(trajectory, run.settings, share)
    for average, beta, loss_type, micro, more in (
        ("response", BETA, "grpo", work.micro, {}),
        ("response", 0.0, "grpo", work.micro, {}),
        ("token", BETA, "dapo", work.micro, {}),
        ("token", 0.0, "dapo", work.micro, {}),
        ("token", BETA, "bnpo", work.rows, {}),
        ("token", 0.0, "bnpo", work.rows, {}),
        ("token", BETA, "bnpo", work.micro, {}),
        ("token", BETA, "bnpo", work.rows, {"use_bias_correction_kl": True}),
    ):
        method = run.settings.model_copy(update={"loss_average": average, "beta_loss": beta})
        ours = our_grpo(learner, trajectory, method)
        theirs = trl_grpo(replace(work, micro=micro), folder, trajectory, advantages, loss_type, beta, **more)
        parts = work.rows // micro
        name = f"{average} / {loss_type}, beta {beta}, {parts} micro-batch{'es' * (parts > 1)}"
        other = bool(more) or (loss_type == "bnpo" and parts > 1)
        yield " ".join([name, *more, "*" * other]), ours, theirs, not other
    of_sft = replace(work, method="sft", micro=work.problems // 2)
    ours_of_sft = our_sft(learner, vlm, problems, of_sft.micro)
    yield "SFT, 2 micro-batches", ours_of_sft, trl_sft(of_sft, folder, problems, vlm), True
    head_on_responses_only()
    method = run.settings.model_copy(update={"loss_average": "response", "beta_loss": BETA})
    theirs = trl_grpo(work, folder, trajectory, advantages, "grpo", BETA)
    yield "response / grpo, TRL's head on responses only", our_grpo(learner, trajectory, method), theirs, True


def apart(ours: Found, theirs: Found) -> tuple[float, float, float]:
    """Difference of the losses, cosine of the whole gradients, and their largest difference."""
    if ours.gradient.keys() != theirs.gradient.keys():
        sys.exit(f"other weights are trained: {ours.gradient.keys() ^ theirs.gradient.keys()}")
    a, b = (torch.cat([found.gradient[name].flatten().double() for name in ours.gradient]) for found in (ours, theirs))
    return abs(ours.loss - theirs.loss), float(a @ b / (a.norm() * b.norm())), float((a - b).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=positive, default=4, help=f"each with {GROUP} responses; even")
    parser.add_argument("--new-tokens", type=positive, default=24, help="of the longest response")
    parser.add_argument("--micro", type=positive, default=8, help="rows of a backward pass")
    parser.add_argument("--pixels", type=positive, default=64 * 64)
    asked = parser.parse_args()
    if asked.problems % 2:
        parser.error(f"--problems: {asked.problems} is odd")
    require_trl()
    torch.set_num_threads(1)
    begun = time.monotonic()
    facts = hardware() | package_versions("torch", "transformers", "trl")
    facts |= {"float32 rounding": torch.finfo(torch.float32).eps, "vectors": torch.backends.cpu.get_cpu_capability()}
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value))
    broken = False
    print(f"{'ours / TRL':68} {'loss':>9} {'|loss diff.|':>13} {'1 - cosine':>11} {'gradient diff.':>15} {'of':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = Work("rl", asked.problems, asked.new_tokens, asked.micro, asked.pixels, steps=1)
        build(POINTS["a"], work, folder)
        for what, ours, theirs, bound in comparisons(folder, work):
            loss, cosine, gradient = apart(ours, theirs)
            largest = max(float(of.abs().max()) for of in ours.gradient.values())
            fails = bound and not (loss < LARGEST_LOSS and cosine > SMALLEST_COSINE)
            broken |= fails
            line = f"{what:68} {ours.loss:9.5f} {loss:13.1e} {1 - cosine:11.1e} {gradient:15.1e} {largest:8.1e}"
            print(line + (" BROKEN" if fails else ""), flush=True)
    print("* differs by definition, and is not bounded")
    print(f"{time.monotonic() - begun:.0f} s")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()

"""Reinforcement learning from a base model: `python -m stages.rl.train RUN.json`.

The paper's four steps, once a generation step. Writes responses.jsonl, updates.jsonl and the weights of the epochs
that are evaluated.
"""

import dataclasses
import sys
from collections.abc import Iterator
from functools import partial

from stages.config import RLRun, load_run
from stages.evaluation.answers import VERSION, Judge
from stages.model.vlm import frozen_copy
from stages.progress import progress
from stages.records import ResponseRow, UpdateRow, append
from stages.rl.data_flow import make_queries
from stages.rl.policy_update import Update, update_policy
from stages.rl.response_collection import NativeCollector
from stages.rl.trajectory_generation import Trajectory, make_trajectory
from stages.seeds import seed_of
from stages.training.optimizer import Optimization
from stages.training.run import save_epoch, training
from stages.training.schedule import batches, steps_per_epoch


def train(run: RLRun) -> None:
    """The RL loop in full."""
    method = run.settings
    with (
        training(run, method.sampling.max_new_tokens) as (problems, vlm, folder),
        Judge(workers=run.compute.threads) as judge,
    ):
        judged = partial(judge.verdicts, rules=run.judge)
        steps = steps_per_epoch(len(problems), method.batch_size)
        reference = frozen_copy(vlm.model)
        optimization = Optimization(vlm.model, method.optimizer, run.epochs * steps * method.updates)
        collector = NativeCollector(vlm)
        schedule = progress(batches(problems, method.batch_size, run.epochs, run.seed), run.name, run.epochs * steps)
        for epoch, generation_step, chosen in schedule:
            seeds = [
                seed_of("response", run.seed, generation_step, problem.id, sample)
                for problem in chosen
                for sample in range(method.group_size)
            ]
            queries = make_queries(chosen, vlm, method.group_size)  # Step I
            responses = collector.collect(queries, [method.sampling] * len(queries), seeds)  # Step II
            trajectory = make_trajectory(queries, responses, vlm.model, reference, method, judged)  # Step III
            updates = update_policy(vlm.model, optimization, trajectory, method)  # Step IV
            append(folder / "responses.jsonl", response_rows(run, epoch, generation_step, trajectory))
            append(folder / "updates.jsonl", update_rows(run, epoch, generation_step, updates))
            if generation_step % steps == 0:
                save_epoch(folder, vlm, epoch, run)
            schedule.set_postfix(summary(trajectory, epoch), refresh=False)


def response_rows(run: RLRun, epoch: int, generation_step: int, trajectory: Trajectory) -> Iterator[ResponseRow]:
    """One row a response."""
    responses, queries = trajectory.responses, trajectory.queries
    for i, problem in enumerate(queries.problems):
        yield ResponseRow(
            run=run.name,
            phase="train",
            split="train",
            epoch=epoch,
            generation_step=generation_step,
            setting="train",
            problem=problem.id,
            sample=i % queries.group_size,
            text=responses.texts[i],
            answer=problem.answer,
            length=int(responses.mask[i].sum()),
            finished=bool(responses.finished[i]),
            rewards={name: values[i].item() for name, values in trajectory.rewards.items()},
            verdict=trajectory.verdicts[i].outcome,
            judge=VERSION,
        )


def update_rows(run: RLRun, epoch: int, generation_step: int, updates: list[Update]) -> Iterator[UpdateRow]:
    """One row an optimiser step."""
    for i, update in enumerate(updates, start=1):
        gradient_step = (generation_step - 1) * len(updates) + i
        yield UpdateRow(run.name, epoch, generation_step, gradient_step, **dataclasses.asdict(update))


def summary(trajectory: Trajectory, epoch: int) -> dict[str, str]:
    """What the progress bar shows of a generation step."""
    reward, length = trajectory.rewards["accuracy"].mean(), trajectory.responses.mask.sum(1).float().mean()
    return {"epoch": f"{epoch}", "accuracy": f"{reward.item():.3f}", "length": f"{length.item():.1f}"}


if __name__ == "__main__":
    train(load_run(sys.argv[1], RLRun))

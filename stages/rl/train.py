"""Reinforcement learning from a base model: `python -m stages.rl.train RUN.json`.

The paper's four steps, once a generation step. Writes responses.jsonl, updates.jsonl and the weights of the epochs
that are evaluated. Stopped at any moment, it goes on where its state was last saved.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from stages.config import RLRun, load_run
from stages.evaluation.answers import VERSION, Judge
from stages.model.logprobs import Scorer
from stages.progress import progress
from stages.records import ResponseRow, UpdateRow
from stages.rl.collectors import make_collector
from stages.rl.data_flow import make_queries
from stages.rl.policy_update import Update, update_policy
from stages.rl.reference import AdaptersOff, Copy, Reference
from stages.rl.trajectory_generation import Trajectory, fresh_rows, make_trajectory
from stages.seeds import seed_of
from stages.training.job import Job
from stages.training.run import MEANS, Means, arguments, keeps_other_weights, learner_of, training
from stages.training.schedule import batches, steps_per_epoch


def train(run: RLRun, means: Means = MEANS) -> None:
    """The RL loop in full.

    Args:
        run: its settings.
        means: what no result depends on.
    """
    method = run.settings
    with (
        training(run, "stages.rl.train", method.sampling.max_new_tokens, means) as (problems, vlm, job),
        Judge(workers=run.compute.threads) as judge,
    ):
        judged = partial(judge.verdicts, rules=run.judge)
        steps = steps_per_epoch(len(problems), method.batch_size)
        collector = make_collector(run, vlm, means.kv_cache_mb, own_weights=keeps_other_weights(run, job))
        reference = reference_of(run, Scorer(vlm.model), job, means)
        learner = learner_of(run, vlm, method.optimizer, run.epochs * steps * method.updates, job, means)
        share = job.world.share(method.batch_size, block=method.ppo_batch_size // method.group_size)
        done = job.begin(learner)
        remaining = islice(batches(problems, method.batch_size, run.epochs, run.seed), done, None)
        bar = progress(remaining, run.name, run.epochs * steps, done, quiet=not job.world.is_first)
        for epoch, generation_step, chosen in bar:
            mine = share.of(chosen)
            seeds = [
                seed_of("response", run.seed, generation_step, problem.id, sample)
                for problem in mine
                for sample in range(method.group_size)
            ]
            collector.load(learner.language_weights())
            queries = make_queries(mine, vlm, method.group_size)  # Step I
            responses = collector.collect(queries, [method.sampling] * len(queries), seeds)  # Step II
            collector.rest()
            base = reference.scoring()
            fresh = fresh_rows(method, job.world.size)
            trajectory = make_trajectory(queries, responses, learner.policy, base, method, judged, fresh)  # Step III
            rows_of = share.times(method.group_size)
            updates = update_policy(learner, trajectory, method, rows_of, means.largest_gap)  # Step IV
            rows = rows_of.whole(response_rows(run, epoch, generation_step, trajectory))
            job.record("responses.jsonl", rows)
            job.record("updates.jsonl", update_rows(run, epoch, generation_step, updates))
            if epoch_ends := generation_step % steps == 0:
                job.save_epoch(epoch)
            job.finish_step(epoch_ends)
            bar.set_postfix(summary(rows, epoch), refresh=False)


def reference_of(run: RLRun, base: Scorer, job: Job, means: Means) -> Reference:
    """The base model as it is before the learner touches it."""
    if run.learner.lora:
        return AdaptersOff(base)
    return Copy(base, job.world, offload=means.offload_reference)


def response_rows(run: RLRun, epoch: int, generation_step: int, trajectory: Trajectory) -> list[ResponseRow]:
    """One row a response."""
    responses, queries = trajectory.responses, trajectory.queries
    return [
        ResponseRow(
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
        for i, problem in enumerate(queries.problems)
    ]


def update_rows(run: RLRun, epoch: int, generation_step: int, updates: list[Update]) -> Iterator[UpdateRow]:
    """One row an optimiser step."""
    for i, update in enumerate(updates, start=1):
        gradient_step = (generation_step - 1) * len(updates) + i
        yield UpdateRow(run.name, epoch, generation_step, gradient_step, **dataclasses.asdict(update))


def summary(rows: Sequence[ResponseRow], epoch: int) -> dict[str, str]:
    """What the progress bar shows of a generation step."""
    accuracy = sum(row.rewards["accuracy"] for row in rows) / len(rows)
    length = sum(row.length for row in rows) / len(rows)
    return {"epoch": f"{epoch}", "accuracy": f"{accuracy:.3f}", "length": f"{length:.1f}"}


if __name__ == "__main__":
    path, given = arguments()
    train(load_run(path, RLRun), given)

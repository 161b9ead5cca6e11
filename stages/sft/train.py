"""Supervised fine-tuning on golden solutions: `python -m stages.sft.train RUN.json`.

As many epochs as RL, the loss on the solution's tokens only. Writes updates.jsonl and the weights of the epochs that
are evaluated. Stopped at any moment, it goes on where its state was last saved.
"""

from dataclasses import fields
from itertools import islice

import torch
from torch import Tensor

from stages.config import SFTRun, load_run
from stages.data.problem import Problem
from stages.model.logprobs import response_logprobs
from stages.model.sequences import Sequences
from stages.model.vlm import VLM
from stages.progress import progress
from stages.records import UpdateRow
from stages.rl.data_flow import make_queries
from stages.training.run import MEANS, Means, arguments, learner_of, training
from stages.training.schedule import batches, steps_per_epoch


def train(run: SFTRun, means: Means = MEANS) -> None:
    """The SFT loop in full.

    Args:
        run: its settings.
        means: what no result depends on.
    """
    method = run.settings
    with training(run, "stages.sft.train", None, means) as (problems, vlm, job):
        check_solutions(problems)
        steps = steps_per_epoch(len(problems), method.batch_size)
        learner = learner_of(run, vlm, method.optimizer, run.epochs * steps, job, means)
        share = job.world.share(method.batch_size, block=method.batch_size)
        done = job.begin(learner)
        remaining = islice(batches(problems, method.batch_size, run.epochs, run.seed), done, None)
        bar = progress(remaining, run.name, run.epochs * steps, done, quiet=not job.world.is_first)
        for epoch, step, chosen in bar:
            mine = share.of(chosen)
            sequences = golden_sequences(mine, vlm)
            tokens = int(job.world.sum(sequences.response_mask.sum()))
            loss = torch.zeros((), dtype=torch.float64)
            for rows in sequences.in_parts(method.backward_batch_size):
                part: Tensor = -response_logprobs(learner.policy, sequences.take(rows)).sum() / tokens
                learner.backward(part, [mine[row].id for row in rows.tolist()])
                loss += part.item()
            total = job.world.sum(loss).item()
            grad_norm, lr = learner.step([problem.id for problem in mine])
            job.record("updates.jsonl", [update_row(run, epoch, step, total, grad_norm, lr, tokens)])
            if epoch_ends := step % steps == 0:
                job.save_epoch(epoch)
            job.finish_step(epoch_ends)
            bar.set_postfix(epoch=epoch, loss=f"{total:.3f}", refresh=False)


def update_row(run: SFTRun, epoch: int, step: int, loss: float, grad_norm: float, lr: float, tokens: int) -> UpdateRow:
    """What SFT knows of an optimiser step."""
    known = {"run": run.name, "epoch": epoch, "generation_step": 0, "gradient_step": step, "loss": loss}
    known |= {"grad_norm": grad_norm, "lr": lr, "tokens": tokens}
    return UpdateRow(**dict.fromkeys(field.name for field in fields(UpdateRow)) | known)  # type: ignore[arg-type]


def golden_sequences(problems: list[Problem], vlm: VLM) -> Sequences:
    """Each problem's query with its golden solution, ended as a response ends, to be learnt."""
    queries = make_queries(problems, vlm, group_size=1)
    tokenizer = vlm.processor.tokenizer
    solutions = [
        [*tokenizer(problem.solution, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for problem in problems
    ]
    longest = max(map(len, solutions))
    token_ids = torch.full((len(solutions), longest), tokenizer.pad_token_id, device=vlm.device)
    for i, solution in enumerate(solutions):
        token_ids[i, : len(solution)] = torch.tensor(solution, device=vlm.device)
    lengths = torch.tensor([len(solution) for solution in solutions], device=vlm.device)
    mask = torch.arange(longest, device=vlm.device) < lengths[:, None]
    q = queries
    return Sequences(q.token_ids, q.mask, q.position_ids, q.features, q.group, token_ids, mask)


def check_solutions(problems: list[Problem]) -> None:
    """SFT needs a golden solution for every problem.

    Raises:
        ValueError: some have none.
    """
    without = [problem.id for problem in problems if not problem.solution]
    if without:
        raise ValueError(
            f"{len(without)} of {len(problems)} train problems have no 'solution' (the first: {without[0]}); "
            "add them, or leave the pair out (study.skip: [<data set>/<method>])"
        )


if __name__ == "__main__":
    path, given = arguments()
    train(load_run(path, SFTRun), given)

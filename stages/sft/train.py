"""Supervised fine-tuning on golden solutions: `python -m stages.sft.train RUN.json`.

As many epochs as RL, the loss on the solution's tokens only. Writes updates.jsonl and the weights of the epochs that
are evaluated.
"""

import sys

import torch
from torch import Tensor

from stages.config import SFTRun, load_run
from stages.data.problem import Problem
from stages.model.logprobs import Sequences, response_logprobs
from stages.model.vlm import VLM
from stages.progress import progress
from stages.records import UpdateRow, append
from stages.rl.data_flow import make_queries
from stages.training.optimizer import Optimization
from stages.training.run import save_epoch, training
from stages.training.schedule import batches, steps_per_epoch


def train(run: SFTRun) -> None:
    """The SFT loop in full."""
    method = run.settings
    with training(run, new_tokens=None) as (problems, vlm, folder):
        check_solutions(problems)
        steps = steps_per_epoch(len(problems), method.batch_size)
        optimization = Optimization(vlm.model, method.optimizer, run.epochs * steps)
        schedule = progress(batches(problems, method.batch_size, run.epochs, run.seed), run.name, run.epochs * steps)
        for epoch, step, chosen in schedule:
            sequences = golden_sequences(chosen, vlm)
            tokens = int(sequences.response_mask.sum())
            loss = 0.0
            for rows in sequences.by_length(method.backward_batch_size):
                part: Tensor = -response_logprobs(vlm.model, sequences.take(rows)).sum() / tokens
                part.backward()
                loss += part.item()
            grad_norm, lr = optimization.step()
            row = UpdateRow(
                run.name, epoch, 0, step, loss, None, None, None, None, None, grad_norm, lr, tokens, None, None
            )
            append(folder / "updates.jsonl", [row])
            if step % steps == 0:
                save_epoch(folder, vlm, epoch, run)
            schedule.set_postfix(epoch=epoch, loss=f"{loss:.3f}", refresh=False)


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
    return Sequences(queries.token_ids, queries.mask, queries.position_ids, queries.features, token_ids, mask)


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
    train(load_run(sys.argv[1], SFTRun))

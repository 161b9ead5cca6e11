"""What the trainers of SFT and RL begin and end with."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.config import TrainRun
from stages.data.problem import Problem, read_problems
from stages.files import whole_folder
from stages.model.compute import set_up
from stages.model.context import check_responses, check_solutions
from stages.model.vlm import VLM, load
from stages.provenance import write_provenance
from stages.training.weights import save_weights


@contextmanager
def training(run: TrainRun, new_tokens: int | None) -> Iterator[tuple[list[Problem], VLM, Path]]:
    """The train problems, the base model, and a folder for records that becomes `run.out` when all went well.

    A `ValueError` inside ends the process with its message, and nothing is written.

    Args:
        run: the run.
        new_tokens: of the longest response that it draws; None if it learns from solutions.
    """
    set_up(run.compute)
    try:
        if new_tokens is None:
            check_solutions(run.preflight)
        else:
            check_responses(run.preflight, ["train"], new_tokens)
        problems = read_problems(Path(run.data, "train.jsonl"))
        vlm = load(Path(run.base), run.compute, run.prompt)
        with whole_folder(Path(run.out)) as folder:
            yield problems, vlm, folder
            write_provenance(folder, [Path(run.data, "train.jsonl"), Path(run.base).with_name("base.json")])
    except ValueError as mistake:
        sys.exit(f"{run.name}: {mistake}")


def save_epoch(folder: Path, vlm: VLM, epoch: int, run: TrainRun) -> None:
    """Keep the weights of a finished epoch, if the run asks for it."""
    if epoch in run.save_epochs:
        path = folder / "weights" / f"epoch{epoch}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_weights(path, vlm.model)

"""Can a model take a data set? `python -m stages.model.preflight RUN.json`, before anything is trained.

Every problem of every split goes through the real processor: its prompt must hold as many image tokens as the vision
tower will give features, say the question as it is, and fit the context. No weights are loaded. Writes preflight.json,
the lengths that were found; whether a response fits too is asked by the job that draws it (`stages.model.context`).
"""

import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from stages.config import PreflightRun, load_run
from stages.data.problem import Problem, read_problems
from stages.files import whole_folder
from stages.model.processor import load_processor, render
from stages.progress import progress

SPLITS = ("train", "validation", "test")
NAMED = 20  # mistakes that are printed; the rest is counted


@dataclass(frozen=True)
class Lengths:
    """Tokens of a problem: of its whole prompt, of its picture in it, and of its golden solution."""

    prompt: int
    image: int
    solution: int | None

    @property
    def learnt(self) -> int | None:
        """Of prompt and solution, as SFT learns them."""
        return None if self.solution is None else self.prompt + self.solution


class Preflight:
    """What a model's configuration and processor say about a problem."""

    def __init__(self, run: PreflightRun) -> None:
        self.run = run
        self.config = AutoConfig.from_pretrained(run.base)
        self.processor = load_processor(Path(run.base), run.prompt)
        self.context: int = self.config.text_config.max_position_embeddings
        tokenizer = self.processor.tokenizer
        self.special = {token for token in tokenizer.all_special_tokens + list(tokenizer.added_tokens_encoder) if token}

    def lengths(self, problem: Problem) -> Lengths:
        """The tokens of a problem.

        Raises:
            ValueError: the model cannot take it.
        """
        instruction = self.run.prompt.instruction
        texts = {"its question": problem.question, "its solution": problem.solution, "the instruction": instruction}
        for name, text in texts.items():
            if inside := sorted(token for token in self.special if token in text):
                raise ValueError(f"{name} holds {inside[0]}, which the tokenizer takes for a mark of its own")
        text = render(self.processor, problem.question, instruction)
        if problem.question not in text:
            raise ValueError("the chat template does not render its question as it is")
        inputs = self.processor(text=[text], images=[[problem.picture()]], return_tensors="np")
        token_ids = inputs["input_ids"][0]
        spelt = self.processor.tokenizer.decode(token_ids)
        if unicodedata.normalize("NFC", problem.question) not in spelt:
            raise ValueError(f"the tokenizer cannot spell its question: {problem.question!r} becomes {spelt!r}")
        image = int((token_ids == self.config.image_token_id).sum())
        vision = self.config.vision_config
        features = int(inputs["image_grid_thw"][0].prod()) // vision.spatial_merge_size**2
        if image != features:
            raise ValueError(f"{image} image tokens in its prompt, but the vision tower gives {features} features")
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        if (cut := inputs["pixel_values"].shape[1]) != patch:
            raise ValueError(f"the processor cuts patches of {cut} values, but the vision tower takes {patch}")
        if len(token_ids) >= self.context:
            raise ValueError(
                f"{len(token_ids)} tokens of prompt, but the model's context is {self.context} "
                "(a smaller prompt.max_pixels?)"
            )
        return Lengths(len(token_ids), image, self._solution(problem))

    def _solution(self, problem: Problem) -> int | None:
        return len(self.processor.tokenizer(problem.solution)["input_ids"]) + 1 if problem.solution else None


def preflight(run: PreflightRun) -> dict[str, Any]:
    """What preflight.json says.

    Raises:
        ValueError: with a line for each problem that the model cannot take.
    """
    check = Preflight(run)
    found: dict[str, list[Lengths]] = {split: [] for split in SPLITS}
    mistakes = []
    problems = [(split, p) for split in SPLITS for p in read_problems(Path(run.data, f"{split}.jsonl"))]
    for split, problem in progress(problems, f"{run.model}/{run.dataset}"):
        try:
            found[split].append(check.lengths(problem))
        except ValueError as mistake:
            mistakes.append(f"{split}: {problem.id}: {mistake}")
    if mistakes:
        more = [f"and {len(mistakes) - NAMED} more"] if len(mistakes) > NAMED else []
        raise ValueError("\n".join([*mistakes[:NAMED], *more]))
    return {
        "context": check.context,
        "min_pixels": run.prompt.min_pixels,
        "max_pixels": run.prompt.max_pixels,
        "prompt_tokens": {split: summary([n.prompt for n in lengths]) for split, lengths in found.items()},
        "image_tokens": {split: summary([n.image for n in lengths]) for split, lengths in found.items()},
        "solution_tokens": {split: summary([n.solution for n in lengths]) for split, lengths in found.items()},
        "learnt_tokens": {split: summary([n.learnt for n in lengths]) for split, lengths in found.items()},
    }


def summary(lengths: Sequence[int | None]) -> dict[str, int] | None:
    """Smallest, median, 95 % and largest of some lengths; None without any."""
    known = [length for length in lengths if length is not None]
    if not known:
        return None
    low, median, high, most = np.quantile(known, [0, 0.5, 0.95, 1], method="higher").tolist()
    return {"min": low, "median": median, "p95": high, "max": most}


def main(path: str) -> None:
    run = load_run(path, PreflightRun)
    try:
        with whole_folder(Path(run.out)) as folder:
            found = json.dumps(preflight(run), indent=2) + "\n"
            (folder / "preflight.json").write_text(found, encoding="utf-8")
    except ValueError as mistakes:
        sys.exit(f"{run.model} cannot take {run.dataset}:\n{mistakes}")


if __name__ == "__main__":
    main(sys.argv[1])

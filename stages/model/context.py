"""Does what a job adds to its prompts fit the model's context? Asked at its start, of what the preflight measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def check_responses(preflight: str, splits: Sequence[str], new_tokens: int) -> None:
    """Every prompt of some splits leaves room for a response.

    Args:
        preflight: folder of the preflight.
        splits: whose problems are answered.
        new_tokens: of the longest response.

    Raises:
        ValueError: one does not.
    """
    found = _read(preflight)
    for split in splits:
        _check(found, split, "prompt_tokens", new_tokens)


def check_solutions(preflight: str) -> None:
    """Every train problem's prompt leaves room for its golden solution.

    Raises:
        ValueError: one does not.
    """
    found = _read(preflight)
    if found["learnt_tokens"]["train"]:
        _check(found, "train", "learnt_tokens", 0)


def _read(preflight: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(preflight, "preflight.json").read_text(encoding="utf-8"))
    return found


def _check(found: dict[str, Any], split: str, what: str, new_tokens: int) -> None:
    longest, context = found[what][split]["max"], found["context"]
    if longest + new_tokens > context:
        response = f" and {new_tokens} of response" if new_tokens else " with its solution"
        raise ValueError(
            f"the longest prompt of {split} has {longest} tokens{response}, but the model's context is {context} "
            "(a smaller prompt.max_pixels, or fewer max_new_tokens?)"
        )

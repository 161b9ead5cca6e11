"""The trained weights as files: the language model's, for the vision tower never changes."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from stages.files import synced
from stages.training.learner import Learner


def save_weights(path: Path, learner: Learner) -> None:
    """Write the weights that train; the file appears when it is whole. Every process has to ask, one writes."""
    weights = {
        name: weight.detach().cpu().contiguous()
        for name, weight in learner.whole_weights()
        if learner.world.is_first  # the others only help to put them together
    }
    if learner.world.is_first:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(weights, partial)
        partial.chmod(path.parent.stat().st_mode & 0o666)  # it would be readable to nobody else
        synced(partial)
        os.replace(partial, path)
        synced(path.parent)


@torch.no_grad()
def load_weights(path: Path, model: PreTrainedModel) -> None:
    """Put saved weights into a model of the same base.

    Raises:
        ValueError: the file is not of this model.
    """
    saved = load_file(path)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if different := saved.keys() ^ weights.keys():
        raise ValueError(f"{path}: not weights of this model ({min(different)} is in one of them only)")
    for name, weight in weights.items():
        weight.copy_(saved[name])

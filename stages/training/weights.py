"""The trained weights as files: the language model's, for the vision tower never changes."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel


def save_weights(path: Path, model: PreTrainedModel) -> None:
    """Write the weights that train."""
    save_file({name: w.detach().contiguous() for name, w in model.named_parameters() if w.requires_grad}, path)


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

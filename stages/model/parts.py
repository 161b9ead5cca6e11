"""The parts of a vision-language model, by name, and which of them are trained.

Every family that this study knows has its vision tower under `model.visual`, the connector (LLaVA's word; Qwen says
merger) inside it, and the rest reads and writes tokens.
"""

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

PARTS = ("vision", "connector", "language")


def parts(model: PreTrainedModel) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters of each part by their names; each parameter is in one part, tied embeddings once."""
    found: dict[str, dict[str, nn.Parameter]] = {part: {} for part in PARTS}
    for name, weight in model.named_parameters():
        found[_part_of(name)][name] = weight
    return found


def freeze(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Some parts no longer require a gradient; the others are left as they are.

    Raises:
        ValueError: a name is not a part's; nothing is frozen then.
    """
    names = list(names)
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"no part of the model is called {unknown[0]!r} (allowed: {', '.join(PARTS)})")
    found = parts(model)
    for name in names:
        for weight in found[name].values():
            weight.requires_grad_(False)


def _part_of(name: str) -> str:
    if not name.startswith("model.visual."):
        return "language"
    # Qwen2-VL and Qwen2.5-VL: merger. Qwen3-VL has one more for each level of features, in deepstack_merger_list.
    return "connector" if "merger" in name.split(".")[2] else "vision"

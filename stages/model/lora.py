"""Low-rank adapters (Hu et al. 2021) on the language model's linear layers, by peft."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.config import LoRA

ADAPTER = "default"


def add_adapters(model: PreTrainedModel, lora: LoRA, dtype: torch.dtype, seed: int) -> None:
    """Freeze the model and give it adapters, in place; at first they change nothing (B is 0).

    Args:
        model: its linear layers are wrapped; all other weights keep their names.
        lora: rank, scale and layers.
        dtype: of the adapters.
        seed: of A.
    """
    from peft import LoraConfig, inject_adapter_in_model  # a second, which all who have no adapters are spared

    model.requires_grad_(False)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.layers))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model.model.language_model, adapter_name=ADAPTER)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(dtype)


def adapted(model: nn.Module) -> dict[str, Any]:
    """peft's layers with an adapter, by the name that they had without."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The base model, as long as this lasts."""
    layers = adapted(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def language_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """One by one, the language model's weights under the base's names; with adapters, W + alpha/r BA for W."""
    layers = adapted(model)
    for name, weight in model.named_parameters():
        wrapped, _, of_base = name.partition(".base_layer.")
        if name.startswith("model.visual.") or ".lora_" in name:
            continue
        if of_base == "weight":
            delta = layers[wrapped].get_delta_weight(ADAPTER)
            yield f"{wrapped}.weight", (weight.float() + delta.float()).to(weight.dtype)
        else:
            yield name.replace(".base_layer.", "."), weight

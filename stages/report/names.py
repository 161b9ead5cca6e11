"""How tables and figures call things, and in which order: that of the scores, which is the study's."""

import re

import pandas as pd

VANILLA = "vanilla"
LABELS = {"vanilla": "Vanilla", "sft": "SFT", "rl": "RL", "grpo": "GRPO", "reinforce_plus_plus": "Reinforce++"}
_QWEN = re.compile(r"^qwen2(_5)?_vl_?")


def label(method: str) -> str:
    """A method as people write it."""
    return LABELS.get(method, method)


def model_label(model: str) -> str:
    """Qwen2.5-VL tiny for qwen2_5_vl_tiny; other names stay as they are."""
    if not (match := _QWEN.match(model)):
        return model
    return f"Qwen2{'.5' if match[1] else ''}-VL {model[match.end() :]}".strip()


def cells(accuracy: pd.DataFrame) -> list[tuple[str, str]]:
    """Every model with every data set."""
    return list(accuracy[["model", "dataset"]].drop_duplicates().itertuples(index=False, name=None))


def of_cell(table: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    """The rows of one model on one data set."""
    return table[(table["model"] == model) & (table["dataset"] == dataset)]

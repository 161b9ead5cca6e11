"""How tables and figures call things, and in which order: that of the scores, which is the study's."""

import re

import pandas as pd

VANILLA = "vanilla"
ALL = "all"  # generation settings taken together
LABELS = {"vanilla": "Vanilla", "sft": "SFT", "rl": "RL", "grpo": "GRPO", "reinforce_plus_plus": "Reinforce++"}
RATIOS = {
    "reflection_ratio": "Reflection ratio",
    "reflection_ratio_in_correct_answers": "Reflection ratio in correct answers",
    "reflection_ratio_in_incorrect_answers": "Reflection ratio in incorrect answers",
    "correct_ratio_in_reflection_texts": "Correct ratio in reflection texts",
    "correct_ratio_in_no_reflection_texts": "Correct ratio in no-reflection texts",
}
_QWEN = re.compile(r"^qwen2(_5)?_vl_?")


def label(method: str) -> str:
    """A method as people write it."""
    return LABELS.get(method, method)


def split_label(split: str) -> str:
    """Validation for validation."""
    return split[:1].upper() + split[1:]


def setting_label(setting: str) -> str:
    """A generation setting as people write it."""
    return "all settings" if setting == ALL else setting


def model_label(model: str) -> str:
    """Qwen2.5-VL tiny for qwen2_5_vl_tiny, Qwen2-VL 7B for qwen2_vl_7b; other names stay as they are."""
    if not (match := _QWEN.match(model)):
        return model
    model = re.sub(r"(?<=\d)b\b", "B", model)
    return f"Qwen2{'.5' if match[1] else ''}-VL {model[match.end() :]}".strip()


def cells(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Every model with every data set."""
    return list(table[["model", "dataset"]].drop_duplicates().itertuples(index=False, name=None))


def of_cell(table: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    """The rows of one model on one data set."""
    return table[(table["model"] == model) & (table["dataset"] == dataset)]

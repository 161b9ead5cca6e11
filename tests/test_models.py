"""The committed base models are what their recipe says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)

from stages.config import Compute, Recipe, Study, load_study
from stages.files import sha256
from stages.model.base import check
from stages.model.pretrain import pretrain, tokenizer_texts
from stages.model.tiny import build_model, build_processor
from stages.model.vlm import load
from tests.conftest import PROMPT

ROOT = Path(__file__).parent.parent
NAMES = {
    "qwen2_5_vl_tiny": Qwen2_5_VLForConditionalGeneration,
    "qwen2_vl_tiny": Qwen2VLForConditionalGeneration,
}


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(ROOT / "config" / "pretrain.yaml", ROOT)


def recipe_of(study: Study, name: str) -> Recipe:
    recipe = study.base[name]
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_model_is_of_its_recipe(study: Study, name: str) -> None:
    folder, recipe = ROOT / "models" / name, recipe_of(study, name)
    assert json.loads((folder / "recipe.json").read_text()) == recipe.model_dump(mode="json")
    check(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model) is NAMES[name]
    fresh = build_model(recipe, build_processor(tokenizer_texts(recipe)))
    shapes = {key: weight.shape for key, weight in fresh.state_dict().items()}
    assert {key: weight.shape for key, weight in model.state_dict().items()} == shapes
    heads = model.config.text_config.hidden_size // model.config.text_config.num_attention_heads
    assert heads == 32, "vLLM accepts no narrower heads"
    assert (folder / "model.safetensors").stat().st_size <= 4e6


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_tokenizer_is_of_its_recipe(study: Study, name: str, tmp_path: Path) -> None:
    build_processor(tokenizer_texts(recipe_of(study, name))).save_pretrained(tmp_path)
    built, committed = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (tmp_path, ROOT / "models" / name)
    )
    assert built["model"] == committed["model"] and built["added_tokens"] == committed["added_tokens"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_card_names_the_weights(name: str) -> None:
    folder = ROOT / "models" / name
    assert sha256(folder / "model.safetensors") in (folder / "README.md").read_text()


def small(**changed: object) -> Recipe:
    recipe = {
        "source": "recipe",
        "architecture": "qwen2_5_vl",
        "hidden_size": 64,
        "layers": 1,
        "vision_size": 32,
        "vision_layers": 1,
        "seed": 1,
        "noise": {"slip": 0.1, "direct": 0.1, "reflection": 0.1, "textbook": 0.5},
        "pictures": 272,
        "glyph_steps": 2,
        "glyph_learning_rate": 1e-3,
        "steps": 3,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "read_share": 0.0,
    }
    return Recipe.model_validate_json(json.dumps(recipe | changed))


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "qwen3_vl"])
def test_a_recipe_gives_the_same_model_twice(architecture: str) -> None:
    models = []
    for _ in range(2):
        pretrain(
            small(architecture=architecture),
            lambda model, *_: models.append({k: v.clone() for k, v in model.state_dict().items()}),
        )
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_a_model_that_cannot_read_is_not_accepted() -> None:
    saved: list[object] = []
    with pytest.raises(ValueError, match=r"reads 0.0% of held-out figures, and read_share asks 90.0%"):
        pretrain(small(read_share=0.9), lambda *model: saved.append(model))
    assert not saved


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path, gone: str) -> None:
    for file in (ROOT / "models" / "qwen2_vl_tiny").iterdir():
        if file.name != gone:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ValueError, match=f"not a checkpoint, it has no {gone}"):
        check(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        check(tmp_path / "nowhere")


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    for file in (ROOT / "models" / "qwen2_vl_tiny").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_token_id": 5}))
    with pytest.raises(ValueError, match="image_token_id=5"):
        check(tmp_path)


def sharded(folder: Path) -> list[Path]:
    """A tiny checkpoint in two parts with their index, as large models come."""
    for file in (ROOT / "models" / "qwen2_vl_tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / part, metadata={"format": "pt"})
    weight_map = {name: part for part, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [folder / part for part in parts]


def test_a_checkpoint_in_parts_is_one(tmp_path: Path) -> None:
    sharded(tmp_path)
    check(tmp_path)
    compute = Compute(device="cpu", dtype="float32", threads=1)
    whole = load(ROOT / "models" / "qwen2_vl_tiny", compute, PROMPT).model.state_dict()
    parts = load(tmp_path, compute, PROMPT).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_part_that_is_not_whole_is_named(tmp_path: Path) -> None:
    _, part = sharded(tmp_path)
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model-2-of-2\.safetensors: not whole .*; fetch it again"):
        check(tmp_path)

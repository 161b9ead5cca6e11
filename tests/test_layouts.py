"""The published models' layouts, from a folder as the hub has it to a trained and saved one; bad folders; Qwen3-VL."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from stages.config import Compute, PreflightRun, PromptSettings
from stages.data.problem import Problem
from stages.model.base import INDEX, check
from stages.model.logprobs import Scorer, response_logprobs
from stages.model.parts import PARTS, freeze, parts
from stages.model.preflight import Preflight
from stages.model.processor import load_processor, render
from stages.model.vlm import VLM, hidden_states, load
from stages.rl.data_flow import make_queries
from stages.rl.policy_update import update_policy
from stages.rl.response_collection import NativeCollector
from stages.rl.trajectory_generation import sequences_of
from stages.training.learner import Learner
from stages.training.weights import load_weights, save_weights
from stages.training.world import World
from tests.conftest import PROMPT
from tests.layouts import ARCHITECTURES, TIED, UNTIED, write_checkpoint, write_processor, write_tiny
from tests.test_algorithms import ADAMW, METHOD
from tests.test_sampler import COMPUTE, HOT, MODELS
from tests.test_training import everything, trajectory_of

BF16 = Compute(device="cpu", dtype="bfloat16", threads=1)
# 4 to 9 tokens of 28 x 28 or 32 x 32 pixels.
FEW = PromptSettings(instruction="Think.", min_pixels=64 * 64, max_pixels=96 * 96)
SHORT = HOT.model_copy(update={"max_new_tokens": 4})
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=TIED + UNTIED)
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def checkpoint(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write_checkpoint(tmp_path_factory.mktemp(architecture), architecture)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder for hundreds of megabytes, which pytest itself would leave there for days."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    noise = torch.rand(80, 90, 3, generator=torch.Generator().manual_seed(0))
    Image.fromarray((noise * 255).byte().numpy()).save(path)
    return Problem("What is x?", "7", "", "noise", path)


# --- the published layouts -------------------------------------------------------------------------------------------


def published(name: str) -> str:
    """The name in the hub's files of one of the model's weights: only Qwen3-VL's are the same."""
    return re.sub(r"^model\.language_model\.", "model.", name).replace("model.visual.", "visual.")


def test_a_folder_of_the_hub_is_loaded_whole(checkpoint: Path, architecture: str) -> None:
    check(checkpoint)
    index = json.loads((checkpoint / INDEX).read_text())["weight_map"]
    assert len(set(index.values())) >= 2
    saved = {name: weight for part in set(index.values()) for name, weight in load_file(checkpoint / part).items()}
    weights = dict(load(checkpoint, BF16, FEW).model.named_parameters())
    own = (lambda name: name) if architecture.startswith("qwen3") else published
    assert {own(name) for name in weights} == saved.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, saved[own(name)]), name


def test_it_is_trained_saved_and_loaded_again(
    checkpoint: Path, architecture: str, problem: Problem, large: Path
) -> None:
    vlm = load(checkpoint, BF16, FEW)
    queries = make_queries([problem], vlm, 2)
    responses = NativeCollector(vlm).collect(queries, [SHORT] * 2, [1, 2])
    learner = Learner(vlm.model, ADAMW.model_copy(update={"learning_rate": 0.01, "warmup_ratio": 0.0}), 10, World())
    learner.backward(-response_logprobs(Scorer(vlm.model), sequences_of(queries, responses)).sum(), [problem.id])
    learner.step([problem.id])
    file = large / "weights" / "1.safetensors"
    save_weights(file, learner)
    del learner  # its moments: the memory is needed for the model that comes

    trained = dict(vlm.model.named_parameters())
    again = load(checkpoint, BF16, FEW).model
    moved = {name for name, weight in again.named_parameters() if not torch.equal(weight, trained[name])}
    assert moved == {name for name in trained if not name.startswith("model.visual.")}
    saved = load_file(file)
    assert saved.keys() == moved
    assert [name for name in saved if "lm_head" in name] == ([] if architecture in TIED else ["lm_head.weight"])
    load_weights(file, again)
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == (architecture in TIED)
    assert again.state_dict().keys() == vlm.model.state_dict().keys()
    for name, weight in again.named_parameters():
        assert torch.equal(weight, trained[name]), name


def test_what_is_measured_before_is_what_the_model_gets(checkpoint: Path, problem: Problem, tmp_path: Path) -> None:
    run = PreflightRun(
        out=str(tmp_path), model="real", dataset="mine", base=str(checkpoint), data=str(tmp_path), prompt=FEW
    )
    (prompt,) = load(checkpoint, BF16, FEW).prompts([problem])
    check = Preflight(run)
    lengths = check.lengths(problem)
    assert (lengths.prompt, lengths.image) == (len(prompt.token_ids), len(prompt.features))
    assert check.context >= 32768


@torch.no_grad()
def logits_of(vlm: VLM, problem: Problem, model: PreTrainedModel | None = None) -> tuple[Tensor, Tensor]:
    """[1, Q, W] a prompt's logits by features that were kept, and by pixels as transformers' own model sees them."""
    prompt = vlm.prompts([problem])[0]
    hidden = hidden_states(vlm.model, prompt.token_ids[None], prompt.position_ids[:, None], [prompt.features])
    inputs = vlm.processor(text=[vlm.render(problem)], images=[[problem.picture()]], return_tensors="pt")
    return vlm.model.lm_head(hidden), (model or vlm.model)(**inputs).logits


def test_kept_features_are_as_good_as_pixels(checkpoint: Path, problem: Problem) -> None:
    kept, plain = logits_of(load(checkpoint, BF16, FEW), problem)
    assert plain.std() > 0.1
    assert torch.equal(kept, plain)


def test_the_published_parts(architecture: str) -> None:
    """By hand: Qwen2's merger has 3 modules of 2 weights (2.5: a norm of one), Qwen3 four such mergers."""
    found = parts(skeleton(architecture))
    connector = {"qwen2_vl": 6, "qwen2_5_vl": 5, "qwen3_vl": 4 * 6}[architecture.rpartition("_")[0]]
    assert list(found) == list(PARTS) and len(found["connector"]) == connector
    assert all(name.startswith("model.visual.") for part in PARTS[:2] for name in found[part])
    assert not any("visual" in name for name in found["language"])


def skeleton(architecture: str) -> PreTrainedModel:
    """A published model at its full size, without memory for its weights."""
    config = json.loads((ARCHITECTURES / f"{architecture}.json").read_text())
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    return model


def test_parts_are_all_parameters_and_each_once(architecture: str) -> None:
    model = skeleton(architecture)
    found = [weight for part in parts(model).values() for weight in part.values()]
    assert {id(weight) for weight in found} == {id(weight) for weight in model.parameters()}
    assert len(found) == len({id(weight) for weight in found}) == len(list(model.parameters()))


def test_only_named_parts_are_frozen() -> None:
    model = load(MODELS / "qwen2_vl_tiny", COMPUTE, PROMPT).model.requires_grad_(True)
    freeze(model, ["connector"])
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".merger." in name} != set()
    with pytest.raises(ValueError, match=r"'merger' \(allowed: vision, connector, language\)"):
        freeze(model, ["language", "merger"])
    assert model.lm_head.weight.requires_grad, "nothing is frozen if a name is wrong"


# --- processors ------------------------------------------------------------------------------------------------------


def as_published(folder: Path) -> None:
    """The chat template in chat_template.json and beside the tokenizer."""


def with_jinja(folder: Path) -> None:
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").write_text(template)


def with_the_tokenizers_template(folder: Path) -> None:
    (folder / "chat_template.json").unlink()


def with_another_image_processor(folder: Path) -> None:
    """Qwen2.5-VL's first files named a class that transformers has not any more."""
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": "Qwen2_5_VLImageProcessor"}))


def as_transformers_saves_it(folder: Path) -> None:
    """One processor_config.json for all."""
    processor = load_processor(folder, FEW)
    for file in folder.iterdir():
        file.unlink()
    processor.save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()


VARIANTS = (
    as_published,
    with_jinja,
    with_the_tokenizers_template,
    with_another_image_processor,
    as_transformers_saves_it,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_processor_is_read_from_every_layout(family: str, variant: object, tmp_path: Path) -> None:
    """By hand: 280 x 200 pixels are 10 x 7 tokens of 28, 9 x 6 of 32, and a patch has 3 colours at 2 times."""
    write_processor(tmp_path, family)
    assert callable(variant)
    variant(tmp_path)
    processor = load_processor(tmp_path, PromptSettings(instruction="", min_pixels=256, max_pixels=10**6))
    text = render(processor, "What is x?", "Think.")
    system = "" if family == "qwen3_vl" else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert text == (
        f"{system}<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is x?\nThink.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[[Image.new("RGB", (280, 200), "white")]], return_tensors="pt")
    patch, (high, wide) = (16, (6, 9)) if family == "qwen3_vl" else (14, (7, 10))
    assert inputs["image_grid_thw"].tolist() == [[1, 2 * high, 2 * wide]]
    assert inputs["pixel_values"].shape == (4 * high * wide, 3 * 2 * patch**2)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == high * wide
    # White's blue: halves to 1, or (1 - 0.4082) / 0.2758 as CLIP does.
    assert inputs["pixel_values"].max().item() == pytest.approx(1.0 if family == "qwen3_vl" else 2.1459, abs=1e-3)


def test_a_folder_without_a_chat_template_is_named(tmp_path: Path) -> None:
    write_processor(tmp_path, "qwen2_vl")
    with_the_tokenizers_template(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    with pytest.raises(ValueError, match=r"no chat template .*chat_template\.json"):
        load_processor(tmp_path, FEW)


# --- bad folders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(checkpoint: Path, large: Path) -> Path:
    """A folder whose files are links, to be spoilt."""
    for file in checkpoint.iterdir():
        (large / file.name).symlink_to(file)
    return large


def rewritten(path: Path, content: object) -> None:
    path.unlink()
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("family", ["llava", None])
def test_an_unknown_family_is_told_the_known_ones(family: str | None, tmp_path: Path) -> None:
    """Before anything else that may be missing in it."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(ValueError, match=rf"model_type {family!r} \(allowed: qwen2_vl, qwen2_5_vl, qwen3_vl\)"):
        check(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match=r"config\.json: not a JSON object"):
        check(tmp_path)


def test_missing_parts_and_the_index_that_asks_for_them_are_named(bad: Path) -> None:
    parts_of = sorted(file.name for file in bad.glob("*.safetensors"))
    for name in parts_of[:2]:
        (bad / name).unlink()
    with pytest.raises(ValueError) as refused:
        check(bad)
    message = str(refused.value)
    assert message.startswith(f"{bad}: no {parts_of[0]}, no {parts_of[1]}, which model.safetensors.index.json asks for")


def test_a_part_of_another_checkpoint_is_noticed(bad: Path) -> None:
    first = min(bad.glob("*.safetensors"))
    weights = load_file(first)
    gone = min(weights)
    first.unlink()
    save_file({name: weight for name, weight in weights.items() if name != gone}, first, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{first.name}: no {re.escape(gone)}, which {INDEX} says is in it"):
        check(bad)


def test_an_index_that_is_none_is_named(bad: Path) -> None:
    rewritten(bad / INDEX, {"weights": {}})
    with pytest.raises(ValueError, match=r"index\.json: not an index of weights, it has no weight_map"):
        check(bad)


def test_a_weight_in_no_part_is_not_drawn_at_random(bad: Path, architecture: str) -> None:
    index = json.loads((bad / INDEX).read_text())
    gone = next(name for name in index["weight_map"] if name.endswith("norm.weight") and "layers" not in name)
    part = bad / index["weight_map"].pop(gone)
    rewritten(bad / INDEX, index)
    weights = load_file(part)
    part.unlink()
    save_file({name: weight for name, weight in weights.items() if name != gone}, part, metadata={"format": "pt"})
    check(bad)
    with pytest.raises(ValueError, match=r"norm\.weight in its weights \(1 missing in all\)"):
        load(bad, BF16, FEW)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_tokens_that_look_at_less_than_all_before_them_are_refused(family: str, tmp_path: Path) -> None:
    config = json.loads((write_tiny(tmp_path, family) / "config.json").read_text())
    config["text_config"].pop("layer_types", None)
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    rewritten(tmp_path / "config.json", config)
    told = f"{tmp_path}: config.json asks for sliding_attention; only full_attention"
    with pytest.raises(ValueError, match=re.escape(told)):
        load(tmp_path, COMPUTE, PROMPT)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_attention_with_dropout_is_refused(family: str, tmp_path: Path) -> None:
    config = json.loads((write_tiny(tmp_path, family) / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.1
    rewritten(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match=r"attention_dropout 0\.1; only 0 is computed"):
        load(tmp_path, COMPUTE, PROMPT)


# --- Qwen3-VL, with two levels of features more -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def vlm(tiny: Path) -> VLM:
    return load(tiny, COMPUTE, PROMPT)


def test_logits_by_kept_features_are_those_by_pixels(vlm: VLM, tiny: Path, problem: Problem) -> None:
    """With transformers' own attention on the other side."""
    kept, plain = logits_of(vlm, problem, AutoModelForImageTextToText.from_pretrained(tiny))
    assert plain.std() > 0.1
    assert_close(kept, plain, atol=1e-5, rtol=0)


def test_each_level_of_features_matters(tmp_path: Path, problem: Problem) -> None:
    """A level that is forgotten, or that comes in another's place, would be noticed."""
    vlm = load(write_tiny(tmp_path, "qwen3_vl"), COMPUTE, PROMPT)
    prompt = vlm.prompts([problem])[0]
    width = vlm.model.config.text_config.hidden_size
    last, first, second = prompt.features.split(width, dim=1)
    assert prompt.features.shape == (12, 3 * width)

    def hidden(*levels: Tensor) -> Tensor:
        ids, positions = prompt.token_ids[None], prompt.position_ids[:, None]
        with torch.no_grad():
            return hidden_states(vlm.model, ids, positions, [torch.cat(levels, dim=1)])

    right = hidden(last, first, second)
    for wrong in (hidden(last, second, first), hidden(last, first), hidden(first, last, second)):
        assert (right - wrong).abs().max() > 0.01


def test_what_is_sampled_is_scored_alike(vlm: VLM, problem: Problem) -> None:
    queries = make_queries([problem], vlm, 4)
    responses = NativeCollector(vlm).collect(queries, [HOT] * 4, [1, 2, 3, 4])
    with torch.no_grad():
        scored = response_logprobs(Scorer(vlm.model), sequences_of(queries, responses))
    assert responses.mask.sum() > 20
    assert_close(scored, responses.logprobs * responses.mask, atol=1e-4, rtol=0)


def test_a_step_of_reinforcement_learning_moves_the_language_model(vlm: VLM, problem: Problem) -> None:
    before = {name: weight.detach().clone() for name, weight in vlm.model.named_parameters()}
    other = Problem("What is y?", "3", "", "other", problem.image)
    trajectory = trajectory_of(vlm, [problem, other], METHOD)
    # An untrained model is never right: some are said to be.
    trajectory = replace(trajectory, scores=(torch.arange(len(trajectory.queries)) % 2).float())
    learner = Learner(vlm.model, ADAMW, 10, World())
    (update, *_) = update_policy(learner, trajectory, METHOD, everything(trajectory))
    assert update.ratio == pytest.approx(1, abs=1e-5)
    for name, weight in vlm.model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("model.visual."), name

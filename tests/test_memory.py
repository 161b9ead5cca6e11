"""What is predicted of memory, against transformers' own models, by hand, and against small runs."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.memory import Case, compared
from stages.config import Memory, Recipe, load_study
from stages.model import vocabulary
from stages.model.advice import ADAPTERS, advice, changes
from stages.model.architecture import KNOWN, known_architecture, read_architecture, recipe_architecture
from stages.model.memory import GB, Plan, Setup, lengths_of, plan, plans, setup_of
from stages.model.passes import LOGITS
from stages.model.tiny import build_model, build_processor
from tests.conftest import STUDY
from tests.tries import prepared, run_of
from workflow.plan import plan as plan_of
from workflow.plan import too_large

CONFIG = Path(__file__).parent.parent / "config"
# As others report them of the published weights.
PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
}
Write = Callable[[dict[str, Any]], Path]


def counted(config: PretrainedConfig) -> tuple[int, int]:
    """Parameters of language model and vision tower, as transformers builds them."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    vision = sum(weight.numel() for weight in model.model.visual.parameters())
    return sum(weight.numel() for weight in model.parameters()) - vision, vision


@pytest.mark.parametrize("repo", PUBLISHED)
def test_known_architectures_have_the_published_parameters(repo: str) -> None:
    found = known_architecture(repo)
    assert found is not None
    assert found.language + found.vision == PUBLISHED[repo]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("path", sorted(KNOWN.glob("*.json")), ids=lambda path: path.stem)
def test_parameters_are_those_that_transformers_makes(path: Path, tied: bool) -> None:
    raw = json.loads(path.read_text()) | {"tie_word_embeddings": tied}
    config = CONFIG_MAPPING[raw["model_type"]](**{key: value for key, value in raw.items() if key != "model_type"})
    for said in (raw, json.loads(config.to_json_string(use_diff=False))):  # as the hub has it, and as it is saved
        found = read_architecture(said)
        assert (found.language, found.vision) == counted(config)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "qwen2_vl"])
def test_a_recipe_is_counted_as_it_is_built(family: str) -> None:
    asked = Recipe.model_validate(
        STUDY["base"]["tiny"] | {"architecture": family, "hidden_size": 128, "layers": 3}, strict=False
    )
    model = build_model(asked, build_processor(["one", "two"]))
    found = dataclasses.replace(recipe_architecture(asked), vocabulary=model.config.get_text_config().vocab_size)
    assert found.vocabulary <= recipe_architecture(asked).vocabulary
    assert found.language + found.vision == sum(weight.numel() for weight in model.parameters())
    assert read_architecture(json.loads(model.config.to_json_string(use_diff=False))) == found


def test_another_family_is_refused() -> None:
    with pytest.raises(ValueError) as mistake:
        read_architecture({"model_type": "llava", "vision_config": {}})
    assert str(mistake.value) == "model_type 'llava' (known: qwen2_vl, qwen2_5_vl, qwen3_vl)"


def test_logits_are_chunked_as_the_learner_does() -> None:
    assert LOGITS == vocabulary.LOGITS


def setups(study: str, stage: str) -> list[Setup]:
    return [made.setup for made in plans(load_study(CONFIG / study))[0] if made.setup.stage == stage]


def test_weights_gradients_and_optimiser_by_hand() -> None:
    """Qwen2.5-VL-3B: 3,085,938,688 trained, 668,684,288 frozen, float32 over bfloat16, on one GPU or cut in four."""
    one, _ = setups("geometry3k_3b.yaml", "rl")
    moving = plan(one).moments["moving"]
    trained = 3_754_622_976 - 668_684_288
    assert moving["weights"] == moving["gradients"] == 4 * trained
    assert moving["AdamW"] == 8 * trained
    assert moving["frozen weights"] == 2 * 668_684_288
    assert "reference" not in moving and plan(one).moments["scoring"]["reference"] == 2 * trained  # it is offloaded
    four = plan(dataclasses.replace(one, processes=4, sharded=True)).moments["moving"]
    assert four["weights"] == trained and four["AdamW"] == 2 * trained


def test_what_is_gathered_and_what_is_doubled_by_hand() -> None:
    """Qwen2.5-VL-7B in eight parts, two bytes: embedding and head, 152,064 x 3,584 each, and blocks with gradients."""
    sft = setups("paper.yaml", "sft")[-1]
    block = 3584 * (3584 + 512 + 512 + 3584) + 3584 + 512 + 512 + 3 * 3584 * 18944 + 2 * 3584
    learning = plan(sft).moments["learning"]
    assert 2 * (2 * 152_064 * 3584 + block) <= learning["gathered"] < 2 * (2 * 152_064 * 3584 + 6 * block)
    # Without mixed types and parts, DDP keeps its own gradient beside the weights'.
    plain = dataclasses.replace(sft, learner=sft.learner.model_copy(update={"dtype": "bfloat16"}), sharded=False)
    alone = plan(dataclasses.replace(plain, processes=1)).moments["moving"]["gradients"]
    assert plan(dataclasses.replace(plain, processes=2)).moments["moving"]["gradients"] == 2 * alone


def test_looking_by_hand() -> None:
    """All pictures of 896 queries on seven processes as patches, float32: 128 of 1,280 tokens, four patches each."""
    rl = setups("paper.yaml", "rl")[-1]
    looking = plan(rl).moments["looking"]["activations"]
    assert 128 * 1280 * 4 * 1176 * 4 <= looking < 2 * 128 * 1280 * 4 * 1176 * 4


def test_adapters_have_no_reference_to_offload() -> None:
    one, _ = setups("geometry3k_3b.yaml", "rl")
    lora = dataclasses.replace(one, learner=one.learner.model_copy(update={"lora": ADAPTERS}))
    assert one.memory.offload_reference and "reference" in plan(one).moments["scoring"]
    assert not [name for name, parts in plan(lora).moments.items() if "reference" in parts]


def test_cache_by_hand() -> None:
    """Native, 32 x 4 rows of 1,792 + 1,024 tokens, 36 layers, 2 heads of 128, keys and values, two bytes."""
    _, grpo = setups("geometry3k_3b.yaml", "rl")
    native = dataclasses.replace(grpo, engine="native", settings=grpo.settings, processes=1)
    assert plan(native).moments["sampling"]["cache"] == 128 * 2816 * 36 * 2 * 128 * 2 * 2


def test_a_micro_batch_of_one_takes_less_and_checkpointing_least() -> None:
    one, _ = setups("geometry3k_3b.yaml", "rl")
    whole = dataclasses.replace(one, memory=one.memory.model_copy(update={"activation_checkpointing": False}))
    single = dataclasses.replace(whole, settings=one.settings.model_copy(update={"ppo_backward_batch_size": 1}))

    def activations(setup: Setup) -> int:
        return plan(setup).moments["learning"]["activations"]

    assert activations(one) < activations(single) < activations(whole)


@pytest.mark.parametrize(
    "case",
    [Case("tiny", micro=4, new_tokens=96), Case("tiny", used_in="bfloat16", checkpointing=True, new_tokens=16)],
    ids=["plain", "float32 over bfloat16"],
)
def test_small_runs_take_what_is_predicted(case: Case) -> None:
    found = compared(case, "cpu")
    for moment, (said, measured) in found["moments"].items():
        assert said == pytest.approx(measured, rel=0.15), moment
    said, measured = found["total"]
    assert said == pytest.approx(measured, rel=0.08)


def test_what_cannot_fit_is_refused_with_advice(raw_study: dict[str, Any], write_study: Write, tmp_path: Path) -> None:
    raw_study["study"] |= {"models": ["tiny"], "datasets": ["text"], "skip": []}
    del raw_study["data"]["mine"], raw_study["base"]["given"]  # not in the repository
    raw_study["resources"]["sft"]["memory_mb"] = 601
    raw_study["sft"]["sft"]["backward_batch_size"] = 8
    path = write_study(raw_study)
    first, *more = too_large(load_study(path), path)
    assert first.startswith(f"{path}: resources.sft.memory_mb: 601, but sft sft tiny takes 6")
    assert more == []
    assert "resources.memory.activation_checkpointing: true" in first and "sft.sft.backward_batch_size: 1" in first
    said = subprocess.run(
        [sys.executable, "-m", "stages.model.memory", str(path)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 1
    assert said.stdout.rstrip().endswith(first.partition("\n")[2])
    raw_study["resources"]["sft"]["memory_mb"] = 1000
    assert too_large(load_study(write_again(tmp_path, raw_study)), path) == []


def test_a_cache_too_small_for_one_response_is_refused(
    raw_study: dict[str, Any], write_study: Write, tmp_path: Path
) -> None:
    """Keys and values of a tiny model are small; a response of 20,000 tokens has some MB of them all the same."""
    raw_study["study"] |= {"models": ["tiny"], "datasets": ["text"], "methods": ["grpo"], "skip": []}
    del raw_study["data"]["mine"], raw_study["base"]["given"]
    raw_study["collector"]["engine"] = "vllm"
    raw_study["rl"]["grpo"]["sampling"]["max_new_tokens"] = 20_000
    for job in ("rl", "evaluate"):
        raw_study["resources"][job]["memory_mb"] = 10_000
    raw_study["resources"]["memory"]["kv_cache_mb"] = 1
    path = write_study(raw_study)
    told = too_large(load_study(path), path)
    assert len(told) == 1 and re.fullmatch(
        rf"{path}: resources\.memory\.kv_cache_mb: 1, but one response of rl grpo tiny takes \d MB "
        r"\(allowed: as much, or more\)",
        told[0],
    )
    assert "Not installed here: vLLM" in plan_of(load_study(path)) or find_spec("vllm")
    raw_study["resources"]["memory"]["kv_cache_mb"] = 10
    assert too_large(load_study(write_again(tmp_path, raw_study)), path) == []


def write_again(folder: Path, raw: dict[str, Any]) -> Path:
    (folder / "study.yaml").write_text(json.dumps(raw))
    return folder / "study.yaml"


def test_advice_holds() -> None:
    """7B on one GPU: what is said to fit fits, the most first, and what is said to be enough together is."""
    asked = setups("paper.yaml", "rl")[0]
    alone = dataclasses.replace(asked, processes=1, sharded=False)
    tried = {change.setting: plan(change.setup) for change in changes(alone)}
    said = advice(alone).splitlines()
    assert said[0].endswith("of 80.0 GB. What would take less:")
    listed = [line.strip().split("  ")[0] for line in said[1:]]
    assert [tried[setting].peak for setting in listed] == sorted(tried[setting].peak for setting in listed)
    assert {setting for setting in listed if tried[setting].fits} == {
        line.strip().split("  ")[0] for line in said[1:] if "fits" in line
    }
    tight = dataclasses.replace(alone, limit=15 * GB)
    assert advice(tight).splitlines()[-1].startswith("  all that go together (")
    enough = dataclasses.replace(alone, limit=56 * GB)
    assert advice(enough).splitlines()[-1].startswith("  together: ") and advice(enough).endswith("GB, fits")


def test_nothing_is_known_of_a_model_that_is_not_there(raw_study: dict[str, Any], write_study: Write) -> None:
    raw_study["study"]["models"] = ["given"]
    found, unknown = plans(load_study(write_study(raw_study)))
    assert (found, unknown) == ([], ["given"])


def test_lengths_are_the_preflights_where_it_has_run(
    raw_study: dict[str, Any], write_study: Write, tmp_path: Path
) -> None:
    study = load_study(write_study(raw_study))
    architecture = recipe_architecture(study.base["tiny"])  # type: ignore[arg-type]
    before = lengths_of(study, "tiny", "text", architecture, ["train"])
    # 4096 pixels, 16 x 16 an image token, and 512 tokens of text.
    assert (before.image, before.prompt, before.learnt, before.measured) == (16, 528, 1040, False)
    most = {"train": {"max": 7}, "validation": {"max": 9}, "test": None}
    folder = tmp_path / "results/preflight/tiny/text"
    folder.mkdir(parents=True)
    lengths = dict.fromkeys(("prompt_tokens", "image_tokens", "learnt_tokens"), most)
    (folder / "preflight.json").write_text(json.dumps(lengths))
    after = lengths_of(study, "tiny", "text", architecture, ["validation", "test"])
    assert (after.image, after.prompt, after.learnt, after.measured) == (9, 9, 9, True)


@pytest.mark.parametrize("kind", ["sft", "reinforce_plus_plus", "evaluate"])
def test_a_job_at_work_is_planned_from_its_run(kind: str, tmp_path: Path) -> None:
    (data := tmp_path / "data").mkdir()
    prepared(data)
    memory = Memory(
        gpu_mb=None,
        activation_checkpointing=False,
        offload_reference=False,
        kv_cache_mb=1,
        feature_memory_mb=1,
        feature_disk_mb=0,
    )
    found = setup_of(run_of(kind, data, tmp_path), memory, 1, sharded=False, limit=None)  # type: ignore[arg-type]
    assert found.lengths.measured and found.architecture.layers > 0
    assert isinstance(plan(found), Plan) and plan(found).fits
    assert "without a limit. What would take less:" in advice(found)


def test_planning_needs_no_torch() -> None:
    told = (
        "import sys, workflow.plan, stages.model.advice; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert said.stdout == "False False\n"

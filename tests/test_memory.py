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
from torch import Tensor
from transformers import AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.memory import Case, LiveTensors, compared
from stages.config import RL, Memory, Recipe, load_study
from stages.model import vocabulary
from stages.model.advice import ADAPTERS, advice, changes
from stages.model.architecture import KNOWN, Architecture, known_architecture, read_architecture, recipe_architecture
from stages.model.logprobs import Scorer
from stages.model.lora import add_adapters
from stages.model.memory import GB, Plan, Setup, lengths_of, plan, plans, setup_of
from stages.model.passes import LOGITS, Passes, Row, side_by_side
from stages.model.sequences import Sequences
from stages.model.tiny import build_model, build_processor
from stages.model.vlm import VLM, load
from stages.rl.data_flow import Queries
from stages.rl.drawing import choose
from stages.rl.response_collection import begin
from stages.rl.trajectory_generation import fresh_rows
from tests.conftest import PROMPT, STUDY
from tests.test_sampler import COMPUTE
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
    rl = setups("paper.yaml", "rl")[-1]  # a seventh of the reference
    ends = 2 * 152_064 * 3584 + 3584
    assert plan(rl).moments["learning"]["reference"] == 2 * (28 * block + ends) // 7
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
    """Native, 32 prompts of 1,792 and 32 x 4 responses of 1,024 tokens, keys and values of 36 layers with 2 heads."""
    _, grpo = setups("geometry3k_3b.yaml", "rl")
    native = dataclasses.replace(grpo, engine="native")
    assert plan(native).moments["sampling"]["cache"] == (32 * 1792 + 128 * 1024) * 36 * 2 * 128 * 2 * 2
    assert plan(native).moments["reading"]["cache"] == 32 * 1792 * 36 * 2 * 128 * 2 * 2


def test_siblings_read_their_prompt_once_by_hand() -> None:
    """A micro-batch of one group: 1,792 + 4 x 1,023 tokens, block inputs of 2,048 numbers; alone, 4 x 2,815."""
    one, grpo = setups("geometry3k_3b.yaml", "rl")
    for setup, tokens in ((one, 4 * 2815), (grpo, 1792 + 4 * 1023)):
        assert plan(setup).moments["summing"]["activations"] == tokens * 2 * 2048


def test_a_row_by_hand() -> None:
    """Two prompts of 10 tokens, each with 4 responses of 5, of which the last is not read."""
    row = side_by_side(8, 4, 10, 5)
    assert row == Row(trunks=2, trunk=10, branches=8, branch=4)
    assert (row.tokens, row.copied, row.mask) == (2 * 10 + 8 * 4, 8 * 10, 8 * 4 * (10 + 4))
    assert side_by_side(3, 1, 10, 5) == Row(trunks=3, trunk=14)


def test_a_row_has_the_most_prompts_that_a_batch_may_have() -> None:
    for size in range(1, 13):
        for group_size in range(1, 7):
            groups = [row // group_size for row in range(size * group_size)]
            batches = [groups[start : start + size] for start in range(0, len(groups), size)]
            most = max(len(set(batch)) for batch in batches)
            assert side_by_side(size, group_size, 10, 5).trunks == most, (size, group_size)


@pytest.mark.parametrize("changed", [{}, {"ppo_batch_size": 4}, {"beta_rew": 0.1}, {"importance_cap": 2.0}])
def test_the_policy_scores_what_the_first_update_does_not(changed: dict[str, Any], raw_study: dict[str, Any]) -> None:
    """A policy in another type is gathered for it, a reference on one process is not."""
    method = RL.model_validate(raw_study["rl"]["rpp"] | {"ppo_batch_size": 8, "batch_size": 8} | changed, strict=False)
    one, _ = setups("geometry3k_3b.yaml", "rl")
    scoring = plan(dataclasses.replace(one, settings=method)).moments["scoring"]
    assert ("gathered" in scoring) == (fresh_rows(method, 1) < method.responses)


def test_a_micro_batch_of_one_takes_less_and_checkpointing_least() -> None:
    one, _ = setups("geometry3k_3b.yaml", "rl")
    whole = dataclasses.replace(one, memory=one.memory.model_copy(update={"activation_checkpointing": False}))
    single = dataclasses.replace(whole, settings=one.settings.model_copy(update={"ppo_backward_batch_size": 1}))

    def activations(setup: Setup) -> int:
        return plan(setup).moments["learning"]["activations"]

    assert activations(one) < activations(single) < activations(whole)


# --- against live tensors --------------------------------------------------------------------------------------------


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def vlm(request: pytest.FixtureRequest, tmp_path: Path) -> VLM:
    """Of random weights, three layers and 128 numbers a token."""
    asked = STUDY["base"]["tiny"] | {"architecture": request.param, "hidden_size": 128, "layers": 3}
    processor = build_processor(["one", "two"])
    build_model(Recipe.model_validate(asked, strict=False), processor).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return load(tmp_path, COMPUTE, PROMPT)


def architecture_of(vlm: VLM) -> Architecture:
    return read_architecture(json.loads(vlm.model.config.to_json_string(use_diff=False)))


def queries(vlm: VLM, prompts: int, group_size: int, prompt: int) -> Queries:
    """Prompts of one length, each with a picture of 16 tokens."""
    architecture = architecture_of(vlm)
    ids = torch.randint(50, 200, (prompts, prompt))
    ids[:, :16] = vlm.model.config.image_token_id
    features = [torch.randn(16, architecture.width * (1 + architecture.deepstack)) for _ in range(prompts)]
    rows = prompts * group_size
    return Queries(
        problems=[],
        token_ids=ids.repeat_interleave(group_size, 0),
        mask=torch.ones(rows, prompt, dtype=torch.bool),
        position_ids=torch.arange(prompt).repeat(3, rows, 1),
        features=[one for one in features for _ in range(group_size)],
        group=torch.arange(prompts).repeat_interleave(group_size),
        group_size=group_size,
    )


def already_there(watch: LiveTensors, vlm: VLM, asked: Queries | Sequences) -> int:
    """Bytes of the weights and of what is asked."""
    for value in (*vlm.model.parameters(), *vars(asked).values()):
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor):
                watch.see(tensor)
    return watch.live


@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("group_size", [1, 4])
def test_passes_take_what_is_counted(vlm: VLM, group_size: int, adapted: bool) -> None:
    """8 responses of 60 tokens to prompts of 120: a pass without gradient, and what one with a gradient keeps."""
    if adapted:
        add_adapters(vlm.model, ADAPTERS, torch.float32, seed=0)
    passes = Passes(architecture_of(vlm), 4, 4, ADAPTERS if adapted else None)
    row = side_by_side(8, group_size, 120, 60)
    q = queries(vlm, 8 // group_size, group_size, 120)
    ids, mask = torch.randint(50, 200, (8, 60)), torch.ones(8, 60, dtype=torch.bool)
    asked = Sequences(q.token_ids, q.mask, q.position_ids, q.features, q.group, ids, mask)
    scorer = Scorer(vlm.model)
    with LiveTensors() as watch:
        before = already_there(watch, vlm, asked)
        watch.begin("reading")
        with torch.no_grad():
            scorer(asked, with_entropy=False)
        watch.begin("keeping")
        logprobs, _ = scorer(asked, with_entropy=True)
        kept = watch.live - before
        watch.begin("turning")
        logprobs.sum().backward()
    a = passes.a
    logits = 4 * 8 * 60 * (a.vocabulary + (0 if adapted else a.width))
    assert kept - logits == pytest.approx(passes.kept(row, a.layers, checkpointing=False), rel=0.01)
    assert watch.peaks["reading"] - before == pytest.approx(passes.reading(row), rel=0.04)
    learning = passes.kept(row, a.layers, checkpointing=False) + max(
        passes.scoring(480, entropy=True), passes.scoring_gradient(480), passes.turning(row, checkpointing=False)
    )
    assert max(watch.peaks["keeping"], watch.peaks["turning"]) - before == pytest.approx(learning, rel=0.02)


@pytest.mark.parametrize("group_size", [1, 4])
@torch.no_grad()
def test_decoding_takes_what_is_counted(vlm: VLM, group_size: int) -> None:
    """8 responses of 30 tokens to prompts of 200, one padded: read, gone on from, and left by some."""
    prompts = 8 // group_size
    passes = Passes(architecture_of(vlm), 4, 4, None)
    q = queries(vlm, prompts, group_size, 200)
    q.mask[-group_size:, 0] = False
    with LiveTensors() as watch:
        before = already_there(watch, vlm, q)
        watch.begin("reading")
        decoder, logits = begin(vlm, q, 30)
        for _ in range(29):
            logits = decoder.step(logits.argmax(1))
        watch.begin("step")
        logits = decoder.step(logits.argmax(1))
        watch.begin("leaving")
        decoder.keep(q.group > 0)
    cache = passes.cache(prompts, 200) + passes.cache(8, 30)
    reading = passes.cache(prompts, 200) + passes.prefill(prompts, 200)
    assert watch.peaks["reading"] - before == pytest.approx(reading, rel=0.05)
    step = cache + passes.logits(8) + passes.attending(prompts, 200, 8, 30)
    assert watch.peaks["step"] - before == pytest.approx(step, rel=0.05)
    leaving = (
        cache
        + passes.logits(8)
        + passes.cache(prompts - 1, 200) // (2 * vlm.model.config.text_config.num_hidden_layers)
    )
    assert watch.peaks["leaving"] - before == pytest.approx(leaving, rel=0.05)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("cut", [0, 3])
def test_drawing_takes_what_is_counted(cut: int, temperature: float) -> None:
    """8 rows of 20,000 logits, of which some have top_p."""
    logits, noise = torch.randn(8, 20_000), torch.rand(8, dtype=torch.float64)
    top_p = torch.where(torch.arange(8) < cut, 0.9, 1.0)
    with LiveTensors() as watch:
        choose(logits, torch.full((8,), temperature), top_p, noise, torch.tensor([1, 2]))
    one = dataclasses.replace(recipe_architecture(Recipe.model_validate(STUDY["base"]["tiny"])), vocabulary=20_000)
    assert max(watch.peaks.values()) == pytest.approx(Passes(one, 4, 4, None).drawing(8, cut), rel=0.08)


@pytest.mark.parametrize(
    "case",
    [
        Case("tiny", micro=4, new_tokens=96),
        Case("tiny", rows=2, group=4, update=8, micro=4, new_tokens=96),
        Case("tiny", used_in="bfloat16", checkpointing=True, new_tokens=16),
    ],
    ids=["plain", "siblings", "float32 over bfloat16"],
)
def test_small_runs_take_what_is_predicted(case: Case) -> None:
    found = compared(case, "cpu")
    for moment, (said, measured) in found["moments"].items():
        assert said == pytest.approx(measured, rel=0.06), moment


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
        raw_study["resources"][job]["memory_mb"] = 100_000
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

"""What the check of a model with a data set says, against what the model makes of it; and each mistake it must find."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.config import Compute, GeneratedProblems, PreflightRun, PromptSettings
from stages.data.prepare import generate
from stages.data.problem import Problem, write_problems
from stages.model.context import check_responses, check_solutions
from stages.model.preflight import NAMED, Lengths, Preflight, main, preflight, summary
from stages.model.processor import load_processor, render
from stages.model.vlm import VLM, load
from stages.sft.train import golden_sequences

MODELS = Path(__file__).parent.parent / "models"
NAMES = ("qwen2_5_vl_tiny", "qwen2_vl_tiny")
CPU = Compute(device="cpu", dtype="float32", threads=1)
PROMPT = PromptSettings(instruction="Think. End with \\boxed{}.", min_pixels=256, max_pixels=4096)


@pytest.fixture
def problems(tmp_path: Path) -> list[Problem]:
    """Six generated problems, their pictures in images/."""
    (tmp_path / "images").mkdir()
    settings = GeneratedProblems(source="generated", mode="text", seed=1, train=6, validation=1, test=1)
    return generate(settings, "train", tmp_path)


@pytest.fixture
def problem(problems: list[Problem]) -> Problem:
    return problems[0]


def resized(problem: Problem, size: tuple[int, int]) -> Problem:
    path = problem.image.with_name(f"{size[0]}x{size[1]}.png")
    problem.picture().resize(size).save(path)
    return replace(problem, image=path, id=path.stem)


def run_of(folder: Path, **changes: Any) -> PreflightRun:
    """A run on a data set in `folder`, with prompt settings among the changes."""
    settings = {key: changes.pop(key) for key in ("instruction", "min_pixels", "max_pixels") if key in changes}
    run = {
        "out": str(folder / "out"),
        "model": "tiny",
        "dataset": "mine",
        "base": str(MODELS / "qwen2_vl_tiny"),
        "data": str(folder),
        "prompt": PROMPT.model_copy(update=settings),
    }
    return PreflightRun(**(run | changes))


def check(tmp_path: Path, **changes: Any) -> Preflight:
    return Preflight(run_of(tmp_path, **changes))


def changed(folder: Path, file: str, change: Callable[[Any], None], name: str = "qwen2_vl_tiny") -> str:
    """A copy of a model, but for its weights, in which a JSON file is changed."""
    folder = folder / "changed"
    folder.mkdir(exist_ok=True)
    for path in (MODELS / name).iterdir():
        if path.suffix != ".safetensors" and not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    change(content)
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def mistake(check: Preflight, problem: Problem) -> str:
    with pytest.raises(ValueError) as error:
        check.lengths(problem)
    return str(error.value)


# --- lengths ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NAMES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return load(MODELS / request.param, CPU, PROMPT)


# Their sides, and how many squares of 16 pixels they are cut into within 4096 pixels; the last two are more than the
# budget, because no side is scaled to less than a square.
SIZES = {
    (64, 64): 16,
    (256, 256): 16,
    (640, 480): 12,
    (48, 80): 15,
    (1, 1): 1,
    (3, 3): 1,
    (3, 50): 5,
    (1, 100): 10,
    (100, 1): 10,
    (17, 1000): 30,
    (1900, 10): 55,
}


def test_lengths_are_those_of_the_models_own_prompts(vlm: VLM, problem: Problem, tmp_path: Path) -> None:
    checked = check(tmp_path, base=vlm.model.name_or_path)
    given = [resized(problem, size) for size in SIZES]
    prompts = vlm.prompts(given)
    solutions = golden_sequences(given, vlm).response_mask.sum(1).tolist()
    for same, prompt, solution, tokens in zip(given, prompts, solutions, SIZES.values(), strict=True):
        image = int((prompt.token_ids == vlm.model.config.image_token_id).sum())
        assert image == len(prompt.features) == tokens, same.id
        assert checked.lengths(same) == Lengths(len(prompt.token_ids), image, solution), same.id


def test_no_weights_are_needed(problem: Problem, tmp_path: Path) -> None:
    base = changed(tmp_path, "config.json", lambda config: None)
    assert check(tmp_path, base=base).lengths(problem) == check(tmp_path).lengths(problem)


@pytest.mark.parametrize(
    ("budget", "tokens"), [((256, 1024), 4), ((256, 4096), 16), ((256, 16384), 64), ((65536, 65536), 256)]
)
def test_image_tokens_are_of_the_studys_pixel_budget(
    budget: tuple[int, int], tokens: int, problem: Problem, tmp_path: Path
) -> None:
    """A token is 16 x 16 pixels; the model's own budget is 4096."""
    small = resized(problem, (128, 128))
    found = check(tmp_path, min_pixels=budget[0], max_pixels=budget[1]).lengths(small)
    assert found.image == tokens
    assert found.prompt - found.image == check(tmp_path).lengths(small).prompt - 16


@pytest.mark.parametrize(("instruction", "text"), [("Think.", "Find x.\nThink."), ("", "Find x.")])
def test_a_prompt(instruction: str, text: str) -> None:
    assert render(load_processor(MODELS / NAMES[0], PROMPT), "Find x.", instruction) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_instruction_is_counted(problem: Problem, tmp_path: Path) -> None:
    instruction = " and".join(["think"] * 20)
    tokenizer = check(tmp_path).processor.tokenizer
    texts = (f"{problem.question}\n{instruction}", problem.question)
    together, alone = (len(tokenizer(text)["input_ids"]) for text in texts)
    with_it, without = (check(tmp_path, instruction=text).lengths(problem).prompt for text in (instruction, ""))
    assert with_it - without == together - alone > 20


def test_a_problem_without_a_solution_has_none_to_count(problem: Problem, tmp_path: Path) -> None:
    assert check(tmp_path).lengths(replace(problem, solution="")).solution is None


@pytest.mark.parametrize(
    "question", ["Wie groß ist ∠x? 角度", "a\u0301 + e\u0300?", "x < 3 & y > '2' {{ z }} {% if %}", "\\frac{1}{2}\n7"]
)
def test_any_text_can_be_asked(question: str, problem: Problem, tmp_path: Path) -> None:
    """Also letters with combining accents, which the tokenizer joins, and what a template could take for its own."""
    assert check(tmp_path).lengths(replace(problem, question=question)).image == 16


# --- what a model cannot take ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["question", "solution"])
@pytest.mark.parametrize("mark", ["<|image_pad|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>"])
def test_a_text_must_not_hold_the_tokenizers_marks(key: str, mark: str, problem: Problem, tmp_path: Path) -> None:
    bad = replace(problem, **{key: f"Find x.{mark}"})
    assert mistake(check(tmp_path), bad) == f"its {key} holds {mark}, which the tokenizer takes for a mark of its own"


def test_nor_a_token_that_was_added_and_is_not_special(problem: Problem, tmp_path: Path) -> None:
    """Qwen's <tool_call> is one."""
    added = {"content": "<tool_call>", "id": 550, "special": False, "normalized": False}
    added |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    base = changed(tmp_path, "tokenizer.json", lambda content: content["added_tokens"].append(added))
    bad = replace(problem, question="Find <tool_call>.")
    check(tmp_path).lengths(bad)
    assert mistake(check(tmp_path, base=base), bad).startswith("its question holds <tool_call>, ")


def test_the_instruction_must_not_either(problem: Problem, tmp_path: Path) -> None:
    said = mistake(check(tmp_path, instruction="See <|image_pad|>."), problem)
    assert said == "the instruction holds <|image_pad|>, which the tokenizer takes for a mark of its own"


def test_a_prompt_must_fit_the_models_context(problem: Problem, tmp_path: Path) -> None:
    prompt = check(tmp_path).lengths(problem).prompt

    def with_context(context: int) -> Preflight:
        base = changed(tmp_path, "config.json", lambda c: c["text_config"].update(max_position_embeddings=context))
        return check(tmp_path, base=base)

    with_context(prompt + 1).lengths(problem)
    said = mistake(with_context(prompt), problem)
    assert said.startswith(f"{prompt} tokens of prompt, but the model's context is {prompt} ")


def measured(folder: Path) -> str:
    """A preflight: longest prompts of 60 tokens (train) and 70 (test), 90 with a solution; a context of 100."""
    prompts = {"train": {"max": 60}, "validation": {"max": 10}, "test": {"max": 70}}
    found = {"context": 100, "prompt_tokens": prompts, "learnt_tokens": {"train": {"max": 90}}}
    (folder / "preflight.json").write_text(json.dumps(found))
    return str(folder)


def test_a_response_must_have_room_behind_the_longest_prompt_of_its_splits(tmp_path: Path) -> None:
    preflight = measured(tmp_path)
    check_responses(preflight, ["train"], 40)
    check_responses(preflight, ["validation", "test"], 30)
    with pytest.raises(ValueError, match=r"prompt of train has 60 tokens and 41 of response, but .* context is 100"):
        check_responses(preflight, ["train"], 41)
    with pytest.raises(ValueError, match="prompt of test has 70 tokens and 31 of response"):
        check_responses(preflight, ["validation", "test"], 31)


def test_a_solution_must_have_room_behind_its_prompt(tmp_path: Path) -> None:
    preflight = measured(tmp_path)
    check_solutions(preflight)
    path = tmp_path / "preflight.json"
    path.write_text(path.read_text().replace('"max": 90', '"max": 101'))
    with pytest.raises(ValueError, match=r"prompt of train has 101 tokens with its solution, but .* context is 100"):
        check_solutions(preflight)
    path.write_text(path.read_text().replace('{"max": 101}', "null"))  # no solutions, which SFT itself complains of
    check_solutions(preflight)


def test_the_processor_must_merge_as_the_model_does(problem: Problem, tmp_path: Path) -> None:
    base = changed(tmp_path, "config.json", lambda config: config["vision_config"].update(spatial_merge_size=1))
    said = mistake(check(tmp_path, base=base), problem)
    assert said == "16 image tokens in its prompt, but the vision tower gives 64 features"
    base = changed(tmp_path, "config.json", lambda config: config["vision_config"].update(spatial_merge_size=2))
    base = changed(tmp_path, "processor_config.json", lambda config: config["image_processor"].update(merge_size=4))
    said = mistake(check(tmp_path, base=base), problem)
    assert said == "4 image tokens in its prompt, but the vision tower gives 16 features"


@pytest.mark.parametrize(
    ("size", "values", "said"),
    [("patch_size", 16, "1536 values"), ("temporal_patch_size", 1, "192 values"), ("patch_size", 4, "96 values")],
)
def test_the_processor_must_cut_patches_as_the_model_does(
    size: str, values: int, said: str, problem: Problem, tmp_path: Path
) -> None:
    """The tower takes 3 colours x 2 times x 8 x 8 pixels. Patches of another size may even fit, side by side."""
    base = changed(tmp_path, "processor_config.json", lambda config: config["image_processor"].update({size: values}))
    assert mistake(check(tmp_path, base=base), problem) == (
        f"the processor cuts patches of {said}, but the vision tower takes 384"
    )


def test_a_chat_template_must_say_the_question(problem: Problem, tmp_path: Path) -> None:
    base = changed(tmp_path, "config.json", lambda config: None)
    template = Path(base, "chat_template.jinja")
    good = template.read_text()
    for bad in ("part.text | upper", "part.text | trim('.?') | truncate(9)", '""'):
        template.write_text(good.replace("part.text", bad))
        assert good != template.read_text()
        said = mistake(check(tmp_path, base=base), problem)
        assert said == "the chat template does not render its question as it is"


def test_a_tokenizer_must_spell_the_question(problem: Problem, tmp_path: Path) -> None:
    """Without one of its 256 bytes it leaves it out, and says nothing."""

    def forget(content: Any) -> None:
        model = content["model"]
        model["vocab"]["never"] = model["vocab"].pop("â")
        model["merges"] = [merge for merge in model["merges"] if "â" not in "".join(merge)]

    base = changed(tmp_path, "tokenizer.json", forget)
    check(tmp_path, base=base).lengths(replace(problem, question="Find angle x."))
    said = mistake(check(tmp_path, base=base), replace(problem, question="Find ∠x."))
    assert said.startswith("the tokenizer cannot spell its question: 'Find ∠x.' becomes '<|im_start|>system\\n")


def test_a_picture_of_no_possible_shape_is_found(problem: Problem, tmp_path: Path) -> None:
    check(tmp_path).lengths(resized(problem, (200, 1)))
    assert "aspect ratio must be smaller than 200" in mistake(check(tmp_path), resized(problem, (201, 1)))


# --- a data set ------------------------------------------------------------------------------------------------------


def write(folder: Path, train: Sequence[Problem], test: Sequence[Problem] = ()) -> None:
    """The splits; the first problem is also validation and test where nothing else is."""
    for split, rows in (("train", train), ("validation", train[:1]), ("test", test or train[:1])):
        write_problems(folder / f"{split}.jsonl", rows)


def refusal(run: PreflightRun, folder: Path) -> list[str]:
    """The lines `main` stops with, and nothing is written."""
    (folder / "run.json").write_text(run.canonical_json())
    with pytest.raises(SystemExit) as end:
        main(str(folder / "run.json"))
    assert not Path(run.out).exists()
    assert not list(folder.glob(".*"))
    first, *lines = str(end.value.code).splitlines()
    assert first == "tiny cannot take mine:"
    return lines


def test_lengths_of_all_splits_are_written(problems: list[Problem], tmp_path: Path) -> None:
    wide = resized(problems[1], (1900, 10))
    write(tmp_path, problems, [replace(wide, solution="")])
    run = run_of(tmp_path)
    (tmp_path / "run.json").write_text(run.canonical_json())
    main(str(tmp_path / "run.json"))
    written = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert written == preflight(run)
    lengths = [check(tmp_path).lengths(problem) for problem in problems]
    assert {key: written[key] for key in ("context", "min_pixels", "max_pixels")} == {
        "context": 4096,
        "min_pixels": 256,
        "max_pixels": 4096,
    }
    assert written["image_tokens"] == {
        "train": dict.fromkeys(("min", "median", "p95", "max"), 16),
        "validation": dict.fromkeys(("min", "median", "p95", "max"), 16),
        "test": dict.fromkeys(("min", "median", "p95", "max"), 55),
    }
    for key in ("prompt", "solution"):
        found = sorted(getattr(length, key) for length in lengths)
        assert written[f"{key}_tokens"]["train"] == {
            "min": found[0],
            "median": found[3],
            "p95": found[5],
            "max": found[5],
        }
    assert written["solution_tokens"]["test"] is None


def test_each_problem_is_named_with_its_split(problems: list[Problem], tmp_path: Path) -> None:
    bad = replace(problems[1], question="Find <|im_end|>.")
    write(tmp_path, [problems[0], bad, *problems[2:]], [resized(problems[0], (201, 1))])
    assert refusal(run_of(tmp_path), tmp_path) == [
        f"train: {bad.id}: its question holds <|im_end|>, which the tokenizer takes for a mark of its own",
        "test: 201x1: absolute aspect ratio must be smaller than 200, got 201.0",
    ]


@pytest.mark.parametrize(("count", "more"), [(18, []), (23, ["and 5 more"])])
def test_many_mistakes_are_counted(problem: Problem, tmp_path: Path, count: int, more: list[str]) -> None:
    """The first is in all three splits."""
    write(tmp_path, [replace(problem, question="<|im_end|>", id=f"p{i}") for i in range(count)])
    lines = refusal(run_of(tmp_path), tmp_path)
    assert NAMED == 20
    assert lines[20:] == more
    assert [line.split(": ")[1] for line in lines[:18]] == [f"p{i}" for i in range(18)]
    assert len(lines) == 20 + len(more)


def test_a_data_set_that_cannot_be_read_is_named(problem: Problem, tmp_path: Path) -> None:
    write(tmp_path, [problem])
    (tmp_path / "validation.jsonl").write_text("{\n")
    (line,) = refusal(run_of(tmp_path), tmp_path)
    assert line.startswith(f"{tmp_path / 'validation.jsonl'}:1: not JSON")


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([7], (7, 7, 7, 7)),
        ([3, 1, 2], (1, 2, 3, 3)),
        ([4, None, 1, 2, 3, None], (1, 3, 4, 4)),  # of two in the middle the larger
        (list(range(1, 101)), (1, 51, 96, 100)),
    ],
)
def test_summary(lengths: list[int | None], expected: tuple[int, ...]) -> None:
    assert summary(lengths) == dict(zip(("min", "median", "p95", "max"), expected, strict=True))


def test_summary_of_nothing() -> None:
    assert summary([]) is summary([None, None]) is None


# --- the processor as Qwen publishes it ------------------------------------------------------------------------------

# As Qwen2-VL's and Qwen2.5-VL's repositories have it, less the branch for videos.
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != "
    "'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>"
    "{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content "
    "or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: "
    "{% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's
QWEN_PROMPT = PromptSettings(instruction="Think.", min_pixels=56 * 56, max_pixels=28 * 28 * 100)


@pytest.fixture(params=[("qwen2_vl", "Qwen2VLProcessor"), ("qwen2_5_vl", "Qwen2_5_VLProcessor")], ids=lambda p: p[0])
def qwen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder as Qwen publishes it (text settings on config.json's top level), with the tiny model's tokenizer."""
    model_type, processor_class = request.param
    folder = tmp_path / "qwen"
    folder.mkdir()
    tiny = MODELS / f"{model_type}_tiny"
    tokenizer = json.loads((tiny / "tokenizer_config.json").read_text())
    tokenizer = {key: value for key, value in tokenizer.items() if key != "processor_class"}
    ids = {key: value for key, value in json.loads((tiny / "config.json").read_text()).items() if key.endswith("_id")}
    text = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2, "num_hidden_layers": 36}
    rope = {"rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    vision = {"depth": 32, "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14}
    files = {
        "config.json": {
            "model_type": model_type,
            **ids,
            **text,
            **rope,
            "max_position_embeddings": 32768,
            "vocab_size": 151936,
            "vision_config": vision,
        },
        "preprocessor_config.json": {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": MEAN,
            "image_std": STD,
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": processor_class,
        },
        "tokenizer_config.json": tokenizer,
        "chat_template.json": {"chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    return folder


def test_qwens_own_prompt_is_the_tiny_models(qwen: Path) -> None:
    question = "What is ∠x,\nif y = 3?"
    theirs, tiny = (load_processor(folder, QWEN_PROMPT) for folder in (qwen, MODELS / NAMES[0]))
    assert render(theirs, question, "Think.") == render(tiny, question, "Think.")
    assert type(theirs) is type(tiny)
    assert type(theirs.image_processor) is type(tiny.image_processor)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((256, 256), 9 * 9), ((2000, 2000), 10 * 10), ((10, 10), 2 * 2), ((600, 100), 21 * 4), ((28, 28), 2 * 2)],
)
def test_qwens_own_processor_obeys_the_studys_budget(
    qwen: Path, size: tuple[int, int], tokens: int, problem: Problem
) -> None:
    """A token is 28 x 28 pixels, and the study allows 4 to 100 of them, where Qwen's file allows 16384."""
    found = check(qwen, base=str(qwen), prompt=QWEN_PROMPT).lengths(resized(problem, size))
    assert found.image == tokens


def test_qwens_own_processor_normalises_as_clip_does(qwen: Path) -> None:
    """The tiny models' white is 0."""
    processor = load_processor(qwen, QWEN_PROMPT)
    white = Image.new("RGB", (280, 140), "white")
    inputs = processor(text=["<|image_pad|>"], images=[[white]], return_tensors="np")
    patches = inputs["pixel_values"].reshape(-1, 3, 2, 14, 14)  # patch, colour, time, height, width
    assert inputs["image_grid_thw"].tolist() == [[1, 10, 20]]
    assert patches.shape[0] == 200
    expected = (1 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(patches, np.broadcast_to(expected[None, :, None, None, None], patches.shape), rtol=1e-5)


def test_qwens_own_configuration_has_a_context(qwen: Path, problem: Problem) -> None:
    run = {"base": str(qwen), "prompt": QWEN_PROMPT}
    prompt = check(qwen, **run).lengths(problem).prompt
    assert prompt < 32768 == check(qwen, **run).context

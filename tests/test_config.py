"""A mistake in a study stops it with its place; a changed setting reaches the jobs that depend on it and no others."""

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import config
from stages.config import EvaluateRun, RealProblems, RLRun, Settings, SFTRun, Study, digest, load_run, load_study
from stages.evaluation.health import ABOUT
from stages.rl.rewards import REWARDS

ROOT = Path(__file__).parents[1]
RawStudy = dict[str, Any]
Write = Callable[[RawStudy], Path]


def changed(raw: RawStudy, path: str, value: Any) -> RawStudy:
    """The study with one value put at a dotted path."""
    *parents, key = path.split(".")
    place = raw
    for parent in parents:
        place = place[parent]
    place[key] = value
    return raw


def mistake(path: Path) -> str:
    """What `load_study` says about a study, without the file's name, which it must begin every line with."""
    with pytest.raises(ValueError) as error:
        load_study(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return "\n".join(line.removeprefix(f"{path}: ") for line in lines)


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "a misspelt key": (
        "rl.grpo.epsilom",
        0.2,
        "rl.grpo.epsilom: unknown key, did you mean 'epsilon'? (allowed: algorithm, optimizer, batch_size, group_size, "
        "forward_batch_size, ppo_batch_size, ppo_backward_batch_size, ppo_epochs, epsilon, gamma, beta_rew, beta_loss, "
        "advantage_norm, loss_average, importance_cap, sampling, rewards)",
    ),
    "a misspelt key deep down": (
        "base.tiny.noise.slips",
        0.2,
        "base.tiny.noise.slips: unknown key, did you mean 'slip'? (allowed: slip, direct, reflection, textbook)",
    ),
    "a misspelt key of a section that may be null": (
        "learner.lora",
        {"rnk": 4, "rank": 4, "alpha": 8.0, "layers": ["q_proj"]},
        "learner.lora.rnk: unknown key, did you mean 'rank'? (allowed: rank, alpha, layers)",
    ),
    "a sampler that nobody knows": (
        "collector.engine",
        "vLLM",
        "collector.engine: should be 'native' or 'vllm', not 'vLLM'",
    ),
    "a misspelt section": (
        "evaluation",
        {},
        "evaluation: unknown key, did you mean 'evaluate'? "
        "(allowed: study, download, data, prompt, base, sft, rl, learner, collector, evaluate, scores, compute, "
        "resources)",
    ),
    "text for a number": (
        "rl.rpp.batch_size",
        "8",
        "rl.rpp.batch_size: should be a valid integer, not '8'",
    ),
    "a fraction for a count": (
        "sft.sft.batch_size",
        2.5,
        "sft.sft.batch_size: should be a valid integer, not 2.5",
    ),
    "a number for yes or no": (
        "scores.whole_words",
        1,
        "scores.whole_words: should be a valid boolean, not 1",
    ),
    "a negative count": (
        "data.text.problems.train",
        -1,
        "data.text.problems.train: should be greater than or equal to 1, not -1",
    ),
    "a probability over 1": (
        "base.tiny.noise.slip",
        1.5,
        "base.tiny.noise.slip: should be less than or equal to 1, not 1.5",
    ),
    "an unknown algorithm": (
        "rl.grpo.algorithm",
        "ppo",
        "rl.grpo.algorithm: should be 'reinforce_plus_plus' or 'grpo', not 'ppo'",
    ),
    "an unknown split": (
        "evaluate.splits",
        ["train"],
        "evaluate.splits.0: should be 'validation' or 'test', not 'train'",
    ),
    "an unknown method": (
        "study.methods",
        ["vanilla", "dpo"],
        "study.methods: 'dpo' is not defined (allowed: vanilla, sft, grpo, rpp)",
    ),
    "an unknown model": (
        "study.models",
        ["huge"],
        "study.models: 'huge' is not defined (allowed: tiny, given)",
    ),
    "an unknown data set": (
        "study.datasets",
        ["theirs"],
        "study.datasets: 'theirs' is not defined (allowed: text, mine)",
    ),
    "a name twice": (
        "study.methods",
        ["sft", "sft"],
        "study.methods: a name stands there twice (sft, sft)",
    ),
    "nothing to compare": (
        "study.seeds",
        [],
        "study.seeds: should have at least 1 item, not []",
    ),
    "a part that does not divide": (
        "sft.sft.backward_batch_size",
        3,
        "sft.sft: backward_batch_size=3 must divide batch_size=8",
    ),
    "an update that does not divide": (
        "rl.grpo.ppo_batch_size",
        6,
        "rl.grpo: ppo_batch_size=6 must divide the 16 responses of a generation step (batch_size=4 x group_size=4)",
    ),
    "a backward pass that does not divide": (
        "rl.grpo.ppo_backward_batch_size",
        3,
        "rl.grpo: ppo_backward_batch_size=3 must divide ppo_batch_size=4",
    ),
    "a group of one": (
        "rl.rpp.algorithm",
        "grpo",
        "rl.rpp: group_size=1, but grpo compares a response with its siblings: at least 2",
    ),
    "a reward along the way for whole responses": (
        "rl.grpo.beta_rew",
        0.1,
        "rl.grpo: grpo scores whole responses: gamma must be 1.0 and beta_rew 0.0",
    ),
    "processes that do not divide an SFT batch": (
        "resources.sft.processes",
        3,
        "resources.sft.processes: 3 must divide sft.sft.batch_size=8",
    ),
    "processes that do not divide an update's groups": (
        "resources.rl.processes",
        2,
        "resources.rl.processes: 2 of whole groups (rl.grpo.group_size=4) must divide rl.grpo.ppo_batch_size=4; "
        "it must be a multiple of 8",
    ),
    "processes that do not divide over nodes": (
        "resources.rl.nodes",
        2,
        "resources.rl: nodes=2 must divide processes=1",
    ),
    "a policy that did not sample": (
        "rl.rpp.sampling.temperature",
        0.7,
        "rl.rpp: sampling: temperature and top_p must be 1.0, so that the policy that is updated sampled",
    ),
    "an SFT batch larger than the data": (
        "sft.sft.batch_size",
        32,
        "sft.sft.batch_size: 32 problems, but data.text.problems.train has 16",
    ),
    "a batch larger than the data": (
        "rl.rpp.batch_size",
        32,
        "rl.rpp.batch_size: 32 problems, but data.text.problems.train has 16",
    ),
    "an SFT batch larger than what is taken": (
        "data.mine.problems.train.take",
        [0, 3],
        "rl.grpo.batch_size: 4 problems, but data.mine.problems.train has 3",
    ),
    "nothing taken": (
        "data.mine.problems.test.take",
        [5, 5],
        "data.mine.problems.test: take: [5, 5] is empty; from the first row, to after the last",
    ),
    "an unknown reader": (
        "data.mine.problems.test",
        {"reader": "geometry3", "folder": "mine"},
        "data.mine.problems.test.reader: 'geometry3' is not known "
        "(allowed: geometry3k, mm_math, mathverse, maye, intergps, jsonl)",
    ),
    "no reader": (
        "data.mine.problems.test",
        {"folder": "mine"},
        "data.mine.problems.test.reader: missing (allowed: geometry3k, mm_math, mathverse, maye, intergps, jsonl)",
    ),
    "a misspelt key of a reader": (
        "data.mine.problems.train.spilt",
        "test",
        "data.mine.problems.train.spilt: unknown key, did you mean 'split'? (allowed: folder, take, reader, split)",
    ),
    "a folder that is not there": (
        "data.mine.problems.test.folder",
        "repositori",
        "data.mine.problems.test.folder: 'repositori' is neither a name under download (repository) nor a folder",
    ),
    "a checkpoint that is not there": (
        "base.given.path",
        "models/gone",
        "base.given.path: 'models/gone' is neither a name under download (repository) nor a folder",
    ),
    "pixels the wrong way round": (
        "prompt.min_pixels",
        5000,
        "prompt: min_pixels=5000 must not be above max_pixels=4096",
    ),
    "something skipped that is not there": (
        "study.skip",
        ["text/dpo"],
        "study.skip: 'text/dpo' is no dataset/method of the grid (there are: text/vanilla, text/sft, text/grpo, "
        "text/rpp, mine/vanilla, mine/sft, mine/grpo, mine/rpp)",
    ),
}


@pytest.mark.parametrize(("path", "value", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_named_with_its_place(
    raw_study: RawStudy, write_study: Write, path: str, value: Any, expected: str
) -> None:
    assert mistake(write_study(changed(raw_study, path, value))) == expected


@pytest.mark.parametrize("name", ["generated", "jsonl"])
def test_a_data_set_may_be_called_like_its_source(raw_study: RawStudy, write_study: Write, name: str) -> None:
    text = raw_study["data"]["text"]
    raw_study["data"][name] = text | {"problems": text["problems"] | {"trian": 1}}
    assert mistake(write_study(raw_study)) == (
        f"data.{name}.problems.trian: unknown key, did you mean 'train'? "
        "(allowed: source, mode, seed, train, validation, test)"
    )


def test_missing_key_is_named(raw_study: RawStudy, write_study: Write) -> None:
    del raw_study["rl"]["grpo"]["sampling"]["top_p"]
    assert mistake(write_study(raw_study)) == "rl.grpo.sampling.top_p: missing"


def test_a_choice_by_source_names_the_sources(raw_study: RawStudy, write_study: Write) -> None:
    raw_study["data"]["text"]["problems"]["source"] = "hub"
    assert mistake(write_study(raw_study)) == (
        "data.text.problems.source: 'hub' is not known (allowed: generated, real)"
    )


def test_all_mistakes_are_named_at_once(raw_study: RawStudy, write_study: Write) -> None:
    raw_study["compute"] |= {"threads": 0, "dtype": "float16", "gpus": 1}
    places = [line.split(":")[0] for line in mistake(write_study(raw_study)).splitlines()]
    assert sorted(places) == ["compute.dtype", "compute.gpus", "compute.threads"]


def test_a_method_stands_in_one_section(raw_study: RawStudy, write_study: Write) -> None:
    raw_study["rl"]["sft"] = raw_study["rl"]["grpo"]
    assert mistake(write_study(raw_study)) == "rl.sft: sft has a method of that name already"


def test_a_key_stands_once(raw_study: RawStudy, write_study: Write) -> None:
    path = write_study(raw_study)
    path.write_text(path.read_text() + "compute: {}\n")
    with pytest.raises(ValueError, match=rf"^{path}: not YAML: the key 'compute' stands twice\n.*line \d+"):
        load_study(path)


def test_merged_keys_may_be_replaced_at_any_depth(raw_study: RawStudy, write_study: Write) -> None:
    path = write_study(raw_study)
    grpo = path.read_text().split("  grpo:\n")[1].split("  rpp:\n")[0]
    path.write_text(
        path.read_text()
        .replace(f"  grpo:\n{grpo}", f"  grpo: &grpo\n{grpo}  warm: &warm\n    <<: *grpo\n    epsilon: 0.5\n")
        .replace("  rpp:\n", "  warmer:\n    <<: *warm\n    beta_loss: 0.5\n  rpp:\n")
    )
    rl = load_study(path).rl
    assert [rl[name].epsilon for name in ("grpo", "warm", "warmer")] == [0.2, 0.5, 0.5]
    assert [rl[name].beta_loss for name in ("grpo", "warm", "warmer")] == [0.01, 0.01, 0.5]


def test_a_merged_key_is_not_a_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("base: &base {n: 1}\ndeeper: {a: {b: &deep {<<: *base, n: 2}}}\nshallow: {<<: *deep}\n")
    with pytest.raises(ValueError) as error:
        load_study(path)
    assert "twice" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "hello"])
def test_a_file_that_is_no_study(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert mistake(path)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("5e-4", 0.0005), ("5E-4", 0.0005), ("5.0e-4", 0.0005), ("1e+2", 100.0), ("0.5", 0.5)]
)
def test_scientific_notation_is_a_number(raw_study: RawStudy, write_study: Write, text: str, value: float) -> None:
    path = write_study(changed(raw_study, "sft.sft.optimizer.learning_rate", "RATE"))
    path.write_text(path.read_text().replace("RATE", text))
    assert load_study(path).sft["sft"].optimizer.learning_rate == value


def test_paths_are_found_from_another_working_directory(
    raw_study: RawStudy, write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_study["data"]["mine"]["problems"]["validation"]["folder"] = str(tmp_path)
    path = write_study(raw_study)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere" / "deep")
    study = load_study(path, root=tmp_path)
    assert study.base_run("given").checkpoint == "../../models/given"
    problems = study.data["mine"].problems
    assert isinstance(problems, RealProblems)
    assert problems.test.folder == "../../mine"
    assert problems.validation.folder == "../.."
    assert problems.train.folder == "results/download/repository"


def test_a_job_waits_for_the_files_it_reads(raw_study: RawStudy, write_study: Write, tmp_path: Path) -> None:
    raw_study["base"]["given"]["path"] = "repository"
    path = write_study(raw_study)
    rows = ({"image": "a.png"}, {"image": "gone.png"})
    (tmp_path / "mine" / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.png", "b.png", "MM_Math.zip", "README.md"):
        (tmp_path / "mine" / name).write_text("")
    study = load_study(path)
    assert study.sources("text") == []
    # Of a repository its manifest; of a folder what the readers read, and the pictures that a JSONL file names.
    assert study.sources("mine") == [
        "mine/MM_Math.zip",
        "mine/a.png",
        "mine/validation.jsonl",
        "results/download/repository/download.json",
    ]
    assert study.checkpoint_sources("given") == ["results/download/repository/download.json"]
    assert study.checkpoint_sources("tiny") == []


def test_the_papers_study_has_the_papers_sizes() -> None:
    """Sec. 5.1, Table 1, Appendix A: 150 and 100 generation steps of 896 responses, 32 updates each."""
    study = load_study(ROOT / "config/paper.yaml", ROOT)
    rl = study.rl["reinforce_plus_plus"]
    sizes = {d: tuple(study.rows(d, split) for split in ("train", "validation", "test")) for d in study.data}
    assert sizes == {"mm_math5k": (5000, 100, 100), "geometry3k": (2101, 300, 601)}
    steps = {d: study.data[d].epochs * (sizes[d][0] // rl.batch_size) for d in sizes}
    assert steps == {"mm_math5k": 150, "geometry3k": 100}
    assert (rl.responses, rl.updates, rl.sampling.max_new_tokens) == (7 * 128, 32, 2048)
    assert (rl.optimizer.learning_rate, study.sft["sft"].optimizer.learning_rate) == (5e-6, 1e-5)
    assert len(study.cells(["rl"])) == 12 and len(study.cells(["sft"])) == 6  # SFT on mm_math5k alone
    assert all(study.save_epochs(d)[0] == 1 for d in study.data)
    moving = [name for name, download in study.download.items() if not download.is_pinned]
    assert moving == ["mm_math"]


def test_a_seed_stands_once_and_a_scheme_is_a_file(raw_study: RawStudy, write_study: Write) -> None:
    with pytest.raises(ValueError, match=r"study\.seeds: a seed stands there twice \(1, 1\)"):
        load_study(write_study(changed(raw_study, "study.seeds", [1, 1])))
    with pytest.raises(ValueError, match=r"study\.yaml: scores: 'nowhere\.yaml' is no file of the repository"):
        load_study(write_study(changed(raw_study, "scores", "nowhere.yaml")))


STUDIES = sorted(path for path in ROOT.glob("config/*.yaml") if path.name != "scores.yaml")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_of_the_repository_loads(path: Path) -> None:
    assert load_study(path, ROOT).cells(["vanilla", "sft", "rl"])


def test_the_grid_is_the_product_of_its_parts(raw_study: RawStudy, write_study: Write) -> None:
    study = load_study(write_study(raw_study))
    assert len(study.cells(["vanilla", "sft", "rl"])) == 2 * 2 * 4 * 2 - 2 * 2  # mine/sft is skipped
    assert not [cell for cell in study.cells(["sft"]) if "/mine/" in cell]
    assert len(study.cells(["rl"])) == 2 * 2 * 2 * 2
    assert "tiny/mine/grpo/seed2" in study.cells(["rl"])


def test_the_last_epoch_is_always_evaluated(raw_study: RawStudy, write_study: Write) -> None:
    study = load_study(write_study(raw_study))  # every 2 of 3, of 4
    assert study.save_epochs("text") == (2, 3)
    assert study.save_epochs("mine") == (2, 4)
    weights = study.evaluate_run("tiny", "text", "grpo", 2).weights
    assert list(weights) == ["2", "3"]
    for epoch, path in weights.items():
        assert path.startswith("results/weights/rl/tiny/text/grpo/seed2/")
        assert path.endswith(f"epoch{epoch}.safetensors")
    assert study.evaluate_run("tiny", "text", "vanilla", 2).weights == {}


# --- runs ------------------------------------------------------------------------------------------------------------

CELL = ("tiny", "text")


def runs(study: Study) -> dict[str, str]:
    """What each job's run.json holds."""
    jobs = {
        "download": study.download_run("repository"),
        "data": study.data_run("text"),
        "mine": study.data_run("mine"),
        "data report": study.data_report_run("text"),
        "preflight": study.preflight_run(*CELL),
        "pretrain": study.pretrain_run("tiny"),
        "base": study.base_run("tiny"),
        "sft": study.sft_run(*CELL, "sft", 1),
        "rl grpo": study.rl_run(*CELL, "grpo", 1),
        "rl rpp": study.rl_run(*CELL, "rpp", 1),
        "evaluate vanilla": study.evaluate_run(*CELL, "vanilla", 1),
        "evaluate grpo": study.evaluate_run(*CELL, "grpo", 1),
        "judge": study.judge_run("evaluate", *CELL, "grpo", 1),
        "scores": study.scores_run(),
        "tables": study.tables_run(),
        "figures": study.figures_run(),
        "report": study.report_run(study),
    }
    return {name: run.canonical_json() for name, run in jobs.items()}


@pytest.mark.parametrize(
    ("path", "value", "touched"),
    [
        ("rl.grpo.epsilon", 0.3, {"rl grpo"}),
        ("rl.rpp.optimizer.learning_rate", 0.5, {"rl rpp"}),
        ("sft.sft.batch_size", 4, {"sft"}),
        ("data.text.problems.seed", 4, {"data"}),
        ("data.text.epochs", 5, {"sft", "rl grpo", "rl rpp", "evaluate grpo"}),
        ("data.text.judge.percent", "hundredth", {"rl grpo", "rl rpp", "judge", "scores"}),
        ("data.mine.problems.train.split", "test", {"mine"}),
        ("prompt.max_pixels", 9999, {"preflight", "sft", "rl grpo", "rl rpp", "evaluate vanilla", "evaluate grpo"}),
        ("download.repository.revision", "main", {"download"}),
        ("base.tiny.noise.slip", 0.3, {"pretrain"}),
        ("evaluate.max_new_tokens", 64, {"evaluate vanilla", "evaluate grpo"}),
        ("scores.reflection_words", ["hm"], {"scores"}),
        ("study.name", "another", {"report"}),
        ("study.seeds", [1, 2, 3], {"scores", "report"}),
    ],
)
def test_a_changed_setting_touches_the_jobs_it_is_about(
    raw_study: RawStudy, write_study: Write, path: str, value: Any, touched: set[str]
) -> None:
    before = runs(load_study(write_study(raw_study)))
    after = runs(load_study(write_study(changed(raw_study, path, value))))
    # The report shows every setting.
    assert {name for name in before if before[name] != after[name]} == touched | {"report"}


def test_the_report_asks_for_the_settings_that_each_job_has_written_down(
    raw_study: RawStudy, write_study: Write
) -> None:
    study = load_study(write_study(raw_study))
    asked = study.report_run(study).runs
    trained = {f"results/{kind}/{cell}" for kind in ("sft", "rl") for cell in study.cells([kind])}
    assert set(asked) == trained | {f"results/evaluate/{cell}" for cell in study.cells()}
    for run in (study.rl_run(*CELL, "grpo", 1), study.evaluate_run(*CELL, "vanilla", 2)):
        assert asked[run.out] == hashlib.sha256(run.canonical_json().encode()).hexdigest()[:12]
        assert digest(json.loads(run.canonical_json() + "\n")) == asked[run.out]
    more = load_study(write_study(changed(raw_study, "resources.rl.minutes", 7)))
    assert more.report_run(more).runs == asked


def test_order_of_keys_changes_no_job(raw_study: RawStudy, write_study: Write) -> None:
    before = runs(load_study(write_study(raw_study)))
    raw_study["rl"]["grpo"] = dict(reversed(raw_study["rl"]["grpo"].items()))
    assert runs(load_study(write_study(raw_study))) == before


@pytest.mark.parametrize("kind", [SFTRun, RLRun, EvaluateRun])
def test_a_run_comes_back_from_its_file(
    raw_study: RawStudy, write_study: Write, tmp_path: Path, kind: type[config.Run]
) -> None:
    study = load_study(write_study(raw_study))
    run = {
        SFTRun: study.sft_run(*CELL, "sft", 1),
        RLRun: study.rl_run(*CELL, "grpo", 1),
        EvaluateRun: study.evaluate_run(*CELL, "grpo", 1),
    }[kind]
    path = tmp_path / "run.json"
    path.write_text(run.canonical_json())
    assert load_run(path, kind) == run


def test_a_run_of_another_job_is_refused(raw_study: RawStudy, write_study: Write, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(load_study(write_study(raw_study)).sft_run(*CELL, "sft", 1).canonical_json())
    with pytest.raises(ValueError, match=rf"{path}: settings\.backward_batch_size: unknown key"):
        load_run(path, RLRun)


# --- no dead settings ------------------------------------------------------------------------------------------------


def settings_classes(kind: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for child in kind.__subclasses__():
        yield child
        yield from settings_classes(child)


def read_names() -> set[str]:
    """Every name that is read as an attribute somewhere in the stages, the Snakefile or its rules."""
    names: set[str] = set()
    for path in ROOT.glob("stages/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
    for path in [ROOT / "Snakefile", *ROOT.glob("workflow/**/*.smk"), *ROOT.glob("workflow/*.py")]:
        if path.exists():
            names.update(re.findall(r"\.(\w+)", path.read_text()))
    return names


# Read by pydantic to choose the class, and by name: getattr(settings, split), getattr(rewards, name), and so bounds.
READ_OTHERWISE = {"source", "reader", "other", "train", "validation", "test", *REWARDS, *ABOUT}


def test_every_setting_is_read() -> None:
    fields = {f"{kind.__name__}.{field}" for kind in settings_classes() for field in kind.model_fields}
    read = read_names() | READ_OTHERWISE
    dead = {field for field in fields if field.split(".")[1] not in read}
    assert not dead


def test_canonical_json_is_what_load_run_reads(raw_study: RawStudy, write_study: Write) -> None:
    text = load_study(write_study(raw_study)).rl_run(*CELL, "grpo", 1).canonical_json()
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(json.loads(text))

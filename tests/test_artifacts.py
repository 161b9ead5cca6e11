"""Which weights are kept, whether results are still what they were, and what dvc.yaml says of the rules."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import verify
from stages.config import Evaluated, Study, WeightsRun, load_study
from stages.evaluation import weights
from stages.records import VerdictRow, append
from stages.sources import files_of_results
from tests.test_score import ROW
from tests.test_workflow import as_yaml
from workflow.dvc import generate, planning, stage
from workflow.dvc.planning import Rule
from workflow.jobs import RULES, jobs, settings
from workflow.running import lock_of_a_dead_one, mark_running

ROOT = Path(__file__).parent.parent
Write = Callable[[dict[str, Any]], Path]

# --- which weights are kept ------------------------------------------------------------------------------------------


def weights_run(folder: Path, right: dict[int, int], epochs: tuple[int, ...] = (), best: bool = True) -> WeightsRun:
    """A run of which `right` of 4 validation problems are right by epoch; in test, and warm, it is the other way."""
    rows = [
        (replace(ROW, run="a/b/c/seed0", split=split, epoch=epoch, setting=setting, problem=str(i), sample=0), correct)
        for epoch, count in right.items()
        for split, setting in (("validation", "cool"), ("validation", "warm"), ("test", "cool"))
        for i in range(4)
        for correct in [(i < count) == (split == "validation" and setting == "cool")]
    ]
    for name in ("answered", "judged", "trained"):
        (folder / name).mkdir(exist_ok=True)
    append(folder / "answered/responses.jsonl", (row for row, _ in rows))
    said = (
        VerdictRow(row.problem, 0, "correct" if correct else "wrong", "1", "1", "1")  # type: ignore[arg-type]
        for row, correct in rows
    )
    append(folder / "judged/verdicts.jsonl", said)
    for epoch in right:
        (folder / f"trained/epoch{epoch}.safetensors").write_bytes(bytes([epoch]))
    return WeightsRun(
        out=str(folder / "kept"),
        trained={str(epoch): str(folder / f"trained/epoch{epoch}.safetensors") for epoch in right},
        epochs=epochs,
        setting="cool",
        best=Evaluated(responses=str(folder / "answered"), verdicts=str(folder / "judged")) if best else None,
    )


@pytest.mark.parametrize(
    ("right", "epochs", "best", "kept"),
    [
        ({2: 1, 4: 3, 10: 2}, (), True, {4: True}),
        ({2: 3, 4: 3, 10: 3}, (10,), True, {2: True, 10: False}),  # the first of equal ones
        ({2: 1, 4: 3, 10: 2}, (4, 10), True, {4: True, 10: False}),
        ({2: 1, 4: 3, 10: 2}, (2, 10), False, {2: False, 10: False}),
    ],
)
def test_the_epochs_that_were_asked_for_and_the_best_are_kept(
    right: dict[int, int], epochs: tuple[int, ...], best: bool, kept: dict[int, bool], tmp_path: Path
) -> None:
    run = weights_run(tmp_path, right, epochs, best)
    (tmp_path / "run.json").write_text(run.canonical_json())
    weights.main(str(tmp_path / "run.json"))
    told = json.loads((tmp_path / "kept/kept.json").read_text())
    assert {int(epoch): one["best"] for epoch, one in told["epochs"].items()} == kept
    for epoch in kept:
        assert told["epochs"][str(epoch)]["validation_accuracy"] == (right[epoch] / 4 if best else None)
        # The same file under another name: nothing lies there twice.
        assert (tmp_path / f"kept/epochs/epoch{epoch}.safetensors").samefile(run.trained[str(epoch)])
    assert len([*(tmp_path / "kept/epochs").iterdir()]) == len(kept)
    assert verify.verify(tmp_path / "kept") == (len(kept), [], [])
    Path(run.trained[str(max(kept))]).write_bytes(b"other")
    assert [line.split(":")[0] for line in verify.verify(tmp_path / "kept")[1]] == [
        str(tmp_path / f"kept/epochs/epoch{max(kept)}.safetensors")
    ]


@pytest.mark.parametrize(
    ("asked", "everything", "some", "epochs"),
    [
        ({"every": 1, "best": False, "last": False}, True, False, (2, 4, 5)),
        ({"every": 2, "best": True, "last": True}, True, False, (2, 4, 5)),
        ({"every": 4, "best": False, "last": False}, False, True, (4,)),
        ({"every": 3, "best": False, "last": False}, False, True, ()),  # of 2, 4 and 5 there is none
        ({"every": None, "best": False, "last": True}, False, True, (5,)),
        ({"every": None, "best": True, "last": False}, False, True, ()),
        ({"every": None, "best": False, "last": False}, False, False, ()),
    ],
)
def test_what_a_study_keeps(
    asked: dict[str, Any],
    everything: bool,
    some: bool,
    epochs: tuple[int, ...],
    raw_study: dict[str, Any],
    write_study: Write,
) -> None:
    raw_study["study"] |= {"keep_weights": asked, "datasets": ["text"], "skip": []}
    raw_study["data"]["text"]["epochs"] = 5
    study = load_study(write_study(raw_study))
    assert (study.keeps_all, study.keeps_some, study.kept_epochs("text")) == (everything, some, epochs)
    place = "results/weights" if everything else "trained"
    assert study.rl_run("given", "text", "grpo", 1).weights == f"{place}/rl/given/text/grpo/seed1/epochs"
    evaluated = study.evaluate_run("given", "text", "grpo", 1).weights
    assert evaluated["5"] == f"{place}/rl/given/text/grpo/seed1/epochs/epoch5.safetensors"


# --- whether results are what they were ------------------------------------------------------------------------------


def results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two jobs, the second made of the first's file."""
    from stages.provenance import hashes, write_provenance

    monkeypatch.chdir(folder)
    for name in ("one", "two"):
        Path("results", name).mkdir(parents=True)
    Path("results/one/rows.jsonl").write_text("1\n2\n")
    write_provenance(Path("results/one"), {})
    write_provenance(Path("results/two"), hashes([Path("results/one/rows.jsonl")]))
    return Path("results/one/rows.jsonl")


def test_a_changed_file_is_named_with_what_was_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = results(tmp_path, monkeypatch)
    assert verify.verify(Path("results")) == (1, [], [])
    rows.write_text("1\n")
    assert verify.verify(Path("results")) == (
        0,
        [f"results/one/rows.jsonl: 2 bytes, not what results/{who}/provenance.json says" for who in ("one", "two")],
        [],
    )
    rows.unlink()
    assert verify.verify(Path("results")) == (0, [], [rows])


@pytest.mark.parametrize("text", ['{"inputs": ', '{"started": 1}', '{"inputs": []}', "[]"])
def test_a_broken_provenance_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results(tmp_path, monkeypatch)
    Path("results/two/provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"^results/two/provenance.json: cannot be read .* was it cut short\?$"):
        verify.verify(Path("results"))


def test_a_folder_without_provenance_is_no_success(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "stages.verify", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert ran.stderr == f"{tmp_path}: no provenance.json below it, so there is nothing to compare with\n"


# --- dvc.yaml --------------------------------------------------------------------------------------------------------


def test_dvc_yaml_is_that_of_the_rules_and_the_lock_has_its_stages() -> None:
    checked = subprocess.run(
        [sys.executable, "workflow/dvc/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    assert lock.keys() == stages.keys()
    for name, of_stage in stages.items():
        assert [out["path"] for out in lock[name]["outs"]] == [path for out in of_stage["outs"] for path in out]
        assert lock[name]["cmd"] == of_stage["cmd"]


def runs_of(rule: str, study: Study, paper: Study) -> set[str]:
    return {settings(study, paper, rule, wildcards).canonical_json() for wildcards in jobs(study, rule)}


def changed(raw: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key of a study with another value."""
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from changed(value, (*path, key))
        elif isinstance(value, bool):
            yield (*path, key), not value
        elif isinstance(value, int | float):
            yield from (((*path, key), other) for other in (value * 2, value + 1, value / 2))
        elif isinstance(value, list) and value:
            yield (*path, key), value[:-1]


def test_a_stage_has_every_key_that_its_runs_depend_on(tmp_path: Path) -> None:
    """Each key is changed in turn: whichever run is another one then, its stage has the key among its parameters."""
    raw = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    raw["study"] |= {"seeds": [0, 1], "keep_weights": {"every": None, "best": True, "last": True}}
    text = as_yaml(raw)
    file = tmp_path / "study.yaml"
    file.write_text(text)
    study, paper = load_study(file, root=ROOT), load_study(ROOT / "config/paper.yaml", root=ROOT)
    keys = {rule: generate.keys_of(Rule(rule), study, paper) for rule in RULES}
    before = {rule: runs_of(rule, study, paper) for rule in RULES}
    seen = set()
    for path, value in changed(yaml.safe_load(text)):
        other = yaml.safe_load(text)
        place = other
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        file.write_text(as_yaml(other))
        try:
            study = load_study(file, root=ROOT)
        except ValueError:
            continue  # no study
        for rule in RULES:
            if runs_of(rule, study, paper) != before[rule]:
                section = ".".join(path[:2]) if path[0] == "study" else path[0]
                assert {section, path[0]} & set(keys[rule]), f"{rule} does not know {'.'.join(path)}"
                seen.add((rule, path[0]))
    assert {("rl", "rl"), ("rl", "data"), ("sft", "sft"), ("data", "data"), ("evaluate", "prompt")} <= seen
    assert len(seen) > 30
    # And no more than that where it would cost a training.
    assert "rl" not in keys["sft"] and "sft" not in keys["rl"] and "evaluate" not in keys["rl"]
    assert keys["data"] == ["data", "study.datasets"]
    assert {"base", "data", "download", "study.models", "study.datasets"} <= {*keys["download"]}
    assert not any("resources" in names for names in keys.values())


def test_a_stage_of_another_study_is_a_command_that_a_shell_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "ROOT", Path("the project"))
    assert shlex.split(generate.command("stage.py", Path("my study.yaml"), "rl")) == [
        "python",
        "the project/workflow/dvc/stage.py",
        "rl",
        "--configfile",
        "my study.yaml",
    ]


def test_a_rule_that_writes_elsewhere_is_refused() -> None:
    rule = Rule("rl", outputs={"results/rl/a/rows.jsonl", "trained/rl/a", "results/weights/rl/a"})
    assert {*generate.folders(rule).values()} == {"results/rl", "results/weights/rl"}
    with pytest.raises(ValueError, match=r"^rule rl writes results/sft/a, which is outside its folder results/rl$"):
        generate.folders(replace(rule, outputs={"results/rl/a", "results/sft/a"}))


def test_code_that_changes_no_result_is_no_dependency() -> None:
    """As for Snakemake: the judge's code trains nothing again."""
    names = {path.relative_to(ROOT).as_posix() for path in files_of_results("stages.rl.train")}
    assert {"stages/rl/algorithms.py", "stages/training/job.py"} <= names
    assert not {"stages/evaluation/answers.py", "stages/report/figures.py", "stages/config/study.py"} & names
    assert files_of_results("stages.model.preflight") == []


def test_a_plan_that_reads_otherwise_is_no_study_without_rules() -> None:
    for said, name in (("Building DAG of jobs...\n", "any"), ("rule rl:\n    output: results/rl/a\n", "rl")):
        with pytest.raises(ValueError, match=rf"could not be read: it tells no command of the rule {name}$"):
            planning.read_rules(said)


def test_what_no_job_writes_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("results/rl/a/seed0/rows.jsonl", "results/rl/a/seed1/rows.jsonl", "results/weights/rl/a/seed0/e/1"):
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(path)
    rule = Rule("rl", outputs={"results/rl/a/seed0/rows.jsonl", "results/weights/rl/a/seed0/e"})
    assert stage.put_aside(rule) == [Path("results/rl/a/seed1/rows.jsonl")]
    (moved,) = Path("aside").glob("*/results/rl/a/seed1/rows.jsonl")
    assert moved.read_text() == "results/rl/a/seed1/rows.jsonl"
    assert stage.put_aside(rule) == []


def test_the_lock_of_a_living_snakemake_is_not_taken_for_a_dead_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    running = mark_running()
    assert not lock_of_a_dead_one()  # there is none
    Path(".snakemake/locks").mkdir()
    Path(".snakemake/locks/0.output.lock").touch()
    assert not lock_of_a_dead_one()
    running.close()
    assert lock_of_a_dead_one()

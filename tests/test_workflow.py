"""The smoke study through every rule, from an empty folder, and what is run again when something changes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from stages.records import read
from stages.sources import code_digest, reached
from workflow.running import mark_running

ROOT = Path(__file__).parent.parent
PARTS = ["Snakefile", "stages", "workflow", "config", "models", "envs", "profiles", "dvc.yaml", "dvc.lock"]


def as_yaml(study: dict[str, Any]) -> str:
    """A study as a file; 5e-4, which PyYAML takes for text, is a number in it."""
    return re.sub(r"'(\d+e-\d+)'", r"\1", yaml.safe_dump(study, sort_keys=False))


class Repository:
    """A copy of the project, to run and to change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)

    def snakemake(
        self, *arguments: str, study: str = "config/smoke.yaml", first: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; `first` is searched for modules before all else."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        modules = os.pathsep.join(str(folder) for folder in (first, self.folder) if folder)
        environment = os.environ | {"PATH": path, "PYTHONPATH": modules}
        command = ["snakemake", "--cores", "2", "--configfile", study, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def started(self, *arguments: str, study: str) -> subprocess.Popen[bytes]:
        """Begin to run it; what it says goes nowhere."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(self.folder)}
        command = ["snakemake", "--cores", "2", "--configfile", study, *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def planned(self, study: str = "config/smoke.yaml") -> dict[str, int]:
        """How many jobs of each rule would run."""
        plan = self.snakemake("--dry-run", study=study)
        assert plan.returncode == 0, plan.stderr + plan.stdout
        table = re.search(r"^Job stats:\n.*\n-.*\n((?:.+\n)+)", plan.stdout + plan.stderr, re.M)
        rows = [line.split() for line in table[1].splitlines()] if table else []
        return {rule: int(count) for rule, count in rows if rule not in ("all", "total")}

    def changed(self, change: dict[str, Any]) -> str:
        """A smoke study with other values, given by dotted path."""
        raw = yaml.safe_load((self.folder / "config/smoke.yaml").read_text())
        for path, value in change.items():
            *parents, key = path.split(".")
            place = raw
            for parent in parents:
                place = place[parent]
            place[key] = value
        (self.folder / "config/changed.yaml").write_text(as_yaml(raw))
        return "config/changed.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository whose smoke study has run."""
    repository = Repository(tmp_path_factory.mktemp("repository"))
    ran = repository.snakemake()
    logs = "\n".join(f"{p}:\n{p.read_text()[-2000:]}" for p in repository.folder.glob("logs/**/*.log"))
    assert ran.returncode == 0, ran.stderr[-5000:] + logs[-10000:]
    return repository


def test_every_rule_has_left_its_files(finished: Repository) -> None:
    results = finished.folder / "results"
    training = {"data", "data_report", "pretrain", "base", "preflight", "sft", "rl", "weights"}
    counting = {"evaluate", "judge", "scores", "tables", "figures", "report"}
    assert {path.name for path in results.iterdir()} == training | counting
    data = json.loads((results / "data_report/geometry_vision/report.json").read_text())
    assert set(data["tokens"]) == {"qwen2_5_vl_tiny", "qwen2_vl_scratch"}
    assert (results / "data_report/geometry_vision/contact_sheet.png").is_file()
    assert "<svg" in (results / "report/report.html").read_text()
    findings = json.loads((results / "scores/findings.json").read_text())
    assert {finding["verdict"] for finding in findings} <= {"supported", "contradicted", "undecided"}
    drawn = {path.stem for path in (results / "figures").glob("*.csv")}
    assert all((results / f"figures/{name}.{form}").is_file() for name in drawn for form in ("png", "svg"))
    grpo = results / "rl/qwen2_vl_scratch/geometry_vision/grpo/seed1"
    assert len(read(grpo / "responses.jsonl")) == 16 * 2 * 2
    weights = results / "weights/rl/qwen2_vl_scratch/geometry_vision/grpo/seed1/epochs"
    assert sorted(path.name for path in weights.iterdir() if path.suffix == ".safetensors") == [
        "epoch1.safetensors",
        "epoch2.safetensors",
    ]
    answered = read(results / "evaluate/qwen2_5_vl_tiny/geometry_vision/sft/seed0/responses.jsonl")
    assert answered.groupby(["epoch", "split", "setting"]).size().to_dict() == {
        (epoch, split, setting): 8 * samples
        for epoch in (1, 2)
        for split in ("validation", "test")
        for setting, samples in (("pass@8 t=1.0", 8), ("pass@1 t=0.6", 1), ("pass@1 t=0.01", 1))
    }
    leftovers = [path for path in results.rglob("*") if "partial" in path.name]
    assert not leftovers
    assert not [path for path in (finished.folder / "checkpoints").rglob("*") if path.is_file()]


def test_a_second_time_nothing_is_done(finished: Repository) -> None:
    assert finished.planned() == {}


def test_nothing_asks_for_dvc_where_it_was_never_initialised(finished: Repository) -> None:
    """Not even results that Snakemake has no record of, as after a copy."""
    records = finished.folder / ".snakemake/metadata"
    records.rename(finished.folder / "elsewhere")
    try:
        plan = finished.snakemake("--dry-run")
        assert plan.returncode == 0 and "Rules with missing metadata" in plan.stdout + plan.stderr
    finally:
        (finished.folder / "elsewhere").rename(records)


def test_looking_beside_a_snakemake_at_work_changes_nothing(
    finished: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    run = Path(RL, "grpo/seed0/run.json")
    study = finished.changed({"rl.grpo.beta_loss": 0.5})
    with mark_running():
        finished.planned(study)
        assert run.is_file()
    finished.planned(study)
    assert not run.exists()  # and comes back with the study
    assert finished.planned() == {} and run.is_file()


def test_snakemakes_own_report_has_figures_table_and_page(finished: Repository) -> None:
    made = finished.snakemake("--report", "report.zip")
    assert made.returncode == 0, made.stderr[-3000:]
    with zipfile.ZipFile(finished.folder / "report.zip") as archive:
        names = " ".join(archive.namelist())
    assert "report.html" in names and "table3.csv" in names and names.count(".svg") >= 2 * 9  # models, kinds of figures


def test_an_rl_setting_runs_rl_again_and_what_follows(finished: Repository) -> None:
    study = finished.changed({"rl.grpo.beta_loss": 0.5})
    assert finished.planned(study) == {
        "rl": 4,  # two models, two seeds
        "evaluate": 4,
        "judge": 8,  # of training and evaluation
        "scores": 1,
        "figures": 1,
        "tables": 1,
        "report": 1,
    }


def test_an_evaluation_setting_trains_nothing_again(finished: Repository) -> None:
    study = finished.changed({"evaluate.max_new_tokens": 16})
    assert set(finished.planned(study)) == {"evaluate", "judge", "scores", "figures", "tables", "report"}


def test_what_schedulers_are_told_runs_nothing_again(finished: Repository) -> None:
    """A run may be gone on with by more processes, on another machine, with states saved less often."""
    rl = {"memory_mb": 3000, "minutes": 9, "nodes": 1, "processes": 2, "sharded": True, "save_every": 7}
    assert finished.planned(finished.changed({"resources.rl": rl})) == {}


RL = "results/rl/qwen2_5_vl_tiny/geometry_vision"


def test_a_job_that_is_told_to_stop_resumes_by_itself(finished: Repository, tmp_path: Path) -> None:
    """SIGTERM, as Slurm sends it, and then SIGKILL; Snakemake tries again, as profiles/slurm has it."""
    study = finished.changed({"data.geometry_vision.epochs": 8})
    target = f"{RL}/grpo/seed0/responses.jsonl"
    undisturbed = finished.snakemake("--directory", str(tmp_path / "undisturbed"), target, study=study)
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    folder = tmp_path / "run"
    running = finished.started("--directory", str(folder), "--retries", "2", target, study=study)
    for number in (signal.SIGTERM, signal.SIGKILL):
        seen = set(folder.glob("checkpoints/**/step*"))
        wait_for(lambda seen=seen: set(folder.glob("checkpoints/**/step*")) - seen)
        (trainer,) = trainers(folder)
        if number == signal.SIGTERM:  # a second Snakemake on the same study says so, and disturbs nothing
            second = finished.snakemake("--directory", str(folder), target, study=study)
            assert second.returncode != 0 and "cannot be locked" in second.stderr + second.stdout
        os.kill(trainer, number)
        wait_for(lambda trainer=trainer: not Path(f"/proc/{trainer}").exists())
    assert running.wait() == 0
    log = (folder / "logs/rl/qwen2_5_vl_tiny/geometry_vision/grpo/seed0.log").read_text()
    assert "resumes after step" in log
    assert (folder / target).read_bytes() == (tmp_path / "undisturbed" / target).read_bytes()
    tries = json.loads((folder / target).with_name("provenance.json").read_text())["tries"]
    assert len(tries) == 3 and 0 == tries[0]["after_step"] < tries[1]["after_step"] < tries[2]["after_step"]
    (state,) = folder.glob("checkpoints/rl/**/step*")  # until its evaluation has taken up the weights
    assert state.name == "step000016"


def wait_for(true: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def trainers(folder: Path) -> list[int]:
    """Processes that train in a working directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(folder) and "stages.rl.train" in (process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def test_several_processes_train_one_run(finished: Repository, tmp_path: Path) -> None:
    """FSDP2 on two processes, started by accelerate as on GPUs; the records are those of the finished study."""
    rl = {"memory_mb": 3000, "minutes": 9, "nodes": 1, "processes": 2, "sharded": True, "save_every": 1}
    target = f"{RL}/grpo/seed0/responses.jsonl"
    study = finished.changed({"resources.rl": rl})
    ran = finished.snakemake("--directory", str(tmp_path / "two"), target, study=study)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (tmp_path / "two" / target).read_bytes() == (finished.folder / target).read_bytes()
    (one,) = json.loads((tmp_path / "two" / target).with_name("provenance.json").read_text())["tries"]
    assert one["processes"] == 2 and one["sharded"]


def test_the_judge_of_a_study_without_rl_samples_nothing_again(finished: Repository) -> None:
    """Its rules are also RL's reward, so with RL they train again; evaluation waits for nothing but responses."""
    only = {"study.methods": ["vanilla", "sft"]}
    rules = {"where": "box", "form": "number", "relative_tolerance": 0.5, "decimals": None, "percent": "unit"}
    plan = finished.planned(finished.changed({**only, "data.geometry_vision.judge": rules}))
    assert plan == {"judge": 8, "scores": 1, "figures": 1, "tables": 1, "report": 1}


def test_a_pixel_budget_is_everybodys(finished: Repository) -> None:
    plan = finished.planned(finished.changed({"prompt.max_pixels": 2048}))
    assert {"preflight", "data_report", "sft", "rl", "evaluate"} <= set(plan) and "data" not in plan
    assert plan["rl"] == 8 and plan["evaluate"] == 16


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("stages/evaluation/answer_text.py", {"judge", "scores", "tables", "figures", "report"}),
        ("stages/evaluation/answer_worker.py", {"judge", "scores", "tables", "figures", "report"}),
        ("stages/model/preflight.py", set()),
    ],
)
def test_code_of_the_judge_samples_and_prepares_nothing_again(finished: Repository, file: str, again: set[str]) -> None:
    """In a study without RL, which it rewards."""
    study = finished.changed({"study.methods": ["vanilla", "sft"]})
    path = finished.folder / file
    source = path.read_text()
    before = set(finished.planned(study))  # fewer methods are other tables
    try:
        path.write_text(source + "\n\nCHANGED = 1\n")
        plan = finished.planned(study)
        assert set(plan) == again | before
        assert plan.get("judge", 0) in (0, 8)
    finally:
        path.write_text(source)


SCORED_AGAIN = {"scores": 1, "tables": 1, "figures": 1, "report": 1}


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("stages/evaluation/answers.py", {"judge": 24} | SCORED_AGAIN),
        ("stages/evaluation/numbers.py", {"judge": 24} | SCORED_AGAIN),
        ("stages/evaluation/metrics.py", SCORED_AGAIN),
        ("stages/evaluation/statistics.py", SCORED_AGAIN),
        ("stages/report/figures.py", {"figures": 1, "report": 1}),
        ("stages/report/gallery.py", {"report": 1}),
    ],
)
def test_a_corrected_judge_or_metric_scores_again_and_trains_nothing(
    finished: Repository, file: str, again: dict[str, int]
) -> None:
    """24 runs are judged: 16 evaluations and 8 RL trainings, which are not rewarded anew."""
    path = finished.folder / file
    source = path.read_text()
    try:
        path.write_text(source + "\n\nCHANGED = 1\n")
        assert finished.planned() == again
    finally:
        path.write_text(source)


def test_a_changed_judge_is_scored_again_without_deep_learning(finished: Repository) -> None:
    """For real, with a judge that calls everything right, where torch and transformers cannot be imported."""
    path = finished.folder / "stages/evaluation/answers.py"
    source = path.read_text()
    no_torch = finished.folder / "no_torch"
    for name in ("torch", "transformers"):
        (no_torch / name).mkdir(parents=True)
        (no_torch / name / "__init__.py").write_text("raise ImportError('scores need no deep learning')")
    changed = source.replace(
        'Verdict("correct" if right else "incorrect"', 'Verdict("correct" if right or True else "incorrect"'
    )
    assert changed != source
    before = pd.read_csv(finished.folder / "results/scores/accuracy.csv")
    trained = sorted((finished.folder / "results/weights/rl").rglob("*.safetensors"))
    assert trained
    times = [weights.stat().st_mtime_ns for weights in trained]
    try:
        path.write_text(changed)
        ran = finished.snakemake(first=no_torch)
        assert ran.returncode == 0, ran.stderr[-5000:]
        after = pd.read_csv(finished.folder / "results/scores/accuracy.csv")
        assert (after["accuracy"] >= before["accuracy"]).all() and after["accuracy"].sum() > before["accuracy"].sum()
        health = pd.read_csv(finished.folder / "results/scores/health.csv").set_index("check")
        assert "suspicious" in set(health.loc["rewarded_otherwise", "verdict"])  # and the page says so
        assert [weights.stat().st_mtime_ns for weights in trained] == times
    finally:
        path.write_text(source)
    assert finished.snakemake().returncode == 0  # and back


def test_the_scheme_scores_again_and_trains_nothing(finished: Repository) -> None:
    path = finished.folder / "config/scores.yaml"
    source = path.read_text()
    try:
        path.write_text(source.replace("replicates: 2000", "replicates: 1000"))
        assert finished.planned() == SCORED_AGAIN
    finally:
        path.write_text(source)


def test_a_new_seed_leaves_the_others_alone(finished: Repository) -> None:
    plan = finished.planned(finished.changed({"study.seeds": [0, 1, 2]}))
    assert (plan["rl"], plan["sft"], plan["evaluate"]) == (4, 2, 8)


def test_scores_alone_are_enough_for_tables_figures_and_page(finished: Repository, tmp_path: Path) -> None:
    """Where nothing else was pulled; but not for a study with other settings than those that were scored."""
    shutil.copytree(finished.folder / "results/scores", tmp_path / "results/scores")
    page = "results/report/report.html"
    rebuilt = ("--directory", str(tmp_path), "--allowed-rules", "tables", "figures", "report", "--", page)
    other = finished.snakemake(*rebuilt, study=finished.changed({"rl.grpo.epsilon": 0.3}))
    assert other.returncode != 0 and not (tmp_path / page).exists()
    told = (tmp_path / "logs/report.log").read_text()
    assert re.match(r"results/scores: results/rl/\S+/grpo/seed0 ran with other settings than the study has now", told)
    ran = finished.snakemake(*rebuilt)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"scores", "tables", "figures", "report"}
    beside, alone = (
        # The study's file has the way to the base models, seen from the working directory.
        re.sub('data:application/yaml;base64,[^"]*', "", (folder / page).read_text(encoding="utf-8"))
        for folder in (finished.folder, tmp_path)
    )
    assert alone == beside


def test_a_comment_is_no_change(finished: Repository) -> None:
    path = finished.folder / "stages/evaluation/metrics.py"
    source = path.read_text()
    try:
        path.write_text(source + "\n\n# only a comment\n")
        assert finished.planned() == {}
    finally:
        path.write_text(source)


def test_a_job_depends_on_all_the_code_it_reaches() -> None:
    # answer_worker is a process of its own, which is named and not imported.
    judge = {"stages.evaluation.answers", "stages.evaluation.answer_worker"}
    assert {"stages.rl.algorithms", "stages.model.vlm"} | judge <= reached("stages.rl.train")
    assert not {"stages.evaluation.metrics", "stages.report.figures"} & reached("stages.rl.train")
    assert judge <= reached("stages.evaluation.judge") and not judge & reached("stages.evaluation.evaluate")
    assert code_digest("stages.rl.train") != code_digest("stages.sft.train")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rl.grpo.epsilom": 0.2}, "rl.grpo.epsilom: unknown key, did you mean 'epsilon'?"),
        ({"rl.grpo.ppo_batch_size": 3}, "rl.grpo: ppo_batch_size=3 must divide the 16 responses"),
        ({"rl.grpo.gamma": "high"}, "rl.grpo.gamma: should be a valid number, not 'high'"),
        ({"study.methods": ["vanilla", "ppo"]}, "study.methods: 'ppo' is not defined (allowed: vanilla, sft, "),
        ({"study.models": ["gpt"]}, "study.models: 'gpt' is not defined (allowed: qwen2_5_vl_tiny"),
        ({"study.datasets": ["cars"]}, "study.datasets: 'cars' is not defined (allowed: geometry_vision)"),
    ],
)
def test_a_mistaken_study_stops_before_anything_runs(
    finished: Repository, change: dict[str, Any], expected: str
) -> None:
    plan = finished.snakemake("--dry-run", study=finished.changed(change))
    assert plan.returncode != 0
    assert f"config/changed.yaml: {expected}" in plan.stderr


def test_a_bad_data_set_stops_before_training(finished: Repository, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id": "a", "question": "x?", "image": "no.png"}\nnot json\n')
    rows = {"reader": "jsonl", "folder": str(tmp_path), "file": "train.jsonl", "take": None}
    problems = {"source": "real", "shuffle": None, "answers": "numeric", "allow_leaks": []}
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    study = finished.changed({"data.geometry_vision.problems": problems | splits})
    ran = finished.snakemake("--directory", str(tmp_path / "run"), study=study)
    assert ran.returncode != 0
    log = (tmp_path / "run/logs/data/geometry_vision.log").read_text()
    assert "/train.jsonl:1: no 'answer'" in log and "/train.jsonl:2: not JSON" in log
    assert not (tmp_path / "run/results/rl").exists()
    assert not list((tmp_path / "run/results/data").rglob("*.jsonl"))

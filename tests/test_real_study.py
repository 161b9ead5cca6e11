"""A study of a hub repository, served on this machine, through every rule from download to report."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from stages.config import GeneratedProblems
from stages.data.prepare import prepare
from stages.data.problem import read_problems
from stages.records import read
from tests.hub import Hub
from tests.test_workflow import Repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CELL = "qwen2_5_vl_tiny/theirs"


def parquet(folder: Path, split: str, **more: str) -> bytes:
    """A split as geometry3k has it; `more` is a further question and its answer."""
    problems = read_problems(folder / f"{split}.jsonl")
    rows = [{"problem": f"<image>{p.question}", "answer": p.answer, "image": p.image} for p in problems]
    rows += [{"problem": question, "answer": answer, "image": problems[0].image} for question, answer in more.items()]
    table = pa.table(
        {
            "images": [[{"bytes": row["image"].read_bytes(), "path": None}] for row in rows],
            "problem": [row["problem"] for row in rows],
            "answer": [row["answer"] for row in rows],
        }
    )
    file = BytesIO()
    write_table(table, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    prepare(GeneratedProblems(source="generated", mode="text", seed=1, train=10, validation=4, test=4), folder)
    return folder


@pytest.fixture
def hub(generated: Path) -> Iterator[Hub]:
    files = {split: parquet(generated, split) for split in ("validation", "test")}
    files["train"] = parquet(generated, "train", **{"Which letter?": "C", "": "7"})
    with Hub("dataset", "them/theirs", {COMMIT: {f"data/{s}-00000.parquet": b for s, b in files.items()}}) as hub:
        yield hub


@pytest.fixture
def repository(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository")


def study(repository: Repository, **changes: Any) -> str:
    """One model, one seed, vanilla and RL, on the hub's problems."""
    splits = {
        split: {"reader": "geometry3k", "folder": "theirs", "split": split, "take": None}
        for split in ("train", "validation", "test")
    }
    download = {"kind": "dataset", "repo": "them/theirs", "revision": COMMIT, "files": ["data/*"], "gigabytes": 0.001}
    problems = {"source": "real", "shuffle": 0, "answers": "numeric", "allow_leaks": [], **splits}
    rules = {"where": "box", "form": "expression", "relative_tolerance": 0.0, "decimals": 2, "percent": "unit"}
    return repository.changed(
        {
            "study.models": ["qwen2_5_vl_tiny"],
            "study.datasets": ["theirs"],
            "study.methods": ["vanilla", "reinforce_plus_plus"],
            "study.seeds": [0],
            "study.keep_weights": {"every": None, "best": True, "last": False},
            "download": {"theirs": download},
            "data": {"theirs": {"epochs": 2, "judge": rules, "problems": problems}},
            "prompt.instruction": "Put it in a box.",
            **changes,
        }
    )


def test_from_the_hub_to_the_report(repository: Repository, hub: Hub) -> None:
    ran = repository.snakemake(study=study(repository))
    logs = "\n".join(f"{p}:\n{p.read_text()[-2000:]}" for p in repository.folder.glob("logs/**/*.log"))
    assert ran.returncode == 0, ran.stderr[-3000:] + logs[-10000:]
    results = repository.folder / "results"
    assert json.loads((results / "download/theirs/download.json").read_text())["commit"] == COMMIT
    rows = json.loads((results / "data_report/theirs/report.json").read_text())["splits"]["train"]
    assert rows["rows"] == {"read": 12, "kept": 10, "taken": 10}
    assert rows["dropped_for"] == {"no number: 'C'": 1, "no question": 1}
    accuracy = pd.read_csv(results / "scores/accuracy.csv")
    assert set(accuracy["problems"]) == {4}
    assert (results / "report/report.html").is_file()
    train = read(results / f"rl/{CELL}/reinforce_plus_plus/seed0/responses.jsonl")
    assert len(train) == 2 * 8 and train["verdict"].notna().all()  # ten problems are one batch of eight
    settings = json.loads((results / f"evaluate/{CELL}/vanilla/seed0/run.json").read_text())
    assert settings["prompt"]["instruction"] == "Put it in a box."
    # The best epoch's weights are kept, the others gone; nothing is missed because of that, nor because the hub is.
    kept = results / f"weights/rl/{CELL}/reinforce_plus_plus/seed0"
    (epoch,) = json.loads((kept / "kept.json").read_text())["epochs"]
    assert [path.name for path in (kept / "epochs").glob("*.safetensors")] == [f"epoch{epoch}.safetensors"]
    assert not list((repository.folder / "trained").rglob("*.safetensors"))
    hub.close()
    assert repository.planned("config/changed.yaml") == {}


def test_what_a_model_cannot_take_stops_before_training(repository: Repository, hub: Hub, generated: Path) -> None:
    marked = {"What does <|image_pad|> mean?": "1"}
    hub.commits[COMMIT]["data/train-00000.parquet"] = parquet(generated, "train", **marked)
    ran = repository.snakemake("--keep-going", study=study(repository))
    assert ran.returncode != 0
    log = (repository.folder / f"logs/preflight/{CELL}.log").read_text()
    assert "train: geometry3k_train_10: its question holds <|image_pad|>" in log
    assert {path.name for path in (repository.folder / "results").iterdir()} <= {
        "download",
        "data",
        "base",
        "preflight",
    }


def test_a_hub_out_of_reach_says_what_to_do(repository: Repository, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as where there is no network
    ran = repository.snakemake(study=study(repository))
    assert ran.returncode != 0 and not hub.asked
    log = (repository.folder / "logs/download/theirs.log").read_text()
    assert f"hf download them/theirs --repo-type dataset --revision {COMMIT} --include 'data/*'" in log
    assert "Traceback" not in log

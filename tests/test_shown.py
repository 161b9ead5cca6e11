"""What scores keep for the page beside numbers: runs, first responses and pictures."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
from PIL import Image

from stages.config import Evaluated
from stages.evaluation import shown
from stages.records import VerdictRow, append
from tests.test_score import ROW


def problems(folder: Path, colour: str, *names: str) -> str:
    """A data set whose picture is called 1.png, as every data set's may be."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), colour).save(folder / "images/1.png")
    rows = [{"id": name, "question": f"{name}?", "answer": "1", "image": "images/1.png"} for name in names]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def evaluated(folder: Path, run: str, *names: str, epochs: tuple[int, ...] = (1,)) -> Evaluated:
    """A run's responses, of which those of the last epoch, setting "cool" and sample 0 say so."""
    part = Evaluated(responses=str(folder / "evaluate" / run), verdicts=str(folder / "judge" / run))
    rows = [
        replace(ROW, run=run, epoch=epoch, setting=setting, problem=name, sample=sample, text=f"{epoch} {sample}")
        for epoch in epochs
        for setting, samples in (("warm", 2), ("cool", 2))
        for name in names
        for sample in range(samples)
    ]
    for path in (part.responses, part.verdicts):
        Path(path).mkdir(parents=True)
    append(Path(part.responses, "responses.jsonl"), rows)
    verdicts = [VerdictRow(row.problem, row.sample, "correct", "1", "1", "1") for row in rows]
    append(Path(part.verdicts, "verdicts.jsonl"), verdicts)
    return part


def test_samples_are_the_first_problems_in_their_files_order_with_the_first_seeds_last_word(tmp_path: Path) -> None:
    data = {name: problems(tmp_path / name, "red", "c", "a", "b") for name in ("text", "vision")}
    parts = [
        evaluated(tmp_path, f"tiny/{dataset}/{method}/seed{seed}", "a", "b", "c", epochs=epochs)
        for dataset in ("vision", "text")
        for method, epochs in (("vanilla", (0,)), ("rl", (10, 2)))
        for seed in (5, 6)
    ]
    found = shown.samples(parts, data, "test", "cool")
    assert list(zip(found["dataset"], found["problem"], found["method"], found["text"], strict=True)) == [
        (dataset, problem, method, text)
        for dataset in ("text", "vision")
        for problem in ("c", "a")
        for method, text in (("vanilla", "0 0"), ("rl", "10 0"))
    ]
    assert set(found["seed"]) == {5} and set(found["setting"]) == {"cool"} and found["correct"].all()
    assert found["question"].tolist()[:3] == ["c?", "c?", "a?"]


def test_pictures_of_one_name_in_two_data_sets_are_two(tmp_path: Path) -> None:
    data = {name: problems(tmp_path / name, colour, "a") for name, colour in (("text", "red"), ("vision", "blue"))}
    parts = [evaluated(tmp_path, f"tiny/{name}/rl/seed1", "a") for name in data]
    (tmp_path / "scores").mkdir()
    shown.write_with_pictures(shown.samples(parts, data, "test", "cool"), tmp_path / "scores/samples.jsonl")
    rows = pd.read_json(tmp_path / "scores/samples.jsonl", lines=True)
    assert {row["dataset"]: (tmp_path / "scores" / row["image"]).read_bytes() for _, row in rows.iterrows()} == {
        name: Path(folder, "images/1.png").read_bytes() for name, folder in data.items()
    }


def test_runs_are_kept_to_the_last_digit_each_training_before_its_evaluation(tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-12, "instruction": "π?"}
    folders = [
        f"{tmp_path}/{stage}/tiny/text/{run}" for run in ("sft/seed1", "sft/seed0") for stage in ("sft", "evaluate")
    ]
    for folder in folders:
        Path(folder).mkdir(parents=True)
        Path(folder, "run.json").write_text(json.dumps(settings))
    Path(folders[0], "provenance.json").write_text('{"seconds": 74.2}')
    shown.write_runs([folders[2], folders[0]], [folders[1], folders[3]], tmp_path / "runs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [row["folder"] for row in rows] == folders
    assert [(row["phase"], row["method"], row["seed"]) for row in rows] == [
        (phase, "sft", seed) for seed in (1, 0) for phase in ("train", "evaluate")
    ]
    assert all(row["settings"] == settings for row in rows)
    assert [row["provenance"] for row in rows] == [{"seconds": 74.2}, {}, {}, {}]

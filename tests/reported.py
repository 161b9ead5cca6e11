"""A study made by hand, as the other stages leave it for the page."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from stages.config import Evaluated, ReportRun, digest
from stages.data.problem import Problem, write_problems
from stages.evaluation import shown
from stages.records import ResponseRow, VerdictRow, append
from tests.conftest import STUDY

RUN = ["model", "dataset", "method", "seed"]
KINDS = {"vanilla": "vanilla", "sft": "sft", "grpo": "rl", "rpp": "rl"}
SPLITS = ("validation", "test")
HOSTILE = "<script>alert('x')</script> & \"quotes\" 5 < 6 \u202e wait, " + "long" * 100 + "\n\n  \\boxed{7}"
SVG = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
     width="300pt" height="100pt" viewBox="0 0 300 100">
 <metadata>when</metadata>
 <defs>
  <style type="text/css">*{stroke-linejoin: round}</style>
  <path id="mark" d="M0 0h5"/>
  <clipPath id="clip"><rect width="300" height="100"/></clipPath>
 </defs>
 <script>alert(1)</script>
 <g id="figure_1" clip-path="url(#clip)" onclick="alert(2)">
  <rect id="patch" width="300" height="100" style="fill: #ffffff"/>
  <path d="M10 90L290 10" style="stroke: #1F2328; stroke-width: 2"/>
  <use xlink:href="#mark" x="20" y="20"/>
 </g>
</svg>
"""


@dataclass(frozen=True)
class Shape:
    """How large the study is; the defaults are the least that has everything."""

    datasets: tuple[str, ...] = ("text",)
    methods: tuple[str, ...] = ("vanilla", "sft", "grpo")
    seeds: tuple[int, ...] = (1, 2)
    epochs: tuple[int, ...] = (2, 4)
    settings: tuple[str, ...] = ("pass@8 t=1.0", "pass@1 t=0.01")
    problems: int = 3
    text: str = HOSTILE

    @property
    def runs(self) -> list[tuple[str, str, str, int]]:
        return list(product(["tiny"], self.datasets, self.methods, self.seeds))

    @property
    def of_rl(self) -> list[tuple[str, str, str, int]]:
        return [run for run in self.runs if KINDS[run[2]] == "rl"]


def write_all(folder: Path, shape: Shape) -> ReportRun:
    """Every file that the page is made of, those that scores are made of beside them, and the run of the page."""
    scores, tables, figures = (folder / name for name in ("scores", "tables", "figures"))
    for path in (scores, tables, figures):
        path.mkdir(parents=True)
    for name, table in score_tables(shape).items():
        table.to_csv(scores / f"{name}.csv", index=False)
    (scores / "methods.json").write_text(json.dumps({method: KINDS[method] for method in shape.methods}))
    (scores / "findings.json").write_text(json.dumps(findings(shape)))
    data = {dataset: str(_data(folder / "data" / dataset, shape)) for dataset in shape.datasets}
    trained = [_job(folder / KINDS[run[2]], run) for run in shape.runs if run[2] != "vanilla"]
    evaluated = [_evaluated(folder, run, shape) for run in shape.runs]
    answered = [part.responses for part in evaluated]
    samples = shown.samples(evaluated, data, "validation", shape.settings[-1])
    shown.write_with_pictures(pd.DataFrame(gallery(shape, data)), scores / "gallery.jsonl")
    shown.write_with_pictures(samples, scores / "samples.jsonl")
    shown.write_runs(trained, answered, scores / "runs.jsonl")
    table3(shape).to_csv(tables / "table3.csv", index=False)
    for dataset, kind in product(shape.datasets, ("accuracy", "training", "words")):
        (figures / f"{kind}_tiny_{dataset}.svg").write_text(SVG)
        pd.DataFrame({"x": range(250), "y": [None, *range(249)]}).to_csv(
            figures / f"{kind}_tiny_{dataset}.csv", index=False
        )
    study = json.loads(json.dumps(STUDY)) | {"scores": SCORES}
    study["study"]["methods"] = list(shape.methods)
    study["study"]["datasets"] = list(shape.datasets)
    study["data"] |= dict.fromkeys(shape.datasets, STUDY["data"]["text"])
    return ReportRun(
        out=str(folder / "report"),
        study="example",
        scores=str(scores),
        tables=str(tables),
        figures=str(figures),
        runs=dict.fromkeys([*trained, *answered], digest(SETTINGS)),
        settings=study,
        paper=paper(study),
    )


SCORES: dict[str, Any] = {
    "reflection_words": ["wait"],
    "whole_words": True,
    "statistics": {"confidence": 0.95, "power": 0.8, "replicates": 200, "seed": 0},
    "findings": {"F1": {"claim": "No key of the comparison with the paper"}},
}


def paper(study: dict[str, Any]) -> dict[str, Any]:
    """A paper's study that differs from it in epsilon, the epochs and the instruction."""
    found: dict[str, Any] = json.loads(json.dumps(study))
    found["rl"] = {"reinforce_plus_plus": found["rl"]["grpo"] | {"epsilon": 0.3}}
    found["prompt"]["instruction"] = "Reason."
    found["data"] = {"mm_math5k": {"epochs": 30}, "geometry3k": {"epochs": 50}}
    return found


# --- scores ----------------------------------------------------------------------------------------------------------


def score_tables(shape: Shape) -> dict[str, pd.DataFrame]:
    """The tables that the page reads, without a row but with columns where a study has no RL."""
    rng = np.random.default_rng(0)
    accuracy, responses, comparisons = [], [], []
    for run in shape.runs:
        epochs = (0,) if run[2] == "vanilla" else shape.epochs
        for epoch, split, (place, setting) in product(epochs, SPLITS, enumerate(shape.settings)):
            value = round(0.3 - 0.08 * place + 0.02 * epoch + float(rng.uniform(-0.03, 0.03)), 3)
            samples = 8 if "@8" in setting else 1
            accuracy.append((*run, split, epoch, setting, samples, 200, value, value, 0.25, 0.0, 0.01, 40.0))
            responses.append((*run, "evaluate", split, epoch, 0, setting, 200 * samples, 40.5, "tokens"))
    for run, step in product(shape.of_rl, range(1, 5)):
        responses.append((*run, "train", "train", 1, step, "train", 100, 50.0, "tokens"))
    for dataset, split, setting in product(shape.datasets, SPLITS, shape.settings):
        for method, over in (("sft", "vanilla"), ("grpo", "vanilla"), ("grpo", "sft")):
            if {method, over} <= set(shape.methods):
                numbers = (0.05, 0.01, 0.09, 0.01, 0.04, 0.02, 2.0, 0.031 if split == "test" else 0.044)
                ends = (len(shape.seeds), len(shape.seeds), 200, "seeds and problems")
                comparisons.append(("tiny", dataset, method, over, split, setting, "final", *numbers, *ends))
    updates = [(*run, 1, step, step, 0.1, 64) for run, step in product(shape.of_rl, range(1, 5))]
    health = [
        (*run, check, value, bound, verdict, f"What {check} says.")
        for run in shape.of_rl
        for check, value, bound, verdict in (
            ("first_ratio", 1e-5, 1e-3, "sound"),
            ("entropy_left", 0.02, 0.1, "suspicious"),
            ("sampler_gap", None, 0.01, "unknown"),
        )
    ]
    changes = [
        (*run, phase, split, 2, setting, 400, 90, 40, 9, 4, 20, 7)
        for run in shape.of_rl
        for phase, split, setting in (("train", "train", "train"), ("evaluate", "test", shape.settings[0]))
    ]
    evaluation = "samples problems accuracy mean_accuracy no_answer timed_out truncated length"
    compared = "difference low high p p_adjusted se df detectable seeds seeds_over problems covers"
    ends = "responses reflective stated wrong_to_right right_to_wrong right_to_right wrong_to_wrong"
    columns = {
        "accuracy": (accuracy, f"split epoch setting {evaluation}"),
        "responses": (responses, "phase split epoch generation_step setting responses length unit"),
        "updates": (updates, "epoch generation_step gradient_step loss tokens"),
        "health": (health, "check value bound verdict about"),
        "changes": (changes, f"phase split epoch setting {ends}"),
    }
    found = {name: pd.DataFrame(rows, columns=[*RUN, *names.split()]) for name, (rows, names) in columns.items()}
    cell = "model dataset method over split setting epoch"
    found["comparisons"] = pd.DataFrame(comparisons, columns=f"{cell} {compared}".split())
    return found


def findings(shape: Shape) -> list[dict[str, Any]]:
    """One finding of each verdict; the undecided one could not be computed."""
    nothing = dict.fromkeys(("effect", "low", "high", "p", "p_adjusted"))
    details = [
        {
            "model": "tiny",
            "dataset": dataset,
            "method": "grpo",
            "over": "sft",
            "setting": setting,
            "effect": 0.06,
            "low": -0.01,
            "high": 0.13,
            "p": 0.04,
            "verdict": "undecided",
            **({"undecided": "a trained method has one seed"} if len(shape.seeds) == 1 else {}),
        }
        for dataset, setting in product(shape.datasets, shape.settings)
    ]
    common = {"source": "Sec. 5", "seeds": len(shape.seeds), "problems": 200, "threshold": 0.0}
    return [
        {
            **common,
            "id": "F3-test",
            "claim": "RL generalises better than SFT, out of distribution",
            "test": "difference",
            "effect": 0.0712,
            "unit": "accuracy",
            "low": 0.02,
            "high": 0.121,
            "p": 0.0004,
            "p_adjusted": 0.004,
            "direction": "above",
            "verdict": "supported",
            "why": "The whole interval lies above 0.",
            "details": details,
        },
        {
            **common,
            "id": "F4",
            "claim": "Reflection is a <minority> behaviour",
            "test": "reflection_share",
            "effect": 0.81,
            "unit": "share",
            "low": 0.77,
            "high": 0.85,
            "p": 0.2,
            "p_adjusted": 0.4,
            "direction": "below",
            "threshold": 0.5,
            "verdict": "contradicted",
            "why": "The whole interval lies above 50 %.",
            "details": [],
        },
        {
            **common,
            **nothing,
            "id": "F1",
            "claim": "Response length is sensitive to the random seed",
            "test": "seed_variance",
            "unit": "ratio",
            "direction": "above",
            "threshold": 1.0,
            "verdict": "undecided",
            "why": "There is one seed.",
            "problems": None,
            "details": [],
        },
    ]


def gallery(shape: Shape, data: dict[str, str]) -> list[dict[str, Any]]:
    """Six changes to the better and one to the worse of every RL run's first data set."""
    begin = shape.text.index("wait")
    return [
        {
            **dict(zip(RUN, run, strict=True)),
            "phase": "train",
            "split": "train",
            "epoch": 1,
            "generation_step": 3,
            "setting": "train",
            "problem": "p_1",
            "sample": 0,
            "change": change,
            "first": "9",
            "wanted": "7",
            "found": "7",
            "text": shape.text,
            "begin": begin,
            "end": begin + len("wait"),
            "question": "Is 5 < 6?",
            "image": f"{data[run[1]]}/images/p_1.png" if rank < 3 else "gone.png",
            "rank": rank,
        }
        for run in shape.of_rl[:1]
        for change, rank in [*(("wrong to right", rank) for rank in range(6, 0, -1)), ("right to wrong", 1)]
    ]


def table3(shape: Shape) -> pd.DataFrame:
    """Table 3: 30 % for Vanilla, SFT 7 points below, RL 12 above."""
    level = {"vanilla": 0.3, "sft": 0.23, "grpo": 0.42, "rpp": 0.42}
    rows = [
        (dataset, "tiny", setting, split, method, statistic, level[method], std, len(shape.seeds), 200)
        for dataset, setting, split, method in product(shape.datasets, shape.settings, SPLITS, shape.methods)
        for statistic in (("base",) if method == "vanilla" else ("mean", "maximum", "final"))
        for std in [None if len(shape.seeds) == 1 else 0.021]
    ]
    names = "dataset model setting split method statistic accuracy std seeds problems"
    return pd.DataFrame(rows, columns=names.split())


# --- files of runs ---------------------------------------------------------------------------------------------------


SETTINGS = {"epochs": 8, "settings": {"optimizer": {"betas": [0.9, 0.95]}, "note": None}}


def _data(folder: Path, shape: Shape) -> Path:
    (folder / "images").mkdir(parents=True)
    problems = []
    for number in range(shape.problems, 0, -1):  # the file's order is not the names'
        image = folder / "images" / f"p_{number}.png"
        Image.new("RGB", (600, 300), "white").save(image)
        problems.append(Problem(f"Is *p_{number}* <b>5 & 6?", "7", "", f"p_{number}", image))
    write_problems(folder / "validation.jsonl", problems)
    return folder


def _job(stage: Path, run: tuple[str, str, str, int]) -> str:
    model, dataset, method, seed = run
    folder = stage / model / dataset / method / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(SETTINGS))
    provenance = {
        "started": "2026-11-27T20:25:44+00:00",
        "seconds": 74.2,
        "hardware": {"processor": "A processor", "cores": 2, "memory_gb": 25.3, "gpus": None},
        "python": "3.12.1",
        "packages": {"torch": "2.9", "glassbox": None},
        "commit": "abc",
        "inputs": {"results/data/train.jsonl": "831b"},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return str(folder)


def _evaluated(folder: Path, run: tuple[str, str, str, int], shape: Shape) -> Evaluated:
    """Two samples a problem; what must not be printed says so in its text."""
    model, dataset, method, seed = run
    responses = Path(_job(folder / "evaluate", run))
    verdicts = folder / "judge" / Path(*map(str, run[:3])) / f"seed{seed}"
    verdicts.mkdir(parents=True)
    epochs = (0,) if method == "vanilla" else shape.epochs
    printed = (max(epochs), shape.settings[-1], 0, shape.seeds[0])
    rows = [
        ResponseRow(
            run=f"{model}/{dataset}/{method}/seed{seed}",
            phase="evaluate",
            split="validation",
            epoch=epoch,
            generation_step=0,
            setting=setting,
            problem=f"p_{number}",
            sample=sample,
            text=shape.text if (epoch, setting, sample, seed) == printed else "another response",
            answer="7",
            length=9,
            finished=True,
            rewards={},
            verdict=None,
            judge=None,
        )
        for epoch, setting in product(epochs, shape.settings)
        for number in range(1, shape.problems + 1)
        for sample in (0, 1)
    ]
    append(responses / "responses.jsonl", rows)
    verdict = "incorrect" if method == "vanilla" else "correct"
    said = [VerdictRow(row.problem, row.sample, verdict, "7", "7", "1") for row in rows]  # type: ignore[arg-type]
    append(verdicts / "verdicts.jsonl", said)
    return Evaluated(responses=str(responses), verdicts=str(verdicts))

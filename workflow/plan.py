"""What a study means, before it runs: runs, responses, updates, checkpoints, memory. Printed when Snakemake starts."""

import json
import subprocess
from pathlib import Path
from typing import Literal

from stages.config import Checkpoint, Study
from stages.model.advice import advice
from stages.model.memory import SIZE, Plan, architecture_of, at_least, least_cache, plans, trained_numbers

GB = 1e9
STATES = 3 * 3  # two kept and one that is being written, each with weights and AdamW's two moments


def plan(study: Study) -> str:
    """A few lines; what is known only after a data set is prepared or a model is downloaded is said to be so."""
    runs = {kind: [cell.split("/") for cell in study.cells([kind])] for kind in ("vanilla", "sft", "rl")}
    grid = study.study
    counts = ", ".join(f"{len(cells)} {kind}" for kind, cells in runs.items())
    lines = [
        f"Study {grid.name}: {sum(map(len, runs.values()))} runs ({counts}); models: {len(grid.models)}, "
        f"data sets: {len(grid.datasets)}, seeds: {len(grid.seeds)}."
    ]
    unknown: set[str] = set()
    trained = updates = answered = 0
    written, size, largest, kept, kept_size = 0, 0.0, 0.0, 0, 0.0
    for kind in runs:
        for model, dataset, method, _ in runs[kind]:
            epochs = study.save_epochs(dataset) if kind != "vanilla" else ()
            for split in study.evaluate.splits:
                problems = _problems(study, dataset, split, unknown)
                samples = sum(setting.samples for setting in study.evaluate.settings.values())
                answered += problems * samples * max(1, len(epochs))
            if kind == "vanilla":
                continue
            of_epoch = _gigabytes(study, model, unknown)
            written += len(epochs)
            size += len(epochs) * of_epoch
            largest = max(largest, len(epochs) * of_epoch)
            kept += _kept(study, dataset)
            kept_size += _kept(study, dataset) * of_epoch
            settings = study.sft[method] if kind == "sft" else study.rl[method]
            problems = _problems(study, dataset, "train", unknown)
            steps = study.data[dataset].epochs * (problems // settings.batch_size)
            updates += steps * (1 if kind == "sft" else study.rl[method].updates)
            trained += steps * study.rl[method].responses if kind == "rl" else 0
    removed = "" if study.keeps_all else f", removed when their run is evaluated: up to {_rounded(largest)} GB a run"
    if study.keeps_some:
        removed += f"; of all of them {kept} are kept, {_rounded(kept_size)} GB"
    lines += [
        f"Responses: {trained:,} in RL training, {answered:,} in evaluation. Optimiser steps: {updates:,}.",
        f"Trained weights: {written} epochs, {_rounded(size)} GB{removed}.",
    ]
    if trained_models := {cell[0] for kind in ("sft", "rl") for cell in runs[kind]}:
        of_one = STATES * max(_trained_gigabytes(study, model, unknown) for model in trained_models)
        lines.append(f"Saved states, to resume from: up to {_rounded(of_one)} GB for each training at work.")
    made, unplanned = plans(study)
    lines += _memory(made)
    unknown |= {f"the memory of {model}" for model in unplanned}
    if study.download:
        fetched = sum(download.gigabytes for download in study.download.values())
        lines.append(f"Downloads: {', '.join(study.download)}: about {_rounded(fetched)} GB.")
        moving = [name for name, download in study.download.items() if not download.is_pinned]
        if moving:
            lines.append(f"Not pinned to a commit, so the files may change: download.{', download.'.join(moving)}.")
    if study.collector.engine == "vllm" and not _jobs_have("vllm"):
        lines.append("Not installed here: vLLM, which collector.engine asks for; the jobs will need it (docs/vllm.md).")
    if unknown:
        lines.append(f"Not counted, because it is not known yet: {', '.join(sorted(unknown))}.")
    return "\n".join(lines)


def _jobs_have(package: str) -> bool:
    """Whether the python that jobs are started with finds a package."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run(["python", "-c", look], check=False).returncode == 0


def too_large(study: Study, path: str | Path) -> list[str]:
    """A line for every job that cannot fit, and the planner's advice; empty if all fit, as far as is known.

    Args:
        study: what is planned.
        path: its file.
    """
    on_gpu = study.compute.device == "cuda"
    lines = []
    memory = study.resources.memory
    for made in plans(study)[0]:
        setup = made.setup
        if setup.engine == "vllm" and setup.stage != "sft" and memory.kv_cache_mb < (least := least_cache(setup)):
            lines.append(
                f"{path}: resources.memory.kv_cache_mb: {memory.kv_cache_mb}, but one response of {_name(made)} "
                f"takes {least} MB (allowed: as much, or more)"
            )
        if at_least(made).fits:
            continue
        stage = setup.stage
        job = getattr(study.resources, stage)
        key, value = ("memory.gpu_mb", memory.gpu_mb) if on_gpu else (f"{stage}.memory_mb", job.memory_mb)
        on_a_node = 1 if on_gpu else made.setup.processes // getattr(job, "nodes", 1)
        lines.append(
            f"{path}: resources.{key}: {value}, but {_name(made)} takes {made.peak * on_a_node // 10**6} MB "
            f"(allowed: as much, or settings that take less)\n{advice(made.setup)}"
        )
    return lines


def _memory(made: list[Plan]) -> list[str]:
    """A line a stage, of its largest job."""
    lines = []
    for stage in ("sft", "rl", "evaluate"):
        if of_stage := [plan for plan in made if plan.setup.stage == stage]:
            largest = max(of_stage, key=lambda plan: plan.peak)
            limit = f" of {_rounded(largest.setup.limit / GB)} GB" if largest.setup.limit else ""
            guessed = "" if largest.setup.lengths.measured else ", prompts of 512 tokens of text assumed"
            lines.append(f"Memory of each process: {_name(largest)} {_rounded(largest.peak / GB)} GB{limit}{guessed}.")
    return lines


def _name(made: Plan) -> str:
    return " ".join(part for part in (made.setup.stage, made.setup.method, made.setup.model) if part)


def _kept(study: Study, dataset: str) -> int:
    """Epochs of a run whose weights are kept: at most, where the best may be one of the others."""
    epochs = study.kept_epochs(dataset)
    return len(epochs) + (study.study.keep_weights.best and epochs != study.save_epochs(dataset))


def _rounded(gigabytes: float) -> str:
    return f"{gigabytes:,.0f}" if gigabytes >= 100 else f"{gigabytes:.2g}"


def _problems(study: Study, dataset: str, split: Literal["train", "validation", "test"], unknown: set[str]) -> int:
    """Problems of a split: as the study says, or as they were when it was prepared."""
    count = study.rows(dataset, split)
    prepared = Path(study.data_run(dataset).out, "rows.json")
    if count is None and prepared.is_file():
        count = json.loads(prepared.read_text(encoding="utf-8"))["splits"][split]["taken"]
    if count is None:
        unknown.add(f"the problems of {dataset}/{split}")
    return count or 0


def _trained_gigabytes(study: Study, model: str, unknown: set[str]) -> float:
    """Of the trained weights as the learner keeps them, or else as the base is."""
    if (architecture := architecture_of(study, model)) is None:
        return _gigabytes(study, model, unknown)
    return trained_numbers(architecture, study.learner.lora) * SIZE[study.learner.dtype] / GB


def _gigabytes(study: Study, model: str, unknown: set[str]) -> float:
    """Of one epoch's weights: at most those of the base."""
    base = study.base[model]
    folder = Path(study.base_run(model).checkpoint)
    found = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / GB
    if not found and isinstance(base, Checkpoint) and folder.name in study.download:
        return study.download[folder.name].gigabytes
    if not found:
        unknown.add(f"the size of {model}")
    return found

"""What a study means, before it runs: runs, responses, updates, checkpoints. Printed when Snakemake starts."""

import json
from pathlib import Path
from typing import Literal

from stages.config import Checkpoint, Study

GB = 1e9
STATES = 9  # two kept and one that is being written, each with weights and AdamW's two moments


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
        of_one = STATES * max(_gigabytes(study, model, unknown) for model in trained_models)
        lines.append(f"Saved states, to resume from: up to {_rounded(of_one)} GB for each training at work.")
    if study.download:
        fetched = sum(download.gigabytes for download in study.download.values())
        lines.append(f"Downloads: {', '.join(study.download)}: about {_rounded(fetched)} GB.")
        moving = [name for name, download in study.download.items() if not download.is_pinned]
        if moving:
            lines.append(f"Not pinned to a commit, so the files may change: download.{', download.'.join(moving)}.")
    if unknown:
        lines.append(f"Not counted, because it is not known yet: {', '.join(sorted(unknown))}.")
    return "\n".join(lines)


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

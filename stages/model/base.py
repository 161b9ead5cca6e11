"""Bring a base model to its place, checked: `python -m stages.model.base RUN.json`.

Writes checkpoint/ (the files of a folder that `save_pretrained` or the hub wrote) and base.json, their hashes.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from stages.config import BaseRun, load_run
from stages.files import link_or_copy, sha256, whole_folder
from stages.model.processor import ImageOnlyProcessor

FILES = (
    "config.json",
    "model.safetensors|model.safetensors.index.json",
    "preprocessor_config.json|processor_config.json",
    "tokenizer.json",
)
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
INDEX = "model.safetensors.index.json"


def check(folder: Path) -> None:
    """A whole checkpoint folder of a family that this study knows, whose tokenizer fits its weights.

    Raises:
        ValueError: it is not one; all that is missing is named.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if (folder / "config.json").is_file():
        _check_family(folder / "config.json")
    missing = [name for name in FILES if not any((folder / part).is_file() for part in name.split("|"))]
    if missing:
        raise ValueError(
            f"{folder}: not a checkpoint, it has no {', no '.join(missing).replace('|', ' or ')}; "
            "give a folder that save_pretrained of model and processor wrote"
        )
    _check_weights(folder)
    config = AutoConfig.from_pretrained(folder)
    processor = ImageOnlyProcessor.from_pretrained(folder)
    if config.image_token_id != processor.image_token_id:
        raise ValueError(
            f"{folder}: config.json says image_token_id={config.image_token_id}, the tokenizer "
            f"{processor.image_token_id}: not of one model"
        )


def _check_family(path: Path) -> None:
    try:
        family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise ValueError(f"{path}: not a JSON object; fetch it again") from None
    if family not in FAMILIES:
        raise ValueError(f"{path}: model_type {family!r} (allowed: {', '.join(FAMILIES)})")


def _check_weights(folder: Path) -> None:
    parts = weight_files(folder)
    if gone := [name for name in parts if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: no {', no '.join(gone)}, which {INDEX} asks for; fetch them again")
    for name, asked in parts.items():
        try:
            with safe_open(folder / name, framework="np") as weights:
                held = set(weights.keys())
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / name}: not whole ({error}); fetch it again") from None
        if absent := sorted(asked - held):
            raise ValueError(f"{folder / name}: no {absent[0]}, which {INDEX} says is in it; fetch both again")


def weight_files(folder: Path) -> dict[str, set[str]]:
    """The files that hold a checkpoint's weights, and what its index says is in each; a single file has no index.

    Raises:
        ValueError: the index cannot be read.
    """
    index = folder / INDEX
    if not index.is_file():
        return {"model.safetensors": set()}
    try:
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{index}: not an index of weights, it has no weight_map; fetch it again") from None
    return {part: {name for name in where if where[name] == part} for part in sorted(set(where.values()))}


def main(path: str) -> None:
    run = load_run(path, BaseRun)
    checkpoint = Path(run.checkpoint)
    try:
        check(checkpoint)
    except ValueError as mistake:
        sys.exit(f"base.{run.model}: {mistake}")
    with whole_folder(Path(run.out)) as folder:
        target = folder / "checkpoint"
        target.mkdir()
        files = [file for file in sorted(checkpoint.iterdir()) if file.is_file() and not file.name.startswith(".")]
        # A download is the workflow's own and may be large; what is somebody's may be changed under our hands.
        bring = link_or_copy if (checkpoint / "download.json").is_file() else shutil.copyfile
        for file in files:
            bring(file, target / file.name)
        base = {"checkpoint": run.checkpoint, "sha256": {file.name: sha256(target / file.name) for file in files}}
        (folder / "base.json").write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

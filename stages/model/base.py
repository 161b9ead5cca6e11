"""Bring a base model to its place, checked: `python -m stages.model.base RUN.json`.

Writes checkpoint/ (the files of a folder that `save_pretrained` or the hub wrote) and base.json, their hashes.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2VLConfig

from stages.config import BaseRun, load_run
from stages.files import link_or_copy, sha256, whole_folder
from stages.model.processor import ImageOnlyProcessor

FILES = (
    "config.json",
    "model.safetensors|model.safetensors.index.json",
    "preprocessor_config.json|processor_config.json",
    "tokenizer.json",
)
CLASSES = (Qwen2_5_VLConfig, Qwen2VLConfig)


def check(folder: Path) -> None:
    """A checkpoint folder of a class that this study knows, whose tokenizer fits its weights.

    Raises:
        ValueError: it is not one; all that is missing is named.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    missing = [name for name in FILES if not any((folder / part).is_file() for part in name.split("|"))]
    if missing:
        raise ValueError(
            f"{folder}: not a checkpoint, it has no {', no '.join(missing).replace('|', ' or ')}; "
            "give a folder that save_pretrained of model and processor wrote"
        )
    for weights in weight_files(folder):
        try:
            with safe_open(weights, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{weights}: not whole ({error}); fetch it again") from None
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, CLASSES):
        allowed = ", ".join(kind.model_type for kind in CLASSES)
        raise ValueError(f"{folder}/config.json: model_type {config.model_type!r} (allowed: {allowed})")
    processor = ImageOnlyProcessor.from_pretrained(folder, backend="pil")
    if config.image_token_id != processor.image_token_id:
        raise ValueError(
            f"{folder}: config.json says image_token_id={config.image_token_id}, the tokenizer "
            f"{processor.image_token_id}: not of one model"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: one, or the parts that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    parts: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(parts.values()))]


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

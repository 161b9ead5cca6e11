"""Bring a base model to its place, checked: `python -m stages.model.base RUN.json`."""

import json
import shutil
import sys
from pathlib import Path

from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLConfig, Qwen2VLConfig

from stages.config import BaseRun, load_run
from stages.files import sha256, whole_folder
from stages.model.processor import register

FILES = ("config.json", "model.safetensors", "preprocessor_config.json|processor_config.json", "tokenizer.json")
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
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, CLASSES):
        allowed = ", ".join(kind.model_type for kind in CLASSES)
        raise ValueError(f"{folder}/config.json: model_type {config.model_type!r} (allowed: {allowed})")
    register()
    processor = AutoProcessor.from_pretrained(folder)
    if config.image_token_id != processor.image_token_id:
        raise ValueError(
            f"{folder}: config.json says image_token_id={config.image_token_id}, the tokenizer "
            f"{processor.image_token_id}: not of one model"
        )


def main(path: str) -> None:
    run = load_run(path, BaseRun)
    checkpoint = Path(run.checkpoint)
    try:
        check(checkpoint)
    except ValueError as mistake:
        sys.exit(f"base.{run.model}: {mistake}")
    with whole_folder(Path(run.out)) as folder:
        for file in sorted(checkpoint.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                shutil.copyfile(file, folder / file.name)
        base = {"checkpoint": run.checkpoint, "sha256": sha256(folder / "model.safetensors")}
        (folder / "base.json").write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

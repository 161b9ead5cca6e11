"""Do real problems go through every rule? `python benchmarks/real_data.py`, where the data lies beside the project.

Runs the study of real_data.yaml in a new folder, and prints for each data set its rows, tokens, and verdicts.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        study = ["--configfile", str(HERE / "real_data.yaml"), "--directory", folder]
        subprocess.run(["snakemake", "--cores", "all", *study], check=True, cwd=HERE.parent)
        results = Path(folder, "results")
        table = pd.DataFrame([account(path, results) for path in sorted(results.glob("data_report/*/report.json"))])
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes")
    print(table.to_markdown(index=False))


def account(path: Path, results: Path) -> dict[str, object]:
    """One data set in a row: problems and dropped rows of all splits, longest prompts, and what the judge said."""
    report = json.loads(path.read_text(encoding="utf-8"))
    splits = report["splits"].values()
    (tokens,) = report["tokens"].values()
    verdicts = pd.concat(
        pd.read_json(file, lines=True, dtype=False)
        for file in results.glob(f"judge/evaluate/*/{report['dataset']}/*/*/verdicts.jsonl")
    )
    said = verdicts["verdict"].value_counts()
    return {
        "data set": report["dataset"],
        "train / validation / test": " / ".join(str(split["rows"]["taken"]) for split in splits),
        "dropped": sum(len(split["dropped"]) for split in splits),
        "leaks": sum(report["duplicates"]["across_splits"].values()),
        "prompt tokens, longest": max(split["max"] for split in tokens["prompt_tokens"].values()),
        "image tokens, longest": max(split["max"] for split in tokens["image_tokens"].values()),
        "responses judged": len(verdicts),
        "correct": int(said.get("correct", 0)),
        "no answer": int(said.get("no answer", 0)),
        "timed out": int(said.get("timed out", 0)),
    }


if __name__ == "__main__":
    main()

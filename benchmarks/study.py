"""How long a study takes and how much memory its jobs need: `python benchmarks/study.py config/config.yaml`.

Runs the whole study in a new folder, and prints the wall-clock time, then for each rule its jobs, their median time
and the largest memory that one of them used (as Snakemake's `benchmark:` measured it).
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="its settings, a file of config/")
    study = parser.parse_args().study
    if not study.is_file():
        parser.error(f"{study} is not there")
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        subprocess.run(["snakemake", "--cores", "all", "--configfile", str(study), "--directory", folder], check=True)
        wall = time.monotonic() - start
        jobs = measured(Path(folder))
    table = jobs.groupby("rule").agg(jobs=("s", "size"), median_s=("s", "median"), peak_mb=("max_rss", "max"))
    print(f"\n{study}: {wall / 60:.1f} minutes, {jobs.s.sum() / 60:.1f} minutes of jobs")
    print(table.sort_values("median_s", ascending=False).round(1).to_string())


def measured(folder: Path) -> pd.DataFrame:
    """One row a job: rule, seconds (s), resident memory in MB (max_rss).

    Raises:
        ValueError: there is nothing.
    """
    root = folder / "logs" / "benchmarks"
    tables = []
    for path in sorted(root.rglob("*.tsv")):
        rule = path.relative_to(root).parts[0].removesuffix(".tsv")
        tables.append(pd.read_csv(path, sep="\t").assign(rule=rule))
    if not tables:
        raise ValueError(f"{root}: nothing was measured there; is this the working directory of a study?")
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    main()

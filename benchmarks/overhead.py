"""What the workflow itself costs, before any job works: `python benchmarks/overhead.py [rule] [start] [runs]`.

    rule    studies of 1, 20 and 40 rules that only touch a file, written as the project's rules are (log, benchmark,
            parameters), with its profile, on one core: seconds a rule, by the slope
    start   `snakemake --dry-run` of config/smoke.yaml, in turn with one of a Snakefile of a single rule, which is what
            Snakemake takes for itself
    runs    `snakemake --dry-run` of config/paper.yaml with more seeds, until there are 1,000 runs of a model: at most
            60 seconds, or `--profile` prints which functions take them

All in new folders, medians over turns. Prints, and writes benchmarks/results/overhead.json. What a job's imports cost:
benchmarks/start.py.
"""

import argparse
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.common import chosen, keep, positive
from stages.config import load_study
from stages.provenance import hardware, package_versions

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "overhead.json"
PARTS = ("rule", "start", "runs")
MOST = 60.0  # seconds, for the dry run of a large study
RULE = """
rule r{i}:
    output: "results/{i}.txt"
    log: "logs/{i}.log"
    benchmark: "logs/benchmarks/{i}.tsv"
    params: run="{{}}"
    threads: 1
    resources: mem_mb=10, runtime=1
    shell: "touch {{output}} > {{log}} 2>&1"
"""


def seconds(folder: Path, *arguments: str | Path) -> float:
    """Of a Snakemake in a folder, with the project's profile."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--workflow-profile", str(ROOT / "profiles/default")]
    start = time.perf_counter()
    found = subprocess.run(
        [*command, "--directory", folder, *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    took = time.perf_counter() - start
    if found.returncode:
        sys.exit(f"{' '.join(command)}\n{found.stdout}{found.stderr}")
    return took


def idle(folder: Path, rules: int) -> Path:
    """A Snakefile of so many rules that do nothing, in a folder of its own."""
    folder.mkdir()
    made = folder / "Snakefile"
    wanted = ", ".join(f'"results/{i}.txt"' for i in range(rules))
    made.write_text(f"rule all:\n    input: {wanted}\n" + "".join(RULE.format(i=i) for i in range(rules)))
    return made


def of_a_rule(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of studies of few and many rules, and the slope."""
    took: dict[int, list[float]] = {rules: [] for rules in given.rules}
    for turn in range(given.turns):
        for rules, found in took.items():
            snakefile = idle(folder / f"rules{rules}-{turn}", rules)
            found.append(seconds(snakefile.parent, "--snakefile", snakefile))
            say(f"{rules} rules that do nothing: {found[-1]:.2f} s")
    medians = {rules: statistics.median(found) for rules, found in took.items()}
    slopes = [slope({rules: found[turn] for rules, found in took.items()}) for turn in range(given.turns)]
    print(f"a rule: {slope(medians):.3f} s (of each turn {min(slopes):.3f} to {max(slopes):.3f})", flush=True)
    return {"rules": medians, "seconds_a_rule": slope(medians), "of_turns": slopes}


def slope(points: dict[int, float]) -> float:
    """By least squares."""
    return float(np.polyfit([*points], [*points.values()], 1)[0])


def of_the_start(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of dry runs of the smoke study, and of a single rule."""
    smoke, single = [], []
    one = idle(folder / "single", 1)
    (folder / "smoke").mkdir()
    for _ in range(given.turns):
        smoke.append(planned(folder / "smoke", ROOT / "config/smoke.yaml"))
        single.append(seconds(one.parent, "--snakefile", one, "--dry-run"))
        say(f"smoke study: {smoke[-1]:.2f} s, a single rule: {single[-1]:.2f} s")
    found = {"smoke": statistics.median(smoke), "single_rule": statistics.median(single)}
    print(f"start: {found['smoke']:.2f} s, of which Snakemake {found['single_rule']:.2f} s", flush=True)
    return found


def planned(folder: Path, study: Path) -> float:
    """Seconds of a dry run of a study."""
    return seconds(folder, "--snakefile", ROOT / "Snakefile", "--configfile", study, "--dry-run")


def larger(folder: Path, runs: int) -> Path:
    """The paper's study with at least so many runs, by more seeds."""
    paper = ROOT / "config/paper.yaml"
    read = load_study(paper, root=ROOT)
    seeds = -(-runs * len(read.study.seeds) // len(read.cells()))
    lines = paper.read_text(encoding="utf-8").splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.strip().startswith("seeds:"))
    lines[place] = f"  seeds: {yaml.safe_dump([*range(seeds)], default_flow_style=True, width=10**6).strip()}"
    made = folder / f"paper{runs}.yaml"
    made.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


def of_many_runs(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of a dry run of a large study."""
    study = larger(folder, given.runs)
    runs = len(load_study(study, root=ROOT).cells())
    took = []
    for turn in range(given.turns):
        place = folder / f"runs{turn}"
        place.mkdir()
        took.append(planned(place, study))
        say(f"{runs} runs: {took[-1]:.1f} s")
    found = statistics.median(took)
    verdict = "enough" if found <= MOST else f"more than {MOST:.0f} s"
    print(f"a dry run of {runs} runs: {found:.1f} s ({verdict})", flush=True)
    if given.profile:
        profiled(folder, study)
    return {"runs": runs, "seconds": found, "most": MOST}


def profiled(folder: Path, study: Path) -> None:
    """Print which functions a dry run spends its time in."""
    kept = folder / "profile"
    profiler = [sys.executable, "-m", "cProfile", "-o", str(kept), "-m", "snakemake", "--cores", "1", "--dry-run"]
    place = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(study), "--directory", str(folder)]
    subprocess.run([*profiler, *place], check=True, cwd=folder, capture_output=True)
    pstats.Stats(str(kept)).sort_stats("cumulative").print_stats(60)


def say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--turns", type=positive, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--rules", type=positive, nargs="+", default=[1, 20, 40], help="of the studies that do nothing")
    parser.add_argument("--runs", type=positive, default=1000, help="of the large study")
    parser.add_argument("--profile", action="store_true", help="of the large study's dry run")
    given = parser.parse_args()
    if len(set(given.rules)) < 2:
        parser.error("--rules: at least two, for a slope")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ways = {"rule": of_a_rule, "start": of_the_start, "runs": of_many_runs}
    about = {"machine": hardware() | package_versions("snakemake"), "turns": given.turns}
    for part in chosen(parser, given.parts, PARTS):
        with tempfile.TemporaryDirectory() as folder:
            keep(given.out, {part: about | ways[part](given, Path(folder))})


if __name__ == "__main__":
    main()

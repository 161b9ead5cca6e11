"""Does anything get lost when jobs die? `python benchmarks/soak.py [--runs 30] [--kills 6] [--study FILE]`.

Runs a study undisturbed, then again and again in new folders while processes of it are killed (SIGKILL, SIGTERM; jobs
and the driver) and saved states are damaged at random moments; each is started anew until it ends. Then every record,
weight and table is compared with the undisturbed one's. Last, a training of some hundred steps shows whether its memory
grows. Everything is random, but the same for the same --seed up to the machine's speed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import psutil
import yaml

from stages.files import sha256

ROOT = Path(__file__).parent.parent
LONG = {"stages.sft.train", "stages.rl.train", "stages.evaluation.evaluate"}  # killed more often than the rest
GROWTH = 2.0  # MB in 100 steps: more than the allocator's ups and downs
COMPARED = ("*.jsonl", "*.safetensors", "*.csv")


@dataclass
class Tally:
    """What happened in all runs."""

    runs: int = 0
    starts: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    lost: int = 0
    doubled: int = 0
    files: int = 0
    differing: list[str] = field(default_factory=list)


def started(study: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Snakemake on a study in a folder; in a session of its own, so that it can be found with all that it starts."""
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "all", "--configfile", str(study)]
    command += ["--directory", str(folder), "--workflow-profile", str(ROOT / "profiles/default"), "--quiet", "all"]
    with (folder / "snakemake.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def unlocked(study: Path, folder: Path) -> None:
    """A driver that was killed leaves its lock."""
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--unlock", "--configfile", str(study)]
    subprocess.run([*command, "--directory", str(folder)], cwd=ROOT, check=True, capture_output=True)


def disturbed(study: Path, folder: Path, kills: int, chance: Random, tally: Tally) -> None:
    """A study from start to end, whatever happens to it on the way."""
    left = kills
    while True:
        tally.starts += 1
        driver, struck_before = started(study, folder), left
        while left and driver.poll() is None:
            time.sleep(chance.uniform(3, 12))
            left -= struck(driver, chance, tally)
        status = driver.wait()
        if status == 0:
            return
        if left == struck_before:
            sys.exit(f"{folder} failed by itself:\n{(folder / 'snakemake.log').read_text()[-3000:]}")
        unlocked(study, folder)
        if chance.random() < 0.5:
            damaged(folder, chance, tally)


def struck(driver: subprocess.Popen[bytes], chance: Random, tally: Tally) -> int:
    """Kill one process of a study, a job's more often than the driver; 1 if there was one."""
    if driver.poll() is not None:
        return 0
    jobs = {job: name for job in psutil.Process(driver.pid).children(recursive=True) if (name := stage_of(job))}
    if chance.random() < 0.15:
        shot(driver.pid, signal.SIGKILL, "driver", tally)
        for job in (job for job, name in jobs.items() if name not in LONG):
            job.kill()  # a training goes on alone instead, and the next one waits for it
        return 1
    if not jobs:
        return 0
    long = [job for job, name in jobs.items() if name in LONG]
    job = chance.choice(long if long and chance.random() < 0.8 else list(jobs))
    number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    return shot(job.pid, number, jobs[job], tally)


def shot(process: int, number: signal.Signals, name: str, tally: Tally) -> int:
    """Send a signal; 1 if the process was still there."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return 0
    tally.kills[f"{number.name} {name}"] += 1
    return 1


def stage_of(job: psutil.Process) -> str | None:
    """The module of this project that a process runs; None for another, or a judge's worker, which heeds no SIGTERM."""
    try:
        named = [part for part in job.cmdline() if part.startswith("stages.") and part != "stages.launch"]
    except psutil.Error:
        return None
    return named[0] if named and named[0] != "stages.evaluation.answer_worker" else None


def damaged(folder: Path, chance: Random, tally: Tally) -> None:
    """Tear the last of a job's states, as a dying disk would."""
    jobs = sorted({state.parent for state in folder.glob("checkpoints/**/step*")})
    if not jobs:
        return
    state = max(chance.choice(jobs).glob("step*"))
    file = chance.choice(sorted(state.iterdir()))
    what = chance.choice(["cut", "changed", "removed"])
    content = file.read_bytes()
    if what == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif what == "changed":
        at = chance.randrange(len(content))
        file.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    else:
        file.unlink()
    tally.faults[f"{'state.json' if file.name == 'state.json' else 'tensors'} {what}"] += 1


def compared(folder: Path, expected: Path, tally: Tally) -> None:
    """Count rows that are missing or there too often, files whose bytes differ, and tries that resumed."""
    for provenance in folder.glob("results/**/provenance.json"):
        tries = json.loads(provenance.read_text()).get("tries", [])
        tally.resumed += sum(one["after_step"] > 0 for one in tries)
    for name in sorted(kept(folder) | kept(expected)):
        tally.files += 1
        found, wanted = folder / name, expected / name
        if name.suffix == ".jsonl":
            rows, others = rows_of(found), rows_of(wanted)
            tally.lost += (others - rows).total()
            tally.doubled += sum(count - others[row] for row, count in rows.items() if count > others[row] > 0)
        if not (found.exists() and wanted.exists() and sha256(found) == sha256(wanted)):
            tally.differing.append(str(name))


def kept(folder: Path) -> set[Path]:
    """The records, weights and tables of a study."""
    return {path.relative_to(folder) for form in COMPARED for path in (folder / "results").rglob(form)}


def rows_of(path: Path) -> Counter[str]:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def memory(study: Path, folder: Path, steps: int) -> tuple[float, float]:
    """MB that an RL training holds, and by how many this grows in 100 generation steps, the first third left out."""
    raw = yaml.safe_load(study.read_text())
    dataset, method = raw["study"]["datasets"][0], next(iter(raw["rl"]))
    per_epoch = raw["data"][dataset]["problems"]["train"] // raw["rl"][method]["batch_size"]
    raw["data"][dataset]["epochs"] = -(-steps // per_epoch)
    raw["study"] |= {"evaluate_every": 10_000}
    raw["resources"]["rl"]["save_every"] = 10
    path = folder / "memory.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    cell = f"{raw['study']['models'][0]}/{dataset}/{method}/seed{raw['study']['seeds'][0]}"
    command = ["snakemake", "--cores", "1", "--configfile", str(path), "--directory", str(folder), "--quiet", "all"]
    driver = subprocess.Popen([*command, "--", f"results/rl/{cell}/updates.jsonl"], cwd=ROOT)
    seen: list[tuple[int, float]] = []
    while driver.poll() is None:
        time.sleep(0.5)
        rows = next(iter(folder.glob(f"checkpoints/rl/{cell}/*/records/updates.jsonl")), None)
        for job in psutil.Process(driver.pid).children(recursive=True):
            try:
                if rows and "stages.rl.train" in job.cmdline():
                    last = rows.read_text().splitlines()[-1]
                    seen.append((json.loads(last)["generation_step"], job.memory_info().rss / 1e6))
            except (psutil.Error, OSError, IndexError, ValueError):
                continue
    if driver.returncode:
        sys.exit("the training for the memory failed")
    later = np.array([row for row in seen if row[0] > steps // 3])
    slope, _ = np.polyfit(later[:, 0], later[:, 1], 1)
    return float(np.median(later[:, 1])), float(100 * slope)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--kills", type=int, default=6, help="of each run, at most")
    parser.add_argument("--steps", type=int, default=300, help="generation steps of the training for the memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=Path, default=ROOT / "config/smoke.yaml")
    asked = parser.parse_args()
    chance, tally = Random(asked.seed), Tally()
    with tempfile.TemporaryDirectory() as scratch:
        expected = Path(scratch, "undisturbed")
        expected.mkdir()
        begin = time.monotonic()
        if started(asked.study, expected).wait():
            sys.exit((expected / "snakemake.log").read_text()[-3000:])
        alone = time.monotonic() - begin
        for run in range(asked.runs):
            folder = Path(scratch, f"run{run}")
            folder.mkdir()
            disturbed(asked.study, folder, asked.kills, chance, tally)
            compared(folder, expected, tally)
            tally.runs += 1
            print(f"run {run + 1}: {tally.kills.total()} kills, {tally.faults.total()} faults so far", file=sys.stderr)
        held, growth = memory(asked.study, Path(scratch), asked.steps) if asked.steps else (0.0, 0.0)
    print(f"runs {tally.runs} of {asked.study} ({alone:.0f} s undisturbed), Snakemake started {tally.starts} times")
    print(f"kills {tally.kills.total()}: {dict(tally.kills.most_common())}")
    print(f"faults {tally.faults.total()}: {dict(tally.faults.most_common())}")
    print(f"tries that resumed {tally.resumed}")
    print(f"rows lost {tally.lost}, rows doubled {tally.doubled}, of {tally.files} files")
    print(f"files with differing bytes {len(tally.differing)} {tally.differing[:5]}")
    print(f"memory {held:.0f} MB, growth in 100 steps {growth:+.2f} MB")
    if tally.lost or tally.doubled or tally.differing or growth > GROWTH:
        sys.exit("not all is as it should be")


if __name__ == "__main__":
    main()

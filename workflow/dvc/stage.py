"""The command of every stage of dvc.yaml, to run all jobs of one rule: `python workflow/dvc/stage.py RULE`.

DVC has found that the stage is out of date and has brought what it reads up to date, so only the stage's own rule may
run. Which of its jobs have to, Snakemake knows from its records. Of files that DVC checked out it has none, or others',
so every job's results are asked what they are of: settings (`workflow.current`), code and inputs. Those that do not
vouch for themselves are made again, which may be slow and is never wrong.

Options for Snakemake are taken from SNAKEMAKE_OPTIONS (by default `--cores all`).
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

from stages.config import Study, TrainRun, load_study  # noqa: E402
from stages.files import sha256  # noqa: E402
from workflow.current import is_of, provenance  # noqa: E402
from workflow.dvc.cache import hindrance  # noqa: E402
from workflow.dvc.generate import DEFAULT, PAPER, artifacts, check  # noqa: E402
from workflow.dvc.planning import ASIDE, AT_WORK, Rule, command, rules, unrecorded  # noqa: E402
from workflow.jobs import jobs, settings  # noqa: E402
from workflow.running import lock_of_a_dead_one, somebody_runs  # noqa: E402


def run(name: str, path: Path) -> int:
    """Bring the results of a rule up to date.

    Returns:
        Snakemake's exit code.

    Raises:
        ValueError: the rule cannot run; with the reason.
    """
    if why := hindrance():
        raise ValueError(why)
    if somebody_runs():
        raise ValueError("a Snakemake works in this directory already (or its file system has no locks)")
    study, paper = load_study(path, root=ROOT), load_study(PAPER, root=ROOT)
    put_aside(rule_of(name, path))
    again = doubtful(name, study, paper, is_known=not unrecorded([name]))
    if again:
        say(f"Nothing vouches for {len(again)} results of {name}, so they are made again: {again[0]} ...")
    if lock_of_a_dead_one() and (code := obey(command(path, "--unlock"))):
        return code
    options = shlex.split(os.environ.get("SNAKEMAKE_OPTIONS", "--cores all"))
    return obey(command(path, *options, *(["--forcerun", *again] if again else []), *scope_of(name, study)))


def scope_of(name: str, study: Study) -> list[str]:
    """The rules that may run and what they are to make.

    Where trained weights are removed after their evaluation, a training and its evaluation are one: the evaluation
    follows at once, so that no more weights lie there than Snakemake alone would leave, and trains again if need be.
    """
    allowed, targets = [name], [f"all_{name}"]
    if not study.keeps_all and name in ("sft", "rl"):
        allowed += ["evaluate", "judge", "weights"]
        of_run = ["results/evaluate/{}/responses.jsonl"]
        of_run += [f"results/weights/{name}/{{}}/kept.json"] if study.keeps_some else []
        targets += [path.format(cell) for cell in study.cells([name]) for path in of_run]
    elif not study.keeps_all and name in ("evaluate", "weights"):
        allowed = ["sft", "rl", "evaluate", "judge", "weights"]
        targets = ["all_evaluate", "all_weights"]
    return ["--allowed-rules", *allowed, *(target for target in targets if target.startswith("all_")), "--", *targets]


def rule_of(name: str, path: Path) -> Rule:
    """The rule as Snakemake has it.

    Raises:
        ValueError: dvc.yaml is not of these rules, so what DVC knows of them is wrong.
    """
    of_study = rules(path)
    check(path, of_study)
    found = {rule.name: rule for rule in of_study}
    if name not in found:
        raise ValueError(f"{name}: no rule of this study (there are: {', '.join(found)})")
    return found[name]


def put_aside(rule: Rule) -> list[Path]:
    """Move what lies in the rule's folders and no job of it writes, as of a seed that is not in the study any more."""
    moved, place = [], ASIDE / time.strftime("%Y-%m-%dT%H%M%S")
    for folder in artifacts(rule):
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file() or path.is_symlink()):
            if not {str(path), *map(str, path.parents)} & rule.outputs:
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, place / path)
                moved.append(path)
    if moved:
        say(f"{len(moved)} files are of no run of the study and lie under {place} now: {moved[0]} ...")
    return moved


def doubtful(name: str, study: Study, paper: Study, is_known: bool) -> list[str]:
    """The run.json of each job whose results do not say that they are whole, and of this code and these inputs.

    Args:
        name: of the rule.
        study: of the job.
        paper: the paper's study.
        is_known: whether Snakemake has a record of all of them. Then it has looked at the code.
    """
    hashed = cache(sha256)
    found = []
    for wildcards in jobs(study, name):
        job = settings(study, paper, name, wildcards)
        path = Path(job.out, "run.json")
        if not is_of(path, path, job.canonical_json()):
            continue  # Snakemake finds it missing
        told = provenance(path)
        files = {Path(file): digest for file, digest in told.get("inputs", {}).items()}
        files |= {path.parent / file: digest for file, digest in told.get("outputs", {}).items()}
        same = all(hashed(file) == digest for file, digest in files.items() if file.is_file())
        if not same or not (is_known or "made_by" in told):
            found.append(str(path))
        elif not is_known:
            make_newest(Path(job.out), *([Path(job.weights)] if isinstance(job, TrainRun) else []))
    return found


def make_newest(*folders: Path) -> None:
    """Files that DVC checked out are older or newer than their inputs by chance."""
    for path in (path for folder in folders for path in [*folder.rglob("*"), folder]):
        os.utime(path, follow_symlinks=False)


def obey(words: list[str]) -> int:
    """Run a command, which hears of Ctrl-C by itself and of SIGTERM through us, to its end."""
    asked: list[int] = []
    processes: list[subprocess.Popen[bytes]] = []

    def hear(number: int, _: object) -> None:
        asked.append(number)
        for process in processes if number == signal.SIGTERM else []:
            process.terminate()

    signal.signal(signal.SIGINT, hear)
    signal.signal(signal.SIGTERM, hear)
    processes.append(subprocess.Popen(words, env=AT_WORK))
    code = processes[0].wait()
    return code or (128 + asked[0] if asked else 0)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Bring the results of one rule up to date (the command of DVC's stages)."
    )
    parser.add_argument("rule")
    parser.add_argument("--configfile", type=Path, default=DEFAULT, help="the study (default: %(default)s)")
    given = parser.parse_args()
    try:
        sys.exit(run(given.rule, given.configfile))
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main()

"""After `dvc pull` or `dvc checkout`: tell Snakemake that what DVC vouches for is current.

    python workflow/dvc/restore.py                          after a pull of everything
    python workflow/dvc/restore.py --pull                   pull everything first
    python workflow/dvc/restore.py --pull results/scores    only this; what is made of it can be made again

Snakemake does so by itself when it starts and finds results that it has no record of (`take_up`). Stages that are
exactly those of dvc.lock, with all that they read, get a record; the others are named. What is of other settings or
other code is not taken for current either way (`workflow.current`).
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

from stages.files import sha256  # noqa: E402
from workflow.dvc.cache import dvc, hindrance, status  # noqa: E402
from workflow.dvc.generate import DEFAULT, check  # noqa: E402
from workflow.dvc.planning import LOOKING, STARTED_BY, command, rules, unrecorded  # noqa: E402
from workflow.running import somebody_runs  # noqa: E402

TAKEN_UP = Path(".snakemake/taken_up")


def restore(study: Path) -> bool:
    """Make records of what is whole, and say what is not.

    Returns:
        Whether the rest is only not here; else it is of another state of the study, which may come back.

    Raises:
        ValueError: DVC or Snakemake cannot tell, or another Snakemake works here.
    """
    if somebody_runs():
        raise ValueError("a Snakemake works in this directory (or its file system has no locks); nothing was done")
    of_study = rules(study)
    check(study, of_study)
    differing = status()
    unknown = unrecorded(rule.name for rule in of_study)
    whole = [rule.name for rule in of_study if not differing.get(rule.name)]
    if whole:
        targets = [f"all_{name}" for name in whole]
        touch = command(study, "--cores", "1", "--touch", "--forceall", "--keep-incomplete", "--latency-wait", "0")
        touched = subprocess.run(
            [*touch, "--allowed-rules", *whole, *targets, "--", *targets],
            capture_output=True,
            text=True,
            env=LOOKING,
        )
        if touched.returncode:
            raise ValueError(touched.stderr.strip() or touched.stdout.strip())
        say(f"Results by DVC that Snakemake knows now: {', '.join(whole)}.")
    others = {name: "; ".join(changes(differing[name])) for name in sorted(unknown - {*whole})}
    for name, told in others.items():
        if told:
            say(f"Results that Snakemake has no record of, and that are not as in dvc.lock: {name}: {told}.")
        else:
            say(f"{name} is here without what it is made of; ask for what is made of it: all_tables, all_report, ...")
    return not any(others.values())


def changes(told: Iterable[Any]) -> Iterable[str]:
    """What DVC says of a stage, but for what is only not here."""
    for part in told:
        for what, found in part.items() if isinstance(part, dict) else [(str(part), {})]:
            if not found:
                yield what
            for name, how in found.items():
                if isinstance(how, dict):  # of a file of parameters, each for itself
                    yield from (f"{what}: {name}: {key} ({state})" for key, state in how.items())
                elif how != "deleted":
                    yield f"{what}: {name} ({how})"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def take_up(study: Path) -> None:
    """When Snakemake starts: restore results that it has no record of, or that came with another dvc.lock.

    Nobody needs DVC: what goes wrong is said, and Snakemake goes on.

    Raises:
        SystemExit: DVC would check out files that Snakemake cannot work with.
    """
    lock, here = Path("dvc.lock"), Path.cwd()
    by_dvc = lock.is_file() and any(folder.joinpath(".dvc").is_dir() for folder in (here, *here.parents))
    if not by_dvc or os.environ.get(STARTED_BY):
        return
    unknown = unrecorded(path.name for path in Path("results").glob("*"))
    state = f"{sorted(unknown)} {sha256(lock)}"
    if not TAKEN_UP.is_file() and not unknown:
        TAKEN_UP.write_text(state, encoding="utf-8")  # all of it was made here
    if TAKEN_UP.is_file() and TAKEN_UP.read_text(encoding="utf-8") == state:
        return
    if why := hindrance():
        sys.exit(why)
    try:
        if restore(study):
            left = unrecorded(path.name for path in Path("results").glob("*"))
            TAKEN_UP.write_text(f"{sorted(left)} {sha256(lock)}", encoding="utf-8")
    except (ValueError, OSError) as mistake:
        say(f"Results that Snakemake has no record of could not be compared with dvc.lock: {mistake}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Tell Snakemake that what DVC has brought is current.")
    parser.add_argument("--configfile", type=Path, default=DEFAULT, help="the study (default: %(default)s)")
    parser.add_argument("--pull", nargs="*", metavar="TARGET", help="pull first: everything, or these folders")
    given = parser.parse_args()
    try:
        if why := hindrance():
            raise ValueError(why)
        if given.pull is not None:
            say(dvc("pull", *given.pull).strip())
        restore(given.configfile)
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main()

"""Record in dvc.lock what Snakemake has made, as after a run on a cluster: `python workflow/dvc/commit.py`.

`dvc commit --force` believes whatever lies there. So first there must be nothing left to do.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

from workflow.dvc.cache import dvc, hindrance  # noqa: E402
from workflow.dvc.generate import DEFAULT, check  # noqa: E402
from workflow.dvc.planning import AT_WORK, plan, rules  # noqa: E402
from workflow.dvc.stage import put_aside, say  # noqa: E402


def commit(study: Path) -> None:
    """Record the results of a finished study.

    Raises:
        ValueError: it is not finished, or DVC cannot record it.
    """
    if why := hindrance():
        raise ValueError(why)
    if "Nothing to be done" not in plan(study, "all", environment=AT_WORK):
        raise ValueError("not recorded: Snakemake has something to do yet (snakemake --dry-run says what)")
    of_study = rules(study)
    check(study, of_study)
    for rule in of_study:
        put_aside(rule)
    say(dvc("commit", "--force").strip())


def main() -> None:
    parser = argparse.ArgumentParser(description="Record in dvc.lock what Snakemake has made.")
    parser.add_argument("--configfile", type=Path, default=DEFAULT, help="the study (default: %(default)s)")
    given = parser.parse_args()
    try:
        commit(given.configfile)
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main()

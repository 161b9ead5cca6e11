"""Results of other settings or other code are never taken for current, whoever put them where they are.

Snakemake compares a job's settings with its own record of them. Files that came another way (by DVC, a copy, another
branch) have no record, or one of the files that were there before. But results say themselves what they are of:
run.json has the settings, provenance.json the code. A run.json that is not of the study as it is now is moved aside, so
that its job runs again where its results are asked for; if the study is changed back before that, it is put back.
"""

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.config import Study
from stages.sources import results_digest
from workflow.jobs import RULES, jobs, settings

ASIDE = Path(".snakemake/stale")


def expected(study: Study, paper: Study) -> Iterator[tuple[str, Path, str]]:
    """Rule, run.json and its text, for every job."""
    for rule in RULES:
        for wildcards in jobs(study, rule):
            run = settings(study, paper, rule, wildcards)
            yield rule, Path(run.out, "run.json"), run.canonical_json()


def set_stale_aside(study: Study, paper: Study) -> dict[str, int]:
    """Move each run.json aside that is not what the study asks for, or put it back if it is again.

    Returns:
        How many jobs of each rule have results of something else.
    """
    stale: dict[str, int] = {}
    for rule, path, text in expected(study, paper):
        aside = ASIDE / path
        if path.is_file():
            aside.unlink(missing_ok=True)  # of results before these
            if not is_of(path, path, text):
                aside.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, aside)
        elif is_of(aside, path, text):
            os.replace(aside, path)
        if aside.is_file():
            stale[rule] = stale.get(rule, 0) + 1
    return stale


def is_of(run: Path, place: Path, text: str) -> bool:
    """Whether a run.json says what is expected, and the results in its place are of the code as it is now."""
    if not run.is_file() or run.read_text(encoding="utf-8").rstrip("\n") != text:
        return False
    told = provenance(place)
    made_by = told.get("made_by")  # which results of an earlier version may lack
    if not made_by or told["python"].split(".")[:2] != platform.python_version().split(".")[:2]:
        return True  # another Python may write the same code otherwise
    return results_digest(made_by["module"]) == made_by["code"]


def provenance(run: Path) -> dict[str, Any]:
    """What the results beside a run.json say of themselves; empty if they say nothing."""
    path = run.with_name("provenance.json")
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return found

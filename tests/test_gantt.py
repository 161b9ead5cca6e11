import json
import math
from base64 import urlsafe_b64encode
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gantt import Job, Session, busy, critical_path, draw, free, idle, lanes, read_sessions, within

# On two cores; "last" needs what "long" and "second" made, and begins a second after it could.
LONG = Job("rl", "long", 0, 4, outputs=frozenset({"a"}))
FIRST = Job("sft", "first", 0, 2, outputs=frozenset({"b"}))
SECOND = Job("evaluate", "second", 2, 3, inputs=frozenset({"b"}), outputs=frozenset({"c"}))
LAST = Job("scores", "last", 5, 6, inputs=frozenset({"a", "c"}))
SESSION = Session(0, 2, [LONG, FIRST, SECOND, LAST])


def test_time_is_counted_by_cores_at_work() -> None:
    assert busy(SESSION) == [(0, 2, 2), (2, 3, 2), (3, 4, 1), (4, 5, 0), (5, 6, 1)]
    assert idle(SESSION) == [(3, 6)]
    assert SESSION.work == 4 + 2 + 1 + 1
    assert free(SESSION, 2, 3.5) == 0.5


def test_the_critical_path_goes_by_what_was_ready_last() -> None:
    assert critical_path(SESSION) == [(LONG, 0), (LAST, 4)]


def test_jobs_side_by_side_are_on_different_cores() -> None:
    assert lanes(SESSION) == [(LONG, [0]), (FIRST, [1]), (SECOND, [1]), (LAST, [0])]
    wide = Job("rl", "both", 6, 8, threads=2)
    assert lanes(Session(0, 2, [*SESSION.jobs, wide]))[-1] == (wide, [0, 1])


def test_a_job_ends_at_the_latest_when_another_has_its_core() -> None:
    late = Job("sft", "late", 0, 2.2)
    ended = within([LONG, late, SECOND], cores=2)
    assert [job.end for job in ended] == [4, 2, 3]


def test_what_snakemake_keeps_is_read(tmp_path: Path) -> None:
    begun = datetime(2026, 11, 28, 3, 0, 0).timestamp()
    metadata, logs = tmp_path / ".snakemake/metadata", tmp_path / ".snakemake/log"
    benchmarks = tmp_path / "logs/benchmarks/rl"
    for folder in (metadata, logs, benchmarks):
        folder.mkdir(parents=True)
    (benchmarks / "seed0.tsv").write_text("s\tcpu_time\n10.5\t9.0\n")
    (logs / "2026-11-28T030000.000000.snakemake.log").write_text(
        "Provided cores: 2\n[Sat Nov 28 03:00:01 2026]\n"
        "localrule rl:\n    output: results/rl/run.json, results/rl/updates.jsonl\n    log: logs/rl/seed0.log\n"
        "    threads: 2\n\n"
    )
    (logs / "2026-11-28T020000.000000.snakemake.log").write_text("a dry run has no cores\n")

    def record(path: str, rule: str, log: str, start: float, end: float) -> None:
        found: dict[str, Any] = {"rule": rule, "log": [log], "input": ["data"], "starttime": start, "endtime": end}
        (metadata / urlsafe_b64encode(path.encode()).decode()).write_text(json.dumps(found))

    record("results/rl/run.json", "rl", "logs/rl/seed0.log", begun + 1, begun + 1)
    record("results/rl/updates.jsonl", "rl", "logs/rl/seed0.log", begun + 1, begun + 11)
    record("results/tables/run.json", "tables", "logs/tables.log", begun + 12, begun + 13)

    (session,) = read_sessions(tmp_path)
    first, second = session.jobs
    assert (session.start, session.cores) == (begun, 2)
    assert (first.rule, first.name, first.start, first.end) == ("rl", "seed0", begun + 1, begun + 11.5)
    assert (first.cpu, first.threads) == (9.0, 2)
    assert first.outputs == {"results/rl/run.json", "results/rl/updates.jsonl"}
    assert (second.rule, second.name, second.end) == ("tables", "tables", begun + 13)
    assert math.isnan(second.cpu)
    assert draw(session, "two jobs").axes


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        read_sessions(tmp_path)
    assert str(error.value) == f"{tmp_path}: no job in .snakemake/metadata; is this the working directory of a study?"

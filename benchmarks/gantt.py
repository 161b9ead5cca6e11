"""Which job ran when on which core of a study: `python benchmarks/gantt.py FOLDER [--session N] [--out gantt.svg]`.

Reads what Snakemake keeps in the working directory of a study, and writes nothing there: `.snakemake/metadata` has the
begin of each job, `logs/benchmarks` its seconds and CPU time, `.snakemake/log` what it read and wrote, which jobs one
Snakemake ran (a session), and on how many cores, in this machine's local time. Of jobs that ran more than once the last
time is known, and nothing of those that failed. The session that worked most is drawn, or the N-th.

Prints how much of the time all cores were busy; the critical path (the last job, what it waited for last, and so on),
with what it waited for a core and what it waited while one was free; and the longest times in which a core was free.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch

sys.path.insert(0, str(Path(__file__).parents[1]))
from stages.report.style import INK, RC, SHADES, WIDTH, add_legend

COLOURS = {"rl": SHADES["rl"][0], "sft": SHADES["sft"][0], "evaluate": SHADES["vanilla"][0], "judge": "#e69f00"}
COLOURS |= {"data": "#56b4e9", "scores": "#cc79a7", "preflight": "#f0e442", "figures": "#7a4a8c", "report": "#e58a5b"}
OTHER = "#b8a1c9"
LETTER = 0.008  # of the whole time: what a letter takes of a bar
SHOWN = 10  # times with a free core that are printed


@dataclass(frozen=True)
class Job:
    """What is known of one.

    Attributes:
        rule: of it.
        name: which of the rule's, as its log is named.
        start, end: seconds since 1970.
        cpu: seconds of CPU time; nan if they were not measured.
        threads: cores that it had.
        inputs, outputs: files.
    """

    rule: str
    name: str
    start: float
    end: float
    cpu: float = float("nan")
    threads: int = 1
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Session:
    """What one Snakemake ran: its begin, its cores, and its jobs in the order of theirs."""

    start: float
    cores: int
    jobs: Sequence[Job]

    @property
    def end(self) -> float:
        return max(job.end for job in self.jobs)

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def work(self) -> float:
        """Seconds of cores that jobs had."""
        return sum(job.seconds * job.threads for job in self.jobs)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_sessions(folder: Path) -> list[Session]:
    """All that Snakemake has a record of.

    Raises:
        ValueError: there is nothing.
    """
    jobs = read_jobs(folder)
    if not jobs:
        raise ValueError(f"{folder}: no job in .snakemake/metadata; is this the working directory of a study?")
    begun: dict[float, int] = {}
    for path in sorted((folder / ".snakemake/log").glob("*.snakemake.log")):
        if cores := re.search(r"^Provided cores: (\d+)", path.read_text(encoding="utf-8"), re.M):
            start = datetime.strptime(path.name, "%Y-%m-%dT%H%M%S.%f.snakemake.log").timestamp()
            begun[start] = int(cores[1])
    if jobs[0].start < min(begun, default=float("inf")):  # its log is gone
        begun[jobs[0].start] = os.cpu_count() or 1
    starts = sorted(begun)
    found = []
    for start, following in pairwise([*starts, float("inf")]):
        of_session = [job for job in jobs if start <= job.start < following]
        if of_session:
            found.append(Session(start, begun[start], within(of_session, begun[start])))
    return found


def read_jobs(folder: Path) -> list[Job]:
    """The jobs, in the order in which they began.

    Raises:
        ValueError: Snakemake's logs are gone.
    """
    records: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in (folder / ".snakemake/metadata").rglob("*"):
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            records.setdefault((record["rule"], "".join(record["log"][:1])), []).append(record)
    told = dict(read_logs(folder))
    if records and not told:
        raise ValueError(f"{folder}: no job in .snakemake/log, which says what each of them wrote")
    jobs = []
    for (rule, log), of_job in records.items():
        start = min(record["starttime"] for record in of_job)
        written = max(record["endtime"] for record in of_job)
        seconds, cpu = measured(folder, log)
        outputs, threads = told.get(log, (frozenset(), 1))
        name = log.removeprefix("logs/").removeprefix(f"{rule}/").removesuffix(".log")
        # Files are written a little before their process ends.
        end = max(written, start + seconds)
        jobs.append(Job(rule, name, start, end, cpu, threads, frozenset(of_job[0]["input"]), outputs))
    return sorted(jobs, key=lambda job: job.start)


def read_logs(folder: Path) -> Iterator[tuple[str, tuple[frozenset[str], int]]]:
    """For each job that Snakemake's logs tell of, by its own log: what it wrote, and on how many cores."""
    for path in sorted((folder / ".snakemake/log").glob("*.snakemake.log")):
        for body in re.findall(r"^(?:local)?rule \w+:\n((?:    .*\n)+)", path.read_text(encoding="utf-8"), re.M):
            told = dict(re.findall(r"^    (output|log|threads): (.*)$", body, re.M))
            yield told.get("log", ""), (frozenset(told.get("output", "").split(", ")), int(told.get("threads", 1)))


def measured(folder: Path, log: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, of the job with this log; 0 and nan if they were not measured."""
    path = folder / "logs/benchmarks" / Path(log.removeprefix("logs/")).with_suffix(".tsv")
    if not log or not path.is_file():
        return 0.0, float("nan")
    row = pd.read_csv(path, sep="\t").iloc[-1]
    return float(row["s"]), float(pd.to_numeric(row["cpu_time"], errors="coerce"))


def within(jobs: Sequence[Job], cores: int) -> list[Job]:
    """The jobs, none longer than until another one needed its core: ends are known less exactly than begins."""
    found: list[Job] = []
    for job in jobs:
        running = sorted((one for one in found if one.end > job.start), key=lambda one: one.end)
        while running and sum(one.threads for one in running) + job.threads > cores:
            ended = running.pop(0)
            found[found.index(ended)] = replace(ended, end=job.start)
        found.append(job)
    return found


# --- counting --------------------------------------------------------------------------------------------------------


def busy(session: Session) -> list[tuple[float, float, int]]:
    """Begin, end and cores at work of each time in which the same jobs ran."""
    times = sorted({session.start, *(job.start for job in session.jobs), *(job.end for job in session.jobs)})
    return [
        (begin, end, sum(job.threads for job in session.jobs if job.start <= begin and job.end >= end))
        for begin, end in pairwise(times)
    ]


def idle(session: Session) -> list[tuple[float, float]]:
    """Begin and end of each time in which a core was free."""
    found: list[tuple[float, float]] = []
    for begin, end, at_work in busy(session):
        if at_work >= session.cores:
            continue
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def free(session: Session, begin: float, end: float) -> float:
    """Seconds between two times in which a core was free."""
    return sum(max(0.0, min(end, b) - max(begin, a)) for a, b in idle(session))


def critical_path(session: Session) -> list[tuple[Job, float]]:
    """The job that ended last, what it waited for last, and so on, the first first; each with when it could begin."""
    path = []
    job: Job | None = max(session.jobs, key=lambda one: one.end)
    while job:
        made = [one for one in session.jobs if one.outputs & job.inputs and one.start < job.start]
        before = max(made, key=lambda one: one.end) if made else None
        path.append((job, before.end if before else session.start))
        job = before
    return path[::-1]


def tell(session: Session) -> None:
    """Print what is counted."""
    shares: dict[int, float] = {}
    for begin, end, at_work in busy(session):
        shares[at_work] = shares.get(at_work, 0.0) + (end - begin) / session.seconds
    told = ", ".join(f"{count} busy {shares[count]:.1%}" for count in sorted(shares, reverse=True))
    print(f"{len(session.jobs)} jobs, {session.seconds:.1f} s on {session.cores} cores: {told}")
    cpu = pd.Series([job.cpu for job in session.jobs])
    print(
        f"Jobs had {session.work:.1f} s of cores and used at least {cpu.sum():.1f} s of CPU time: Snakemake samples it"
        + (f" ({cpu.isna().sum()} not measured)" if cpu.isna().any() else "")
    )
    path = critical_path(session)
    print(f"{'critical path':60} {'begin, s':>9} {'at work':>9} {'waited':>9} {'of it free':>10}")
    for job, ready in path:
        print(
            f"{f'{job.rule} {job.name}':60} {job.start - session.start:9.1f} {job.seconds:9.1f} "
            f"{job.start - ready:9.1f} {free(session, ready, job.start):10.1f}"
        )
    working = sum(job.seconds for job, _ in path)
    waited = sum(job.start - ready for job, ready in path)
    unused = sum(free(session, ready, job.start) for job, ready in path)
    print(f"{'in all':60} {'':9} {working:9.1f} {waited:9.1f} {unused:10.1f}")
    least = max(working, session.work / session.cores)
    print(f"At least {least:.1f} s are needed by these jobs on {session.cores} cores: {least / session.seconds:.1%}")
    gaps = [gap for gap in sorted(idle(session), key=lambda gap: gap[0] - gap[1])[:SHOWN] if gap[1] - gap[0] >= 0.1]
    print(f"The longest times with a free core, of {len(idle(session))}:")
    for begin, end in sorted(gaps):
        following = [f"{job.rule} {job.name}" for job in session.jobs if job.start == end]
        print(f"  at {begin - session.start:8.1f} s for {end - begin:6.1f} s, until {(following or ['the end'])[0]}")


# --- drawing ---------------------------------------------------------------------------------------------------------


def lanes(session: Session) -> list[tuple[Job, list[int]]]:
    """Each job with the cores that it is drawn on."""
    until = [session.start] * session.cores
    found = []
    for job in session.jobs:
        able = [core for core, end in enumerate(until) if end <= job.start]
        able.sort(key=lambda core: (-until[core], core))
        taken = sorted(able[: job.threads])  # those that were free for the shortest time
        for core in taken:
            until[core] = job.end
        found.append((job, taken))
    return found


def draw(session: Session, heading: str) -> Figure:
    """A row a core, a bar a job, the critical path framed."""
    critical = {job for job, _ in critical_path(session)}
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 0.5 * session.cores + 1.5), layout="constrained")
        ax = figure.subplots()
        for job, cores in lanes(session):
            begin, width = (job.start - session.start) / 60, job.seconds / 60
            edge, line = (INK, 1.1) if job in critical else ("white", 0.3)
            for core in cores:
                bars = ax.barh(core, width, left=begin, color=COLOURS.get(job.rule, OTHER), edgecolor=edge)
                bars[0].set(linewidth=line, zorder=2 + (job in critical))
                if job.seconds > LETTER * len(job.rule) * session.seconds:
                    ax.text(begin + width / 2, core, job.rule, ha="center", va="center", fontsize=7, zorder=4)
        ax.set_yticks(range(session.cores), [f"core {core + 1}" for core in range(session.cores)])
        ax.invert_yaxis()
        ax.set_xlabel("minutes")
        ax.grid(False, axis="y")
        ax.set_xlim(0, session.seconds / 60)
        rules = dict.fromkeys(job.rule for job in session.jobs)
        handles: dict[str, Artist] = {rule: Patch(color=COLOURS[rule]) for rule in rules if rule in COLOURS}
        if rules.keys() - COLOURS.keys():
            handles["others"] = Patch(color=OTHER)
        add_legend(figure, handles | {"critical path": Patch(facecolor="none", edgecolor=INK, linewidth=1.1)})
        figure.suptitle(heading)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="working directory of a study")
    parser.add_argument("--session", type=int, help="as they are numbered; default: the one that worked most")
    parser.add_argument("--out", type=Path, default=Path("gantt.svg"), help="default: %(default)s")
    given = parser.parse_args()
    try:
        sessions = read_sessions(given.folder)
    except ValueError as mistake:
        sys.exit(str(mistake))
    for i, session in enumerate(sessions, start=1):
        begun = datetime.fromtimestamp(session.start).isoformat(" ", "seconds")
        print(f"session {i}: {begun}, {len(session.jobs)} jobs, {session.seconds:.0f} s")
    most = 1 + max(range(len(sessions)), key=lambda i: sessions[i].work)
    number = most if given.session is None else given.session
    if not 1 <= number <= len(sessions):
        parser.error(f"--session {number}: known are 1 to {len(sessions)}")
    session = sessions[number - 1]
    print(f"\nSession {number}:")
    tell(session)
    whole = sum(end - begin for begin, end, at_work in busy(session) if at_work >= session.cores) / session.seconds
    heading = f"{session.cores} cores, all busy {whole:.0%} of {session.seconds / 60:.1f} minutes"
    with mpl.rc_context(RC):
        draw(session, heading).savefig(given.out, metadata={"Date": None} if given.out.suffix == ".svg" else None)
    print(f"Drawn: {given.out}")


if __name__ == "__main__":
    main()

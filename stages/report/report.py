"""The study on one page that needs no other file: `python -m stages.report.report RUN.json`."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from stages.config import ReportRun, load_run
from stages.evaluation.shown import SHOWN
from stages.files import whole_folder
from stages.provenance import hashes, write_provenance
from stages.report import gallery, headline, runs, settings
from stages.report.cell import read_rows, read_table
from stages.report.drawings import drawings
from stages.report.embedding import data_uri
from stages.report.page import environment
from stages.report.shading import shaded
from stages.report.tables import SCALE, read_scores


def page(title: str, scores: Path, tables: Path, figures: Path, run: ReportRun | None = None) -> str:
    """The page as HTML.

    Args:
        title: of the study.
        scores: folder of the score tables. Only accuracy.csv must be there; without one of the others, its section
            is left out.
        tables: folder of Table 3.
        figures: folder of the figures.
        run: the study that they are of, if that is known.

    Raises:
        ValueError: there are no scores, or they are of runs with other settings than the study's.
    """
    if not (scores / "accuracy.csv").is_file():
        raise ValueError(f"{scores}: no accuracy.csv, so these are no scores (python -m stages.evaluation.score)")
    accuracy = read_table(scores / "accuracy.csv")
    found = {
        "title": title,
        "compared": headline.compared(accuracy),
        **_findings(scores),
        **_gallery(scores),
        "table3": _table3(scores, tables),
        "steps": SCALE,
        "drawings": drawings(figures, accuracy),
        "samples": gallery.samples(scores / "samples.jsonl"),
        "shown": SHOWN,
        "ran": _ran(scores, run),
        "of_study": _of_study(run) if run else None,
    }
    return environment().get_template("page.html.jinja").render(found)


def _table3(scores: Path, tables: Path) -> list[dict[str, Any]]:
    if not (tables / "table3.csv").is_file():
        return []
    _, methods = read_scores(scores)
    return shaded(read_table(tables / "table3.csv"), methods)


def _findings(scores: Path) -> dict[str, Any]:
    found = headline.findings(scores / "findings.json") if (scores / "findings.json").is_file() else []
    comparisons = _table(scores, "comparisons")
    return {
        "findings": found,
        "verdicts": headline.verdicts(found),
        "detectable": headline.detectable(comparisons) if len(comparisons) else [],
    }


def _gallery(scores: Path) -> dict[str, Any]:
    changes = _table(scores, "changes")
    kept = scores / "gallery.jsonl"
    return {
        "gallery": gallery.changed_answers(kept) if kept.is_file() else None,
        "outcomes": gallery.outcomes(changes) if len(changes) else [],
    }


def _ran(scores: Path, run: ReportRun | None) -> dict[str, Any] | None:
    """What the runs say about themselves; None of scores that are of no study."""
    jobs = read_rows(scores / "runs.jsonl")
    if run:
        runs.check_settings(jobs, run.runs, scores)
    if not jobs:
        return None
    found = runs.runs(jobs, *(_table(scores, name) for name in ("responses", "updates", "health")))
    return {
        "runs": found,
        "places": runs.by_place(found),
        "totals": runs.totals(found),
        "versions": runs.versions(found),
        "marks": runs.MARKS,
        "scored": _commit(scores / "provenance.json"),
    }


def _of_study(run: ReportRun) -> dict[str, Any]:
    """What only a study's file can tell."""
    differ, same = settings.against_paper(run.settings, run.paper)
    return {
        "differ": differ,
        "same": same,
        "statistics": run.settings["scores"]["statistics"],
        "name": run.study,
        "file": data_uri(settings.as_file(run.settings).encode(), "application/yaml"),
    }


def _commit(provenance: Path) -> str | None:
    """Of the code that made the scores, where that is known."""
    if not provenance.is_file():
        return None
    commit: str | None = json.loads(provenance.read_text(encoding="utf-8"))["commit"]
    return commit


def _table(scores: Path, name: str) -> pd.DataFrame:
    """A score table; without a row if there is none."""
    path = scores / f"{name}.csv"
    return read_table(path) if path.is_file() else pd.DataFrame()


def write(folder: Path, text: str) -> None:
    """Write report.html; half a character, which JSON can hold and UTF-8 cannot, becomes a question mark."""
    with whole_folder(folder) as partial:
        (partial / "report.html").write_text(text, encoding="utf-8", errors="replace")


def main(path: str) -> None:
    run = load_run(path, ReportRun)
    try:
        shown = Path(run.scores), Path(run.tables), Path(run.figures)
        write(Path(run.out), page(run.study, *shown, run))
        files = sorted(path for folder in shown for path in folder.rglob("[!.]*") if path.is_file())
        write_provenance(Path(run.out), hashes(files))
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main(sys.argv[1])

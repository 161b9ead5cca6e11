"""The study on one page that needs no other file: `python -m stages.report.report RUN.json`."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from stages.config import ReportRun, load_run
from stages.files import whole_folder
from stages.report import gallery, headline, runs, settings
from stages.report.cell import read_table
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
        run: the study that they are of, if it ran here.

    Raises:
        ValueError: there are no scores.
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
        "of_run": _of_run(run, scores, accuracy) if run else None,
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


def _of_run(run: ReportRun, scores: Path, accuracy: pd.DataFrame) -> dict[str, Any]:
    """What only a study that ran here can tell."""
    splits = list(accuracy["split"].unique())
    split = "validation" if "validation" in splits else splits[0]
    found = runs.runs(run, *(_table(scores, name) for name in ("responses", "updates", "health")))
    differ, same = settings.against_paper(run.settings, run.paper)
    study = settings.as_file(run.settings)
    return {
        "split": split,
        "setting": run.setting,
        "samples": list(gallery.samples(run, split)),
        "shown": gallery.SHOWN,
        "runs": found,
        "places": runs.by_place(found),
        "totals": runs.totals(found),
        "versions": runs.versions(found),
        "marks": runs.MARKS,
        "differ": differ,
        "same": same,
        "statistics": run.settings["scores"]["statistics"],
        "scored": _commit(scores / "provenance.json"),
        "name": run.study,
        "file": data_uri(study.encode(), "application/yaml"),
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
    write(Path(run.out), page(run.study, Path(run.scores), Path(run.tables), Path(run.figures), run))


if __name__ == "__main__":
    main(sys.argv[1])

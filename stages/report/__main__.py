"""Figures, Table 3 and the page of anybody's scores: `python -m stages.report SCORES --out DIR`.

SCORES is what `python -m stages.evaluation.score` has written, of a study or of anybody's responses; only a study has
runs and first responses. The page has no settings beside the paper's, which only the study's file can tell.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stages.report import figures, report, tables
from stages.report.cell import read_table


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.report", description="Figures, Table 3 and the page.")
    parser.add_argument("scores", type=Path, help="folder that python -m stages.evaluation.score has written")
    parser.add_argument("--out", type=Path, required=True, help="gets figures/, tables/ and report.html")
    parser.add_argument("--title", help="of the page (default: the name of SCORES)")
    given = parser.parse_args(arguments)
    try:
        if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
            raise ValueError(f"--out {given.out}: is there already and not empty; nothing is overwritten")
        drawn, tabled = given.out / "figures", given.out / "tables"
        figures.main([str(given.scores), "--out", str(drawn)])
        if len(read_table(given.scores / "accuracy.csv")):  # responses of training alone have no Table 3
            tables.main([str(given.scores), "--out", str(tabled)])
        title = given.title or given.scores.resolve().name
        report.write(given.out, report.page(title, given.scores, tabled, drawn))
    except KeyError as missing:
        sys.exit(f"{given.scores}: a table has no {missing}; were all of them written by stages.evaluation.score?")
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))
    print(f"Page: {given.out / 'report.html'}")


if __name__ == "__main__":
    main(sys.argv[1:])

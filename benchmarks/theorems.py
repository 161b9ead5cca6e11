"""Which theorem do answers to unpractised problems name? `python benchmarks/theorems.py results`.

For every method of a finished study on generated data: the share of greedy answers to test problems, after the last
epoch, that name a theorem of the practised kinds, which is never the right one there, or of the unpractised kinds.
"""

import argparse
from pathlib import Path

import pandas as pd

from stages.data.geometry.kinds import PRACTISED, UNPRACTISED, Kind
from stages.evaluation.rows import judged

SETTING = "pass@1 t=0.01"


def names_any(text: str, kinds: dict[str, Kind]) -> bool:
    return any(theorem in text for kind in kinds.values() for theorem in kind.theorems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of a study")
    results = parser.parse_args().results
    cells = sorted(path.parent.relative_to(results) for path in results.glob("judge/evaluate/*/*/*/*/verdicts.jsonl"))
    if not cells:
        parser.error(f"{results}: no verdicts in judge/evaluate; is this the results folder of a study?")
    rows = pd.concat(judged(results.joinpath(*cell.parts[1:]), results / cell) for cell in cells)
    rows = rows[(rows.split == "test") & (rows.setting == SETTING)]
    rows = rows[rows.epoch == rows.groupby("run").epoch.transform("max")]
    parts = rows.run.str.split("/", expand=True)
    rows = rows.assign(
        dataset=parts[1],
        method=parts[2],
        practised=[names_any(text, PRACTISED) for text in rows.text],
        unpractised=[names_any(text, UNPRACTISED) for text in rows.text],
    )
    print(rows.groupby(["dataset", "method"])[["practised", "unpractised", "correct"]].mean().round(3).to_string())


if __name__ == "__main__":
    main()

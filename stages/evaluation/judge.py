"""Judge the responses of an evaluation: `python -m stages.evaluation.judge RUN.json`.

Writes verdicts.jsonl, a row for each response, in their order. A judge that changes is run again; nothing is sampled
again for it.
"""

import sys
from pathlib import Path

from stages.config import JudgeRun, load_run
from stages.evaluation.answers import VERSION, Judge
from stages.files import whole_folder
from stages.progress import progress
from stages.provenance import hashes, write_provenance
from stages.records import VerdictRow, append, read

PART = 10_000  # responses


def judge(run: JudgeRun, folder: Path) -> None:
    """Write verdicts.jsonl."""
    rows = read(Path(run.responses, "responses.jsonl"))
    with Judge(workers=run.workers) as judge:
        for begin in progress(range(0, len(rows), PART), run.responses):
            part = rows.iloc[begin : begin + PART]
            verdicts = judge.verdicts(part["text"].tolist(), part["answer"].tolist(), run.settings)
            kept = zip(part["problem"], part["sample"], verdicts, strict=True)
            append(
                folder / "verdicts.jsonl",
                (VerdictRow(problem, int(i), v.outcome, v.found, v.wanted, VERSION) for problem, i, v in kept),
            )


def main(path: str) -> None:
    run = load_run(path, JudgeRun)
    with whole_folder(Path(run.out)) as folder:
        judge(run, folder)
        write_provenance(folder, hashes([Path(run.responses, "responses.jsonl")]))


if __name__ == "__main__":
    main(sys.argv[1])

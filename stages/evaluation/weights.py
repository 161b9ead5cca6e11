"""Keep the trained weights that the study asks for: `python -m stages.evaluation.weights RUN.json`.

A kept file is the trained one under another name (a hard link), so that nothing lies on the disk twice; Snakemake
removes the trained ones afterwards. kept.json tells of each kept epoch why it is kept and what is in its file.
"""

import json
import sys
from pathlib import Path

from stages.config import VALIDATION, WeightsRun, load_run
from stages.evaluation.metrics import accuracy
from stages.evaluation.rows import judged
from stages.files import link_or_copy, sha256, whole_folder


def in_validation(run: WeightsRun) -> dict[int, float]:
    """Accuracy in validation by epoch, first epoch first; empty if nobody asks for the best."""
    if run.best is None:
        return {}
    found = accuracy(judged(Path(run.best.responses), Path(run.best.verdicts)))
    found = found[(found["split"] == VALIDATION) & (found["setting"] == run.setting)].sort_values("epoch")
    return dict(zip(found["epoch"], found["accuracy"], strict=True))


def keep(run: WeightsRun, folder: Path) -> None:
    """Write kept.json and the kept weights into a folder."""
    accuracies = in_validation(run)
    best = {max(accuracies, key=lambda epoch: accuracies[epoch])} if accuracies else set()  # the first of equal ones
    (folder / "epochs").mkdir()
    kept = {}
    for epoch in sorted({*run.epochs} | best):
        trained = Path(run.trained[str(epoch)])
        link_or_copy(trained, folder / "epochs" / trained.name)
        kept[epoch] = {
            "best": epoch in best,
            "validation_accuracy": accuracies.get(epoch),
            "sha256": sha256(trained),
        }
    told = {"setting": run.setting, "epochs": kept}
    (folder / "kept.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def main(path: str) -> None:
    run = load_run(path, WeightsRun)
    with whole_folder(Path(run.out)) as folder:
        keep(run, folder)


if __name__ == "__main__":
    main(sys.argv[1])

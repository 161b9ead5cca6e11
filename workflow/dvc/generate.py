"""Write dvc.yaml, a stage a rule, from the rules of Snakemake and the study: `python workflow/dvc/generate.py`.

    python workflow/dvc/generate.py --check            fail if dvc.yaml is another one
    python workflow/dvc/generate.py --configfile ../../config/paper.yaml    in the directory of another study

A stage's dependencies are the folders that its rule reads and the code that its results depend on; its parameters the
keys of the study that its runs are made from, found by watching which are read; its outputs the rule's folders.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

from stages.config import Study, load_study  # noqa: E402
from stages.sources import files_of_results  # noqa: E402
from workflow.dvc.planning import Rule, rules  # noqa: E402
from workflow.jobs import jobs, settings  # noqa: E402

DEFAULT = Path("config/config.yaml")
PAPER = ROOT / "config/paper.yaml"
HEADER = "# Written by workflow/dvc/generate.py from the rules of Snakemake. Change those, then write it again.\n"
# Tables, each with its template in .dvc/plots.
PLOTS = [
    ("curves", "evaluation", "Accuracy in evaluation, mean over seeds"),
    ("training", "training", "Accuracy of the responses in RL training, each seed"),
]


class Watched:
    """A study that notes which of its keys are read; of the grid each key for itself."""

    def __init__(self, study: Study) -> None:
        self._of, self.keys = study, set[str]()

    def __getattr__(self, name: str) -> Any:
        if name in Study.model_fields:
            if name == "study":
                return WatchedGrid(self)
            self.keys.add(name)
            return getattr(self._of, name)
        attribute = getattr(Study, name)
        return attribute.fget(self) if isinstance(attribute, property) else attribute.__get__(self)

    def kind(self, method: str) -> str:
        """Which section a method is of; that its settings are there does not depend on what they are."""
        return self._of.kind(method)

    def model_dump(self, *, exclude: set[str], **options: Any) -> dict[str, Any]:
        self.keys |= Study.model_fields.keys() - exclude
        return self._of.model_dump(exclude=exclude, **options)


class WatchedGrid:
    def __init__(self, study: Watched) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        self._study.keys.add(f"study.{name}")
        return getattr(self._study._of.study, name)


def keys_of(rule: Rule, study: Study, paper: Study) -> list[str]:
    """The keys of the study that say which jobs the rule has, and that their settings are made from."""
    watched: Any = Watched(study)
    for wildcards in jobs(watched, rule.name):
        settings(watched, paper, rule.name, wildcards)
    keys = watched.keys
    return sorted(key for key in keys if key.split(".")[0] not in keys or "." not in key)


def parameters(rule: Rule, study: Study, paper: Study, path: Path) -> list[dict[str, list[str] | None]]:
    """Keys of the study's file, and whole files that it takes part of."""
    keys = keys_of(rule, study, paper)
    found: dict[str, list[str] | None] = {str(path): keys} if keys else {}
    if "scores" in keys:
        scores = yaml.safe_load(path.read_text(encoding="utf-8"))["scores"]
        if isinstance(scores, str):
            found[here(ROOT / scores)] = None
    if rule.name == "report" and path.resolve() != PAPER:
        found[here(PAPER)] = None
    return [{name: of_file} for name, of_file in found.items()]


def here(path: Path) -> str:
    """A path relative to the working directory."""
    return os.path.relpath(path)


def dependencies(rule: Rule, made: dict[str, str]) -> list[str]:
    """Folders of other rules (`made`: by what lies in them), files of the repository, and the code."""
    found = {made[path] for path in rule.inputs if path in made}
    found |= whole_folders(path for path in rule.inputs if path not in made)
    found |= {here(path) for path in files_of_results(rule.module)}
    defined = [path for path in (ROOT / "workflow/rules").glob("*.smk") if f"rule {rule.name}:\n" in path.read_text()]
    return sorted(found | {here(path) for path in defined})


def whole_folders(paths: Iterable[str]) -> set[str]:
    """Paths, with a folder instead of its files where all of them are there."""
    by_folder: dict[Path, set[Path]] = {}
    for path in map(Path, map(os.path.relpath, paths)):
        by_folder.setdefault(path.parent, set()).add(path)
    return {
        str(path)
        for folder, files in by_folder.items()
        for path in ([folder] if files == set(folder.iterdir()) else files)
    }


def folders(rule: Rule) -> dict[str, str]:
    """The folder of each output, which is an artifact; what is removed again counts as one of the rule's folder.

    Raises:
        ValueError: the rule writes into a folder that is not its own.
    """
    own = {"trained/": f"results/{rule.name}"}
    own |= {f"{folder}/": folder for folder in (f"results/{rule.name}", f"results/weights/{rule.name}")}
    found = {path: folder for path in rule.outputs for begin, folder in own.items() if path.startswith(begin)}
    if stray := sorted(rule.outputs - found.keys()):
        raise ValueError(f"rule {rule.name} writes {stray[0]}, which is outside its folder results/{rule.name}")
    return found


def artifacts(rule: Rule) -> list[str]:
    """The folders that the rule's stage records."""
    return sorted({*folders(rule).values()})


def command(script: str, path: Path, *arguments: str) -> str:
    """A script of this folder for the study in a file, as one types it."""
    study = [] if path == DEFAULT else ["--configfile", str(path)]
    return shlex.join(["python", here(ROOT / "workflow/dvc" / script), *arguments, *study])


def document(path: Path, of_study: list[Rule]) -> str:
    """dvc.yaml of the study in a file and its rules, for the working directory.

    Raises:
        ValueError: the study or the rules are mistaken.
    """
    path = Path(os.path.relpath(path))
    study, paper = load_study(path, root=ROOT), load_study(PAPER, root=ROOT)
    made = {path: folder for rule in of_study for path, folder in folders(rule).items()}
    stages = {
        rule.name: {
            "cmd": command("stage.py", path, rule.name),
            "deps": dependencies(rule, made),
            **({"params": found} if (found := parameters(rule, study, paper, path)) else {}),
            # Without `persist` DVC would remove what is there before a stage runs: one new seed would train all.
            "outs": [{folder: {"persist": True}} for folder in artifacts(rule)],
        }
        for rule in of_study
    }
    # What `dvc params`, `metrics` and `plots` show.
    shown = {
        "params": [str(path)],
        "metrics": ["results/tables/metrics.json"],
        "plots": [
            {f"results/scores/{name}.csv": {"x": "epoch", "y": "accuracy", "template": template, "title": title}}
            for name, template, title in PLOTS
        ],
    }
    return HEADER + yaml.safe_dump({"stages": stages, **shown}, sort_keys=False, width=120)


def check(path: Path, of_study: list[Rule]) -> None:
    """See that DVC knows the study as it is.

    Raises:
        ValueError: dvc.yaml is of other rules or another study.
    """
    file, path = Path("dvc.yaml"), Path(os.path.relpath(path))
    if not file.is_file() or file.read_text(encoding="utf-8") != document(path, of_study):
        raise ValueError(
            f"dvc.yaml is not that of the rules and {path}; if that is the study of this directory, write it again: "
            f"{command('generate.py', path)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write dvc.yaml from the rules of Snakemake.")
    parser.add_argument("--configfile", type=Path, default=DEFAULT, help="the study (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if dvc.yaml is another one")
    given = parser.parse_args()
    try:
        of_study = rules(given.configfile)
        if given.check:
            check(given.configfile, of_study)
        else:
            Path("dvc.yaml").write_text(document(given.configfile, of_study), encoding="utf-8")
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main()

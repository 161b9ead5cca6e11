"""The study's settings beside the paper's, and as a file to run it again."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stages.config import DOWNLOADS
from stages.report.runs import flattened

PAPERS = {"rl": "reinforce_plus_plus", "sft": "sft"}  # the paper's method of each kind
# What config/paper.yaml has to say and the paper does not: there is nothing to compare with.
UNSTATED = re.compile(
    r".*backward_batch_size|sft\..*\.optimizer\.(?!learning_rate).*|evaluate\.batch_size|prompt\..*"
    r"|compute\.(?!dtype).*|scores\.(?!reflection_words).*"
)


class Setting(NamedTuple):
    """One key of the study; None where a side has no such key."""

    key: str
    ours: str | None
    papers: str | None


def against_paper(study: Mapping[str, Any], paper: Mapping[str, Any]) -> tuple[list[Setting], list[Setting]]:
    """Settings that differ, and those that do not, of those that the paper states.

    Methods are compared with the paper's method of their kind; epochs with those of the paper's data set of the same
    name or, where there is none, with those of all its data sets.
    """
    found = [setting for ours, papers in _sections(study, paper) for setting in _pairs(ours, papers)]
    found += _epochs(study, paper)
    return [s for s in found if s.ours != s.papers], [s for s in found if s.ours == s.papers]


def _sections(study: Mapping[str, Any], paper: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Parts of the two studies that belong together, under the key that they have in this one."""
    for kind, method in PAPERS.items():
        for name in [name for name in study["study"]["methods"] if name in study[kind]]:
            yield {f"{kind}.{name}": study[kind][name]}, {f"{kind}.{name}": paper[kind][method]}
    for section in ("evaluate", "prompt", "compute", "scores"):
        yield {section: study[section]}, {section: paper[section]}


def _pairs(ours: Mapping[str, Any], papers: Mapping[str, Any]) -> list[Setting]:
    mine, theirs = flattened(ours), flattened(papers)
    return [
        Setting(key, *(written(values[key]) if key in values else None for values in (mine, theirs)))
        for key in dict.fromkeys([*mine, *theirs])
        if not UNSTATED.fullmatch(key)
    ]


def _epochs(study: Mapping[str, Any], paper: Mapping[str, Any]) -> Iterator[Setting]:
    theirs = {name: data["epochs"] for name, data in paper["data"].items()}
    all_of_them = ", ".join(f"{epochs} ({name})" for name, epochs in theirs.items())
    for name in study["study"]["datasets"]:
        papers = written(theirs[name]) if name in theirs else all_of_them
        yield Setting(f"data.{name}.epochs", written(study["data"][name]["epochs"]), papers)


def written(value: Any) -> str:
    """A value as a study's file may have it."""
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def as_file(study: Mapping[str, Any]) -> str:
    """The whole study as a file that can be run: JSON, which is YAML too. Downloads are called by their names again."""

    def named(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: named(part) for key, part in value.items()}
        if isinstance(value, list):
            return [named(part) for part in value]
        return value.removeprefix(f"{DOWNLOADS}/") if isinstance(value, str) else value

    return json.dumps(named(study), indent=2, ensure_ascii=False) + "\n"

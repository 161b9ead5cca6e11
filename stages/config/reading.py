"""Studies and runs from their files; every mistake is named by file, key, value, and what is allowed."""

import difflib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError

from stages.config.runs import Run
from stages.config.sections import Checkpoint, GeneratedProblems, RealProblems, Scores, Settings
from stages.config.study import DOWNLOADS, Study


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 5e-4 is a number, and a key stands once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)

RunType = TypeVar("RunType", bound=Run)


def load_study(path: str | Path, root: str | Path = ".") -> Study:
    """Read a study.

    Args:
        path: the YAML file.
        root: what relative paths of checkpoints and data files in it are relative to (the repository).

    Raises:
        ValueError: with one line a mistake: the file, the key's path, the value and what is allowed.
    """
    raw = _read(path)
    if isinstance(raw, dict) and isinstance(raw.get("scores"), str):
        if not Path(root, raw["scores"]).is_file():
            raise ValueError(f"{path}: scores: {raw['scores']!r} is no file of the repository")
        raw["scores"] = load_scores(Path(root, raw["scores"])).model_dump(mode="json")
    study = _validated(Study, raw, str(path))
    mistakes: list[str] = []

    def found(folder: str, key: str) -> str:
        """Where a folder that the file names is, seen from the working directory."""
        if folder in study.download:
            return f"{DOWNLOADS}/{folder}"
        if not Path(root, folder).is_dir():
            names = ", ".join(study.download) or "none"
            mistakes.append(f"{path}: {key}: {folder!r} is neither a name under download ({names}) nor a folder")
        return os.path.relpath(Path(root, folder))

    base = {
        name: base.model_copy(update={"path": found(base.path, f"base.{name}.path")})
        if isinstance(base, Checkpoint)
        else base
        for name, base in study.base.items()
    }
    data = {
        name: data.model_copy(update={"problems": _with_folders(data.problems, f"data.{name}.problems", found)})
        for name, data in study.data.items()
    }
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return study.model_copy(update={"base": base, "data": data})


def load_scores(path: str | Path) -> Scores:
    """Read an evaluation scheme, which studies share.

    Raises:
        ValueError: as of a study.
        FileNotFoundError: there is no such file.
    """
    return _validated(Scores, _read(path), os.path.relpath(path))


def _read(path: str | Path) -> Any:
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None


def _with_folders(
    problems: GeneratedProblems | RealProblems, key: str, found: Callable[[str, str], str]
) -> GeneratedProblems | RealProblems:
    if isinstance(problems, GeneratedProblems):
        return problems
    return problems.model_copy(
        update={
            split: rows.model_copy(update={"folder": found(rows.folder, f"{key}.{split}.folder")})
            for split, rows in problems.splits.items()
        }
    )


def load_run(path: str | Path, kind: type[RunType]) -> RunType:
    """Read a `run.json`.

    Raises:
        ValueError: it is not the run of such a job.
    """
    return _validated(kind, json.loads(Path(path).read_text(encoding="utf-8")), str(path))


Model = TypeVar("Model", bound=Settings)


def _validated(kind: type[Model], raw: Any, name: str) -> Model:
    try:
        # By way of JSON, whose lists are tuples too even where nothing else is converted.
        return kind.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        mistakes = error.errors()
        # Items that were refused are not also missing.
        refused = {mistake["loc"][:-1] for mistake in mistakes}
        told = [m for m in mistakes if not (m["type"] == "too_short" and m["loc"] in refused)]
        raise ValueError("\n".join(f"{name}: {_explained(kind, mistake)}" for mistake in told)) from None


def _explained(kind: type[Settings], mistake: Any) -> str:
    """One mistake in a line: path, what is wrong, what is allowed."""
    place, found = _walk(kind, mistake["loc"])
    path = ".".join(place)
    if mistake["type"] == "extra_forbidden":
        _, section = _walk(kind, mistake["loc"][:-1])
        allowed = list(section.model_fields)
        close = difflib.get_close_matches(place[-1], allowed, n=1)
        return f"{path}: unknown key{f', did you mean {close[0]!r}?' if close else ''} (allowed: {', '.join(allowed)})"
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if mistake["type"] == "too_short":
        message = f"should have at least {mistake['ctx']['min_length']} item"
    if mistake["type"].startswith("union_tag"):
        context = mistake["ctx"]
        said = "missing" if "tag" not in context else f"{context['tag']!r} is not known"
        known = ", ".join(tag for part in _parts(found) for tag in _tags(part))
        return f"{path}.{context['discriminator'].strip(chr(39))}: {said} (allowed: {known})"
    if mistake["type"] == "missing":
        return f"{path}: missing"
    if mistake["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message}, not {mistake['input']!r}"


def _walk(kind: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """A path as the file has it, and the type at its end.

    Where a section is of one of several classes, pydantic's location also says which, by the value of the key that
    tells them apart.
    """
    path: list[str] = []
    for key in location:
        if chosen := [part for part in _parts(kind) if key in _tags(part)]:
            kind = chosen[0]
            continue
        path.append(str(key))
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            kind = kind.model_fields[key].annotation if key in getattr(kind, "model_fields", {}) else None
        if len(there := [part for part in _parts(kind) if part is not NoneType]) == 1:  # it may be null
            kind = there[0]
    return path, kind


def _parts(annotation: Any) -> list[Any]:
    """The classes that a section may be of, where there are several."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    return list(get_args(annotation)) if isinstance(annotation, UnionType) else []


def _tags(kind: Any) -> tuple[str, ...]:
    fields = getattr(kind, "model_fields", {})
    told = [fields[key].annotation for key in ("source", "reader", "test") if key in fields]
    return tuple(tag for annotation in told if get_origin(annotation) is Literal for tag in get_args(annotation))

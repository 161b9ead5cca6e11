"""Which code a job depends on, as a digest that changes when the code does, and not when only its comments do.

A rule carries the digest of its stage's module among its parameters. Snakemake then runs a job again when the module,
or any module of `stages` that it imports or names (as a process to be started), computes something else.
`stages.config` does not count: what of it concerns a job is in the job's `run.json`, another parameter.
"""

import ast
import hashlib
from collections.abc import Set
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What of a stage's code makes its results no others: a corrected judge trains nothing again, nor does a better check of
# what the old one let pass.
NO_REASON = {
    "stages.rl.train": {"stages.evaluation.answers"},
    "stages.model.preflight": {"stages.model.preflight"},
}
SETTINGS = {"stages.config", "stages.progress", "stages.provenance", "stages.sources"}
SETTINGS |= {"stages.model.memory", "stages.model.advice"}  # what is said when there is none


def results_digest(module: str) -> str:
    """`code_digest` of the code whose change makes a stage's results other ones: what a rule carries."""
    return code_digest(module, NO_REASON.get(module, frozenset()))


def files_of_results(module: str) -> list[Path]:
    """The files whose code `results_digest` is of."""
    paths = map(_path, sorted(reached(module, NO_REASON.get(module, frozenset()))))
    return [path for path in paths if path]


def code_digest(module: str, without: Set[str] = frozenset()) -> str:
    """Twelve hex digits over a module and all that it imports from `stages`.

    Args:
        module: of a stage.
        without: modules that do not count, nor what is reached by way of them alone.
    """
    digest = hashlib.sha256()
    for name in sorted(reached(module, without)):
        digest.update(ast.unparse(_without_docstrings(_parsed(name))).encode())
    return digest.hexdigest()[:12]


def reached(module: str, without: Set[str] = frozenset()) -> set[str]:
    """A module and the modules of `stages` that it imports, directly or by way of others."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in SETTINGS or name in without or _path(name) is None:
            continue
        found.add(name)
        for node in ast.walk(_parsed(name)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.startswith("stages")]
            elif isinstance(node, ast.Constant) and str(node.value).startswith("stages."):
                waiting.append(str(node.value))
    return found


def _path(module: str) -> Path | None:
    stem = ROOT.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@cache
def _parsed(module: str) -> ast.Module:
    path = _path(module)
    assert path
    return ast.parse(path.read_text(encoding="utf-8"))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree

"""Snakemake as a command, in the repository that this file is of and the directory that the process is in."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stages.config import load_study

ROOT = Path(__file__).parents[2]
ASIDE = Path("aside")  # what is moved away, for nothing is removed that took time to make
# What a Snakemake that is started from here is told, which the Snakefile heeds: to leave DVC alone, or only to look.
STARTED_BY = "GLASSBOX_STARTED_BY"
LOOKS = "dvc, to look"
AT_WORK, LOOKING = os.environ | {STARTED_BY: "dvc"}, os.environ | {STARTED_BY: LOOKS}
RECORDS = Path(".snakemake/metadata")
PART = 254  # characters of a file's name, of which Snakemake makes folders of a longer one
KNOWN = Path(".snakemake/rules")


def command(study: Path, *arguments: str) -> list[str]:
    """The command line; `arguments` stand behind the study and before targets."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", ".", "--configfile", str(study), *arguments),
    ]


def plan(study: Path, *arguments: str, environment: Mapping[str, str] = LOOKING) -> str:
    """What Snakemake says that it would do.

    Args:
        study: its file.
        arguments: for Snakemake.
        environment: AT_WORK, to set aside what is of other settings first.

    Raises:
        ValueError: it cannot; with what it says.
    """
    planned = command(study, "--cores", "1", "--dry-run", "--executor", "dryrun", "--nocolor", *arguments)
    said = subprocess.run(planned, capture_output=True, text=True, env=environment)
    if said.returncode:
        raise ValueError(said.stderr.strip() + said.stdout.strip())
    return f"{said.stderr}\n{said.stdout}"


def unrecorded(names: Iterable[str]) -> set[str]:
    """The rules of which there are results that Snakemake has no record of, so that it would take them for current."""
    return {name for name in names if not all(map(recorded, Path("results", name).rglob("run.json")))}


def recorded(path: Path) -> bool:
    """Whether Snakemake has a record of a result: a file, whose name is the result's in base64."""
    name = urlsafe_b64encode(str(path).encode()).decode()
    *folders, last = [name[i : i + PART] for i in range(0, len(name), PART)]
    return RECORDS.joinpath(*(f"@{folder}" for folder in folders), last).exists()


@dataclass
class Rule:
    """All jobs of a rule together.

    Attributes:
        module: of `stages`, that it runs.
    """

    name: str
    module: str = ""
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)


def rules(study: Path) -> list[Rule]:
    """The rules that the whole study takes, by name. Snakemake is asked once for each state of what tells them.

    Raises:
        ValueError: Snakemake cannot plan it, or its plan reads otherwise than expected.
    """
    known = KNOWN / f"{told_by(study)}.txt"
    if not known.is_file():
        said = plan(study, "--forceall", "--printshellcmds", "all")
        shutil.rmtree(KNOWN, ignore_errors=True)
        KNOWN.mkdir(parents=True)
        partial = known.with_suffix(f".{os.getpid()}")
        partial.write_text(said, encoding="utf-8")
        os.replace(partial, known)
    return read_rules(known.read_text(encoding="utf-8"))


def told_by(study: Path) -> str:
    """A digest of what tells the rules of a study: its file, the workflow, and which files it is made from."""
    if not study.is_file():
        raise ValueError(f"{study}: there is no such file here; run this in the directory of the study")
    digest = hashlib.sha256(study.read_bytes())
    for pattern in ("Snakefile", "config/*", "workflow/*.py", "workflow/rules/*.smk", "stages/config/*.py"):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    read = load_study(study, root=ROOT)
    sources = [*map(read.sources, read.study.datasets), *map(read.checkpoint_sources, read.study.models)]
    digest.update(str(sources).encode())
    return digest.hexdigest()


def read_rules(said: str) -> list[Rule]:
    """The rules in a plan of everything.

    Raises:
        ValueError: it reads otherwise than expected.
    """
    found: dict[str, Rule] = {}
    for name, body in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+(?:Shell command: .*\n)?)", said, re.M):
        told = dict(re.findall(r"^    (input|output): (.*)$", body, re.M))
        if "output" not in told:
            continue  # a target
        rule = found.setdefault(name, Rule(name))
        rule.outputs.update(told["output"].split(", "))
        rule.inputs.update(filter(None, told.get("input", "").split(", ")))
        modules = re.findall(r"(?:-m| ) ?(stages\.[\w.]+)", body)
        rule.module = modules[-1] if modules else ""
    if missing := [rule.name for rule in found.values() if not rule.module] or (not found and ["any"]):
        raise ValueError(f"Snakemake's plan could not be read: it tells no command of the rule {missing[0]}")
    return [found[name] for name in sorted(found)]

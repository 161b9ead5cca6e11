"""What would go wrong on a cluster, found before a job is submitted: no such profile, jobs that fit no node.

Slurm keeps a job that no node can run waiting for ever, and Snakemake's Slurm plugin waits with it. So what every rule
asks is compared with what Slurm says of its partitions; a message begins with the line that has to change.
"""

import contextlib
import getpass
import io
import math
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake.cli import parse_args
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

PROFILES = ("profile.yaml", "config.yaml")  # files that make a folder a profile
SINFO = ("sinfo", "--noheader", "--all", "--exact", "--format=%P|%l|%s|%D|%c|%m|%G")
SCONTROL = ("scontrol", "show", "config")
SQUEUE = ("squeue", "--noheader", "--format=%i|%Z|%k")
# Resources of a rule that the study file says, and its names for them; all others are the profile's.
STUDY_KEYS = {"nodes": "nodes", "runtime": "minutes", "mem_mb": "memory_mb", "gpu": "processes"}


# --- what Snakemake was told -----------------------------------------------------------------------------------------


def command_line(arguments: Sequence[str], started_in: str) -> Namespace:
    """Snakemake's options, those of its profile included; a Snakefile is not told the executor otherwise."""
    with contextlib.chdir(started_in), contextlib.redirect_stderr(io.StringIO()):
        options: Namespace = parse_args(list(arguments))[1]
    return options


def profile_path(name: str | None, started_in: str, basedir: str) -> Path | None:
    """The workflow profile that Snakemake takes: a file or folder as it is given, or a name under `profiles`."""
    given = name or "default"
    places = (Path(started_in, given), Path(started_in, "profiles", given), Path(basedir, "profiles", given))
    return None if name == "none" else next((place for place in places if place.exists()), None)


def unknown_profile(name: str | None, started_in: str, basedir: str) -> str | None:
    """A message if a profile was asked for that is not there: Snakemake would run every job on this machine."""
    if name in (None, "none") or profile_path(name, started_in, basedir):
        return None
    profiles = sorted({path.parent.name for file in PROFILES for path in Path(basedir, "profiles").glob(f"*/{file}")})
    return f"--workflow-profile {name}: no such file or folder, nor one in profiles/ (there: {', '.join(profiles)})"


# --- what the rules ask ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What one Slurm job of a rule asks for.

    Attributes:
        section: of the study's `resources`.
        resources: of one job of Snakemake's, by its names; `_cores` are its threads.
        overwritten: resources that the profile's `set-resources` says.
        in_turn, abreast: how many jobs of a group, which is one for Slurm, run one after another, and side by side.
    """

    rule: str
    section: str
    resources: dict[str, Any]
    overwritten: frozenset[str] = frozenset()
    in_turn: int = 1
    abreast: int = 1

    @property
    def nodes(self) -> int:
        return int(self.resources.get("nodes", 1))

    @property
    def minutes(self) -> int:
        return int(self.resources["runtime"]) * self.in_turn

    @property
    def on_a_node(self) -> dict[str, int]:
        """CPUs, MB and GPUs of each node."""
        cpus = int(self.resources.get("cpus_per_task", self.resources["_cores"]))
        memory = int(self.resources["mem_mb"])
        gpus = int(self.resources.get("gpu", 0)) // self.nodes
        return {"cpus": cpus * self.abreast, "memory_mb": memory * self.abreast, "gpus": gpus}


def asked_of_slurm(rules: Iterable[Any], local: Iterable[str], told: Namespace) -> list[Asked]:
    """What Snakemake's rules ask, but for those that run where Snakemake does (`local`, and those that run nothing)."""
    jobs = []
    for rule in rules:
        if rule.norun or rule.name in local:
            continue
        # What is computed for each job has no raw value; nothing that is looked at here is of that kind.
        resources = {name: resource.raw for name, resource in rule.resources.items() if resource.raw is not None}
        together = told.group_components.get(told.groups.get(rule.name), 1)
        # What is limited (`--resources`) is limited in a group too.
        limits = {name: limit.value for name, limit in (told.resources or {}).items() if resources.get(name)}
        abreast = min([together] + [max(1, limit // resources[name]) for name, limit in limits.items()])
        jobs.append(
            Asked(
                rule=rule.name,
                section=rule.name if rule.name in ("sft", "rl", "evaluate") else "other",
                resources=resources,
                overwritten=frozenset(told.set_resources.get(rule.name, {})),
                in_turn=math.ceil(together / abreast),
                abreast=abreast,
            )
        )
    return jobs


@dataclass(frozen=True)
class Files:
    """The files to change, as messages name them."""

    study: str
    profile: str
    options: frozenset[str] = frozenset()
    """Given on the command line; Snakemake then takes nothing of the same name from the profile."""

    def option(self, name: str) -> str:
        return f"--{name}" if name in self.options else f"{self.profile}: {name}"

    def line(self, asked: Asked, resource: str) -> str:
        """Where a resource is said, and its value."""
        value = asked.resources.get(resource)
        if resource in asked.overwritten:
            return f"{self.option('set-resources')}: {asked.rule}: {resource}: {value}"
        if resource not in STUDY_KEYS:
            return f"{self.option('default-resources')}: {resource}: {value}"
        if resource == "gpu" and asked.section == "evaluate":
            return f"{self.study}: compute.device: cuda"
        return f"{self.study}: resources.{asked.section}.{STUDY_KEYS[resource]}: {value}"


# --- what the cluster has --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """Nodes that jobs are sent to, and the most that one job may have of them.

    Attributes:
        minutes: after which a job is ended.
        nodes: of a job.
        cpus, memory_mb, gpus: of the largest node in this respect.
    """

    minutes: float
    nodes: float
    cpus: int
    memory_mb: int
    gpus: int


def partitions(sinfo: str) -> tuple[dict[str, Partition], str | None]:
    """The partitions in the output of SINFO, a line for each kind of node in each, and the name of the default one."""
    found: dict[str, Partition] = {}
    default = None
    for line in sinfo.splitlines():
        starred, limit, size, count, cpus, memory, gres = line.strip().split("|")
        name = starred.rstrip("*")
        default = default if name == starred else name
        before = found.get(name, Partition(0, 0, 0, 0, 0))
        found[name] = Partition(
            minutes=_minutes(limit),
            nodes=min(_unlimited(size.split("-")[-1]), before.nodes + int(count)),
            cpus=max(before.cpus, int(cpus.rstrip("+"))),
            memory_mb=max(before.memory_mb, int(memory.rstrip("+"))),
            gpus=max(before.gpus, sum(int(n) for n in re.findall(r"\bgpu(?::[^,:()]+)?:(\d+)", gres))),
        )
    return found, default


def _unlimited(number: str) -> float:
    return math.inf if number in ("infinite", "n/a") else int(number)


def _minutes(limit: str) -> float:
    """Of `days-hours:minutes:seconds`, of which sinfo leaves out what is zero at the beginning."""
    days, _, clock = limit.rpartition("-")
    if not clock[0].isdigit():
        return math.inf
    hours, minutes, seconds = (["0", "0", *clock.split(":")])[-3:]
    return int(days or 0) * 1440 + int(hours) * 60 + int(minutes) + int(seconds) / 60


def settings(scontrol: str) -> dict[str, str]:
    """The cluster's settings, from the output of SCONTROL."""
    pairs = (line.split("=", 1) for line in scontrol.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


# --- the comparison --------------------------------------------------------------------------------------------------


def too_much(asked: Asked, found: dict[str, Partition], default: str | None, files: Files) -> list[str]:
    """What no node of the partition can give to the jobs of a rule."""
    names = str(asked.resources.get("slurm_partition") or default or "").split(",")
    if unknown := [name for name in names if name not in found]:
        line = files.line(asked, "slurm_partition")
        return [f"{line}, but there is no partition {', '.join(unknown)} here (allowed: {', '.join(found)})"]
    those = [found[name] for name in names]
    partition = f"partition {' or '.join(names)}"
    in_turn = f" ({asked.in_turn} in turn: {files.option('group-components')})" if asked.in_turn > 1 else ""
    group = f" ({asked.abreast} side by side: {files.option('group-components')})" if asked.abreast > 1 else ""
    needed, mistakes = asked.on_a_node, []
    if asked.minutes > (limit := max(of.minutes for of in those)):
        mistakes.append(f"{files.line(asked, 'runtime')}{in_turn}, but {partition} ends jobs after {limit:g}")
    if asked.nodes > (most := max(of.nodes for of in those)):
        mistakes.append(f"{files.line(asked, 'nodes')}, but {partition} gives a job {most:g}")
    if needed["gpus"] > (most := max(of.gpus for of in those)):
        line = files.line(asked, "gpu")
        mistakes.append(f"{line}, that is {needed['gpus']} GPUs on a node, but a node of {partition} has {most}")
    if needed["memory_mb"] > (most := max(of.memory_mb for of in those)):
        mistakes.append(f"{files.line(asked, 'mem_mb')}{group}, but a node of {partition} has {most}")
    if needed["cpus"] > (most := max(of.cpus for of in those)):
        line = f"{files.study}: compute.threads: {asked.rule} needs {needed['cpus']} CPUs on a node{group}"
        mistakes.append(f"{line}, but a node of {partition} has {most}")
    return mistakes


def account_mistake(asked: Asked, accounts: Sequence[str] | None, files: Files) -> str | None:
    """An account that is missing or not yours, where accounts are kept; `accounts` is None where they are not."""
    if not accounts:
        return None
    account = asked.resources.get("slurm_account")
    if account is None:
        return f"{files.option('default-resources')}: no slurm_account (yours: {', '.join(accounts)})"
    # Sent with another one, a job would be lost: Snakemake's Slurm plugin refuses it and goes on waiting for it.
    if str(account).lower() not in accounts:
        return f"{files.line(asked, 'slurm_account')} is not yours (yours: {', '.join(accounts)})"
    return None


def status_mistake(plugin: Any, cluster: dict[str, str], has_sacct: bool, files: Files) -> str | None:
    """Snakemake would ask for the state of its jobs in a way that this cluster never answers, and wait for ever.

    Args:
        plugin: its settings.
    """
    kept = cluster.get("AccountingStorageType", "")
    if kept.endswith("/slurmdbd") or not has_sacct:
        return None
    if plugin.status_command != "squeue":
        return (
            f"{files.profile}: no `slurm-status-command: squeue`, but this cluster keeps no record of finished jobs "
            f"(AccountingStorageType={kept})"
        )
    first = plugin.init_seconds_before_status_checks
    remembered = int(cluster["MinJobAge"].split()[0])
    if remembered < 3 * first:  # then the plugin takes sacct after all
        return (
            f"{files.option('slurm-init-seconds-before-status-checks')}: {first}, but this cluster forgets a finished "
            f"job after {remembered} seconds (allowed: up to {remembered // 3})"
        )
    return None


def extra_mistake(asked: Asked, files: Files) -> str | None:
    """An option in `slurm_extra` that the plugin sets itself: it would refuse the job and go on waiting for it."""
    from snakemake_executor_plugin_slurm.validation import validate_slurm_extra
    from snakemake_interface_common.exceptions import WorkflowError

    extra = str(asked.resources.get("slurm_extra", ""))
    try:
        validate_slurm_extra(SimpleNamespace(resources=SimpleNamespace(slurm_extra=extra)))
    except WorkflowError as mistake:
        return f"{files.line(asked, 'slurm_extra')}: {mistake}"
    return None


def left_behind(squeue: str, folder: str) -> str | None:
    """Jobs of a Snakemake that died, in the output of SQUEUE: two jobs on the same files would spoil each other's.

    Args:
        squeue: of one's own jobs.
        folder: that the study runs in.
    """
    jobs = [line.split("|") for line in squeue.splitlines()]
    found = [job for job, where, comment in jobs if comment.startswith("rule_") and Path(where) == Path(folder)]
    if not found:
        return None
    return f"Jobs of an earlier start still work in {folder}: wait for them, or `scancel {' '.join(found)}`"


def study_mistakes(workflow: Any, told: Namespace, study: Path) -> list[str]:
    """Everything that would keep the study from running on this cluster, once Snakemake has read its rules."""
    profile = profile_path(told.workflow_profile, workflow.rundir, workflow.basedir) or Path("(no profile)")
    if profile.is_dir():
        profile = next(profile / name for name in PROFILES if (profile / name).is_file())
    options = frozenset(argument[2:].split("=")[0] for argument in sys.argv if argument.startswith("--"))
    files = Files(os.path.relpath(study, workflow.rundir), os.path.relpath(profile, workflow.rundir), options)
    if shutil.which("sbatch") is None:
        return [f"{files.profile}: executor: slurm, but there is no sbatch here; start the study on a login node"]
    try:
        found, default = partitions(_said_by(*SINFO))
        cluster = settings(_said_by(*SCONTROL))
        submits = not (told.dryrun or told.unlock)
        jobs = _said_by(*SQUEUE, f"--user={getpass.getuser()}") if submits else ""
        accounts = None
        if cluster.get("AccountingStorageType", "").endswith("/slurmdbd"):
            me = f"user={getpass.getuser()}"
            listed = _said_by("sacctmgr", "--noheader", "--parsable2", "list", "associations", me, "format=account")
            accounts = sorted({account.lower() for account in listed.split()})
    except (OSError, subprocess.SubprocessError) as problem:
        return [f"Slurm does not answer: {problem} {getattr(problem, 'stderr', None) or ''}".strip()]
    plugin = ExecutorPluginRegistry().get_plugin(told.executor).get_settings(told)
    mistakes = [status_mistake(plugin, cluster, shutil.which("sacct") is not None, files)]
    mistakes.append(left_behind(jobs, workflow.workdir_init))
    for asked in asked_of_slurm(workflow.rules, workflow._localrules, told):
        mistakes += too_much(asked, found, default, files)
        mistakes += [account_mistake(asked, accounts, files), extra_mistake(asked, files)]
    return list(dict.fromkeys(mistake for mistake in mistakes if mistake))


def _said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

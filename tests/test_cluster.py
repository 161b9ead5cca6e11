"""What stops a study before its first job on a cluster; Slurm's commands are scripts that print what a cluster says."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from workflow.cluster import (
    Asked,
    Files,
    Partition,
    account_mistake,
    extra_mistake,
    left_behind,
    partitions,
    profile_path,
    settings,
    status_mistake,
    too_much,
    unknown_profile,
)

ROOT = Path(__file__).parent.parent
FILES = Files("config/x.yaml", "profiles/slurm/profile.yaml")
# Two kinds of nodes in one partition; a limit of a job's nodes; no limit of its minutes.
SINFO = """\
gpu*|4:00:00|1-infinite|10|64|257000|gpu:a100:4(S:0-1)
gpu*|4:00:00|1-infinite|2|96|1031000|gpu:nvidia_h100-80gb.hbm3:8(S:0-1),nvme:1
long|14-00:00:00|1-2|4|48|190000|(null)
debug|30:00|1|1|2|8000+|gpu:2
rest|infinite|1-infinite|1|8|16000|gres:lustre:1
"""
NONE = {"AccountingStorageType": "accounting_storage/none", "MinJobAge": "300 sec"}


def asked(**changed: object) -> Asked:
    resources = {"slurm_partition": "gpu", "runtime": 240, "mem_mb": 64000, "_cores": 8, "gpu": 1, "nodes": 1}
    return Asked("rl", "rl", resources | changed)


def test_what_sinfo_says_of_partitions() -> None:
    found, default = partitions(SINFO)
    assert default == "gpu"
    assert found == {
        "gpu": Partition(minutes=240, nodes=12, cpus=96, memory_mb=1031000, gpus=8),
        "long": Partition(minutes=14 * 1440, nodes=2, cpus=48, memory_mb=190000, gpus=0),
        "debug": Partition(minutes=30, nodes=1, cpus=2, memory_mb=8000, gpus=2),
        "rest": Partition(minutes=math.inf, nodes=1, cpus=8, memory_mb=16000, gpus=0),
    }


def test_what_scontrol_says_of_the_cluster() -> None:
    text = "Configuration data as of 2026-11-27T23:35:06\nMinJobAge               = 300 sec\nGresTypes = gpu\n\n"
    assert settings(text) == {"MinJobAge": "300 sec", "GresTypes": "gpu"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"slurm_partition": None, "runtime": 240}, []),  # the default partition
        ({"slurm_partition": "gpu,long", "runtime": 9999}, []),  # Slurm takes the one that can
        (
            {"slurm_partition": "gpuu"},
            [
                "profiles/slurm/profile.yaml: default-resources: slurm_partition: gpuu, but there is no partition gpuu "
                "here (allowed: gpu, long, debug, rest)"
            ],
        ),
        (
            {"runtime": 600},
            ["config/x.yaml: resources.rl.minutes: 600, but partition gpu ends jobs after 240"],
        ),
        (
            {"mem_mb": 1031001},
            ["config/x.yaml: resources.rl.memory_mb: 1031001, but a node of partition gpu has 1031000"],
        ),
        (
            {"gpu": 9},
            ["config/x.yaml: resources.rl.processes: 9, that is 9 GPUs on a node, but a node of partition gpu has 8"],
        ),
        ({"gpu": 16, "nodes": 2}, []),
        (
            {"nodes": 13, "gpu": 13},
            ["config/x.yaml: resources.rl.nodes: 13, but partition gpu gives a job 12"],
        ),
        (
            {"_cores": 112, "cpus_per_task": 112},
            ["config/x.yaml: compute.threads: rl needs 112 CPUs on a node, but a node of partition gpu has 96"],
        ),
        ({"_cores": 112, "cpus_per_task": 56, "nodes": 2}, []),
        (
            {"slurm_partition": "debug", "runtime": 31, "mem_mb": 8001, "_cores": 1},
            [
                "config/x.yaml: resources.rl.minutes: 31, but partition debug ends jobs after 30",
                "config/x.yaml: resources.rl.memory_mb: 8001, but a node of partition debug has 8000",
            ],
        ),
    ],
)
def test_what_no_node_can_give(changed: dict[str, object], expected: list[str]) -> None:
    found, default = partitions(SINFO)
    job = asked(**changed)
    job = Asked("rl", "rl", {name: value for name, value in job.resources.items() if value is not None})
    assert too_much(job, found, default, FILES) == expected


def test_a_group_of_jobs_asks_as_one() -> None:
    resources = {"slurm_partition": "gpu", "runtime": 60, "mem_mb": 300000, "_cores": 8}
    found, default = partitions(SINFO)
    assert too_much(Asked("judge", "other", resources, in_turn=4), found, default, FILES) == []
    assert too_much(Asked("judge", "other", resources, in_turn=5), found, default, FILES) == [
        "config/x.yaml: resources.other.minutes: 60 (5 in turn: profiles/slurm/profile.yaml: group-components), "
        "but partition gpu ends jobs after 240"
    ]
    assert too_much(Asked("judge", "other", resources, abreast=4), found, default, FILES) == [
        "config/x.yaml: resources.other.memory_mb: 300000 (4 side by side: profiles/slurm/profile.yaml: "
        "group-components), but a node of partition gpu has 1031000"
    ]


def test_a_message_names_the_place_that_counts() -> None:
    job = Asked("rl", "rl", {"runtime": 600}, overwritten=frozenset({"runtime"}))
    assert FILES.line(job, "runtime") == "profiles/slurm/profile.yaml: set-resources: rl: runtime: 600"
    given = Files("config/x.yaml", "profiles/slurm/profile.yaml", frozenset({"set-resources"}))
    assert given.line(job, "runtime") == "--set-resources: rl: runtime: 600"
    evaluation = Asked("evaluate", "evaluate", {"gpu": 1})
    assert FILES.line(evaluation, "gpu") == "config/x.yaml: compute.device: cuda"


def test_an_account_where_accounts_are_kept() -> None:
    job, mine = asked(), ["physics", "vision"]
    assert account_mistake(job, None, FILES) is None
    assert account_mistake(job, mine, FILES) == (
        "profiles/slurm/profile.yaml: default-resources: no slurm_account (yours: physics, vision)"
    )
    assert account_mistake(asked(slurm_account="Vision"), mine, FILES) is None  # Slurm's names are in small letters
    assert account_mistake(asked(slurm_account="arts"), mine, FILES) == (
        "profiles/slurm/profile.yaml: default-resources: slurm_account: arts is not yours (yours: physics, vision)"
    )


@pytest.mark.parametrize(
    ("command", "first", "cluster", "expected"),
    [
        ("sacct", 40, {"AccountingStorageType": "accounting_storage/slurmdbd"}, None),
        ("squeue", 40, NONE, None),
        ("sacct", 40, NONE, "profiles/slurm/profile.yaml: no `slurm-status-command: squeue`"),
        ("squeue", 101, NONE, "profiles/slurm/profile.yaml: slurm-init-seconds-before-status-checks: 101"),
    ],
)
def test_the_state_of_jobs_can_be_asked(command: str, first: int, cluster: dict[str, str], expected: str) -> None:
    plugin = SimpleNamespace(status_command=command, init_seconds_before_status_checks=first)
    found = status_mistake(plugin, cluster, True, FILES)
    assert found is None if expected is None else found is not None and found.startswith(expected)
    assert status_mistake(plugin, cluster, False, FILES) is None  # without sacct the plugin asks squeue by itself


def test_an_option_that_snakemake_sets_itself() -> None:
    assert extra_mistake(asked(slurm_extra="--signal=TERM@120"), FILES) is None
    found = extra_mistake(asked(slurm_extra="--qos=high"), FILES)
    assert found is not None and found.startswith(
        "profiles/slurm/profile.yaml: default-resources: slurm_extra: --qos=high: The --quality-of-service option"
    )


def test_jobs_of_a_snakemake_that_died() -> None:
    squeue = "33|/disk/study|rule_rl\n34|/disk/other|rule_rl\n35|/disk/study|(null)\n36_1|/disk/study|rule_data\n"
    assert left_behind(squeue, "/disk/study") == (
        "Jobs of an earlier start still work in /disk/study: wait for them, or `scancel 33 36_1`"
    )
    assert left_behind(squeue, "/disk") is None and left_behind("", "/disk/study") is None


# --- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (None, "repository/profiles/default"),
        ("none", None),
        ("slurm", "repository/profiles/slurm"),
        ("mine", "here/profiles/mine"),
        ("profiles/mine", "here/profiles/mine"),
        ("profiles/mine/profile.yaml", "here/profiles/mine/profile.yaml"),
        ("../repository/profiles/slurm", "here/../repository/profiles/slurm"),
        ("profiles/slurm", None),  # it is looked for here, and not beside the Snakefile
        ("slrum", None),
    ],
)
def test_where_a_profile_is(tmp_path: Path, name: str | None, place: str | None) -> None:
    for folder in ("here/profiles/mine", "repository/profiles/default", "repository/profiles/slurm"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "profile.yaml").touch()
    here, repository = str(tmp_path / "here"), str(tmp_path / "repository")
    assert profile_path(name, here, repository) == (place and tmp_path / place)
    message = unknown_profile(name, here, repository)
    if place or name == "none":
        assert message is None
    else:
        assert message == (
            f"--workflow-profile {name}: no such file or folder, nor one in profiles/ (there: default, slurm)"
        )


# --- the workflow ----------------------------------------------------------------------------------------------------


class Cluster:
    """A folder of scripts that say what Slurm's commands would say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "bin"
        self.path.mkdir()
        for name in ("bash", "env", "sh", "which", "cat"):
            (self.path / name).symlink_to(shutil.which(name) or "")
        for command in ("sbatch", "sacct", "squeue"):
            self.says(command, "")
        self.says("sinfo", SINFO)
        self.says("scontrol", "AccountingStorageType = accounting_storage/slurmdbd\nMinJobAge = 300 sec\n")
        self.says("sacctmgr", "vision\n")

    def says(self, command: str, text: str) -> None:
        script = self.path / command
        script.write_text(f"#!/bin/sh\ncat << 'END'\n{text}END\n")
        script.chmod(0o755)

    def dry_run(self, *arguments: str, started_in: Path = ROOT) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), str(self.path)])
        study = str(ROOT / "config/smoke.yaml")
        command = ["snakemake", "--dry-run", "--snakefile", str(ROOT / "Snakefile"), "--configfile", study]
        return subprocess.run(
            [*command, "--directory", str(self.folder / "run"), *arguments],
            cwd=started_in,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


SLURM = ("--workflow-profile", "profiles/slurm")
ACCOUNT = ("--default-resources", "slurm_partition=gpu", "slurm_account=vision")


def test_a_study_that_fits(cluster: Cluster) -> None:
    ran = cluster.dry_run(*SLURM, *ACCOUNT)
    assert ran.returncode == 0, ran.stderr
    on_the_login_node = ("download:slurm_partition=none", "report:mem_mb=9999999")
    ran = cluster.dry_run(
        *SLURM, *ACCOUNT, "--set-resources", *on_the_login_node, "judge:judging=1", "judge:runtime=25"
    )
    assert ran.returncode == 0, ran.stderr


def test_everything_that_does_not_fit_is_said_at_once(cluster: Cluster) -> None:
    cluster.says("sinfo", "cpu*|30:00|1-infinite|3|4|2000|(null)\n")
    overwritten = ("--set-resources", "rl:gpu=1", "judge:judging=1")
    ran = cluster.dry_run(*SLURM, "--default-resources", "slurm_partition=cpu", *overwritten)
    assert ran.returncode != 0
    assert ran.stderr[ran.stderr.index("The cluster cannot run this study:") :].splitlines()[1:] == [
        "config/smoke.yaml: resources.other.minutes: 60, but partition cpu ends jobs after 30",
        "config/smoke.yaml: resources.other.memory_mb: 3000, but a node of partition cpu has 2000",
        "--default-resources: no slurm_account (yours: vision)",
        "config/smoke.yaml: resources.sft.minutes: 60, but partition cpu ends jobs after 30",
        "config/smoke.yaml: resources.sft.memory_mb: 3000, but a node of partition cpu has 2000",
        "config/smoke.yaml: resources.rl.minutes: 60, but partition cpu ends jobs after 30",
        "--set-resources: rl: gpu: 1, that is 1 GPUs on a node, but a node of partition cpu has 0",
        "config/smoke.yaml: resources.rl.memory_mb: 3000, but a node of partition cpu has 2000",
        "config/smoke.yaml: resources.evaluate.minutes: 60, but partition cpu ends jobs after 30",
        "config/smoke.yaml: resources.evaluate.memory_mb: 3000, but a node of partition cpu has 2000",
        # Of a group, which is one job for Slurm.
        "config/smoke.yaml: resources.other.minutes: 60 (8 in turn: profiles/slurm/profile.yaml: group-components), "
        "but partition cpu ends jobs after 30",
    ]


def test_no_login_node(cluster: Cluster) -> None:
    (cluster.path / "sbatch").unlink()
    ran = cluster.dry_run(*SLURM)
    assert ran.returncode != 0
    assert "profiles/slurm/profile.yaml: executor: slurm, but there is no sbatch here" in ran.stderr


def test_a_cluster_that_is_down(cluster: Cluster) -> None:
    (cluster.path / "sinfo").write_text("#!/bin/sh\necho 'slurm_load_partitions: Connection refused' >&2; exit 1\n")
    ran = cluster.dry_run(*SLURM)
    assert ran.returncode != 0 and "Slurm does not answer: " in ran.stderr and "Connection refused" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workflow-profile", "profiles/slrum"),
        ("--workflow-profile=slrum",),
        ("--workflow-prof", "slrum"),
    ],
)
def test_a_misspelt_profile_runs_nothing(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    ran = cluster.dry_run(*arguments, "--cores", "1")
    assert ran.returncode != 0
    assert f"--workflow-profile {arguments[-1].split('=')[-1]}: no such file or folder" in ran.stderr
    assert "(there: default, slurm)" in ran.stderr and "Job stats" not in ran.stdout


def test_a_folder_without_a_profile_runs_nothing(cluster: Cluster) -> None:
    empty = cluster.folder / "profiles/empty"
    empty.mkdir(parents=True)
    ran = cluster.dry_run("--workflow-profile", "empty", "--cores", "1", started_in=cluster.folder)
    assert ran.returncode != 0 and "no profile.yaml (or config.yaml) found" in ran.stderr


def test_a_profile_is_found_from_anywhere_by_its_name(cluster: Cluster) -> None:
    ran = cluster.dry_run("--workflow-profile", "slurm", *ACCOUNT, started_in=cluster.folder)
    assert ran.returncode == 0 and "specific profile" in ran.stderr, ran.stderr


def test_on_this_machine_the_cluster_is_not_asked(cluster: Cluster) -> None:
    (cluster.path / "sbatch").unlink()
    ran = cluster.dry_run("--cores", "1")
    assert ran.returncode == 0, ran.stderr

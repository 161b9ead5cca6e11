# Reinforcement learning against supervised fine-tuning, from data to report: the table of contents.

import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")
sys.path.insert(0, workflow.basedir)

from stages.config import load_study
from stages.sources import results_digest
from workflow import cluster
from workflow.plan import plan, too_large
from workflow.current import set_stale_aside
from workflow.dvc.planning import LOOKS, STARTED_BY
from workflow.dvc.restore import take_up
from workflow.running import mark_running, somebody_runs

if workflow.is_main_process:
    told = cluster.command_line(sys.argv[1:], workflow.rundir)
    if unknown := cluster.unknown_profile(
        told.workflow_profile, workflow.rundir, workflow.basedir
    ):
        sys.exit(unknown)

# One file is the whole study; it is not merged with another. `--configfile FILE` takes FILE instead.
study_files = [*workflow.config_settings.configfiles] or [
    Path(workflow.basedir, "config/config.yaml")
]
if len(study_files) > 1 or workflow.config_settings.config:
    sys.exit("The study is one file: give one --configfile and no --config.")
try:
    study = load_study(study_files[-1], root=workflow.basedir)
    paper = load_study(
        Path(workflow.basedir, "config/paper.yaml"), root=workflow.basedir
    )
except (ValueError, OSError) as mistakes:
    sys.exit(f"The study cannot run:\n{mistakes}")

grid = study.study
if workflow.is_main_process:
    print(plan(study), file=sys.stderr)
    looks = told.unlock or told.touch or os.environ.get(STARTED_BY) == LOOKS
    if not looks and (mistakes := too_large(study, study_files[-1])):
        sys.exit("The study cannot run:\n" + "\n".join(mistakes))
    if not (looks or somebody_runs()):
        stale = [
            f"{name} {count}" for name, count in set_stale_aside(study, paper).items()
        ]
        if stale:
            print(
                f"Results of other settings or code: {', '.join(stale)}.",
                file=sys.stderr,
            )
        take_up(Path(study_files[-1]))
    running = mark_running()  # as long as this variable is there


# What was downloaded is all that may be used; ASKED_OFFLINE is what the download rule itself heeds.
shell.prefix("export ASKED_OFFLINE=${{HF_HUB_OFFLINE:-0}} HF_HUB_OFFLINE=1; ")


report: "workflow/report/workflow.rst"


wildcard_constraints:
    name="|".join(study.download) or "none",
    model="|".join(study.base),
    dataset="|".join(study.data),
    method="|".join(["vanilla", *study.sft, *study.rl]),
    seed=r"\d+",
    stage="sft|rl|evaluate",


# On a cluster these run where Snakemake does: they need the network, or a moment.
localrules:
    download,
    base,
    data_report,
    tables,
    figures,
    report,


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"


rule all:
    default_target: True
    input:
        targets("report", "data_report", "weights"),
        # Every job's settings, for what is missing and not asked for is not made: one that is aside has to be.
        [path for path in targets(*RULES) if Path(path).name == "run.json"],


if workflow.is_main_process and told.executor == "slurm":
    mistakes = cluster.study_mistakes(workflow, told, study_files[-1])
    if mistakes:
        sys.exit("The cluster cannot run this study:\n" + "\n".join(mistakes))

# One target a rule, with all of its jobs: `snakemake all_rl`. A stage of dvc.yaml runs one of them.

from workflow.jobs import RULES, jobs


def targets(*names):
    """What the jobs of these rules write; trained weights that are removed again are no target."""
    return [
        output.format(**wildcards)
        for name in names
        for wildcards in jobs(study, name)
        for output in getattr(rules, name).output
        if not output.startswith("trained/")
    ]


for name in RULES:

    rule:
        name:
            f"all_{name}"
        input:
            targets(name),

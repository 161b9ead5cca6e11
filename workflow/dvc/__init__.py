"""DVC beside Snakemake: Snakemake runs, DVC records what was made of what, and brings it to other machines.

`generate` writes dvc.yaml from the rules, a stage a rule; `stage` is the command of each of its stages; `restore` tells
Snakemake what `dvc pull` or `dvc checkout` has brought. Without DVC the workflow runs as well.
"""

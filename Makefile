# Python for the environment, cores for the workflow: make study PYTHON=python3.12 CORES=4
PYTHON ?= python3
CORES ?= all

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The rules call `python -m stages...`, so the environment's python must be the first on the path.
IN_ENVIRONMENT := PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: help study smoke base test vllm trl lint clean

help:  ## this text
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

study: .venv/ready  ## the laptop study: config/config.yaml to results/report
	$(IN_ENVIRONMENT) snakemake --cores $(CORES)

smoke: .venv/ready  ## every code path in minutes: config/smoke.yaml, in runs/smoke
	$(IN_ENVIRONMENT) snakemake --cores $(CORES) --configfile config/smoke.yaml --directory runs/smoke

base: .venv/ready  ## build the tiny base models again, in runs/pretrain
	$(IN_ENVIRONMENT) snakemake --cores $(CORES) --configfile config/pretrain.yaml --directory runs/pretrain all_base

# The longest first; pytest would sort them, were they named beside their folder.
LONGEST := tests/test_dvc.py tests/test_workflow.py tests/test_slurm.py tests/test_resume.py
TESTS := $(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/test_*.py))

test: .venv/ready  ## the test suite
	$(IN_ENVIRONMENT) OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 25 $(TESTS)

vllm: .venv/vllm/ready  ## vLLM for a machine without a GPU, in .venv/vllm

trl: .venv/trl/ready  ## TRL, to be compared with, in .venv/trl

lint: .venv/ready  ## format, types, and who may import whom
	$(IN_ENVIRONMENT) ruff check .
	$(IN_ENVIRONMENT) ruff format --check .
	$(IN_ENVIRONMENT) snakefmt --check Snakefile workflow
	$(IN_ENVIRONMENT) mypy
	$(IN_ENVIRONMENT) lint-imports

clean:  ## remove the environment and caches, and no result
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find stages tests -name __pycache__ -prune -exec rm -rf {} +

.venv/ready: envs/cpu.lock envs/dvc.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "error: Python 3.11, 3.12 or \
	3.13 is needed, and $(PYTHON) is " + sys.version.split()[0] + "; another one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
		{ echo "error: $(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "The environment goes into .venv; that takes a few minutes."
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -qq --disable-pip-version-check --requirement envs/cpu.lock
	.venv/bin/pip install -qq --disable-pip-version-check --no-deps --editable .
	$(PYTHON) -m venv .venv/dvc
	.venv/dvc/bin/pip install -qq --disable-pip-version-check --requirement envs/dvc.lock
	ln -sf ../dvc/bin/dvc .venv/bin/dvc
	touch $@

# It sees the packages of .venv, which does not see its: torchvision, that it needs, breaks a CPU-only torch (docs/vllm.md).
.venv/vllm/ready: .venv/ready envs/vllm.lock envs/torchvision_operators.py
	.venv/bin/python -m venv .venv/vllm
	.venv/vllm/bin/pip install -qq --disable-pip-version-check --no-deps --requirement envs/vllm.lock
	packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	study=$$(.venv/bin/python -c "$$packages"); \
	own=$$(.venv/vllm/bin/python -c "$$packages"); \
	cp envs/torchvision_operators.py "$$own"; \
	printf '%s\n' "import site; site.addsitedir('$$study')" "import torchvision_operators" > "$$own/study.pth"
	touch $@

# It sees the packages of .venv, which hold all that TRL needs.
.venv/trl/ready: .venv/ready envs/trl.lock
	.venv/bin/python -m venv .venv/trl
	.venv/trl/bin/pip install -qq --disable-pip-version-check --no-deps --requirement envs/trl.lock
	packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	study=$$(.venv/bin/python -c "$$packages"); \
	own=$$(.venv/trl/bin/python -c "$$packages"); \
	echo "import site; site.addsitedir('$$study')" > "$$own/study.pth"
	touch $@

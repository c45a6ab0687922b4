# Every target does its own set-up in .venv/. On a machine without internet: see `make bundle`.

PYTHON ?= python3
CORES ?= all
PYTEST_ARGS ?= -n auto --dist loadgroup
KILLS ?= 20
FUZZ_SECONDS ?= 60
FLIPS ?= 5000
BENCH_ARGS ?=
# Chosen by hand, so that a new lock does not change results by the way; the other versions follow from it.
TORCH := torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# A wheelhouse (from `make bundle`) takes the place of the package index.
OFFLINE := $(if $(wildcard wheelhouse),--no-index --find-links wheelhouse)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
MINOR := import sys; print("%d.%d" % sys.version_info[:2])

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-teachers test-slurm test-slurm-faults slurm-packages soak fuzz bench lint docs lock bundle clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## create .venv/ with the locked packages

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'mskd needs Python >= 3.11: make setup PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'setting up $(VENV)/ $(if $(OFFLINE),from wheelhouse/ )(once; some minutes)'
ifneq ($(OFFLINE),)
	@found=$$($(PYTHON) -c '$(MINOR)'); wanted=$$(cat wheelhouse/PYTHON); test "$$found" = "$$wanted" || \
	  { echo "wheelhouse/ is for Python $$wanted, $(PYTHON) is $$found: make setup PYTHON=python$$wanted" >&2; exit 1; }
	@test -x $(BIN)/pip || { $(PYTHON) -m venv --without-pip $(VENV) && \
	  PYTHONPATH=$$(echo wheelhouse/pip-*.whl) $(PIP) install $(OFFLINE) pip; }
else
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
endif
	@$(PIP) install $(OFFLINE) -r requirements.lock
	@$(PIP) install $(OFFLINE) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## run the whole workflow on synthetic scans and print the comparison table
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --configfile config/demo.yaml --cores $(CORES)
	@$(BIN)/mskd tabulate --study config/demo.yaml --show

test: setup ## run the tests that need no cluster and no GPU
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest $(PYTEST_ARGS)

test-slurm: setup slurm-packages ## a small study through the Slurm profile, on a real cluster on this machine (root)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/slurm/test_smoke.py $(PYTEST_ARGS) -n 0

test-slurm-faults: setup slurm-packages ## the same with jobs that are killed, starved, preempted (root; an hour)
	@MSKD_FAULTS="$(CURDIR)/benchmarks/results/faults.jsonl" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/slurm $(PYTEST_ARGS) -n 0

test-teachers: setup .venv-nnunet/bin/nnUNetv2_train ## teachers of other tools, nnU-Net v2 in an environment of its own (a few minutes)
	@MSKD_NNUNET_PYTHON="$(CURDIR)/.venv-nnunet/bin/python" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/teachers $(PYTEST_ARGS) -n 0

# the build of torch that the lock has, which is what keeps CUDA's libraries out where there is no GPU
.venv-nnunet/bin/nnUNetv2_train:
	@echo 'setting up .venv-nnunet/ (once; some minutes)'
	@$(PYTHON) -m venv .venv-nnunet
	@.venv-nnunet/bin/python -m pip --quiet --disable-pip-version-check install $(TORCH) "nnunetv2==2.8.1"

slurm-packages:
	@command -v slurmctld >/dev/null && command -v munged >/dev/null || \
	  { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends slurm-wlm slurm-client munge; }

soak: setup ## kill writers and flip bytes of the cache many more times than the tests do (minutes)
	@MSKD_KILLS=$(KILLS) MSKD_FLIPS=$(FLIPS) $(BIN)/pytest tests/unit/test_cache_faults.py \
	  tests/unit/test_cache_store.py tests/unit/test_cache_remote.py $(PYTEST_ARGS)

fuzz: setup ## let libFuzzer look for headers that break the readers (a minute; FUZZ_SECONDS=3600 for longer)
	@$(PIP) install --quiet "atheris>=3,<4"
	@PYTHONPATH="$(CURDIR)" $(BIN)/python tests/fuzz/fuzz_nifti.py -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096

bench: ## time every stage beside its peers, in an environment of their own (.venv-bench; 20 minutes)
	@test -x $(VENV)-bench/bin/pip || $(PYTHON) -m venv $(VENV)-bench
	@$(VENV)-bench/bin/pip --quiet --disable-pip-version-check install -c requirements.lock -e ".[bench]"
	@$(VENV)-bench/bin/mskd bench $(BENCH_ARGS)

lint: setup ## ruff, mypy and snakefmt
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/snakefmt --check workflow

docs: setup ## write docs/configuration.md and config/study.schema.json anew
	@$(BIN)/python -m mskd.config.documentation

# The lock holds runtime, development and build packages for every supported Python, so it is made with the oldest.
# torch's CUDA libraries stay out: torch names their exact versions itself, where its build has them.
lock: ## write requirements.lock anew from the ranges of pyproject.toml
	@test "$$($(PYTHON) -c '$(MINOR)')" = 3.11 || \
	  { echo 'make lock needs the oldest supported Python: make lock PYTHON=python3.11' >&2; exit 1; }
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && set -e && \
	$(PYTHON) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); m = p["project"]; \
	  print(*m["dependencies"], *m["optional-dependencies"]["dev"], *p["build-system"]["requires"], \
	        "editables", "setuptools", "$(TORCH)", sep="\n")' > "$$folder/ranges" && \
	$(PYTHON) -m venv "$$folder/venv" && \
	"$$folder/venv/bin/pip" --quiet --disable-pip-version-check install --upgrade -r "$$folder/ranges" && \
	"$$folder/venv/bin/pip" --disable-pip-version-check freeze --all --exclude pip \
	  | grep -vE '^(nvidia|cuda|triton)[-_=]' | sed 's/+.*//' | LC_ALL=C sort -f > "$$folder/frozen" && \
	if grep -vE '^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$$' "$$folder/frozen"; then \
	  echo 'the lines above are no name==version: requirements.lock is left as it was' >&2; exit 1; fi && \
	{ echo '# Exact versions for the set-up. Made by `make lock` from pyproject.toml; do not edit.'; \
	  cat "$$folder/frozen"; } > requirements.lock.part && mv requirements.lock.part requirements.lock

bundle: ## write wheelhouse/, from which `make setup` installs without a network
	@rm -rf wheelhouse $(VENV)/wheelhouse
	@$(MAKE) --no-print-directory setup
	@$(PIP) wheel --wheel-dir $(VENV)/wheelhouse -r requirements.lock pip
	@$(BIN)/python -c '$(MINOR)' > $(VENV)/wheelhouse/PYTHON
	@mv $(VENV)/wheelhouse wheelhouse
	@echo "wheelhouse/ holds $$(ls wheelhouse/*.whl | wc -l) packages ($$(du -sh wheelhouse | cut -f1)) for Linux $$(uname -m), Python $$(cat wheelhouse/PYTHON)."
	@echo 'Carry it over with the repository, then set up there:'
	@echo '  tar --exclude=./.venv --exclude=./results --exclude=./.snakemake -cf ../mskd.tar .'
	@echo '  (on the other machine) mkdir mskd && tar -xf mskd.tar -C mskd && cd mskd && make setup'

clean: ## remove .venv/, .venv-bench/ and the tools' caches; results/ and wheelhouse/ stay
	@rm -rf $(VENV) $(VENV)-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis

# make serve, make test: each installs what it needs into .venv, once, and says in one line what it does.

PYTHON ?= python3
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# Twice quiet: errors are shown, and nothing else.
PIP_INSTALL := $(VENV_PYTHON) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help serve test check bench soak train said clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/serve.stamp  ## Install, then serve on SAM2_HOST:SAM2_PORT, 127.0.0.1:8000 unless set
	@echo "Starting the server; Ctrl-C stops it."
	@exec $(VENV_PYTHON) -m app

test: check  ## Install, then run all that CI runs: check, and the tests with their coverage
	@echo "Running the tests."
	@$(VENV_PYTHON) -m pytest --cov

check: $(VENV)/test.stamp  ## Install, then check style, formatting and types
	@echo "Checking style, formatting and types."
	@$(VENV_PYTHON) -m ruff check --quiet .
	@$(VENV_PYTHON) -m ruff format --check --quiet .
	@$(VENV_PYTHON) -m mypy

train: said $(VENV)/train.stamp  ## Install, then train: DATA=folder-of-the-pack OUT=folder-of-the-run, TRAIN="--steps 20000" and the like
	@exec $(VENV_PYTHON) -m model.training "$(DATA)" "$(OUT)" $(TRAIN)

said:
	@test -n "$(DATA)" -a -n "$(OUT)" || { \
	  echo "Say what to train on and where to keep the run: make train DATA=folder OUT=folder" >&2; exit 1; }

bench: .bench/installed.stamp  ## Measure against transformers and ONNX Runtime; BENCH=--quick for three minutes
	@.bench/venv/bin/python -m tests.bench $(BENCH)

soak: .soak/installed.stamp  ## Prove that nothing is lost, leaks or falls over, in two hours; SOAK=--quick for ten minutes
	@.soak/venv/bin/python -m tests.soak $(SOAK)

clean:  ## Remove .venv and all that tools left behind; weights/ stays
	rm -rf $(VENV) .bench .soak build dist *.egg-info client/build client/*.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp is touched last, so an install that was cut off goes on the next time. Both stamps are older than a changed
# pyproject.toml or constraints.txt, which installs again what has changed.

$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1 || true)." \
	    "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/serve.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo "Installing what the server needs into $(VENV); torch is large, so the first time takes minutes."
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/venv.stamp pyproject.toml client/pyproject.toml constraints.txt
	@echo "Installing what the tests need into $(VENV); torch is large, so the first time takes minutes."
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable '.[dev,train]' --editable client
	@touch $@

$(VENV)/train.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo "Installing what training needs into $(VENV); torch is large, so the first time takes minutes."
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable '.[train]'
	@touch $@

.bench/installed.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo "Installing what the benchmark compares with into .bench; this takes minutes."
	@$(VENV_PYTHON) -m venv .bench/venv
	@.bench/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@.bench/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-build-isolation --editable '.[bench]'
	@touch $@

.soak/installed.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo "Installing what the soak needs into .soak; this takes minutes."
	@$(VENV_PYTHON) -m venv .soak/venv
	@.soak/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@.soak/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-build-isolation --editable '.[dev,soak]'
	@touch $@

# make serve, make test: each installs what it needs into .venv once, and prints one line for each step.

PYTHON ?= python3
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# --quiet twice: show errors only.
PIP_INSTALL := $(VENV_PYTHON) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
# The build of torch: cpu, cuda or auto. auto keeps an installed build; else it picks cuda if there is an NVIDIA GPU.
TORCH ?= auto
TORCH_STAMP := $(VENV)/torch.stamp
TORCH_INSTALLED := $(shell cat $(TORCH_STAMP) 2>/dev/null)

# What python -m tests.bench.gpu needs on a GPU machine that already has torch, numpy, pillow, scipy,
# safetensors, tqdm and certifi.
KIT_PYTHON ?= 3.12
KIT := fastapi fastapi-swagger starlette uvicorn httptools websockets uvloop pydantic pydantic-core pydantic-settings python-dotenv \
  annotated-types annotated-doc typing-inspection typing-extensions python-multipart opentelemetry-api anyio httpx \
  httpcore h11 click idna prometheus-client pybase64 simplejpeg pycocotools

# The tools whose real clients make test-tools runs.
TOOLS ?= $(patsubst tests/tools/%.txt,%,$(wildcard tests/tools/*.txt))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help serve test coverage test-golden test-cluster test-tools check check-js bench gpu-bench-kit soak train said clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/serve.stamp  ## Install, then serve on SAM2_HOST:SAM2_PORT (default 127.0.0.1:8000); TORCH=cpu or cuda chooses the build
	@echo "Starting the server; Ctrl-C stops it."
	@exec $(VENV_PYTHON) -m app

# Processes that wait for each other's threads must not spin. Compiled files are kept, whatever the environment says: else each
# process, and each server that a test starts, compiles everything again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE $(VENV_PYTHON) -m pytest
# Fixtures are shared within a file, so a file stays with one process.
TESTS := $(PYTEST) --numprocesses auto --dist loadfile --no-loadscope-reorder

# While mypy uses one core, another compiles the tests, and with them all that they import.
test: $(VENV)/test.stamp  ## Install, then run what CI runs: check, and the tests
	@$(PYTEST) --collect-only --quiet --quiet >/dev/null 2>&1 & trap "kill $$! 2>/dev/null" INT TERM; \
	  $(MAKE) --no-print-directory check && wait || { kill $$! 2>/dev/null; exit 1; }
	@echo "Running the tests."
	@$(TESTS) --durations 30

coverage: $(VENV)/test.stamp  ## Install, then run the tests, and fail if they reach less than 95 % of the code
	@$(TESTS) --cov

test-golden: $(VENV)/test.stamp  ## Install, then compare with all of Meta's numbers, those cases too that take minutes
	@$(VENV_PYTHON) -m pytest -m "" tests/golden tests/model/cpu/test_encoder.py

test-cluster: .cluster/installed.stamp  ## Test with a real Ray and fake devices in .cluster: three minutes after the install
	@.cluster/venv/bin/python -m pytest -m cluster

# One that fails does not keep the others from running.
test-tools: $(VENV)/test.stamp  ## Test with the real clients of other tools, each in .tools/NAME; TOOLS="cvat" runs some only
	@failed=; for tool in $(TOOLS); do \
	  echo "$$tool:"; \
	  $(MAKE) --no-print-directory .tools/$$tool.stamp && \
	    SERVER_PYTHON=$(CURDIR)/$(VENV_PYTHON) .tools/$$tool/bin/python -m tests.tools.$$tool || failed="$$failed $$tool"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed:$$failed" >&2; exit 1; fi

check-js: $(VENV)/venv.stamp  ## Check the types of the JavaScript client, with TypeScript from npm; part of make test-tools too
	@$(VENV_PYTHON) -m tests.tools.javascript

check: $(VENV)/test.stamp  ## Install, then check style, formatting and types
	@echo "Checking style, formatting and types."
	@$(VENV_PYTHON) -m ruff check --quiet .
	@$(VENV_PYTHON) -m ruff format --check --quiet .
	@$(VENV_PYTHON) -m mypy

train: said $(VENV)/train.stamp  ## Install, then train: DATA=folder-of-the-pack OUT=folder-of-the-run TRAIN="options, such as --steps 20000"
	@exec $(VENV_PYTHON) -m model.training "$(DATA)" "$(OUT)" $(TRAIN)

said:
	@test -n "$(DATA)" -a -n "$(OUT)" || { \
	  echo "Set the training data and the folder for the run: make train DATA=folder OUT=folder" >&2; exit 1; }

bench: .bench/installed.stamp  ## Compare with transformers, ONNX Runtime and OpenVINO; BENCH=--quick takes five minutes
	@.bench/venv/bin/python -m tests.bench $(BENCH)

gpu-bench-kit: $(VENV)/venv.stamp  ## Download into .whl the wheels that a GPU machine without an index lacks; KIT_PYTHON=3.12 is its Python
	@rm -rf .whl
	@echo "Downloading wheels for Linux on x86-64 and Python $(KIT_PYTHON) into .whl."
	@$(VENV_PYTHON) -m pip download --quiet --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-deps --only-binary=:all: --python-version $(KIT_PYTHON) --implementation cp \
	  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
	  --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest .whl $(KIT)
	@echo "$$(ls .whl | wc -l) wheels, $$(du -sk .whl | cut -f1) KiB. The docstring of tests/bench/gpu.py has the command to run there."

soak: .soak/installed.stamp  ## Test for two hours that nothing is lost, leaks or crashes; SOAK=--quick takes ten minutes
	@.soak/venv/bin/python -m tests.soak $(SOAK)

clean:  ## Remove .venv and all files that tools created; weights/ stays
	rm -rf $(VENV) .bench .cluster .soak .tools .whl build dist *.egg-info client/build client/*.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp is touched last, so an interrupted install continues on the next run. A stamp that is older than
# pyproject.toml or constraints.txt is out of date, and make installs what has changed.

$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1 || true)." \
	    "Choose another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

ifneq ($(filter-out auto $(TORCH_INSTALLED),$(TORCH)),)
.PHONY: $(TORCH_STAMP)
endif

# torch is installed first and alone. On Linux the package index has only the CUDA build, 2.7 GB with its libraries.
# Without a GPU, the CPU build is enough: 190 MB, from PyTorch's own index, whose address uv knows. Other systems have
# one small build.
$(TORCH_STAMP): $(VENV)/venv.stamp constraints.txt
	@set -e; build=$(filter-out auto,$(TORCH)); build=$${build:-$(or $(TORCH_INSTALLED),auto)}; \
	case "$$build" in \
	  auto) if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then build=cuda; else build=cpu; fi ;; \
	  cpu|cuda) ;; \
	  *) echo "TORCH=$$build is not known: use TORCH=cpu, TORCH=cuda or TORCH=auto." >&2; exit 1 ;; \
	esac; \
	if [ -n "$(TORCH_INSTALLED)" ] && [ "$(TORCH_INSTALLED)" != $$build ]; then \
	  $(VENV_PYTHON) -m pip uninstall --quiet --quiet --yes torch; \
	fi; \
	if [ "$$(uname -s)" = Linux ] && [ $$build = cpu ]; then \
	  echo "Installing torch without CUDA, 190 MB to download. With an NVIDIA GPU: make $(MAKECMDGOALS) TORCH=cuda"; \
	  { $(PIP_INSTALL) uv && UV_HTTP_RETRIES=0 $(VENV_PYTHON) -m uv pip install --quiet --python $(VENV_PYTHON) \
	    --torch-backend=cpu --constraint constraints.txt torch; } 2>$(VENV)/uv.log || { \
	    sed 's/^/uv: /' $(VENV)/uv.log; \
	    echo "The CPU build cannot be installed from PyTorch's index (reason above). Installing torch from the package" \
	      "index instead; this build has CUDA on most systems: 2.7 GB to download."; \
	    $(PIP_INSTALL) torch; }; \
	else \
	  if [ "$$(uname -s)" = Linux ]; then echo "Installing torch with CUDA, 2.7 GB to download."; fi; \
	  $(PIP_INSTALL) torch; \
	fi; \
	echo $$build > $@

$(VENV)/serve.stamp: $(TORCH_STAMP) pyproject.toml constraints.txt
	@echo "Installing the rest of what the server needs into $(VENV), 80 MB to download."
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/test.stamp: $(TORCH_STAMP) pyproject.toml client/pyproject.toml constraints.txt
	@echo "Installing what the tests need into $(VENV)."
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable '.[dev,train]' --editable client
	@touch $@

$(VENV)/train.stamp: $(TORCH_STAMP) pyproject.toml constraints.txt
	@echo "Installing what training needs into $(VENV)."
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable '.[train]'
	@touch $@

.bench/installed.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt constraints-cluster.txt
	@echo "Installing the libraries that the benchmark compares with, and Ray, into .bench; this takes minutes."
	@$(VENV_PYTHON) -m venv .bench/venv
	@.bench/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@.bench/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt \
	  --constraint constraints-cluster.txt --no-build-isolation --editable '.[bench,cluster]'
	@touch $@

# Ray over what the tests have already: the packages of .venv are seen in .cluster too.
.cluster/installed.stamp: $(VENV)/test.stamp constraints-cluster.txt
	@echo "Installing Ray into .cluster, 110 MB to download."
	@$(VENV_PYTHON) -m venv .cluster/venv
	@$(VENV_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  >"$$(.cluster/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth"
	@.cluster/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt \
	  --constraint constraints-cluster.txt 'sam2-service[cluster]'
	@touch $@

.soak/installed.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo "Installing what the soak test needs into .soak; this takes minutes."
	@$(VENV_PYTHON) -m venv .soak/venv
	@.soak/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@.soak/venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-build-isolation --editable '.[dev,soak]'
	@touch $@

# Each list is complete, so pip need not add anything: a new release of a tool is a change of ours.
.tools/%.stamp: tests/tools/%.txt $(VENV)/venv.stamp
	@echo "Installing the packages of tests/tools/$*.txt into .tools/$*; this may take minutes."
	@rm -rf .tools/$*
	@$(VENV_PYTHON) -m venv .tools/$*
	@.tools/$*/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

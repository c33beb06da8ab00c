# On a fresh machine with Python 3.11+ and pip, `make build` makes the environment and compiles the
# first net; `make test` makes it and runs the tests. `make help` lists the rest.

# ---- what may be set on the command line ---------------------------------------------------------
# PYTHON   the interpreter that .venv is made with; default: the first of the usual names that is
#          3.11 or newer
# DEVICE   cpu or gpu; default: gpu where nvidia-smi answers
# TESTS    what `make test` runs, e.g. TESTS=tests/test_lrn.py
# WORKERS  test processes; default: one a core, at most four
# BESIDE   bundles of alexnet in other precisions, for `make bench` to measure, too
# PHOTOS   photographs to take the ranges of eight bits from: files or folders for `make bench`,
#          one folder for `make bench-gpu`

VENV := .venv
RUN := $(VENV)/bin/python
TESTS ?= tests
WORKERS ?= auto

ifndef DEVICE
DEVICE := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
endif

# The stamp names the device, since the two ONNX Runtimes are one module and can't share a folder.
STAMP := $(VENV)/.installed-$(DEVICE)
PIP_OPTIONS := --quiet --quiet --disable-pip-version-check --no-input --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help env build test test-slow check bench bench-gpu format train-kills docs fuzz fuzz-import mutants false-alarms clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(STAMP) ## compile specs/alexnet.yaml to a verified bundle in build/alexnet
	@$(VENV)/bin/alexc build specs/alexnet.yaml

test: $(STAMP) ## run the tests that take seconds
	@$(RUN) -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal -m "not slow" $(TESTS)

test-slow: $(STAMP) ## run all tests, the slow ones too
	@$(RUN) -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal $(TESTS)

check: $(STAMP) ## format, lint, strict types, and which room imports what; changes nothing
	@$(RUN) -m ruff format --check --quiet || { echo "make format puts the format right"; exit 1; }
	@$(RUN) -m ruff check --quiet
	@$(RUN) -m mypy
	@$(RUN) -m pytest --quiet --no-header -m "not slow" tests/test_imports.py

bench: $(STAMP) ## measure every engine on this machine (15 minutes), and write docs/performance.md
	@$(RUN) benchmarks/performance.py $(addprefix --beside ,$(BESIDE)) $(addprefix --photos ,$(PHOTOS))

bench-gpu: $(STAMP) ## measure all that takes an NVIDIA GPU (half an hour), into benchmarks/results
	@$(RUN) benchmarks/gpu.py $(if $(PHOTOS),--photos $(PHOTOS))

docs: $(STAMP) ## write what is generated in docs/: the language's reference and its schema
	@$(RUN) -m tests.write_docs

fuzz: $(STAMP) ## give `alexc check` 100,000 files that no one should write; minutes
	@$(RUN) -m tests.campaigns.fuzz_check --inputs 100000

format: $(STAMP) ## put format and import order right
	@$(RUN) -m ruff check --quiet --select I --fix
	@$(RUN) -m ruff format

train-kills: $(STAMP) ## kill a training run 20 times, resume it, compare its bytes; with 1 worker and 2
	@$(RUN) -m tests.campaigns.train_kills --kills 20 --workers 1 2

mutants: $(STAMP) ## plant faults in graph and lowerings, and see each caught and named; minutes
	@$(RUN) -m tests.campaigns.mutants

false-alarms: $(STAMP) ## verify 1,000 random nets without a fault: none may be called faulty
	@$(RUN) -m tests.campaigns.false_alarms --nets 1000 --backends torch onnxruntime

fuzz-import: $(STAMP) ## import 50,000 damaged files of every format; minutes
	@$(RUN) -m tests.campaigns.fuzz_import --cases 50000

clean: ## remove what can be made again in seconds: caches and build/
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find alexc runtime tests -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove the environment too (trained nets under runs/ stay)
	rm -rf $(VENV)

# ---- the environment -----------------------------------------------------------------------------

env: $(STAMP) ## make .venv, or bring it up to date

# Where ensurepip is split off (Debian), venv makes no pip: then the interpreter's own pip serves.
# The sources are compiled once here: where PYTHONDONTWRITEBYTECODE is set, Python would otherwise
# compile them at each start, which takes 0.1 s.
# TensorRT's libraries come from NVIDIA's own host. Where that is out of reach, TensorRT-RTX still
# builds and runs engines, so a machine with a GPU goes on without.
$(STAMP): pyproject.toml constraints.txt
	@set -eu; \
	python=; \
	for name in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python=$$name; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	for other in $(VENV)/.installed-*; do \
	    if [ -e "$$other" ] && [ "$$other" != "$(STAMP)" ]; then rm -rf $(VENV); fi; \
	done; \
	echo "environment: $(VENV) with $$("$$python" --version) for $(DEVICE); the first time takes minutes"; \
	if [ ! -x $(RUN) ]; then \
	    "$$python" -m venv $(VENV) >/dev/null 2>&1 || "$$python" -m venv --without-pip $(VENV); \
	fi; \
	install() { \
	    if $(RUN) -c 'import pip' 2>/dev/null; \
	    then $(RUN) -m pip install $(PIP_OPTIONS) "$$@"; \
	    else "$$python" -m pip --python $(RUN) install $(PIP_OPTIONS) "$$@"; \
	    fi; \
	}; \
	if [ $(DEVICE) = gpu ]; then \
	    install --editable '.[gpu,openvino,dev]' 2>$(VENV)/tensorrt.log || { \
	        echo "environment: without TensorRT (see $(VENV)/tensorrt.log); TensorRT-RTX is there" >&2; \
	        install --editable '.[openvino,dev]' cuda-python onnxruntime-gpu; \
	    }; \
	else \
	    install --editable '.[cpu,openvino,dev]'; \
	fi; \
	$(RUN) -m compileall -q alexc runtime; \
	touch $(STAMP)

# volseg: how to install, check and try it. `make` alone lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
# With a GPU, choose the build that fits it, e.g.: make install PIP_ARGS="--index-url \
#   https://download.pytorch.org/whl/cu130 --extra-index-url https://pypi.org/simple"
PIP_ARGS ?=
# For Linux, pip's own index has torch for CUDA: 3 GB more, of no use without an NVIDIA GPU. Where there is none,
# the CPU build is asked for first. By hand: pip install torch --index-url https://download.pytorch.org/whl/cpu
CPU_BUILDS := https://download.pytorch.org/whl/cpu

# Processes for the quick tests; 0 for none but pytest's own.
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/python -m monai.bundle run
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint types check docs format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## make .venv with volseg and everything the tests need

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found; volseg needs Python 3.11 or later."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is too old: volseg needs Python 3.11 or later (make PYTHON=...)."; exit 1; }
	@echo "Installing into $(VENV) (the first time a few minutes) ..."
	@"$(PYTHON)" -m venv $(VENV)
	@if [ -z "$(PIP_ARGS)" ] && [ "$$(uname)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then \
		echo "No NVIDIA GPU here: the CPU build of torch is enough."; \
		$(PIP) --no-deps --retries 0 --timeout 10 --index-url $(CPU_BUILDS) "$(TORCH)" 2>/dev/null || \
			echo "It cannot be fetched from $(CPU_BUILDS); torch comes from where pip finds the rest."; \
	fi
	@$(PIP) $(PIP_ARGS) -c constraints.txt "$(TORCH)" -e ".[dev]"
	@touch $@
	@$(BIN)/python -c 'import torch; print("Installed, with torch", torch.__version__)'

# MONAI warns at every start that a bundle can run code; these bundles are this repository's own.
demo: export PYTHONWARNINGS ?= ignore:parsing config_file:UserWarning,ignore::DeprecationWarning
demo: $(STAMP)  ## train, evaluate and segment on the phantom; results in runs/demo, which it replaces
	$(RUN) training --config_file bundles/xenopus.json --output_dir runs/demo --overwrite True
	$(RUN) evaluating --config_file bundles/xenopus.json --output_dir runs/demo --overwrite True
	$(RUN) predicting --config_file bundles/xenopus.json --output_dir runs/demo --overwrite True
	@echo "Open runs/demo/report.html in a browser: views, scores and all cases. The same as a picture and as"
	@echo "figures: runs/demo/picture.png, metrics.json. The segmentations: runs/demo/segmentations/."

# Their arrays are small: two processes of one thread are faster than one of two threads.
test: export OMP_NUM_THREADS := 1
test: $(STAMP)  ## the quick tests, in JOBS processes (2)
	@$(BIN)/python -m pytest -q -m "not slow" -n $(JOBS) --dist worksteal

test-all: $(STAMP)  ## every test, the slow ones too
	@$(BIN)/python -m pytest -q

lint: $(STAMP)  ## style and likely bugs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy
	@$(BIN)/mypy

docs: $(STAMP)  ## the reference, a page per room, in build/docs
	@$(BIN)/python docs/reference/make.py build/docs
	@echo "Open build/docs/index.html in a browser."

check: lint types test  ## lint, types, quick tests

format: $(STAMP)  ## let ruff put the code in order
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

clean:  ## remove .venv and all caches; runs/ stays
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make demo` and `make test` need nothing but Python 3.11 to 3.13 and the network.
PYTHON ?= python3
# Processes that share the tests: one more than two cores, since some tests wait.
WORKERS ?= 3
# More flags for the demo, such as ARGS="--epochs=5".
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help setup demo test quick lint clean
help:
	@echo "make demo    train on digits with wrong labels, about a minute on a laptop"
	@echo "make test    all that CI runs: ruff, mypy, pytest"
	@echo "make quick   ruff, mypy and the tests that are fast, in under 90 seconds"
	@echo "make lint    ruff and mypy alone"
	@echo "make setup   only make .venv"
	@echo "make clean   remove .venv, caches and build outputs; runs/ stays"

setup: $(READY)

$(READY): pyproject.toml requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "clidmu_tf needs Python 3.11 to 3.13, as TensorFlow does; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || echo missing). Name one: PYTHON=python3.12"; \
	  exit 1; }
	@echo "Installing into .venv (once, a few minutes)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(READY)
	@echo "Plain cross-entropy first, to compare with"
	@$(BIN)/python train.py --flagfile=configs/digits.cfg --method=cross_entropy \
	  --workdir=runs/demo_cross_entropy $(ARGS) >/dev/null
	@echo "CLID-MU"
	@$(BIN)/python train.py --flagfile=configs/digits.cfg \
	  --workdir=runs/demo --beside=runs/demo_cross_entropy $(ARGS)

test: lint
	@echo "Tests (pytest, $(WORKERS) processes)"
	@# A file to a process, so that what its tests share is made once; by name, since
	@# by number, as is xdist's habit, the few tests that take longest come last.
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

quick: lint
	@echo "Fast tests (pytest, $(WORKERS) processes)"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

lint: $(READY)
	@echo "Lint (ruff, mypy)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy clidmu_tf

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

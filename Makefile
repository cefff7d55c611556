# Everything a developer or CI runs. Each target does its own set-up: a virtual environment in .venv, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults check unit bench docs lock clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## make the virtual environment with the locked tools and this package

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)  ## audit the standard library as a durable job, with a live view and a report (input=DIR for another folder)
	@$(BIN)/python -m examples.code_audit $(if $(input),--input path=$(input))

check: $(READY)  ## lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY)  ## the fast tests alone
	$(BIN)/pytest tests/unit -q

test: check  ## every check and every test, with coverage
	$(BIN)/pytest -n $(WORKERS) --cov --cov-report=term -q --durations=8

test-faults: $(READY)  ## the whole fault campaigns: real kills, power cuts, full disks, partitions, 1,000 seeds
	FAULTS=whole $(BIN)/pytest tests/faults tests/simulation tests/property/test_stores_differential.py -n $(WORKERS) --dist worksteal -q --durations=12 --timeout 1500

bench: $(READY)  ## the performance table, with the bare database's figures of the same run beside ours
	$(BIN)/python -m benchmarks

docs: $(READY)  ## build the documentation into site/
	$(BIN)/zensical build

lock: $(READY)  ## write requirements-dev.txt anew from pyproject.toml (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --group dev --no-header --no-annotate -o requirements-dev.txt pyproject.toml

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

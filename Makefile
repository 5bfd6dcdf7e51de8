# Two commands: `make demo` and `make test`. Both set up .venv first.
# `make services` runs PostgreSQL and an MLflow server to look at, until Ctrl-C.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DO_NOT_TRACK := true
# Shows what it downloads.
PIP := --disable-pip-version-check --progress-bar on
# Pip leaves a stamp behind when it succeeded, so that a broken installation is made again.
RUNTIME := $(VENV)/.runtime-installed
DEVELOPMENT := $(VENV)/.development-installed

.PHONY: demo test lint services clean

demo: $(RUNTIME)
	$(BIN)/kedro run

test: $(DEVELOPMENT)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(DEVELOPMENT)
	$(BIN)/ruff check src tests benchmarks examples notebooks
	$(BIN)/ruff format --check src tests benchmarks examples notebooks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

services: $(DEVELOPMENT)
	$(BIN)/python -m tests.services

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Sourcetrace and what it needs, PyTorch and MLflow among it, into $(VENV): minutes."
	$(BIN)/python -m pip install $(PIP) -c constraints.txt -e .
	touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Sourcetrace and the development tools into $(VENV): minutes."
	$(BIN)/python -m pip install $(PIP) -c constraints.txt -e ".[dev]"
	touch $@ $(RUNTIME)

clean:
	rm -rf $(VENV) mlflow.db mlruns

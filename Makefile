# `make` lists the targets. The first target that needs it creates .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FEDGRU := $(BIN)/fedgru
READY := $(VENV)/.ready
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help env train test test-all lint smoke bench lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

env: $(READY)  ## create .venv from the lock (versions and hashes), with fedgru in it

$(READY): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit(0 if (3, 11) <= v <= (3, 13) else "fedgru needs Python 3.11 to 3.13, but $(PYTHON) is %d.%d.\n" \
	"Try: make PYTHON=python3.12 <target>" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

train: $(READY)  ## the main job on the embedded data: train, evaluate, say where TensorBoard finds it
	$(FEDGRU) train --features big
	$(FEDGRU) eval

test: $(READY)  ## every test that needs no extra environment
	$(BIN)/python -m pytest

lint: $(READY)  ## style and common errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

smoke: $(READY)  ## CI smoke run: the main job on a tiny city; fails unless it beats counting
	$(FEDGRU) train --config configs/smoke.toml
	$(FEDGRU) eval --must-beat backoff

bench: $(READY)  ## time one round and the import on this machine
	$(BIN)/python benchmarks/round.py

lock: $(READY)  ## resolve requirements.lock anew from setup.cfg (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra dev setup.cfg -o requirements.lock

clean:  ## remove the environment and caches; keeps data/ and log/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` lists the targets. The first target that needs it creates .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FEDGRU := $(BIN)/fedgru
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help env train test lint tensorboard smoke bench lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

env: $(READY)  ## create .venv from the lock (versions and hashes), with fedgru in it

$(LOCKED): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit(0 if (3, 11) <= v <= (3, 13) else "fedgru needs Python 3.11 to 3.13, but $(PYTHON) is %d.%d.\n" \
	"Try: make PYTHON=python3.12 <target>" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@touch $@

$(READY): $(LOCKED) setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

train: $(READY)  ## the main job on the embedded data: train, evaluate, say where TensorBoard finds it
	$(FEDGRU) train --features big

test: $(READY)  ## every test that needs no extra environment
	$(BIN)/python -m pytest

lint: $(READY)  ## style and common errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

tensorboard: $(READY)  ## show the runs in log/ at http://localhost:6006
	$(BIN)/tensorboard --logdir log

smoke: $(READY)  ## CI smoke run: the main job on a tiny city; fails unless it beats counting
	$(FEDGRU) data synth --name smoke --users 24 --checkins-per-user 160 --overwrite
	$(FEDGRU) train --config configs/smoke.toml --no-eval
	$(FEDGRU) eval --must-beat running_backoff

bench: $(READY)  ## time one round and the import on this machine
	$(BIN)/python benchmarks/main_job.py

lock: $(READY)  ## resolve requirements.lock anew from setup.cfg (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra dev setup.cfg -o requirements.lock

clean:  ## remove the environment and caches; keeps data/ and log/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` lists the targets. The first target that needs it creates .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FEDGRU := $(BIN)/fedgru
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
PYTHON311 ?= python3.11
VENV_TFF := .venv-tff
LOCKED_TFF := $(VENV_TFF)/.locked
READY_TFF := $(VENV_TFF)/.ready
VENV_DIST := .venv-dist
LOCKED_DIST := $(VENV_DIST)/.locked
READY_DIST := $(VENV_DIST)/.ready
# A file's tests stay together, so that what they share is made once. Each worker takes 2 GiB.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help env train test test-all lint tensorboard smoke bench tff dist lock lock-tff lock-dist sbom clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

env: $(READY)  ## create .venv from the lock (versions and hashes), with fedgru in it

# An environment from a lock (versions and hashes), then fedgru in it.
define from_lock
	$(1) -m venv --clear $(dir $@)
	$(dir $@)bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@
endef
define with_fedgru
	$(dir $@)bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
endef
define check_python
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit(0 if (3, 11) <= v <= (3, 13) else "fedgru needs Python 3.11 to 3.13, but $(PYTHON) is %d.%d.\n" \
	"Try: make PYTHON=python3.12 <target>" % v)'
endef

$(LOCKED): requirements.lock
	$(check_python)
	$(call from_lock,$(PYTHON))

$(LOCKED_DIST): requirements-dist.lock
	$(check_python)
	$(call from_lock,$(PYTHON))

$(LOCKED_TFF): requirements-tff.lock
	@$(PYTHON311) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo \
	"TensorFlow Federated needs Python 3.11. Try: make tff PYTHON311=/path/to/python3.11"; exit 1; }
	$(call from_lock,$(PYTHON311))

$(READY): $(LOCKED) setup.cfg pyproject.toml
	$(with_fedgru)

$(READY_DIST): $(LOCKED_DIST) setup.cfg pyproject.toml
	$(with_fedgru)

$(READY_TFF): $(LOCKED_TFF) setup.cfg pyproject.toml
	$(with_fedgru)

train: $(READY)  ## the main job on the embedded data: train, evaluate, say where TensorBoard finds it
	$(FEDGRU) train --features big

test: $(READY)  ## some tests of every kind: within five minutes on two idle cores
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## every test that needs no extra environment
	$(PYTEST)

lint: $(READY)  ## style, common errors, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

tensorboard: $(READY)  ## show the runs in log/ at http://localhost:6006
	$(FEDGRU) tensorboard

smoke: $(READY)  ## CI smoke run: the main job on a tiny city; fails unless it beats counting
	$(FEDGRU) data synth --name smoke --users 24 --checkins-per-user 160 --overwrite
	$(FEDGRU) train --config configs/smoke.toml --no-eval
	$(FEDGRU) eval --must-beat best

bench: $(READY)  ## time the main job; FILE=CHECKINS.txt.gz times importing it and training on it
	$(BIN)/python benchmarks/main_job.py $(if $(FILE),--file $(FILE))

tff: $(READY_TFF)  ## create .venv-tff for --engine tff (needs Python 3.11), and test the engine there
	$(VENV_TFF)/bin/python -m pytest -m "tff or not slow" tests/engines/test_engines.py tests/models/test_models.py tests/engines/tff

dist: $(READY_DIST)  ## create .venv-dist for --engine ray and fedgru deploy, and test both there
	$(VENV_DIST)/bin/python -m pytest -m "dist or not slow" tests/engines/test_engines.py tests/engines/ray tests/deploy

lock: $(READY)  ## resolve requirements.lock anew from setup.cfg (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra dev --extra mlflow setup.cfg -o requirements.lock

lock-tff:  ## resolve requirements-tff.lock anew from requirements-tff.in (needs uv)
	uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_31 --generate-hashes \
	  --no-header --no-annotate --override requirements-tff-overrides.txt requirements-tff.in \
	  -o requirements-tff.lock

lock-dist:  ## resolve requirements-dist.lock anew from setup.cfg (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra dev --extra dist --extra flower setup.cfg -o requirements-dist.lock

sbom:  ## bills of materials (CycloneDX) of the three locks, in sbom/
	$(PYTHON) .ci/sbom.py --output sbom requirements.lock requirements-dist.lock requirements-tff.lock

clean:  ## remove the environment and caches; keeps data/ and log/
	rm -rf $(VENV) $(VENV_TFF) $(VENV_DIST) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

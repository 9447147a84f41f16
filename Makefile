# Every target does its own set-up: a .venv in this checkout, installed once and after pyproject changes.
# python3.11 where there is one: under it the pinned torch is a CPU build where a local one is offered.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN_DIR ?= runs/demo
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-slow check bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.installed ## make .venv and install everything into it

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bertscore,track,test,dev,pinned]'
	touch $@

demo: setup ## train and score a small summarizer on two processes, in a few minutes
	@$(BIN)/sumpipe run demo --run-dir $(RUN_DIR) --processes 2

# Files of tests side by side: three on two cores, since many wait for processes and deadlines; but two of
# the slow ones, each of which starts up to five processes of its own.
test: setup ## all tests but the slow ones
	$(PYTEST) -n 3 -m "not slow"

test-slow: setup ## kill matrices, fault drills, whole-corpus runs
	$(PYTEST) -n 2 -m slow

check: setup ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup ## ratios against peers, with DATA=FOLDER on real text too; see benchmarks/RESULTS.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@for file in $(wildcard benchmarks/bench_*.py); do \
	  echo "== $$file"; \
	  $(BIN)/python $$file $$(grep -q '"--data"' $$file && echo "$(addprefix --data ,$(DATA))") || exit 1; \
	done

clean: ## remove the .venv and caches, never a run
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

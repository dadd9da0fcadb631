# Every target does its own set-up: a virtual environment in .venv, installed again only when pyproject.toml or
# constraints.txt change. Another interpreter: `make test PYTHON=python3.12`. More pip options: `make demo PIP_OPTIONS=...`.
PYTHON ?= python3
PIP_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
CODE := lightning_mm tests experiments notebooks docs
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
INSTALLED := $(VENV)/.installed-$(KEY)
# With bytecode, or every worker compiles every test file anew.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-part test-all lint format docs bench clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

install: $(INSTALLED) ## Make .venv and install the package with everything that tests and lint need.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lightning-mm needs Python 3.11 or newer, got " + sys.version + "; try make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) --constraint constraints.txt --editable '.[test,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(INSTALLED) ## Train, adapt and sweep on generated data; prints one table (a few minutes on two cores).
	$(BIN)/lightning-mm demo

test: $(INSTALLED) ## Run the quick tests (minutes on two cores).
	$(PYTEST)

test-part: $(INSTALLED) ## Run the quick tests and part PART of the slow ones: make test-part PART=1/4.
	$(PYTEST) -m "slow or not slow" --part $(PART)

test-all: $(INSTALLED) ## Run the quick and the slow tests (over an hour on two cores).
	$(PYTEST) -m "slow or not slow"

lint: $(INSTALLED) ## Check format, style and types.
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format: $(INSTALLED) ## Format the code and mend what can be mended.
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(INSTALLED) ## Build the documentation into site/; any warning is an error (seconds).
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) --constraint constraints.txt --editable '.[docs]'
	@# the variable hides an advertisement of the theme
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(INSTALLED) ## Time adapters, sweeps and training in alternating pairs (a quarter of an hour, nothing else running).
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python experiments/benchmarks/adapters.py
	$(BIN)/python experiments/benchmarks/reference_networks.py
	$(BIN)/python experiments/benchmarks/sweeps.py
	$(BIN)/python experiments/benchmarks/training.py

clean: ## Remove what builds and runs leave behind; .venv stays.
	rm -rf build dist outputs site .pytest_cache .mypy_cache .ruff_cache

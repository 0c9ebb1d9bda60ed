# make quickstart   train, index, query and evaluate on a small data set made here
# make test         lint, types and tests; under 20 minutes with the installation
# make test-slow    what needs longer, and properties on newly drawn examples
# make bench        the benchmarks in their short forms, on the terminal; minutes
# make bench-pages  the long forms, which write the pages under docs/; an hour
# make clean        remove what these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What latency is measured with: a trained run and its pictures.
MODEL ?= quickstart/model
DATA ?= quickstart/cars

.PHONY: help install dev quickstart test test-slow bench bench-pages clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# The two stamps say which set of requirements the environment holds.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info < (3, 14), "hashret needs Python 3.10 to 3.13; name one: make PYTHON=python3.12 …"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

dev: $(VENV)/.dev

quickstart: $(VENV)/.installed
	$(BIN)/hashret quickstart --out quickstart

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

# The fuzzer has wheels for some machines only.
$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,fuzz]'
	@touch $@

test-slow: $(VENV)/.fuzz
	$(BIN)/python -m pytest -m 'slow or hypothesis' --hypothesis-profile=default

LATENCY = $(BIN)/python benchmarks/latency.py --model "$(MODEL)" --data "$(DATA)"
WITHOUT_MODEL = echo "latency is not run: there is no $(MODEL); run make quickstart, or name MODEL=RUN DATA=TABLE"

# Bits that turn are best counted with a trained model.
TRAINED = $(if $(wildcard $(MODEL)),--model "$(MODEL)" --data "$(DATA)")

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/search.py --quick
	$(BIN)/python benchmarks/store.py --quick
	$(BIN)/python benchmarks/metrics.py --quick
	$(BIN)/python benchmarks/predictions.py --quick
	$(BIN)/python benchmarks/cosine.py --quick
	$(BIN)/python benchmarks/product.py --quick
	$(BIN)/python benchmarks/encoding.py --quick $(TRAINED)
	$(BIN)/python benchmarks/training.py --quick
	@if [ -e "$(MODEL)" ]; then $(LATENCY) --quick; else $(WITHOUT_MODEL); fi

bench-pages: $(VENV)/.dev
	$(BIN)/python benchmarks/search.py --markdown docs/benchmarks.md
	$(BIN)/python benchmarks/store.py --markdown docs/benchmarks.md
	$(BIN)/python benchmarks/metrics.py --markdown docs/benchmarks.md
	$(BIN)/python benchmarks/predictions.py --markdown docs/predictions.md
	$(BIN)/python benchmarks/cosine.py --markdown docs/cosine.md
	$(BIN)/python benchmarks/product.py --markdown docs/benchmarks.md
	$(BIN)/python benchmarks/gpu.py --markdown docs/benchmarks.md || test $$? -eq 2  # without a GPU: what is missing
	$(BIN)/python benchmarks/encoding.py $(TRAINED) --markdown docs/benchmarks.md
	$(BIN)/python benchmarks/training.py --markdown docs/benchmarks.md
	@if [ -e "$(MODEL)" ]; then $(LATENCY) --markdown docs/latency.md; else $(WITHOUT_MODEL); fi

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis quickstart

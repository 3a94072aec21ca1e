# make demo    the main job: Dark Room, from nothing to in-context learning, and a report
# make test    the tests (slow ones: make test-all)
# make reproduce   every claim of the paper, with verdicts; hours (SCALE=smoke: seconds each; ONLY=prompted: one study)
# make test-adapters   the adapters of other libraries' environments, in an environment of their own; minutes
# make chaos   every stage killed at random instants, a hundred times; minutes
# make check   lint, spelling, types, who may import whom
# make bench   throughput of every stage, and the limits of this machine; minutes
# Each sets up .venv by itself; nothing but python3 (3.11+, with venv) and make is needed.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find ad_jax experiments -name '*.py' -o -name '*.html') pyproject.toml README.md
.DEFAULT_GOAL := help
.PHONY: help demo smoke reproduce bench test test-all test-adapters chaos check format clean

help:
	@sed -n 's/^# //p' Makefile

.venv/dependencies: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt $$($(PYTHON) -c "import tomllib; \
	  p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print(*('\"' + d.replace(' ', '') + '\"' for d in p['dependencies'] + p['optional-dependencies']['dev']))" | tr -d '"')
	@touch $@

# The package itself, as a user gets it: a wheel in site-packages, not the source tree.
.venv/installed: .venv/dependencies $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall .
	@touch $@

demo: .venv/installed
	$(BIN)/ad-jax run dark_room --scale demo --dir runs/dark_room/demo

smoke: .venv/installed
	$(BIN)/ad-jax run dark_room --scale smoke --dir runs/dark_room/smoke

SCALE ?= cpu
reproduce: .venv/installed
	$(BIN)/ad-jax reproduce $(ONLY) --scale $(SCALE)

bench: .venv/installed
	$(BIN)/ad-jax bench

# Files side by side, one process a core: most of a test's time is compiling, which uses one.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: .venv/installed
	$(PYTEST)

test-all: .venv/installed
	$(PYTEST) -m ""

# Other libraries' environments, with what they bring, beside the package as a user gets it.
ADAPTERS := xland,navix,craftax,jumanji,brax,pgx,playground
.venv-adapters/installed: constraints.txt constraints-adapters.txt $(SOURCES)
	$(PYTHON) -m venv .venv-adapters
	.venv-adapters/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --constraint constraints-adapters.txt '.[$(ADAPTERS)]' pytest beartype hypothesis
	.venv-adapters/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	@touch $@

test-adapters: .venv-adapters/installed
	.venv-adapters/bin/pytest -m "" tests/envs/outside

chaos: .venv/installed
	$(BIN)/pytest -s -m "" tests/run/test_chaos.py

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: .venv/dependencies
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .venv-adapters build dist runs

# `make demo` shows the queue at work, `make test` checks everything; both need only make and a
# Python >= 3.11, set up .venv by themselves and are quick to run again.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types pytest wheel-test format clean

demo: .venv/package
	$(BIN)/hq demo

test: lint types pytest wheel-test

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: .venv/dev
	$(BIN)/mypy

pytest: .venv/dev
	$(BIN)/pytest

# What a user gets: the wheel alone, built from the sdist, far from the source tree.
wheel-test: .venv/dev
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(BIN)/python -m build --outdir "$$tmp/dist" >"$$tmp/log" 2>&1 || { cat "$$tmp/log"; exit 1; }; \
	$(BIN)/python -m venv "$$tmp/venv"; \
	"$$tmp/venv/bin/pip" install --quiet "$$tmp"/dist/*.whl; \
	mkdir "$$tmp/empty"; cd "$$tmp/empty"; \
	"$$tmp/venv/bin/hq" demo --seconds 2; \
	"$$tmp/venv/bin/hq" backends

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist hq-demo.svg
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: the package alone is enough for the demo, the development tools come on top.
.venv/package: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("hybrid-queue needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) lacks the venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/dev: .venv/package
	$(BIN)/pip install --quiet --group dev
	@touch $@

# `make demo` shows the queue at work, `make test` checks everything; both need only make and a
# Python >= 3.11, set up .venv by themselves and are quick to run again.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo bench test lint types pytest docs pictures faults wheel-test example-test format clean

demo: .venv/package
	$(BIN)/hq demo

test: lint types pytest docs wheel-test example-test

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: .venv/dev
	$(BIN)/mypy

pytest: .venv/dev
	$(BIN)/pytest

# The documentation site, into build/site.
docs: .venv/dev
	$(BIN)/python -m scripts.site

# Those in docs/images that show the command; a quarter of a minute.
pictures: .venv/dev
	$(BIN)/python -m scripts.pictures

# The fault campaign, whole. A test of it may take long, so one that hangs is given up late.
faults: .venv/dev
	@rm -f build/faults.jsonl
	HQ_FAULTS=whole $(BIN)/pytest -o faulthandler_timeout=1800 tests/faults \
	    tests/hq_core/interleavings tests/hq_core/test_ownership.py
	@if $(BIN)/python -c 'import atheris' 2>/dev/null; then \
	    $(BIN)/python -m tests.faults.fuzz_atheris -runs=1000000 -max_len=400 -seed=1 -verbosity=0; fi
	@$(BIN)/python -m tests.faults.campaign

# Starts a recipe: a directory $$tmp, gone afterwards, with an environment and nothing installed.
CLEAN := set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; export PATH="$$tmp/venv/bin:$$PATH"; \
	mkdir "$$tmp/empty"; $(BIN)/python -m venv "$$tmp/venv"

# What a user gets: the wheel alone, built from the sdist, far from the source tree.
wheel-test: build/wheel
	@$(CLEAN); \
	pip install --quiet build/dist/*.whl; \
	cd "$$tmp/empty"; \
	hq demo --seconds 2; \
	hq backends; \
	python -c 'import hq_metrics.table'

# What the author of a plugin gets: the wheel, its suite, and a backend that is not in it.
example-test: build/wheel
	@$(CLEAN); \
	pip install --quiet "$$(ls build/dist/*.whl)[testing]" ./examples/hq-sqlite; \
	cp -r examples/hq-sqlite/tests "$$tmp/empty"; cd "$$tmp/empty"; \
	hq backends | grep -w sqlite; \
	hq check sqlite; \
	pytest --quiet --strict-markers -W error tests; \
	head -c 5000000 /dev/urandom >sent; mkdir spool; \
	hq pipe --backend sqlite --memory 64K --dir spool --quiet <sent | { \
	    timeout 60 sh -c 'until find spool -size +4000k | grep -q .; do sleep 0.1; done'; cat >received; }; \
	cmp sent received; rmdir spool

build/wheel: .venv/dev pyproject.toml README.md $(shell find hq_* -type f -not -name '*.pyc')
	@rm -rf build/dist build/wheel; mkdir -p build
	@$(BIN)/python -m build --outdir build/dist >build/log 2>&1 || { cat build/log; exit 1; }
	@touch $@

# Takes about an hour on an idle machine. BENCH="--quick" shows in minutes that it works;
# `.venv/bin/python -m benchmarks --help` says what else there is.
bench: .venv/bench
	$(BIN)/python -m benchmarks $(BENCH)

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist hq-demo.svg
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

.venv/bench: .venv/package
	@$(BIN)/pip install --quiet --group bench
	@touch $@

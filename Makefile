# The two commands a newcomer needs are `make demo` and `make test`; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check tests format clean

demo: .venv/installed
	$(BIN)/thalweg compare digits --out runs/demo

test: check tests

check: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: .venv/installed
	$(BIN)/pytest -n 2

format: .venv/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Exact versions come from constraints.txt, for the build as well (hatchling).
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "thalweg needs Python 3.11 or newer; say which: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--build-constraint constraints.txt --editable '.[lab]' --group dev
	touch $@

clean:
	rm -rf .venv runs

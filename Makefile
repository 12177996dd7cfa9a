# The two commands a newcomer needs are `make demo` and `make test`; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check tests docs pictures record format clean rivals benchmark gpu gpu-wheels

demo: .venv/installed
	$(BIN)/thalweg compare digits --out runs/demo

test: check tests

check: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: .venv/installed
	$(BIN)/pytest -n 2 --dist worksteal

# Offline; every warning is an error. Open build/docs/docs/index.html afterwards.
docs: .venv/installed
	$(BIN)/sphinx-build -E -W --keep-going --quiet -c docs . build/docs
	@echo "Open build/docs/docs/index.html"

# The pictures of the report in the README, from the code as it is. Needs Debian's chromium.
pictures: .venv/installed
	$(BIN)/python -m benchmarks.handbook.report_pictures

# Put a new or changed optimizer into the documents: `make record NAMES="AdamW Lion"`.
record: .venv/installed
	$(BIN)/python benchmarks/correctness/catalogue.py $(NAMES)
	$(BIN)/python benchmarks/correctness/conformance.py --only thalweg.optim $(if $(NAMES),--names $(NAMES))
	$(BIN)/python -m benchmarks.tables

format: .venv/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

rivals: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group rivals

# Run nothing else beside it. The conformance of other libraries takes longest:
# `python benchmarks/correctness/conformance.py`.
benchmark: .venv/installed
	$(BIN)/thalweg bench --rounds 15 --out benchmarks/records/steps.json
	$(BIN)/python benchmarks/speed/first_step.py
	$(BIN)/python benchmarks/speed/population.py
	$(BIN)/python -m benchmarks.tables

# Proofs and measurements on a GPU; no network, no .venv. `make gpu PART=bench`, `make gpu STUB=1`, `make gpu OUT=folder`.
GPU_PYTHON = $(shell $(BIN)/python -c 'import sys, torch; sys.exit(not ("$(STUB)" or torch.cuda.is_available()))' \
	2>/dev/null && echo $(BIN)/python || echo $(PYTHON))
gpu:
	PYTHONPATH=src:. $(GPU_PYTHON) -m benchmarks.gpu $(PART) $(if $(STUB),--stub) $(if $(OUT),--out $(OUT)) \
		$(if $(DEVICE),--device $(DEVICE))

# With a network, before `make gpu` on a machine without one: packages in Python alone, which need no installation.
gpu-wheels:
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --platform any --implementation py --abi none \
		--dest build/gpu-wheels click cloudpickle heavyball flashoptim jinja2 markdown-it-py mdurl opt-einsum \
		packaging prodigyopt pygments pytorch_optimizer rich schedulefree sqlalchemy torch-optimi typing-extensions

# Exact versions come from constraints.txt, for the build as well (hatchling).
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "thalweg needs Python 3.11 or newer; say which: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--build-constraint constraints.txt --editable '.[lab]' --group dev
	touch $@

clean:
	rm -rf .venv runs build

# Two commands: `make demo` and `make test`. Each sets up .venv first where it is missing or out of date.
PYTHON ?= python3
# where torch comes from, e.g. PIP_ARGS="--index-url …" for its CPU wheels; all else is taken from pip's own index
PIP_ARGS ?=
BIN := .venv/bin
READY := .venv/.installed

.PHONY: demo test data-test lint clean

demo: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/blipcalc demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

# the larger sets: BLIPCALC_DATA names their folder
data-test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m data

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints-cpu.txt $(PIP_ARGS) torch
	$(BIN)/pip install -q -c constraints-cpu.txt -e '.[test,tensorboard,xtb,dev]'
	touch $(READY)

# runs/ stays: trainings live there
clean:
	rm -rf .venv

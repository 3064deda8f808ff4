# Everything runs in a virtual environment of the checkout; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: help install test lint types bench parity clean

help:
	@echo "install  create $(VENV) and install accelkit with every backend"
	@echo "test     run all tests (WORKERS=$(WORKERS) processes)"
	@echo "lint     check formatting, style and types"
	@echo "bench    measure accelkit against hand-written programs, side by side"
	@echo "parity   prove that the installed backends agree on full AlexNet"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	touch $(STAMP)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.side_by_side

parity: $(STAMP)
	$(BIN)/python -m accelkit.parity --backend all --model alexnet --variant 2012 --steps 10 --batch-size 4

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Everything runs in a virtual environment of the checkout; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: help install test lint types bench parity opencl-runtimes test-emulator test-opencl oclgrind clean

help:
	@echo "install  create $(VENV) and install accelkit with every backend"
	@echo "test     run all tests (WORKERS=$(WORKERS) processes), then OpenCL's on an FPGA emulator"
	@echo "lint     check formatting, style, types and the CI workflow"
	@echo "bench    measure accelkit against hand-written programs and peers, side by side"
	@echo "opencl-runtimes  fetch Intel's OpenCL runtimes for tests (CPU and FPGA emulator)"
	@echo "test-opencl      run the OpenCL tests and the parity kit on all three runtimes"
	@echo "oclgrind         check OpenCL kernels for data races and uninitialised reads"
	@echo "parity   prove that the installed backends agree on full AlexNet"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev,benchmarks]'
	touch $(STAMP)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	$(MAKE) test-emulator

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml

bench: $(STAMP)
	$(BIN)/python -m benchmarks

parity: $(STAMP)
	$(BIN)/python -m accelkit.parity --backend all --model alexnet --variant 2012 --steps 10 --batch-size 4

opencl-runtimes: $(STAMP)
	$(BIN)/python tests/backends/opencl/fetch_runtimes.py

# PoCL comes with the extra and is always there; these add Intel's CPU device and FPGA emulator.
RUNTIMES := $(CURDIR)/.opencl-runtimes
WITH_INTEL := OCL_ICD_VENDORS=$(RUNTIMES)/vendors LD_LIBRARY_PATH=$(RUNTIMES)/lib
ON_EMULATOR := $(WITH_INTEL) ACCELKIT_OPENCL_TEST_KIND=accelerator
ON_INTEL := $(WITH_INTEL) ACCELKIT_OPENCL_TEST_KIND=cpu
OPENCL_TESTS := -m pytest -n $(WORKERS) --dist worksteal tests/backends/opencl

test-emulator: opencl-runtimes
	$(ON_EMULATOR) $(BIN)/python $(OPENCL_TESTS) \
	  --ignore tests/backends/opencl/test_conformance.py \
	  --ignore tests/backends/opencl/test_products.py

test-opencl: opencl-runtimes
	$(BIN)/python $(OPENCL_TESTS)
	$(ON_EMULATOR) $(BIN)/python $(OPENCL_TESTS)
	$(ON_INTEL) $(BIN)/python $(OPENCL_TESTS)

oclgrind: $(STAMP)
	$(BIN)/python tests/backends/opencl/run_oclgrind.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

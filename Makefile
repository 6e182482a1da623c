# make demo | make test | make lint | make bench. Everything rests on `make setup`, which needs only
# Python >= 3.11, a C++ compiler and the package registries. Variables: PYTHON, VENV, TORCH_INDEX.
VENV ?= .venv
PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml
# The locked torch is a CPU build: the CUDA extension could not be used here (auto builds it with nvcc).
NSR_FAST_CUDA ?= 0
export PYTHON TORCH_INDEX NSR_FAST_CUDA
# Reading vLLM, sympy and transformers from source takes each process ten seconds; bytecode is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-all lint bench clean

setup: $(VENV)/.built

$(VENV)/.installed: requirements/cpu.txt requirements/setup.sh
	bash requirements/setup.sh $(VENV)
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/nsr-fast train --config examples/countdown/nsr.yaml --overwrite true

test: setup
	$(BIN)/python -m pytest -m "not gpu and not slow"

test-all: setup
	$(BIN)/python -m pytest -m "not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: setup
	$(BIN)/python benchmarks/bench_linear_loss.py --cpu

clean:
	rm -rf $(VENV) build *.egg-info nsr_fast/*.so

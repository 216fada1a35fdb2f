# make demo | test | check | bench | gpu | models | clean.    All but gpu set up .venv themselves.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
GPU_RESULTS ?= benchmarks/results/gpu.json

BIN := $(VENV)/bin
NATIVE := $(shell find csrc -type f)
PACKAGE := pyproject.toml setup.py CMakeLists.txt $(NATIVE)

.PHONY: demo test check bench gpu models clean

demo: $(VENV)/.installed-viz
	$(BIN)/python -m tsgen demo --out demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format -n --Werror $(NATIVE)
	$(BIN)/python benchmarks/report.py --check

bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest benchmarks

models: $(VENV)/.installed-viz
	$(BIN)/python benchmarks/train_bundled.py

# For a machine with a GPU, nvcc and every dependency, but no network: its own Python, no .venv.
gpu:
	CMAKE_ARGS="-DTSGEN_CUDA=ON $(CMAKE_ARGS)" \
	  $(PYTHON) -m pip install --no-build-isolation --no-deps -e .
	TSGEN_REQUIRE=cuda,triton $(PYTHON) -m pytest
	mkdir -p $(dir $(GPU_RESULTS))
	$(PYTHON) -m pytest benchmarks --benchmark-json=$(GPU_RESULTS)

clean:
	rm -rf $(VENV)/.installed-* build dist *.egg-info tsgen/_C.*.so demo gpu-results
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# PyTorch first and by itself, so that nothing below picks another; then what builds tsgen/_C.
$(VENV)/.base:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install cmake ninja pybind11 "setuptools>=77" wheel
	touch $@

# .installed-<extra>: tsgen in place, with that extra of pyproject.toml.
$(VENV)/.installed-%: $(VENV)/.base $(PACKAGE)
	$(BIN)/python -m pip install --no-build-isolation -e ".[$*]"
	touch $@

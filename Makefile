# make demo | test | check | bench | sanitize | interpret | gpu | models | clean.
# All but gpu set up .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
GPU_RESULTS ?= benchmarks/results/gpu.json

BIN := $(VENV)/bin
NATIVE := $(shell find csrc -type f)
PACKAGE := pyproject.toml setup.py CMakeLists.txt $(NATIVE)

.PHONY: demo test check bench sanitize interpret gpu gpu-sanitize models clean

demo: $(VENV)/.installed-viz
	$(BIN)/python -m tsgen demo --out demo

# A process a core, each with whole files: tests of one file share what is dear to make. Those of
# what Triton compiles share nothing, and one file of them would keep one core busy for minutes.
COMPILES := tests/test_triton_compile.py
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore=$(COMPILES)
	$(BIN)/python -m pytest -n auto $(COMPILES)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format -n --Werror $(NATIVE) $(wildcard examples/*/*.cpp)
	$(BIN)/python benchmarks/report.py --check

bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest benchmarks

# The native code once more, in a copy, with AddressSanitizer and UndefinedBehaviorSanitizer; that
# for CUDA as C++, each thread a fiber. PYTHONSAFEPATH: the copy, not the package of this folder.
SANITIZED := build/sanitized
sanitize: $(VENV)/.installed-test
	CMAKE_ARGS="-DTSGEN_SANITIZE=ON -DTSGEN_CUDA=ON_CPU -DTSGEN_C_LIBRARY=ON" \
	  $(BIN)/python setup.py -q build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib \
	    --build-temp $(SANITIZED)/objects
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZED)/lib TSGEN_REQUIRE=sanitizers,cuda \
	  TSGEN_LIBRARY=$(SANITIZED)/objects \
	  $(BIN)/python -m pytest -n auto -q -p no:cacheprovider \
	    tests/test_ops.py tests/test_op_behaviour.py tests/test_op_behaviour_attention.py \
	    tests/test_op_behaviour_draws.py tests/test_op_behaviour_blocks.py tests/test_engine_cpu.py \
	    tests/test_engine_cuda_kernels.py tests/test_engine_cuda_cpp.py \
	    tests/test_c_library.py tests/test_c_library_files.py tests/test_c_library_ops.py \
	    tests/test_c_library_cuda.py \
	  -k "(cpu or cuda or instruction_set or threads or c_library) and not ctrl_c \
	    and not cbf and not ecg and not synthetic_control"

# Triton kernels without a GPU: interpreted, and compiled for one kind by the oldest Triton that is
# supported; `make test` compiles them for several by the installed one.
OLDEST := build/triton-3.6.0
interpret: $(VENV)/.installed-test $(OLDEST)
	TRITON_INTERPRET=1 TSGEN_REQUIRE=triton $(BIN)/python -m pytest -n auto -q \
	  tests/test_ops.py tests/test_op_behaviour_blocks.py -k triton
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest -n auto -q $(COMPILES) -k sm_90
	TRITON_INTERPRET=1 TSGEN_BACKEND=triton $(BIN)/python -m pytest -q tests/test_engine_cuda.py \
	  -k "alone or plain_pytorch"

$(OLDEST): $(VENV)/.base
	$(BIN)/python -m pip install --no-deps --target $@.new triton==3.6.0
	mv $@.new $@

models: $(VENV)/.installed-viz
	$(BIN)/python benchmarks/train_bundled.py

# For a machine with a GPU, nvcc and every dependency, but no network: its own Python, no .venv.
# All within nine minutes: the tests get four, NVIDIA's sanitizers one and a half, the benchmark what
# is left, also after a failure. The tests of what the compiler makes for other GPUs need none: they
# are left to `make test`.
gpu:
	begun=$$(date +%s); workers=; \
	  CMAKE_ARGS="-DTSGEN_CUDA=ON -DTSGEN_C_LIBRARY=ON $(CMAKE_ARGS)" \
	    $(PYTHON) -m pip install --no-build-isolation --no-deps -e . || exit 1; \
	  export TSGEN_LIBRARY=$$PWD/build/editable; \
	  if $(PYTHON) -c "import xdist" 2> /dev/null; then workers="-n 8"; fi; \
	  TSGEN_REQUIRE=cuda,triton timeout --signal=INT --kill-after=20 240 \
	    $(PYTHON) -m pytest $$workers --ignore=$(COMPILES); tests=$$?; \
	  $(MAKE) gpu-sanitize; sanitizers=$$?; \
	  $(PYTHON) benchmarks/gpu.py --out $(GPU_RESULTS) --until $$((begun + 500)) && \
	  exit $$((tests + sanitizers))

# Every CUDA kernel in its first dtype under NVIDIA's sanitizers, side by side, where there are some.
TOOLS := memcheck racecheck initcheck synccheck
gpu-sanitize:
	command -v compute-sanitizer > /dev/null || { echo "no compute-sanitizer"; exit 0; }; \
	for tool in $(TOOLS); do \
	  timeout 90 compute-sanitizer --tool $$tool --error-exitcode 9 --target-processes all \
	    $(PYTHON) -m pytest -q -p no:cacheprovider tests/test_ops.py \
	    -k "strides_do_not_matter and cuda" > sanitizer-$$tool.log 2>&1 & pids="$$pids $$!"; \
	done; failed=0; for pid in $$pids; do wait $$pid || failed=1; done; \
	tail -n 4 sanitizer-*.log; exit $$failed

clean:
	rm -rf $(VENV)/.installed-* build dist *.egg-info tsgen/_C.*.so demo sanitizer-*.log
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

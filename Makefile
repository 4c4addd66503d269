# make demo    builds, installs and tells a story      make serve   an OpenAI-compatible server on this machine
# make test    everything: C++ with sanitizers, then pytest
# make lint    ruff, mypy, clang-format                make bench   the C++ kernels against this machine's ceilings
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
NATIVE := cpp CMakeLists.txt pyproject.toml
SOURCES := $(shell find $(NATIVE) src LICENSE -type f -not -name '*.pyc')
CPP := $(shell find cpp -name '*.cpp' -o -name '*.h')
CMAKE := $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DNARROWS_WERROR=ON

.PHONY: demo serve test test-cpp test-py lint format bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(BIN)/narrows demo

serve: $(VENV)/.installed
	@$(BIN)/narrows serve

test: test-cpp test-py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Narrows needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Not editable: what runs is what a user would have installed. Unchanged sources cost a look at the files, no pip.
$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check .
	@touch $@

# torch first and alone: the tests want this version, whatever newer one the extra would allow.
$(VENV)/.test-extras: pyproject.toml | $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check '.[test]'
	@touch $@

test-cpp: $(VENV)/.test-extras
	$(CMAKE) -B build/sanitized -DNARROWS_TESTS=ON -DNARROWS_SANITIZE=ON
	$(BIN)/cmake --build build/sanitized
	$(BIN)/ctest --test-dir build/sanitized --output-on-failure --no-tests=error

test-py: $(VENV)/.test-extras $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.test-extras
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/.test-extras
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(VENV)/.test-extras
	$(CMAKE) -B build/bench -DNARROWS_BENCH=ON
	$(BIN)/cmake --build build/bench
	@for bench in build/bench/cpp/*_bench; do echo "== $$bench"; $$bench || exit 1; done

clean:
	rm -rf build $(VENV)

PYTHON ?= python3
BIN := .venv/bin
# Processes that share the tests.
JOBS ?= 2
# RESOLUTION=lowest-direct installs the oldest release of every dependency that pyproject.toml allows; it takes uv.
INSTALL := $(if $(RESOLUTION),uv pip install --python $(BIN)/python --resolution $(RESOLUTION),$(BIN)/pip install)

.PHONY: demo test types nightly bench clean

# Each extra has a stamp of its own, so that a set-up is not repeated.
.venv/test: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(INSTALL) --quiet --editable '.[test]'
	touch $@

.venv/demo: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(INSTALL) --quiet --editable .
	touch $@

demo: .venv/demo
	$(BIN)/mlxrlhf demo

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist worksteal

types: .venv/test
	$(BIN)/mypy

# The same tests where time does not matter: all of tiny, the demo from a wheel, long fuzzing, a fault at every call; then
# the parity tests with the compiled steps that otherwise only a GPU takes.
nightly: export MLXRLHF_LONG := 1
nightly: export MLXRLHF_FUZZ_SECONDS := 600
nightly: test
	MLXRLHF_COMPILE=1 $(BIN)/python -m pytest -q tests/test_parity.py

.venv-bench/ready: pyproject.toml setup.py benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --requirement benchmarks/requirements.txt --editable .
	touch $@

bench: .venv-bench/ready
	.venv-bench/bin/python benchmarks/speed.py

clean:
	rm -rf .venv .venv-bench *.egg-info

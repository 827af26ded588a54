# Every target sets up what it needs first: `make demo` and `make test` work in a fresh clone.
#
#   PYTHON=python3.12             the interpreter for .venv (PYTHON312 for .venv-oldest)
#   GRAPHOPT_TORCH_INDEX=ADDRESS  one more package index to find PyTorch in
#   JOBS=4                        test workers; the default fits this machine's cores and memory

# Whichever Python there is looks for the right one, and says so if there is none.
SEARCH := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python
ANY_PYTHON := $(firstword $(foreach name,$(SEARCH),$(shell command -v $(name) 2>/dev/null)))
BOOTSTRAP := $(or $(ANY_PYTHON),echo "setup: there is no python3 on PATH: install Python 3.11" >&2; false) tools/bootstrap.py

BIN := .venv/bin
JOBS ?= auto
PYTEST := -m pytest -n $(JOBS) --dist worksteal
# Triton decides once for a process whether kernels are interpreted or compiled: two jobs.
INTERPRET := TRITON_INTERPRET=1
unexport PYTHONPATH PYTHONHOME

.PHONY: demo test setup lint bench families test-all test-oldest soak clean
.DEFAULT_GOAL := demo

demo: setup ## compile the example checkpoint, verify it, stream completions
	$(BIN)/python examples/demo.py

test: setup ## what fits in 15 minutes on two cores
	$(BIN)/python $(PYTEST) -m "not interpreted and not full and not gpu and not soak"
	$(INTERPRET) $(BIN)/python $(PYTEST) -m "interpreted and not full"

setup: ## .venv: made once, then left alone until pyproject.toml or tools/setup changes
	@$(BOOTSTRAP)

lint: setup ## style, format, types, the habits of the house (bare imports of passes/ among them)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples tools benchmarks
	$(BIN)/python -m tools.house

bench: setup ## start-up, throughput and compile times on this machine
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.compile_time

families: setup ## the table of model families: agree, or refused with a reason
	$(BIN)/python -m tests.models.families

test-all: test ## everything but gpu and soak: what `make test` leaves out comes after it
	$(BIN)/python $(PYTEST) -m "full and not interpreted and not gpu and not soak"
	$(INTERPRET) $(BIN)/python $(PYTEST) -m "full and interpreted"

test-oldest: ## the fast tier on the oldest supported torch, triton and transformers (5 GB on disk)
	@$(BOOTSTRAP) --environment oldest
	.venv-oldest/bin/python $(PYTEST) -m "not interpreted and not slow and not gpu and not soak"
	$(INTERPRET) .venv-oldest/bin/python $(PYTEST) -m "interpreted and not slow"

soak: setup ## minutes of load, on purpose
	$(BIN)/python -m pytest -m soak

clean: ## remove the environments and everything that was generated
	rm -rf .venv .venv-oldest .venv-clients build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

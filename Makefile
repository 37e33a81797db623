# Two commands: `make demo` and `make test`. Everything they need is set up on the way.
.PHONY: demo test unit lint install clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The CIFAR-10 data and weights that some tests and benchmarks use; skipped without them.
export AUTOPRUNE_SHARED_DATA ?= $(abspath ../shared/data)

demo: install
	$(BIN)/python examples/digits_demo.py

# In the files' order, so that the long ones (tests/integration) begin first and none is left for
# the end; xdist's own order is by the number of tests.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST)

unit: install
	$(PYTEST) tests/unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)

# torch first: the pinned release, so that no other package pulls another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "autoprune needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray,ray-client,postgres,openvino,tensorrt-rtx,energy]'
	# zeus brings amdsmi, which breaks `import ray` where AMD's driver is not installed.
	$(BIN)/python -m pip uninstall --quiet --yes amdsmi
	touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache

# Two commands: `make demo` shows it, `make test` checks it. Each sets up what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Threads that wait leave their core to others; videoxl_command.py tells why.
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

.PHONY: demo test space bench train-tiny eval-tiny clean

# A cached environment is used again until what is installed changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("transformers 5.23 needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(READY)
	@$(BIN)/videoxl demo

# Two workers; what a file sets up, one of them sets up once.
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

space: $(READY)
	$(BIN)/python -m videoxl.spaces_demo

bench: $(READY)
	$(BIN)/python -m benchmarks.prefill

# From nothing to .tiny/checkpoint; stopped, the same command goes on where it was. What a step gave back of memory is kept
# for the next one (glibc; others do not know the settings).
train-tiny: $(READY)
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_TOP_PAD_=200000000 \
		$(BIN)/python -m videoxl.training.tiny_recipe --output .tiny --seed 1

# The acceptance grids: 20 questions a cell, and 50 from 512 frames up; 4,096 are longer than any film of the training.
eval-tiny: $(READY)
	$(BIN)/videoxl eval niah --frames 1,2,4,8,16,32,64,128,256 --ratios 8,16 --questions 20 --output .tiny/niah_short
	$(BIN)/videoxl eval niah --frames 512,1024,2048,4096 --ratios 8,16 --questions 50 --output .tiny/niah_long

clean:
	rm -rf $(VENV) .demo build dist *.egg-info

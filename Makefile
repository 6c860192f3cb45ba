# Two commands: `make demo` shows it, `make test` checks it. Each sets up what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
GOLDEN := tests/fixtures/authors_tiny/checkpoint
CHECKPOINT := .demo/checkpoint

.PHONY: demo test space bench clean

# A cached environment is used again until what is installed changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("transformers 5.23 needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

# Until a trained checkpoint ships: a small one with random weights, in the authors' layout, converted like theirs.
$(CHECKPOINT)/config.json: | $(READY)
	$(BIN)/videoxl convert $(GOLDEN) $(CHECKPOINT) --vision-tower $(GOLDEN)/clip --quiet

demo: $(READY) $(CHECKPOINT)/config.json
	@$(BIN)/videoxl demo --model $(CHECKPOINT) --random-weights

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q

space: $(READY) $(CHECKPOINT)/config.json
	$(BIN)/python -m videoxl.spaces_demo --model $(CHECKPOINT) --random-weights

bench: $(READY)
	$(BIN)/python -m benchmarks.prefill

clean:
	rm -rf $(VENV) .demo build dist *.egg-info

# `make demo` and `make test` need Python >= 3.10 and make; they set up all the rest.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
PICTURES ?= 240

.PHONY: demo test check bench format clean

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.10 is needed; set PYTHON=...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,train]'
	touch $@

demo: .venv/.installed  ## toy pictures -> shards -> checks -> contact sheet and animation
	@echo "ezsr-synth toy:$(PICTURES) $(DEMO)/shards"
	@$(BIN)/ezsr-synth toy:$(PICTURES) $(DEMO)/shards --overwrite
	@$(BIN)/ezsr-shards verify $(DEMO)/shards
	@$(BIN)/ezsr-shards info $(DEMO)/shards
	@$(BIN)/ezsr-shards view $(DEMO)/shards --to $(DEMO)/sheet.png
	@$(BIN)/ezsr-shards view $(DEMO)/shards --to $(DEMO)/sample.gif

test: .venv/.installed  ## all tests
	$(BIN)/python -m pytest

check: .venv/.installed  ## what continuous integration runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: .venv/.installed  ## measure; results go to benchmarks/results
	$(BIN)/python benchmarks/synth_profile.py

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(DEMO) build dist

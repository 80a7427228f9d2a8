# `make demo` and `make test` need Python >= 3.10 and make; they set up all the rest.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
PICTURES ?= 4000
STEPS ?= 400

.PHONY: demo test test-faults check bench format clean

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.10 is needed; set PYTHON=...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,train]'
	touch $@

demo: .venv/.installed  ## toy pictures -> shards -> training -> zero-shot accuracy
	@$(BIN)/python benchmarks/demo.py $(DEMO) --pictures $(PICTURES) --steps $(STEPS)

test: .venv/.installed  ## all tests
	$(BIN)/python -m pytest

test-faults: .venv/.installed  ## long tests: killed workers, full disks, hostile files
	$(BIN)/python -m pytest -m faults

check: .venv/.installed  ## what continuous integration runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: .venv/.installed  ## measure; results go to benchmarks/results
	$(BIN)/python benchmarks/synth_speed.py
	$(BIN)/python benchmarks/synth_profile.py
	$(BIN)/python benchmarks/loader_speed.py
	$(BIN)/python benchmarks/train_speed.py

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(DEMO) build dist

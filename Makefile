# `make demo` and `make test` need Python >= 3.10 and make; they set up all the rest.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
SCALING := scaling
ABLATION := ablation
PICTURES ?= 4000
STEPS ?= 400
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

.PHONY: demo test test-faults check bench scaling ablation format clean

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

scaling: .venv/.installed  ## a small grid on the toy world: the error over pairs and parameters
	@$(BIN)/python benchmarks/scaling_law.py $(SCALING) --jobs $(JOBS)

ablation: .venv/.installed  ## what each choice is worth on the toy world
	@$(BIN)/python benchmarks/ablation.py $(ABLATION) --jobs $(JOBS)

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(DEMO) $(SCALING) $(ABLATION) build dist

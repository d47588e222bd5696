# `make help` lists the targets. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
OUT ?= demo

.PHONY: help install install-test demo test test-slow check bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[fast]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[fast,test]"
	touch $@

install: $(VENV)/.installed ## virtual environment in .venv with digipath

install-test: $(VENV)/.installed-test ## the same with what the tests need

demo: install ## segment a sample slide and say where the report lies
	$(BIN)/digipath demo --out $(OUT) --data $(DATA)/wsi

test: install-test ## fast tests (minutes)
	$(BIN)/python -m pytest -n 2 -m "not slow and not browser"

test-slow: install-test ## training runs, kill tests, whole benchmarks' correctness
	$(BIN)/python -m pytest -m "slow or browser"

check: install-test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install-test ## speed and memory, printed as JSON lines
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/segment_speed.py --slide $(DATA)/wsi/CMU-1-Small-Region.svs
	$(BIN)/python benchmarks/segment_memory.py

clean: ## remove the virtual environment and what the demo wrote
	rm -rf $(VENV) $(OUT)

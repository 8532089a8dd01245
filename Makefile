PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types clean

demo: $(READY)
	$(BIN)/aurevoir demo

test: $(READY)
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# The repository root is the package: a link gives the type checker a folder of the package's name.
types: $(READY)
	mkdir -p .types && ln -sfn $(CURDIR) .types/aurevoir
	cd .types && ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p aurevoir

# lightonml comes apart from its requirements: see the extra `opu`.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps lightonml==1.4.3
	touch $@

clean:
	rm -rf $(VENV) .types build dist *.egg-info

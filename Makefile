PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types gpu gpu-data clean

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

# On a machine with a GPU and the packages that CONTRIBUTING names: with its own Python, installing nothing.
GPU_DATA ?= gpu-data
GPU_OUT ?= benchmarks/results/gpu.json
gpu:
	mkdir -p .types && ln -sfn $(CURDIR) .types/aurevoir
	PYTHONPATH=.types $(PYTHON) -m aurevoir bench gpu --data $(GPU_DATA) --out $(GPU_OUT)

# Anywhere, beforehand: PHOTOGRAPHS is a folder of class folders, NETWORKS any ONNX files to measure besides.
gpu-data: $(READY)
	$(BIN)/aurevoir bench gpu --prepare $(GPU_DATA) --photographs $(PHOTOGRAPHS) $(if $(NETWORKS),--networks $(NETWORKS))

# lightonml comes apart from its requirements: see the extra `opu`.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps lightonml==1.4.3
	touch $@

clean:
	rm -rf $(VENV) .types build dist *.egg-info

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo browser test test-newest test-oldest lint types docs dist commands figures results results-check reliability gpu gpu-data lock audit \
	sbom licences clean

demo: $(READY)
	$(BIN)/aurevoir demo

# For the tests that show pages, where it can be had.
browser:
	@tools/browser.sh

# Two processes, each with whole files: much of the suite waits for children and for single threads. Threads of BLAS and torch
# that have no processor of their own spin.
TEST = OMP_NUM_THREADS=1 $(1)/bin/pytest --numprocesses 2 --dist loadfile

test: $(READY) browser
	$(call TEST,.venv)

# The newest releases that pyproject.toml allows, found anew each time. lightonml comes apart: see the extra `opu`.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet --editable '.[dev]'
	.venv-newest/bin/pip install --quiet --no-deps lightonml==1.4.3
	$(call TEST,.venv-newest)

# The oldest releases that pyproject.toml allows, on the oldest Python.
test-oldest: .venv-oldest/.ready
	$(call TEST,.venv-oldest)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# What is published: the source distribution, and the wheel that is built from it. An old .egg-info would add what it lists.
dist: $(READY)
	rm -rf dist *.egg-info && mkdir -p .types
	$(BIN)/python -m build --no-isolation --outdir dist > .types/dist.log 2>&1 || { cat .types/dist.log; false; }

# Types as a user meets them: those of the installed wheel, with no sources in sight. The cache goes by contents.
types: dist
	rm -rf .types/installed && mkdir -p .types/empty
	$(BIN)/pip install --quiet --no-deps --no-index --target .types/installed dist/*.whl
	cd .types/empty && PYTHONPATH=../installed $(abspath $(BIN))/mypy --config-file ../../pyproject.toml \
		--cache-dir ../../.mypy_cache -p aurevoir

# Every warning is an error: a link or an anchor that leads nowhere is one.
docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build

# The results in the documentation, from benchmarks/results.
results: $(READY)
	$(BIN)/python tools/results.py

# The figures in benchmarks/results, from the result files: nothing is measured again.
figures: $(READY)
	$(BIN)/python tools/figures.py

# The commands in docs/cli.md, from the parsers.
commands: $(READY)
	$(BIN)/python tools/commands.py

results-check: $(READY)
	$(BIN)/python tools/results.py --check

# Faults, hostile files and full disks, counted; see docs/reliability.md.
SECONDS ?= 3600
SEED ?= 0
reliability: $(READY)
	$(BIN)/python -m aurevoir.tools.reliability --seconds $(SECONDS) --seed $(SEED) $(if $(ONLY),--only $(ONLY)) \
		--out benchmarks/results/reliability.json --plot benchmarks/results/reliability.png

# On a machine with a GPU and the packages that CONTRIBUTING names: with its own Python, installing nothing. The repository
# root is the package: a link gives Python a folder of the package's name.
GPU_DATA ?= gpu-data
GPU_OUT ?= benchmarks/results/gpu.json
gpu:
	mkdir -p .types && ln -sfn $(CURDIR) .types/aurevoir
	PYTHONPATH=.types $(PYTHON) -m aurevoir bench gpu --data $(GPU_DATA) --out $(GPU_OUT)

# Anywhere, beforehand: PHOTOGRAPHS is a folder of class folders, NETWORKS any ONNX files to measure besides.
gpu-data: $(READY)
	$(BIN)/aurevoir bench gpu --prepare $(GPU_DATA) --photographs $(PHOTOGRAPHS) $(if $(NETWORKS),--networks $(NETWORKS))

# An environment from its lock. Clearing removes .ready too, so that one whose making failed is made again.
$(READY): requirements/dev.txt pyproject.toml
.venv-oldest/.ready: requirements/oldest.txt pyproject.toml
$(READY) .venv-oldest/.ready:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --no-deps --require-hashes --requirement $<
	$(@D)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

LOCK = .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --extra dev \
	--custom-compile-command 'make lock' --overrides requirements/overrides.in pyproject.toml requirements/dev.in

lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/pip install --quiet uv
	$(LOCK) --output-file requirements/dev.txt
	$(LOCK) --output-file requirements/oldest.txt --resolution lowest-direct

# Known vulnerabilities of what the lock installs: asks an advisory database on the internet. Strict, as a package that it
# does not know would pass unseen.
audit:
	$(PYTHON) -m venv --clear .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/dev.txt

# The bill of materials of a release, CycloneDX: what the wheel brings into an environment of its own.
sbom: dist
	$(PYTHON) -m venv --clear .venv-sbom/wheel && $(PYTHON) -m venv --clear .venv-sbom/tool
	.venv-sbom/wheel/bin/pip install --quiet dist/*.whl
	.venv-sbom/tool/bin/pip install --quiet 'cyclonedx-bom>=7'
	.venv-sbom/tool/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --mc-type library \
		--output-file dist/aurevoir.cdx.json .venv-sbom/wheel/bin/python

# docs/licences.md, from the lock and the metadata of what it installed.
licences: $(READY)
	$(BIN)/python tools/licences.py

clean:
	rm -rf .venv .venv-audit .venv-sbom .venv-newest .venv-oldest .venv-lock .types build dist docs/_build *.egg-info

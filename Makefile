# `make` lists the targets. A target that needs an environment makes it, in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Where several Pythons are to be had; without torch, for what has to hold on each.
PYTHONS ?= python3.10 python3.12 python3.13

.DEFAULT_GOAL := help
.PHONY: help demo test test-anemoi test-pythons test-stores lint format fuzz bench bench-graphs bench-operations bench-training bench-manifest bench-comparisons bench-detection bench-costs bench-formats bench-fleet bench-starting bench-structure graphs properties mutants wheel man clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(BIN)/.ready: setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(BIN)/.ready ## train a small model, rename a layer, and take its checkpoint up and down
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python examples/demo.py

test: $(BIN)/.ready ## run all tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal

ANEMOI ?= build/anemoi

$(ANEMOI)/venv/.ready: tests/anemoi/environment.py constraints.txt
	$(PYTHON) tests/anemoi/environment.py $(ANEMOI)

test-anemoi: $(BIN)/.ready $(ANEMOI)/venv/.ready ## try the chain of anemoi-models against its releases, and on checkpoints in CHECKPOINTS=DIR if given
	ANEMOI_CHECKPOINTS="$(abspath $(CHECKPOINTS))" ANEMOI_PYTHON="$(abspath $(ANEMOI))/venv/bin/python" \
		ANEMOI_RELEASES="$(abspath $(ANEMOI))/releases" $(BIN)/python -m pytest -n auto tests/anemoi

test-pythons: $(BIN)/.ready ## run what needs no torch under other Pythons
	$(BIN)/python tests/support/pythons.py $(PYTHONS)

AZURITE ?= build/azurite/node_modules/.bin/azurite-blob

build/azurite/node_modules/.bin/azurite-blob:
	npm install --silent --prefix build/azurite azurite

test-stores: $(BIN)/.ready $(AZURITE) ## run the tests of object stores, those on emulators of Azure and Google Cloud included
	$(BIN)/python -m pip install --quiet --constraint constraints.txt adlfs gcsfs gcp-storage-emulator
	AZURITE="$(abspath $(AZURITE))" $(BIN)/python -m pytest -n auto -m "stores or not stores" tests/storage/test_remote.py tests/storage/test_remote_s3.py

lint: $(BIN)/.ready ## check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(BIN)/.ready ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(BIN)/.ready ## try N=100000 damaged and hostile files (N=0: until interrupted)
	$(BIN)/python -m tests.fuzzing $(or $(N),100000) $(SEED)

bench: $(BIN)/.ready ## measure, and write benchmarks/RESULTS.md
	$(BIN)/python benchmarks/bench.py

bench-operations: $(BIN)/.ready ## measure operations on 4 GB, and write benchmarks/OPERATIONS.md
	$(BIN)/python benchmarks/operations.py

bench-training: $(BIN)/.ready ## measure what recording costs a training run, and write benchmarks/TRAINING.md
	$(BIN)/python benchmarks/training.py

bench-manifest: $(BIN)/.ready ## measure what the manifest costs, and write benchmarks/MANIFEST.md
	$(BIN)/python benchmarks/manifest.py

bench-comparisons: $(BIN)/.ready ## measure comparisons of 10,000 to 50,000 parameters, and write benchmarks/COMPARISONS.md
	$(BIN)/python benchmarks/comparisons.py

bench-detection: $(BIN)/.ready ## count hostile files detected, beside picklescan if it is there, and write benchmarks/DETECTION.md
	$(BIN)/python benchmarks/detection.py

bench-costs: $(BIN)/.ready ## measure what hostile files cost, and write benchmarks/COSTS.md
	$(BIN)/python benchmarks/costs.py

bench-formats: $(BIN)/.ready ## measure safetensors files and distributed checkpoints beside cp and their libraries, and write benchmarks/FORMATS.md, DISTRIBUTED.md, METADATA.md
	$(BIN)/python benchmarks/formats.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/metadata.py

bench-fleet: $(BIN)/.ready ## measure FILES=10000 checkpoints in one call, and write benchmarks/FLEET.md
	$(BIN)/python benchmarks/fleet.py

bench-structure: $(BIN)/.ready ## measure TENSORS=100000 small tensors beside the same by hand, and write benchmarks/STRUCTURE.md
	$(BIN)/python benchmarks/structure.py

bench-starting: $(BIN)/.ready ## measure what starting up costs beside bare Python, and write benchmarks/STARTING.md
	$(BIN)/python benchmarks/starting.py

bench-graphs: $(BIN)/.ready ## measure large graphs beside Alembic, and write benchmarks/GRAPHS.md
	$(BIN)/python benchmarks/graphs.py

graphs: $(BIN)/.ready ## try GRAPHS=20000 random graphs in each property, and a tenth as many walks along them
	HYPOTHESIS_MAX_EXAMPLES=$(or $(GRAPHS),20000) GRAPHS=$(or $(GRAPHS),20000) WALKS=$$(($(or $(GRAPHS),20000) / 10)) \
		$(BIN)/python -m pytest -n auto tests/revisions tests/properties/test_walks.py

properties: $(BIN)/.ready ## try EXAMPLES=1000 in each test that draws its examples
	HYPOTHESIS_MAX_EXAMPLES=$(or $(EXAMPLES),1000) $(BIN)/python -m pytest -n auto -m hypothesis

mutants: $(BIN)/.ready ## change COUNT=15 places of each of thirteen modules, drawn by SEED=0, and print which changes no test notices
	nice $(BIN)/python -m tests.mutants $(or $(COUNT),15) $(or $(SEED),0) $(MODULES)

wheel: $(BIN)/.ready ## build the wheel, man page included, into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

man: wheel ## build the wheel and show its man page
	$(BIN)/python -m zipfile -e dist/ckpt_migrate-*.whl build/wheel
	man -l build/wheel/*.data/data/share/man/man1/ckpt-migrate.1

clean: ## remove everything that was made
	rm -rf $(VENV) build dist man *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

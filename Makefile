# Faultline. Everything runs inside .venv; `make help` lists the targets.

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# The first interpreter that is new enough; PYTHON=/path/to/python overrides it.
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
          $(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
ARGS   ?=

# ONNX Runtime's wheel sends usage data home unless it is told otherwise.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test check format lint types imports structure bench overhead load fuzz memory agree parity interpreter opsets conformance optimised large worst coverage precision flips streaming upload chaos up schemas constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## make .venv and install what Faultline runs on
setup-dev: $(VENV)/.installed-dev ## the same with what the tests and checks need

demo: $(VENV)/.installed ## audit a brittle and a sturdy model end to end, then stop everything
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.installed-dev ## run all tests (ARGS="-k words" narrows them)
	@$(BIN)/python -m pytest $(ARGS)

check: lint types imports structure ## formatting, lint, types, import directions, sizes, manifests

format: $(VENV)/.installed-dev ## rewrite the code in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed-dev ## formatting and lint, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.installed-dev ## import directions
	$(BIN)/lint-imports --no-logo

structure: $(VENV)/.installed-dev ## sizes, house rules, documents, manifests
	$(BIN)/python -m pytest -q tests/project -m "not slow"

bench: $(VENV)/.installed-dev ## seconds per cell against the plain script
	@$(BIN)/python -m benchmarks.sweep $(ARGS)

overhead: $(VENV)/.installed-dev ## what the service adds to an audit, from POST to report (five minutes)
	@$(BIN)/python -m benchmarks.overhead $(ARGS)

load: $(VENV)/.installed-dev ## polls, submits, clients and long polls against two API processes (ARGS="--minutes 10": memory too)
	@$(BIN)/python -m benchmarks.load $(ARGS)

fuzz: $(VENV)/.installed-dev ## schemathesis over the whole API and along its links (FUZZ_SECONDS=300)
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-200} FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(BIN)/python -m pytest -q tests/service/test_fuzz.py

memory: $(VENV)/.installed-dev ## peak memory as a multiple of the weights, and top-n over 1e8 of them
	@$(BIN)/python -m benchmarks.memory $(ARGS)

agree: $(VENV)/.installed-dev ## the largest difference to the plain script's numbers
	@$(BIN)/python -m benchmarks.compare $(ARGS)

parity: $(VENV)/.installed-dev ## how close the interpreter is on 17 architectures
	@$(BIN)/python -m benchmarks.parity $(ARGS)

opsets: $(VENV)/.installed-dev ## the same for both ONNX exporters at opset 11 to the newest (ten minutes)
	@$(BIN)/python -m benchmarks.opsets $(ARGS)

conformance: $(VENV)/.installed-dev ## which of ONNX's own node cases pass, and why the others are refused
	@$(BIN)/python -m benchmarks.conformance $(ARGS)

optimised: $(VENV)/.installed-dev ## files of ONNX Runtime's optimiser and quantiser, against the runtime
	@$(BIN)/python -m benchmarks.optimised $(ARGS)

interpreter: $(VENV)/.installed-dev ## forward and backward of the interpreter against eager
	@$(BIN)/python -m benchmarks.interpreter $(ARGS)

large: $(VENV)/.installed-dev ## the memory that an audit of a 2.5 GiB model takes (writes it, deletes it)
	@$(BIN)/python -m benchmarks.large $(ARGS)

worst: $(VENV)/.installed-dev ## the search against dense search and many restarts (half an hour)
	@$(BIN)/python -m benchmarks.worst_case $(ARGS)

coverage: $(VENV)/.installed-dev ## how often confidence limits hold on real data
	@$(BIN)/python -m benchmarks.coverage $(ARGS)

precision: $(VENV)/.installed-dev ## how many examples precision mode measures, and how often it errs
	@$(BIN)/python -m benchmarks.precision $(ARGS)

flips: $(VENV)/.installed-dev ## searched bit flips of an int8 network beside random ones
	@$(BIN)/python -m benchmarks.bit_flips $(ARGS)

upload: $(VENV)/.installed-dev ## send 2 GB, broken 20 times; rate and memory of the API
	@$(BIN)/python -m benchmarks.upload $(ARGS)

streaming: $(VENV)/.installed-dev ## audit 5 GB of data in a process that is held to 1 GB
	@$(BIN)/python -m benchmarks.streaming $(ARGS)

chaos: $(VENV)/.installed-dev ## mistreat a deployment in every way, count the reports (twenty minutes)
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

up: $(VENV)/.installed ## start the API, a worker and an embedded store (ARGS="--port 8000")
	@$(BIN)/faultline up $(ARGS)

schemas: $(VENV)/.installed-dev ## rewrite the JSON Schemas and the OpenAPI document under docs/
	$(BIN)/python -m schemas.export
	$(BIN)/python -m service.openapi > docs/openapi.json

constraints: ## refresh constraints.txt from a fresh environment
	rm -rf $(VENV)-pin
	$(PYTHON) -m venv $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet 'setuptools>=80'
	$(VENV)-pin/bin/pip install --quiet --no-build-isolation --editable '.[dev]' async-timeout
	$(VENV)-pin/bin/python .ci/pin.py > constraints.new && mv constraints.new constraints.txt
	rm -rf $(VENV)-pin

clean: ## remove caches and build leftovers, keep .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis $(VENV)-pin
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Stamps: pip runs again only when a pin or a dependency changed.

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Faultline needs Python 3.11 or newer; found: $$(python3 --version 2>&1)." \
	    "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments." \
	    "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes some minutes, most of them for PyTorch."
	$(PIP) install --quiet -c constraints.txt setuptools
	$(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[service,worker]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	@touch $@

# setup, serve and test work from a fresh clone with Python 3.11+ and nothing else.
# PYTHON chooses the interpreter; everything lives in .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
KERNEL_TESTS := $(wildcard tests/unit/twin tests/unit/models)

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-browser test-vllm lint format docs bench drill openapi

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile

setup: $(STAMP) ## Make .venv from constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@echo "Making .venv from constraints.txt: a few minutes, once"
	"$(PYTHON)" -m venv .venv
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -e '.[train,agent,dev]' -c constraints.txt
	@touch "$(STAMP)"

serve: $(STAMP) ## Run the service on http://127.0.0.1:8080
	@exec "$(BIN)/python" -m service.cli serve

test: $(STAMP) ## All tests; the kernels' own also without Numba's compiler
	NUMBA_DISABLE_JIT=1 "$(BIN)/python" -m pytest $(KERNEL_TESTS)
	"$(BIN)/python" -m pytest

test-browser: $(STAMP) ## The ops page in a real Chromium (apt-get install chromium)
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -e '.[browser]' -c constraints.txt
	"$(BIN)/python" -m pytest -rs tests/browser

test-vllm: $(STAMP) ## The whole loop on a real vLLM on this machine's processor, and kills in it; 40 minutes
	@if PYTHON="$(abspath $(BIN)/python)" tests/vllm/install.sh .venv-vllm; then \
	  LOADMASTER_VLLM="$(abspath .venv-vllm/bin/vllm)" "$(BIN)/python" -m pytest tests/vllm -s --timeout 1800; \
	else echo "SKIPPED: the loop on a real vLLM was not run, see above" >&2; fi

lint: $(STAMP) ## Style, types and the direction of imports
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/pyright"
	"$(BIN)/lint-imports"

format: $(STAMP) ## Apply the style
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

docs: $(STAMP) ## The documentation as a site in data/site, with warnings as errors
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -e '.[docs]' -c constraints.txt
	"$(BIN)/mkdocs" build --strict --quiet

bench: $(STAMP) ## Speed and quality figures of this machine, as JSON
	"$(BIN)/python" -m service.cli bench

drill: $(STAMP) ## A service under faults and 10,000 hostile requests: what it answers, loses, and how soon it is well
	"$(BIN)/python" -m service.cli drill

openapi: $(STAMP) ## Write openapi/openapi.json
	"$(BIN)/python" -m service.cli openapi

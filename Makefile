# `make demo` and `make test` each set up what they need; nothing else has to be installed first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
STAMP := $(VENV)/.installed-$(shell sha256sum requirements.lock pyproject.toml | sha256sum | cut -c1-16)

.DEFAULT_GOAL := help
.PHONY: help setup demo up test check bench lock clean

help: ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install into .venv, exactly what requirements.lock pins

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "Python 3.11 or 3.12 is needed; name one with PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@if $(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); then \
		$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock && \
		$(BIN)/uv pip install --python $(BIN)/python --no-deps -e . ; \
	else \
		$(BIN)/pip install --require-hashes -r requirements.lock && $(BIN)/pip install --no-deps -e . ; \
	fi
	@rm -f $(VENV)/.installed-* && touch $@

demo: setup ## The main job on a drawn catalog, or on yours: make demo CATALOG=path
	$(BIN)/enclip demo $(if $(CATALOG),--catalog "$(CATALOG)")

up: setup ## Airflow, MLflow and search on this machine, until Ctrl-C
	$(BIN)/enclip up

# Files that take minutes are begun first, and whole platforms run alone: Airflow's API has to answer in time.
test: setup ## All tests; what is not installed (Postgres, S3, a browser) is skipped with a reason
	$(BIN)/pytest tests/integration tests/serving tests/unit -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest tests/dags tests/platform

check: setup ## Style, types, import contracts, the lock
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## Compare with named peers, in the same run
	@for program in $(filter-out bench/report.py bench/worlds.py bench/served.py bench/releases.py,$(wildcard bench/*.py)); do \
		OMP_WAIT_POLICY=PASSIVE $(BIN)/python $$program || exit 1; \
	done

lock: ## Pin every dependency again
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 --extra dev pyproject.toml -o requirements.lock

clean: ## Remove the environment and the embedded state
	rm -rf $(VENV) .enclip demo-results.png

# Everything starts from an empty clone: each target sets up what it needs first.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
QUIX_VENV := .venv-quix
QUIX := $(QUIX_VENV)/.installed

# The locks are complete, so nothing is to be resolved. uv takes seconds where pip takes minutes, but
# reads none of pip's configuration: with an index of your own there, or without success, pip goes on.
PIP_INSTALL = -m pip install --quiet --no-deps
INSTALL = if $(1) -m pip config list | grep -q 'index-url'; then \
		$(1) $(PIP_INSTALL) $(2); \
	else \
		$(BIN)/uv pip install --quiet --system-certs --no-deps --python $(1) $(2) || \
			$(1) $(PIP_INSTALL) $(2); \
	fi

# Where the bytecode of what is imported is not kept, a process takes a second longer to start.
export PYTHONDONTWRITEBYTECODE :=

# For as many tests at a time as there are cores: what trains models would take all cores for each.
ONE_THREAD := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1

UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--fork-strategy fewest --no-header

.PHONY: help venv demo test chaos fuzz lint format lock bench kafka-up kafka-down clean

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo '  Arguments go in ARGS: make demo ARGS="--seconds 30", make test ARGS="-k broker"'

$(BIN)/python:
	@for python in python3.13 python3.12 python3.11 python3; do \
		if "$$python" -c 'import ensurepip, sys; \
			sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			echo "creating $(VENV) with $$("$$python" --version) ($$python)"; \
			"$$python" -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); \
			exit 1; \
		fi; \
	done; \
	echo "dafu needs Python 3.11, 3.12 or 3.13 with its venv module: none of python3.13," >&2; \
	echo "python3.12, python3.11 and python3 is one. Install it and run make again." >&2; \
	exit 1

$(BIN)/uv: requirements-dev.lock | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) $$(grep -o '^uv==[0-9.]*' requirements-dev.lock)
	@touch $@

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/uv
	@echo 'installing requirements.lock'
	@$(call INSTALL,$(BIN)/python,-r requirements.lock)
	@$(call INSTALL,$(BIN)/python,-e .)
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo 'installing requirements-dev.lock'
	@$(call INSTALL,$(BIN)/python,-r requirements-dev.lock)
	@touch $@

venv: $(DEV) ## create .venv with everything for development

demo: $(RUNTIME) ## broker, worker and generated traffic on this machine
	$(BIN)/dafu demo $(ARGS)

test: $(DEV) ## the tests, on the embedded broker (DAFU_TEST_BROKER=kafka: on Apache Kafka)
ifeq ($(strip $(ARGS)),)
	$(ONE_THREAD) $(BIN)/pytest -m "not broker" -n auto --dist worksteal
	$(BIN)/pytest -m broker -n 3 --dist loadfile --no-loadscope-reorder
else
	$(BIN)/pytest $(ARGS)
endif

chaos: $(DEV) ## kill and freeze workers and an Apache Kafka under load, then compare every byte
	$(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(DEV) ## damage records and state at random, with bounds checks (ARGS="--minutes 10")
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(DEV) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(DEV) ## pin the newest versions that pyproject.toml allows
	$(BIN)/python $(PIP_INSTALL) --upgrade uv
	$(UV_COMPILE) --upgrade --generate-hashes pyproject.toml -o requirements.lock
	$(UV_COMPILE) --upgrade --all-extras -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(UV_COMPILE) --upgrade bench/quix.in -o bench/quix.lock

# A peer with pins of its own, so in an environment of its own.
$(QUIX): bench/quix.lock | $(BIN)/uv
	$(BIN)/python -m venv $(QUIX_VENV)
	@$(call INSTALL,$(QUIX_VENV)/bin/python,-r bench/quix.lock)
	@touch $@

bench: $(DEV) $(QUIX) ## measure all that docs/benchmarks.md shows (ARGS="--quick", "--help")
	$(BIN)/python -m bench $(ARGS)

kafka-up: ## start a real Apache Kafka on 127.0.0.1:9092 (needs Java 17 and Maven)
	scripts/kafka start $(ARGS)

kafka-down: ## stop it
	scripts/kafka stop $(ARGS)

clean: ## stop Kafka and remove .venv, caches and what runs left behind
	scripts/kafka clean
	scripts/prometheus clean
	rm -rf $(VENV) $(QUIX_VENV) .kafka .prometheus .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

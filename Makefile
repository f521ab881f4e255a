# Every target makes the virtual environment it needs, once. PYTHON=python3.13 picks another interpreter.

PYTHON ?= python3
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv
TUNE_VENV := .venv-tune
BIN := $(VENV)/bin
PARITY_DEEPSEEK := tests/parity/test_deepseek.py tests/engine/test_parity_deepseek.py tests/engine/test_prediction.py
NEEDS_TORCH := $(shell grep -l '^import torch' tests/tuning/compress/*.py 2>/dev/null)
PARITY := tests/parity tests/tuning/train $(NEEDS_TORCH)
# What compares with the golden files and its like needs no torch, and `make test` runs it too: `.ci/run`, which runs both, empties this.
WITHOUT_TORCH := $(filter-out $(NEEDS_TORCH),$(wildcard tests/tuning/compress/test_*.py)) tests/engine/test_parity.py \
  tests/engine/test_encoder.py $(filter tests/engine/%,$(PARITY_DEEPSEEK))
# Two workers of pytest for a processor, up to four: tests wait for servers and processes a third of the time, and each worker keeps to
# one processor. They take tests from each other, so that all end together.
WORKERS ?= $(shell count=$$(($$(nproc) * 2)); echo $$((count < 4 ? count : 4)))
PYTEST = python -m pytest -n $(WORKERS) --dist worksteal
# Every server that a test starts would compile the sources anew.
unexport PYTHONDONTWRITEBYTECODE
NATIVE_SOURCES := CMakeLists.txt $(shell find csrc -type f 2>/dev/null)

AUDIT_VENV := .venv-audit
LOCK = $(AUDIT_VENV)/bin/uv pip compile pyproject.toml --extra postgres --extra valkey --extra otel --extra knowledge \
  --extra s3 --extra agents \
  --python-version 3.11 \
  --no-header --no-annotate --quiet

# Stamps carry the Python version: another interpreter means another environment.
BASE := $(VENV)/.base-$(PYTHON_VERSION)
DEV := $(VENV)/.dev-$(PYTHON_VERSION)
TUNE := $(TUNE_VENV)/.tune-$(PYTHON_VERSION)
AUDIT := $(AUDIT_VENV)/.audit-$(PYTHON_VERSION)

# The model of `make run`; MODEL=qwen2.5-coder-0.5b knows Chinese.
MODEL ?= $(or $(DEEPWELL_MODEL),smollm2)

.PHONY: run dev tune test test-all parity parity-deepseek check style types bench golden docs console wheel lock audit clean

run: $(BASE)  ## pull a real model, serve it, print one answer and how to ask the next; MODEL=NAME: another than smollm2
	@$(BIN)/deepwell pull $(MODEL)
	@exec $(BIN)/deepwell serve $(MODEL) --demo

dev: $(DEV)  ## the environment of check and test

tune: $(TUNE)  ## the environment of parity

test: $(DEV)  ## unit, real-model and fault tests
	@$(BIN)/deepwell pull smollm2
	@$(BIN)/deepwell pull minilm
	@$(BIN)/deepwell pull e5-small-q4
	@$(BIN)/deepwell pull whisper-tiny.en
	@$(BIN)/deepwell pull kokoro
	@$(BIN)/deepwell pull opennsfw
	$(BIN)/$(PYTEST) --ignore=tests/parity --ignore=tests/tuning/train $(ARGS)

test-all: test parity  ## every test there is

parity: $(TUNE)  ## against transformers itself, what it computed for the golden files, and models that torch makes
	@$(TUNE_VENV)/bin/deepwell pull smollm2
	@$(TUNE_VENV)/bin/deepwell pull minilm
	@$(TUNE_VENV)/bin/deepwell pull e5-small-q4
	@$(TUNE_VENV)/bin/deepwell pull whisper-tiny.en
	@$(TUNE_VENV)/bin/deepwell pull --catalog bench/assets.toml whisper-base-f16
	@$(TUNE_VENV)/bin/deepwell media train space --encoder-only
	$(TUNE_VENV)/bin/$(PYTEST) $(PARITY) $(WITHOUT_TORCH) $(ARGS)

parity-deepseek: $(TUNE)  ## the same for DeepSeek and Qwen3-MoE alone: tiny random models, no downloads
	$(TUNE_VENV)/bin/$(PYTEST) $(PARITY_DEEPSEEK) $(ARGS)

check: style types  ## format, lint, types, import contracts

style: $(DEV)  ## all of check but the types: seconds instead of minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(DEV)  ## the types of check
	$(BIN)/pyright

bench: $(DEV)  ## every promised figure; writes docs/benchmarks.md
	@$(BIN)/deepwell pull smollm2
	@$(BIN)/deepwell pull minilm
	$(BIN)/deepwell bench targets $(ARGS)

wheel:  ## dist/: wheels that compile nothing, for Python 3.11 and for 3.12 and later; prints their tags
	@.ci/wheel

lock: $(AUDIT)  ## requirements.lock: versions and hashes of the base install and its extras, [tune] apart
	@$(LOCK) --universal --generate-hashes --no-emit-index-url --upgrade --output-file requirements.lock

audit: $(AUDIT)  ## known vulnerabilities of the locked releases, and of the lowest that pyproject.toml allows; advisory
	-$(AUDIT_VENV)/bin/pip-audit --require-hashes --disable-pip --progress-spinner off --requirement requirements.lock
	@$(LOCK) --resolution lowest-direct --output-file $(AUDIT_VENV)/lowest.txt
	-$(AUDIT_VENV)/bin/pip-audit --no-deps --disable-pip --progress-spinner off --requirement $(AUDIT_VENV)/lowest.txt

golden: $(TUNE)  ## make tests/golden anew with transformers
	@$(TUNE_VENV)/bin/deepwell pull smollm2
	@$(TUNE_VENV)/bin/deepwell pull minilm
	@$(TUNE_VENV)/bin/deepwell pull e5-small-q4
	$(TUNE_VENV)/bin/python tests/golden/make.py
	$(TUNE_VENV)/bin/python tests/golden/encoder.py
	$(TUNE_VENV)/bin/python tests/golden/deepseek.py
	$(TUNE_VENV)/bin/python -m tests.golden.e5
	$(TUNE_VENV)/bin/python -m tests.golden.prediction
	$(TUNE_VENV)/bin/python -m tests.golden.prediction_v4

docs: $(DEV)  ## the pages that are made from the code: reference, settings, commands, troubleshooting
	$(BIN)/python -m deepwell_bench.workers.api_docs
	$(BIN)/python -m deepwell_bench.workers.troubleshooting
	$(BIN)/python -m deepwell.cli.pages
	$(BIN)/python -m deepwell_bench.workers.learn_pages

console:  ## the web console, from console/ into the package; commit what it builds
	@.ci/console

clean:  ## environments, builds, caches; models stay in the store
	rm -rf $(VENV) $(TUNE_VENV) $(AUDIT_VENV) .venv-wheel-* build dist console/node_modules .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): pyproject.toml $(NATIVE_SOURCES)
	@.ci/install $(PYTHON) $(VENV) ""
	@touch $@

$(DEV): pyproject.toml bench/pyproject.toml $(NATIVE_SOURCES)
	@.ci/install $(PYTHON) $(VENV) "[dev]"
	@touch $(BASE) $@

$(TUNE): pyproject.toml bench/pyproject.toml $(NATIVE_SOURCES)
	@.ci/install $(PYTHON) $(TUNE_VENV) "[dev,tune]"
	@touch $@

$(AUDIT):
	@$(PYTHON) -m venv --clear $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip install -q --disable-pip-version-check uv pip-audit
	@touch $@

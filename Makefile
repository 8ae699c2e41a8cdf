# Every target makes .venv and installs what it needs; nothing else has to be set up.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false
export WANDB_MODE := disabled

.PHONY: demo demo-moe view pictures test test-browser check fix slow architectures unlearning tradeoff notebooks validity bench bench-gradient clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[app]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,inside,data,app]"
	touch $@

demo: .venv/installed          ## the main job, from a model that knows something to a verdict (dense)
	$(BIN)/workbench demo

demo-moe: .venv/installed      ## the same on a mixture of experts
	$(BIN)/workbench demo --moe

test: .venv/installed-dev      ## the tests
	$(BIN)/python -m pytest -q -n 2

test-browser: .venv/installed-dev   ## the app in Debian's chromium; skipped with a reason where there is none
	$(BIN)/python -m pytest -q -m browser -rs tests/browser

view: .venv/installed-dev      ## the app over runs/
	$(BIN)/workbench view

SAES := runs/sae
pictures: .venv/installed-dev  ## every page of the app in a picture, docs/app, from fresh runs of the demo (needs Chromium)
	$(BIN)/workbench demo
	$(BIN)/workbench demo --moe
	for layer in 1 2 3; do $(BIN)/workbench look sae_features runs/demo/npo --against runs/demo/taught --concept demo:chemistry \
	  --set site=L$$layer.resid_post --out $(SAES)/L$$layer || exit 1; done
	$(BIN)/workbench look weight_deltas runs/demo/npo --against runs/demo/taught --concept demo:chemistry --out runs/deltas
	$(BIN)/python -m bench.pictures runs

check: .venv/installed-dev     ## lint, format, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: .venv/installed-dev
	$(BIN)/ruff check --fix .

slow: .venv/installed-dev      ## the longest tests: real models, the whole demo, kills, every gradient method, the benchmark's
	$(BIN)/python -m pytest -q -m slow

architectures: .venv/installed-dev   ## the table of architectures in the README, from what the tests find
	$(BIN)/python -m tests.architecture_table

unlearning: .venv/installed-dev      ## the table of removals and guards in the README, audited on the embedded models
	$(BIN)/python -m bench.unlearning --readme

tradeoff: .venv/installed-dev        ## the trade-off of every method over three seeds: docs/tradeoff.md, goes on where it stopped
	$(BIN)/python -m bench.tradeoff --docs

notebooks: .venv/installed-dev       ## the notebooks with their pictures, as pages that open offline: runs/notebooks
	$(BIN)/python -m notebooks.execute

validity: .venv/installed-dev        ## the audit audited, on models of known truth (about an hour of one core; goes on where it was stopped)
	$(BIN)/python -m bench.audit_validity --attacked --readme

bench: .venv/installed-dev         ## measurements, side by side
	$(BIN)/python -m bench.hooks
	$(BIN)/python -m bench.probes
	$(BIN)/python -m bench.localisation
	$(BIN)/python -m bench.app

bench-gradient: .venv/installed-dev  ## our gradient methods beside OpenUnlearning's published step
	$(BIN)/python -m bench.gradient

clean:
	rm -rf .venv build *.egg-info

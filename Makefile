# The main commands are `make demo` and `make test`. Each first sets up the environment and builds the package if necessary.
# PYTHON=/path/to/python3.12, ENGINE=cpu|gpu|none and ROS=jazzy|kilted override the choices of the set-up. ARGS sets arguments of the
# demo, the benchmark and pytest. With another Python or ROS, .venv is created again. With another ROS, the build is deleted first.
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo live test thorough core bench setup build docs lint typecheck constraints clean distclean

PYTHON ?=
ENGINE ?= auto
ROS ?=
ARGS ?=
ENVIRONMENT := . scripts/env.sh
unexport PYTHONDONTWRITEBYTECODE  # Otherwise, each process of the tests compiles the modules that it imports.

help: ## List the commands.
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: build ## Start the node and a camera, ask every task, print the answers and save annotated images.
	@$(ENVIRONMENT) && python -P -m robobrain_ros.demo.quickstart $(ARGS)

live: build ## Show a page in the browser with the demo and its answers. ARGS="--node NAME" shows a running node instead.
	@$(ENVIRONMENT) && python -P -m robobrain_ros.live.main $(or $(ARGS),--demo)

test: setup ## Check style and types, build, and run the tests, first three files at a time, then the tests marked `alone`.
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint typecheck build
	@$(ENVIRONMENT) && pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone and not thorough" $(ARGS)
	@$(ENVIRONMENT) && pytest -m "alone and not thorough" $(ARGS)

thorough: build ## Run the tests marked `thorough`, which take about 20 minutes and which `make test` leaves out.
	@$(ENVIRONMENT) && pytest -n 3 --dist load -m thorough $(ARGS)
	@$(ENVIRONMENT) && CONTRACT_STEPS=1500 pytest test/test_contract.py

core: ## Install the package by pip, without ROS, and test the core. PYTHON=python3.13 selects the Python.
	@$(or $(PYTHON),python3) -m venv .venv-core
	@.venv-core/bin/pip install -q --upgrade ".[test]"
	@.venv-core/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

bench: build ## Compare the node with its own engine and with a minimal subscriber; docs/results/node.md.
	@$(ENVIRONMENT) && python benchmark/run.py $(ARGS)

setup: ## Create .venv: Python, ROS 2 if none is sourced, vLLM for this machine, and the tools.
	@command -v python3 >/dev/null || { [ "$$(id -u)" = 0 ] && echo "Installing python3 ..." && apt-get -qq update \
	  && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3 >/dev/null; } \
	  || { echo "Python is missing: sudo apt-get install python3" >&2; exit 1; }
	@python3 scripts/setup_env.py --engine "$(ENGINE)" --python "$(PYTHON)" --ros "$(ROS)"

build: setup ## Build the messages and install the package into install/.
	@MAKEFLAGS=-j$$(nproc) scripts/build.sh  # Without a number of jobs, colcon waits for an idle machine.

docs: setup ## Build the documentation as a website in site/. A broken link is an error.
	@$(ENVIRONMENT) && mkdocs build --strict

lint: setup docs ## Check style, and that the documentation builds.
	@$(ENVIRONMENT) && ruff check . && ruff format --check .

typecheck: setup ## Check types.
	@$(ENVIRONMENT) && mypy

constraints: setup ## Write the installed versions to requirements/constraints.txt.
	@$(ENVIRONMENT) && python scripts/freeze.py

clean: ## Remove the build.
	rm -rf build install log demo_output site

distclean: clean ## Remove the build and the environment.
	rm -rf .venv .venv-core

# Each target says after ## what it does; `make help` prints that. Needs python3 (>= 3.11), make and git, nothing else.
# The first run of a target makes the environment that it needs; later runs see by the stamps that nothing has changed.

VENV   ?= .venv
ARGS   ?=
PYTHON ?= $(shell .ci/find-python python3.13 python3.12 python3.11 python3)
TESTED := 3.11 3.12 3.13
# Three test processes for two processors: many tests wait for processes, disks and signals.
WORKERS ?= $(shell echo $$(( ($$(nproc 2>/dev/null || echo 2) * 3 + 1) / 2 )))

BIN    := $(VENV)/bin
PIP    := -m pip --disable-pip-version-check -qq install -c constraints.txt
CODE   := src tests $(wildcard plans benchmarks)

.DEFAULT_GOAL := help
.PHONY: help setup serve test check bench profile crash schedule-check power faults flood soak reload cron mutate test-all

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo '  ARGS="…" is handed on: make serve ARGS="--port 0", make test ARGS="-k yaml"'

setup: $(VENV)/.stamp-test ## Make .venv with Aura and all its tools in it

serve: $(VENV)/.stamp-serve ## Run Aura on plans/ (http://127.0.0.1:8700)
	@exec $(BIN)/aura serve $(ARGS)

test: $(VENV)/.stamp-test ## Run the whole test suite
	@$(BIN)/pytest -n $(WORKERS) $(ARGS)

check: $(VENV)/.stamp-test ## Lint, format check, types, layer test
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/meta/test_layers.py

bench: $(VENV)/.stamp-bench ## Run the benchmarks
	@for file in benchmarks/bench_*.py; do $(BIN)/python "$$file" $(ARGS) || exit 1; done

profile: $(VENV)/.stamp-bench ## Show where the time of a run goes (ARGS="lane limit, runs, rows")
	@$(BIN)/python benchmarks/profile_runs.py $(ARGS)

crash: $(VENV)/.stamp-test ## Kill a server N=1000 times under load and check what is left (SEED=… repeats)
	@$(BIN)/python -m tests.acceptance.crash $(or $(N),1000) $(SEED)

schedule-check: $(VENV)/.stamp-test ## Live N=50 years of crashes, clock jumps and reloads and check each slot (SEED=… repeats)
	@$(BIN)/python -m tests.scheduling.year $(or $(N),50) $(SEED)

cleanup: $(VENV)/.stamp-test ## Interrupt a hundred runs N=200 times over and check that nothing of them is left
	@$(BIN)/python -m tests.acceptance.cleanup $(or $(N),200)

power: $(VENV)/.stamp-test ## Cut the power N=2000 times under a recorded disk and check what is left (SEED=… repeats)
	@$(BIN)/python -m tests.power $(or $(N),2000) $(SEED)

faults: $(VENV)/.stamp-test ## Fail each call to the disk once and for ever (N=10: every 10th) and check what is left
	@$(BIN)/python -m tests.power.faults $(or $(N),1) $(SEED)
	@$(BIN)/python -m tests.power.injected

flood: $(VENV)/.stamp-test ## Pour output at a server, N=50 commands at once, and show what it costs
	@$(BIN)/python -m tests.acceptance.floods $(or $(N),50)

soak: $(VENV)/.stamp-test ## Run and reload for SECONDS=600 with little kept, and show what grows
	@$(BIN)/python -m tests.acceptance.soak $(or $(SECONDS),600)

reload: $(VENV)/.stamp-test ## Write plans badly N=1000 times under a watching server (SEED=… repeats)
	@$(BIN)/python -m tests.acceptance.reloads $(or $(N),1000) $(SEED)

cron: $(VENV)/.stamp-test ## Compare cron with a model of Debian's over N=40 years of changes, and all zones
	@$(BIN)/python -m tests.scheduling.cronmodel $(or $(N),40)

mutate: $(VENV)/.stamp-test ## Take rules of the kernel out, one by one, and show which tests notice
	@$(BIN)/python -m tests.meta.mutations $(ARGS)

test-all: $(TESTED:%=test-on-%) ## Run the suite on each supported Python that is here
	@echo "the suite has run on each of $(TESTED) that is here"

# -- environments: a stamp is as old as what was installed, so a change of either file installs again ------------------

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || exit 1
	@echo "making $(VENV) with $(PYTHON)" >&2
	@$(PYTHON) -m venv $(VENV)

# $(call install,extras): the build backend comes from the constraints too, so two set-ups a month apart are the same
comma  := ,
install = $(BIN)/python $(PIP) hatchling editables && $(BIN)/python $(PIP) --no-build-isolation -e '.$(1)'

$(VENV)/.stamp-serve: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Aura into $(VENV)" >&2
	@$(call install,)
	@touch $@

$(VENV)/.stamp-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Aura and its test tools into $(VENV)" >&2
	@$(call install,[test])
	@touch $@ $(VENV)/.stamp-serve

$(VENV)/.stamp-bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Aura and its benchmark tools into $(VENV)" >&2
	@$(call install,[test$(comma)bench])
	@touch $@ $(VENV)/.stamp-test $(VENV)/.stamp-serve

test-on-%:
	@python=$$(.ci/find-python --pyenv python$* 2>/dev/null) || { echo "Python $* is not here: skipped" >&2; exit 0; }; \
	echo "== Python $*: $$python" >&2; \
	$(MAKE) --no-print-directory test VENV=.venv-$* PYTHON="$$python"

# `make` lists what can be made.  Everything is installed into .venv beside this file, nothing elsewhere.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2
SHORT ?= tests/short.txt

VENV := .venv
OTHER_VENV := $(VENV)/$(notdir $(PYTHON))$(if $(OLDEST),-oldest)
RUN := $(VENV)/bin/python
# Two builds at once would write into the same nipype_blm.egg-info.
ALONE := $(if $(shell command -v flock),flock setup.cfg)
PIP := $(RUN) -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-short short faults lint clean
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: $(VENV)/.installed-plot ## fit repeated measures by a mixed model and by least squares, and compare (a few minutes)
	$(RUN) examples/demo.py

test: lint $(if $(NIPYPE_BLM_NGV_PYTHON),,$(VENV)/.ngv) ## lint, then run the tests (PYTEST_ARGS='-n 2' by default)
	$(RUN) -P -m pytest $(PYTEST_ARGS)

test-short: ## run a few tests with PYTHON=python3.13 and its newest libraries, or with OLDEST=1
	@$(MAKE) --no-print-directory VENV=$(OTHER_VENV) short

# niworkflows and antspyx are large, and of use to one test each, which runs on one Python.
short: $(VENV)/.installed-test $(if $(findstring 3.12,$(PYTHON)),$(VENV)/.installed-niworkflows) \
    $(if $(findstring 3.13,$(PYTHON)),$(VENV)/.installed-ants)
	$(RUN) -P -m pytest $(PYTEST_ARGS) @$(SHORT)

faults: $(VENV)/.installed-test ## try what clusters do to runs: lost jobs, full disks, ... (as root; 15 minutes)
	cd tests && $(abspath $(RUN)) -m faults

lint: $(VENV)/.installed-dev ## check style, format and types
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info htmlcov .coverage .coverage.*
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Both installations are editable: they share .venv, so that a copied package of one would hide
# later changes of the checkout from the other.
#
# The package first, which has to be built alone; then what it needs, side by side with others.  Of the
# libraries in an environment of `make test-short` a part is imported: only that is compiled to bytecode.
$(VENV)/.installed-%: setup.cfg pyproject.toml $(if $(OLDEST),$(VENV)/oldest.txt) | $(VENV)/bin/pip
	@echo 'Installing nipype_blm[$*] into $(VENV); the first time takes a few minutes.'
	$(ALONE) $(PIP) install --quiet --no-deps --editable .
	$(PIP) install --quiet $(if $(filter .venv,$(VENV)),,--no-compile) \
	    'nipype_blm[$*]' $(if $(OLDEST),--constraint $(VENV)/oldest.txt)
	@touch $@

# Of each library, the lower bound is the only version that is allowed.
$(VENV)/oldest.txt: setup.cfg | $(VENV)/bin/pip
	sed -n 's/^    \([a-z0-9-]*\)>=\([0-9.]*\)\(,<[0-9.]*\)\{0,1\}\(;.*\)\{0,1\}$$/\1==\2/p' setup.cfg >$@

# ArchNGV, in versions that do not go with those above.
$(VENV)/.ngv: nipype_blm/ngv/environment/pins.txt | $(VENV)/.installed-dev
	$(RUN) -P -m nipype_blm.cli.main ngv install --folder $(VENV)/ngv
	@touch $@

# bin/pip is the last file that venv writes; bin/python stays behind when venv fails.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

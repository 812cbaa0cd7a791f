# make           install kred and what it needs into a virtual environment, .venv
# make demo      simulate a small field and reduce it, with pictures
# make serve     run kred as a service: fields that arrive below ROOT are reduced by themselves; Ctrl-C stops everything
# make check     look at the code without running it: style, format and types
# make test      run the tests: each promise at least in small (10 minutes)
# make test-long run what takes longer: rare machinery, many cases, full sizes (10 minutes)
# make faults    make all faults happen that the tests know, and print a table of them (15 minutes)
# make mutants   put small faults into the code and count those that the tests notice (hours; PARTS and SAMPLE say of what, how many)
# make coverage  print which lines and branches of kred_core the tests run (15 minutes)
# make docs      build the manual into docs/_build/html; a warning is an error
# make lock      renew the lock files: the packages of today, with their hashes, for all systems and versions of Python
# make clean     remove the virtual environment and the demo
# make help      print this
#
# PYTHON: interpreter to make the environment from (3.11 or newer). VENV: where. DEMO: data root of the demo.
# ROOT: data root of the service. PORT: of its Prefect server. OPTIONS: others, see make serve OPTIONS=--help.
# PARTS: names in tests/mutants. SAMPLE: faults of each part, drawn at random; 0: all. MUTANTS: where their results are kept.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
ROOT ?= .
PORT ?=
OPTIONS ?=
PARTS ?= $(notdir $(basename $(wildcard tests/mutants/*.toml)))
SAMPLE ?= 100
MUTANTS ?= mutants
BIN = $(VENV)/bin

.PHONY: install demo serve check test test-long faults mutants coverage docs lock clean help
.DELETE_ON_ERROR:
.DEFAULT_GOAL = install

install: $(VENV)/.installed
	@echo "kred is installed in $(VENV). Next: source $(BIN)/activate, or make demo; make help says what else there is"

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kred needs Python 3.11 or newer; found: $$($(PYTHON) -c 'import platform; print(platform.python_version())'). Say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv"; exit 1; }

# All packages are those of the lock files, which name all that is needed, checked against their hashes; kred itself is built
# with the setuptools among them.
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
LOCK = $(VENV)-lock/bin/uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --quiet --upgrade
KRED = $(PIP) --no-deps --no-build-isolation --editable .

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml requirements.lock
	@echo "Installing kred and what it needs into $(VENV) (some minutes)"
	@$(PIP) --require-hashes --no-deps --requirement requirements.lock && $(KRED)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.lock
	@$(PIP) --require-hashes --no-deps --requirement requirements-test.lock && $(KRED)
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed requirements-docs.lock
	@$(PIP) --require-hashes --no-deps --requirement requirements-docs.lock && $(KRED)
	@touch $@

demo: $(VENV)/.installed
	@echo "Simulating a small field: 4 exposures of LMC_c42 in Hα, 62 detectors of 128 x 256 pixels each"
	@$(BIN)/python -m kred_core.simulate --field LMC_c42 --root $(DEMO) --binning 16 --bands N662 --exposures 4 --dither 300 --nebula 30 --continuum 10 --offsets 20 --cosmic-rays 0.02
	$(BIN)/python flows/field.py LMC_c42 --root $(DEMO)
	@echo
	@echo "To look at, in a browser: $(DEMO)/DECam_SWARP/LMC_c42/index.html"
	@echo "Images (FITS):  $(DEMO)/DECam_SWARP/LMC_c42/T01_b ... T16_b"
	@echo "Figures (PNG):  $(DEMO)/DECam_SWARP/LMC_c42/eval; begin with LMC_c42.N662.before_after.png"
	@echo "Tables:         $(DEMO)/Summary"

serve: $(VENV)/.installed
	@exec $(BIN)/python deployments/serve.py --root "$(ROOT)" $(if $(PORT),--port $(PORT)) $(OPTIONS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m long

faults: $(VENV)/.installed-test
	$(BIN)/python tests/faults/table.py

mutants: $(VENV)/.installed-test
	@PATH="$(abspath $(BIN)):$$PATH" tests/mutants/run "$(MUTANTS)" $(SAMPLE) $(PARTS)

# What is compiled cannot be followed: tests that few pixels are enough for run once more without the compiler. They are chosen
# by name, as of -k of pytest; those at the end need the compiler, or much time without it.
KERNELS = kernels or test_rice or test_compress or test_pixels or test_combine or test_resample or \
	(test_statistics and (written_down or sums_are)) or (test_simulate and quantised) or (test_binned and (no_good_pixel or are_nan)) or \
	(test_solve_parts and (products or inverted or levels_are or parts_of_the_inverse or conjugate or errors_are_those_that)) or \
	(test_quicklook and (planes or few_pixels or no_size)) or \
	(test_evaluation and (few_values or bright_level or block_medians or without_neighbours))
COMPILED = threads or padded or dither_sequence or any_damage or any_image or cut_anywhere

coverage: $(VENV)/.installed-test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/kred_core tests/tasks tests/faults
	NUMBA_DISABLE_JIT=1 $(BIN)/coverage run -m pytest tests/kred_core -k "($(KERNELS)) and not ($(COMPILED))"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	@$(BIN)/coverage json --quiet -o - | $(BIN)/python -c 'import json, sys; t = json.load(sys.stdin)["totals"]; \
		print("branches: {covered_branches} of {num_branches}, {percent_branches_covered:.1f} %".format(**t))'

docs: $(VENV)/.installed-docs
	@$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "The manual: docs/_build/html/index.html"

lock:
	@$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet --disable-pip-version-check uv
	$(LOCK) --output-file requirements.lock
	$(LOCK) --output-file requirements-test.lock --extra test --constraint requirements.lock
	$(LOCK) --output-file requirements-docs.lock --extra docs --constraint requirements-test.lock
	@rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(DEMO)

help:
	@sed -n '/^#$$/q; s/^# //p' Makefile

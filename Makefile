# make demo   a small simulated field, reduced, with pictures
# make test   all tests
# make clean  remove the virtual environment and the demo
#
# PYTHON: interpreter to make the environment from (3.11 or newer). VENV: where. DEMO: data root of the demo.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN = $(VENV)/bin

.PHONY: demo test clean
.DELETE_ON_ERROR:

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kred needs Python 3.11 or newer; found: $$($(PYTHON) --version). Say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m kred_core.simulate LMC_c42 --root $(DEMO) --tiles T06 T07 --binning 8
	$(BIN)/python flows/field.py LMC_c42 T06 T07 --root $(DEMO)
	@echo
	@echo "Images:  $(DEMO)/DECam_SWARP/LMC_c42/T06 and T07 (FITS)"
	@echo "Figures: $(DEMO)/DECam_SWARP/LMC_c42/eval (PNG)"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) $(DEMO)

# Two commands: `make demo` and `make test`. Each builds .venv from pinned requirements first.
PYTHON ?= python3
TL ?= tl3
VENV := $(if $(filter tl4,$(TL)),.venv-tl4,.venv)
RUN := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VENV)/bin/python
PINS := requirements/$(TL).txt
HASH := $(shell cat $(PINS) pyproject.toml | cksum | cut -d' ' -f1)
READY := $(VENV)/.ready-$(HASH)

.PHONY: demo test test-host test-notebooks lint types docs build pictures notebooks bench install clean

demo: $(READY)
	$(RUN) -m steerlens demo

test: $(READY)
	$(RUN) -m pytest

test-host: $(READY)
	$(RUN) -m pytest -m host tests

test-notebooks: $(READY)
	$(RUN) -m pytest --override-ini addopts= --nbmake --nbmake-timeout 300 --quiet notebooks

lint: $(READY)
	$(RUN) -m ruff check steerlens tests docs notebooks conftest.py
	$(RUN) -m ruff format --check steerlens tests docs notebooks conftest.py

types: $(READY)
	$(RUN) -m mypy

docs: $(READY)
	$(RUN) -m sphinx --fail-on-warning --quiet -b html docs docs/_build

build: $(READY)
	$(RUN) -m build --no-isolation

pictures: $(READY)
	$(RUN) docs/pictures.py

notebooks: $(READY)
	$(RUN) docs/notebooks.py

bench: $(READY)
	PYTHONPATH=tests $(RUN) -m benchmarks $(CASES)

install: $(READY)

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "SteerLens needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module; install it (on Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Installing into $(VENV): about 2 GB, some minutes."
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(PINS)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf docs/_build docs/_api .venv .venv-tl4 .venv-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

# `make` alone lists the targets. Everything is installed into .venv (MONAI Label: .venv-label), nothing elsewhere.

VENV := .venv
BIN := $(VENV)/bin
# Written last, so an interrupted installation is never taken for a finished one.
INSTALLED := $(VENV)/installed
# Present while pip works; found at the start, it says that the environment was left half-made.
UNFINISHED := $(VENV)/unfinished
LABEL := .venv-label
# Every test process uses one thread; the tests of a file stay in one process and share what it trains.
PYTEST := $(BIN)/python -m pytest -q -n $(or $(TESTS_AT_ONCE),2) --dist loadfile
EXTRAS := export,dicom,prepare,compare,dev
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

.DEFAULT_GOAL := help
.PHONY: help .venv label models demo reproduce test test-all lint format clean

help:  ## list the targets
	@sed -n 's/^\([a-z.-]*\):.*  ## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'
	@echo "PYTHON=/path/to/python3 chooses the Python (3.11 or newer) that .venv is made from."

.venv: $(INSTALLED)  ## install the package and all it needs into .venv (about 2 minutes the first time)

# Makes the environment $(1) unless it is there and was not left half-made. A candidate for its Python counts only if
# it runs, is new enough and can make environments: version managers leave commands that only print an error, and Debian
# ships Python without venv.
define make_environment
	@python=; for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "error: no Python 3.11 or newer with the venv module (tried: $(CANDIDATES))." \
	        "Install python3.11 and python3.11-venv, or name one: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if [ -e $(1)/unfinished ] || ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
	    echo "making $(1) with $$python"; "$$python" -m venv --clear $(1) || exit 1; \
	fi
	@rm -f $(1)/installed && touch $(1)/unfinished
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(call make_environment,$(VENV))
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[$(EXTRAS)]' -c constraints.txt
	@rm $(UNFINISHED)
	@touch $(INSTALLED)

label: $(LABEL)/installed  ## install MONAI Label for `blosam label` into .venv-label (about 5 minutes the first time)

# MONAI Label needs older numpy and pydicom. PIP_CONSTRAINT also reaches the build of sam2, which would otherwise fetch
# a PyTorch of its own. The .pth file declares torchvision's operators before anything imports them.
$(LABEL)/installed: pyproject.toml constraints-label.txt
	$(call make_environment,$(LABEL))
	PIP_CONSTRAINT='$(CURDIR)/constraints-label.txt' PIP_BUILD_CONSTRAINT='$(CURDIR)/constraints-label.txt' \
	    $(LABEL)/bin/python -m pip install --disable-pip-version-check --quiet monailabel==0.8.5 -e .
	@echo 'import blosam.label.startup' \
	    > "$$($(LABEL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_blosam.pth"
	$(LABEL)/bin/python -c 'import monailabel.main, torchvision'
	@rm $(LABEL)/unfinished
	@touch $(LABEL)/installed

models: .venv  ## train each bundle on drawn images and write its models/ folder
	$(BIN)/python tools/make_models.py

demo: .venv  ## train on 4 drawn chest X-rays, evaluate on 20 others, write runs/demo/report.html
	$(BIN)/blosam demo --out runs/demo

reproduce: .venv  ## the medical table of the BLO-SAM paper on the public data sets (says what to put where)
	$(BIN)/python tools/reproduce.py $(REPRODUCE)

test: .venv  ## check style and generated bundles, run the unmarked tests
	$(BIN)/ruff check .
	$(BIN)/python tools/build_bundles.py --check
	$(PYTEST)

test-all: .venv  ## what `make test` does, with the slow tests
	$(BIN)/ruff check .
	$(BIN)/python tools/build_bundles.py --check
	$(PYTEST) -m "not (label or pacs or fuzz or gpu)"

lint: .venv  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv  ## mend style and formatting where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, .venv-label, runs and caches
	rm -rf $(VENV) $(LABEL) runs .pytest_cache .ruff_cache .hypothesis common/*.egg-info
	find common tests tools benchmarks .ci -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

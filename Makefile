# `make` alone lists the targets. Everything is installed into .venv, nothing elsewhere.

VENV := .venv
BIN := $(VENV)/bin
# Written last, so an interrupted installation is never taken for a finished one.
INSTALLED := $(VENV)/installed
# Present while pip works; found at the start, it says that the environment was left half-made.
UNFINISHED := $(VENV)/unfinished
EXTRAS := export,dicom,prepare,compare,dev
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

.DEFAULT_GOAL := help
.PHONY: help .venv models demo test test-all lint format clean

help:  ## list the targets
	@sed -n 's/^\([a-z.-]*\):.*  ## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'
	@echo "PYTHON=/path/to/python3 chooses the Python (3.11 or newer) that .venv is made from."

.venv: $(INSTALLED)  ## install the package and all it needs into .venv (about 2 minutes the first time)

# A candidate counts only if it runs, is new enough and can make environments: version managers leave commands
# that only print an error, and Debian ships Python without venv.
$(INSTALLED): pyproject.toml constraints.txt
	@python=; for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "error: no Python 3.11 or newer with the venv module (tried: $(CANDIDATES))." \
	        "Install python3.11 and python3.11-venv, or name one: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if [ -e $(UNFINISHED) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@rm -f $(INSTALLED) && touch $(UNFINISHED)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[$(EXTRAS)]' -c constraints.txt
	@rm $(UNFINISHED)
	@touch $(INSTALLED)

models: .venv  ## train each bundle on drawn images and write its models/ folder
	$(BIN)/python tools/make_models.py

demo: .venv  ## train on 4 drawn chest X-rays, evaluate on 20 others, write runs/demo/report.html
	$(BIN)/blosam demo --out runs/demo

test: .venv  ## check style and generated bundles, run the unmarked tests
	$(BIN)/ruff check .
	$(BIN)/python tools/build_bundles.py --check
	$(BIN)/python -m pytest -q

test-all: .venv  ## what `make test` does, with the slow tests
	$(BIN)/ruff check .
	$(BIN)/python tools/build_bundles.py --check
	$(BIN)/python -m pytest -q -m "not (label or pacs or fuzz or gpu)"

lint: .venv  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv  ## mend style and formatting where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, runs and caches
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis common/*.egg-info
	find common tests tools benchmarks .ci -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# On a fresh machine two commands do all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: install quickstart test test-slow lint format schema docs clean

# All that work on se-med needs: tests, linters, export.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo,dev,export]'
	touch $@ $(VENV)/.quickstart

# se-med and what makes the sample.
$(VENV)/.quickstart: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

quickstart: $(VENV)/.quickstart
	$(BIN)/se-med data demo $(DEMO)/data
	@test -f $(DEMO)/runs/quickstart/provenance.json || \
	    $(BIN)/se-med train configs/quickstart.yaml data.root=$(DEMO)/data --runs $(DEMO)/runs --resume
	$(BIN)/se-med predict $(DEMO)/runs/quickstart $(DEMO)/data/imagesTs -o $(DEMO)/predictions
	$(BIN)/se-med evaluate $(DEMO)/predictions $(DEMO)/data/labelsTs --tolerance 3 --csv $(DEMO)/scores.csv \
	    --images $(DEMO)/data/imagesTs --picture $(DEMO)/quickstart.png
	@echo "run folder    $(DEMO)/runs/quickstart"
	@echo "predictions   $(DEMO)/predictions"
	@echo "scores        $(DEMO)/scores.csv"
	@echo "picture       $(DEMO)/quickstart.png"

test: install
	$(BIN)/pytest -n auto

test-slow: install
	$(BIN)/pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python docs/make_blocks.py

schema: install
	$(BIN)/se-med schema > configs/se-med.schema.json
	$(BIN)/se-med schema --study > configs/se-med-study.schema.json

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

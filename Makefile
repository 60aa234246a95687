# Everything goes through `setup`, which builds .venv once and again only when dependencies or installed scripts change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

# Installing compiles nothing: of 23,000 modules a third is ever imported. What is imported is compiled once, also where
# the caller's environment forbids writing that.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: setup render test regress check nightly serve bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(wildcard infra/bin/*)  # the scripts are copied
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "'$(PYTHON)' is missing or older than Python 3.11; install Python 3.11 or 3.12, or run 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "could not create $(VENV); on Debian the venv module comes with the package python3-venv" >&2; exit 2; }
	@echo "installing dependencies into $(VENV) (a few minutes the first time)"
	@$(PIP) -e '.[dev]'
	@touch $(STAMP)

render: setup
	@$(BIN)/liveavatar render --audio data/samples/speech.wav --image data/samples/portrait.png \
	  --prompt "$$(cat data/samples/prompt.txt)" --enable_online_decode --out out/demo

# Files are spread over the workers in the order of tests/conftest.py, long ones first.
PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "not gpu and not nightly"

test: setup
	@$(PYTEST)

regress: setup
	@$(BIN)/liveavatar regress

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST)

nightly: setup
	@$(PIP) -e '.[dev,nightly]'
	@$(BIN)/python -m pytest -m nightly
	@$(BIN)/liveavatar regress --golden data/golden/long
	@$(BIN)/python -m tests.soak.soak --runs 30
	@$(BIN)/python -m tests.fuzz.run --cases 10000

serve: setup
	@$(BIN)/liveavatar serve

bench: setup
	@$(BIN)/liveavatar bench cpu

clean:
	rm -rf $(VENV) .liveavatar out .pytest_cache .mypy_cache .ruff_cache

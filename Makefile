# make demo    fine-tune a small BERT on the sample corpus, from nothing but Python and PyPI
# make test    the tests (minutes); make test-slow: those that take longer
# make test-asan   the operators in C++ with AddressSanitizer and UBSan (GCC and its libraries)
# make setup   what both begin with: .venv with the packages of requirements.lock
# make setup-gpu   .venv-gpu, with MXNet for NVIDIA GPUs and NVIDIA's libraries (2 GB)
# make setup-distributed   Horovod besides, for several processes and machines (compiles, 3 minutes)
# make test-machines   both on new root file systems of Debian 12, 13 and testing (root, debootstrap)
# make bench   this project beside its peers (QUICK=1: one ratio, three minutes)
# make lint    ruff and mypy
# make lock    write requirements.lock anew from requirements.txt and pyproject.toml (needs uv)

# The first Python that works: MXNet has wheels for glibc only.
SUPPORTED := import sys, platform; \
	sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14) or platform.libc_ver()[0] == "musl")
PYTHON ?= $(shell for python in python3 python3.13 python3.14 python3.12 python3.11 python3.10; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed
# Whether gluonnlp, which is C in part, can be compiled.
CAN_COMPILE = echo '\#include <Python.h>' | $${CC:-cc} -fsyntax-only -x c \
	-I"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" - 2>/dev/null

# What Horovod is built with: MXNet alone, and Gloo to carry the messages (no MPI). It leaves out two
# headers, which GCC included for it up to version 12.
HOROVOD := HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 \
	HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 \
	CXXFLAGS="$$CXXFLAGS -include cstdint -include stdexcept" MAKEFLAGS="-j$$(nproc)"

.PHONY: setup setup-distributed setup-gpu demo test test-slow test-asan test-machines bench lint lock clean

setup: $(INSTALLED)

# $(call environment,DIR): an empty virtual environment, or one sentence on what is missing.
define environment
	@test -n "$(PYTHON)" || { echo "there is no CPython 3.10 to 3.14 with glibc here: install one" \
		"(Debian, Ubuntu: apt install python3 python3-venv), or name it:" \
		"make PYTHON=/path/to/python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual" \
		"environments: install that part of it (Debian, Ubuntu: apt install python3-venv)"; exit 2; }
	$(PYTHON) -m venv --clear $(1)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r requirements.lock || { echo "the packages of requirements.lock could not be installed:" \
		"if pip says above that it found no wheel, try another Python (make PYTHON=python3.12)," \
		"if it could not connect, see that it reaches PyPI"; exit 2; }
endef

$(INSTALLED): requirements.txt requirements.lock
	$(call environment,.venv)
	@if $(CAN_COMPILE); then \
		$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
			$$(grep ^gluonnlp requirements.txt); \
	else \
		echo "gluonnlp is not installed: it needs a C compiler and Python.h (Debian, Ubuntu:" \
			"apt install gcc python3-dev; then make -B setup). Only tests that compare with it" \
			"and benchmarks use it."; \
	fi
	@touch $@

setup-distributed: .venv/distributed

# CMake asks Python for MXNet's files, which imports it: NumPy must have its old names by then. From
# version 14 on GCC refuses to assign to a constant, as a function that nobody calls does.
.venv/distributed: $(INSTALLED)
	@command -v $${CXX:-c++} >/dev/null || { echo "Horovod is compiled during installation: install a" \
		"C++ compiler (Debian, Ubuntu: apt install g++)"; exit 2; }
	$(BIN)/pip install --quiet --disable-pip-version-check 'cmake<4'
	rm -rf .venv/horovod
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary horovod \
		--no-build-isolation --dest .venv/horovod horovod==0.28.1
	tar -xzf .venv/horovod/horovod-0.28.1.tar.gz -C .venv/horovod
	sed -i 's/ const size_type count_;/ size_type count_;/' \
		.venv/horovod/horovod-0.28.1/third_party/flatbuffers/include/flatbuffers/stl_emulation.h
	echo 'from bert.runtime import restore_numpy_names as r; r()' > .venv/horovod/sitecustomize.py
	. $(BIN)/activate && PYTHONPATH="$$PWD/.venv/horovod:$$PWD" $(HOROVOD) pip install --quiet \
		--disable-pip-version-check --no-build-isolation .venv/horovod/horovod-0.28.1
	rm -r .venv/horovod
	@touch $@

setup-gpu: .venv-gpu/installed

.venv-gpu/installed: requirements.txt requirements.lock pyproject.toml
	$(call environment,.venv-gpu)
	.venv-gpu/bin/pip uninstall --quiet --yes mxnet
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check --no-deps --group gpu
	@touch $@

demo: setup
	$(BIN)/python finetune_classifier.py --data_dir sample_data --bert_model bert_6_384_12 \
		--bert_dataset minilm_en_uncased --optimizer adamw --lr 1e-4 --epochs 10 \
		--output_dir demo_output --overwrite

test: setup
	$(BIN)/python -m pytest -q tests/bert
	$(BIN)/python -m pytest -q --ignore tests/bert

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

# Python loads the operators, so the sanitizer's library must be there before, and for exceptions
# libstdc++ with it; the compiler runs without them. Python's and MXNet's leaks are not looked for.
SANITIZE := -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr \
	-fno-sanitize-recover=all
test-asan: setup
	CXX="env -u LD_PRELOAD g++ $(SANITIZE)" \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -q -s -m "slow or not slow" \
		tests/bert/test_native.py tests/bert/test_native_refusals.py \
		tests/bert/test_native_dense.py tests/bert/test_native_layer.py tests/bert/test_inference.py

test-machines:
	tests/machines.sh

bench: setup .venv-bench/installed
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick)

.venv-bench/installed: pyproject.toml
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --group bench
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.10 --upgrade \
		--generate-hashes --no-emit-package gluonnlp --no-annotate --quiet -o requirements.lock

clean:
	rm -rf .venv .venv-bench .venv-gpu .bench_cache demo_output

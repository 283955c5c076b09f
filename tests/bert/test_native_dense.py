"""bert_dense's arithmetic and memory on processors without AMX, with tiles in software."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import mxnet as mx
import pytest
from conftest import ROOT

from bert import runtime

FLAGS = "-std=c++17 -O1 -g -march=native -fopenmp -fsanitize=address,undefined -fno-sanitize=vptr"


@pytest.mark.slow  # the sanitizers take half a minute to compile
def test_products_of_all_shapes_are_exact_and_stay_in_their_memory(tmp_path):
    compiler = shutil.which("g++")
    if not compiler or "avx512_bf16" not in runtime.cpu_flags():
        pytest.skip("this needs g++, and a processor with AVX-512 for bfloat16")
    wheel, program = Path(mx.__file__).parent, tmp_path / "products"
    sources = ROOT / "tests" / "bert" / "dense_products.cc", wheel / "src" / "lib_api.cc"
    folders = f"-I{ROOT / 'bert' / 'native'}", f"-I{wheel / 'include'}"
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    environment |= {"OMP_NUM_THREADS": "3", "ASAN_OPTIONS": "detect_leaks=0"}
    command = [compiler, *FLAGS.split(), *folders, *map(str, sources), "-o", str(program)]
    build = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "cannot find" in build.stderr:
        pytest.skip("there are no libraries of the sanitizers")
    assert build.returncode == 0, build.stderr
    run = subprocess.run([program], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "error" not in run.stderr, run.stderr
    largest_error, most_bytes = map(float, run.stdout.split())
    assert largest_error < 1e-6
    assert most_bytes < 2**31  # MXNet takes it as an int

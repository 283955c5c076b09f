"""The machine's peak in single-precision matrix products, over sizes that a BERT has and larger
ones: PyTorch's where it is installed, otherwise the best of MXNet's (oneDNN, OpenBLAS). Prints one
line of JSON."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import workload

SHAPES = ((1728, 768, 3072), (1728, 3072, 768), (2048, 2048, 2048), (4096, 4096, 4096))
REPETITIONS = 8


def torch_products():
    import torch

    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner), torch.randn(columns, inner)
        yield 2 * rows * inner * columns, lambda a=a, b=b: torch.mm(a, b.T)


def mxnet_products():
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from bert import runtime

    runtime.prepare()
    import mxnet as mx

    for rows, inner, columns in SHAPES:
        flops = 2 * rows * inner * columns
        a = mx.nd.random.normal(shape=(rows, inner))
        b = mx.nd.random.normal(shape=(columns, inner))
        dense = {"num_hidden": columns, "no_bias": True}
        yield flops, lambda a=a, b=b, o=dense: mx.nd.FullyConnected(a, b, **o).wait_to_read()
        yield flops, lambda a=a, b=b: mx.nd.dot(a, b, transpose_b=True).wait_to_read()


workload.describe(__doc__)
best = 0.0
for flops, product in torch_products() if importlib.util.find_spec("torch") else mxnet_products():
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        product()
        best = max(best, 1e-9 * flops / (time.perf_counter() - start))
print(json.dumps({"gflops": best}))

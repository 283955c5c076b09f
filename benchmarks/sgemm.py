"""The machine's peak in single-precision matrix products: the best of MXNet's (oneDNN, OpenBLAS)
over sizes that a BERT has. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import runtime

runtime.prepare()

import mxnet as mx

best = 0.0
for rows, inner, columns in ((1728, 768, 3072), (1728, 3072, 768), (2048, 2048, 2048)):
    a = mx.nd.random.normal(shape=(rows, inner))
    b = mx.nd.random.normal(shape=(columns, inner))
    for product in (
        lambda a=a, b=b: mx.nd.FullyConnected(a, b, num_hidden=b.shape[0], no_bias=True),
        lambda a=a, b=b: mx.nd.dot(a, b, transpose_b=True),
    ):
        for _ in range(12):
            start = time.perf_counter()
            product().wait_to_read()
            best = max(best, 2e-9 * rows * inner * columns / (time.perf_counter() - start))
print(json.dumps({"gflops": best}))

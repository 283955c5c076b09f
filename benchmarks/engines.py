"""Engines of inference: variant "huggingface" (under torch.autocast with bfloat16), "openvino" or
"onnxruntime", both of which read the ONNX file that this project exports. "dynamic" is Hugging Face
in the file's order and batches of 32, as its Trainer evaluates."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import workload
from transformers import AutoTokenizer

Batch = dict[str, np.ndarray]  # int64 [examples, tokens]
# Computes batches; what it returns or keeps is not looked at.
Compute = Callable[[list[Batch]], None]


def huggingface(model: Path, dtype: str, many: bool) -> Compute:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    net = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).eval()
    # Entered once: within it the weights are cast once.
    entered = contextlib.ExitStack()
    entered.enter_context(torch.inference_mode())
    entered.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"))

    def compute(batches: list[Batch]) -> None:
        for batch in batches:
            net(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.float()

    compute.entered = entered  # or its end would leave the contexts
    return compute


def onnxruntime(model: Path, dtype: str, many: bool) -> Compute:
    import onnxruntime

    folder = "onnx int8" if dtype == "int8" else "onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    path = model / folder / "model.onnx"
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def compute(batches: list[Batch]) -> None:
        for batch in batches:
            session.run(None, batch)

    return compute


def openvino(model: Path, dtype: str, many: bool) -> Compute:
    import openvino

    precision = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}[dtype]
    hints = {"INFERENCE_PRECISION_HINT": precision}
    hints["PERFORMANCE_HINT"] = "THROUGHPUT" if many else "LATENCY"
    compiled = openvino.Core().compile_model(model / "onnx" / "model.onnx", "CPU", hints)
    if not many:
        request = compiled.create_infer_request()
        return lambda batches: [request.infer(batch, share_inputs=True) for batch in batches]
    queue = openvino.AsyncInferQueue(compiled)

    def compute(batches: list[Batch]) -> None:
        for batch in batches:
            queue.start_async(batch)
        queue.wait_all()

    return compute


def main() -> None:
    args = workload.parse_args(__doc__)
    engine = "huggingface" if args.variant == "dynamic" else args.variant
    compute = globals()[engine](args.model, args.dtype, args.mode == "inference")
    if args.mode == "latency":
        texts = {tokens: text(tokens) for tokens in workload.LATENCY_TOKENS}
        workload.latency(lambda tokens: compute([texts[tokens]]))
        return
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    text_a, text_b, _ = map(list, zip(*workload.read_pairs(args), strict=True))
    encoded = tokenizer(text_a, text_b, truncation=True, max_length=workload.MAX_LEN)
    lengths = [len(ids) for ids in encoded["input_ids"]]

    def batch_of(chosen: list[int]) -> Batch:
        features = [{key: encoded[key][i] for key in encoded} for i in chosen]
        return dict(tokenizer.pad(features, padding="longest", return_tensors="np"))

    one_pass = lambda batches: compute([batch_of(part) for part in batches])  # noqa: E731
    if args.variant == "dynamic":
        workload.inference(lengths, one_pass, [workload.BATCH_SIZE], as_in_file=True)
    else:
        workload.inference(lengths, one_pass)


def text(tokens: int) -> Batch:
    ids = np.array([workload.random_ids(tokens)])
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


main()

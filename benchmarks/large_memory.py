#!/usr/bin/env python3
"""Peak memory of bert_24_1024_16 at batch 32 of 128 tokens, as 4 batches of 8.

    python3 benchmarks/large_memory.py

Random weights, two updates on this machine's CPU. Prints the highest resident memory of the process
beside what it is made of on paper.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bert import runtime

runtime.prepare()

import mxnet as mx
import numpy as np

import finetune_classifier as project  # sets the threads, then loads MXNet
from bert.classifier import BERTClassifier
from bert.modeling import BERTModel
from bert.parameters import parameters_of
from bert.zoo import ZOO
from dataset import TokenizedExamples
from finetuning.data.splits import Data
from finetuning.data.tasks import find_task
from finetuning.training.loop import new_head, num_parameters

BATCH_SIZE, ACCUMULATE, TOKENS = 8, 4, 128
MIB = 2**20


def main() -> None:
    stock = "--stock" in sys.argv
    config = ZOO["bert_24_1024_16", "book_corpus_wiki_en_uncased"].config
    flags = f"--batch_size {BATCH_SIZE} --accumulate {ACCUMULATE} --optimizer adamw"
    args = project.parse_args("", flags.split() + ["--no_native"] * stock)
    workers = project.new_workers(args)
    net = BERTClassifier(BERTModel(config, args.dropout, cls_only=True), 2, args.dropout)
    net.initialize(ctx=workers.ctx)
    new_head(net, 1, workers.ctx)
    project.compile_network(args, net, workers.ctx)
    examples = BATCH_SIZE * ACCUMULATE
    ids = np.random.default_rng(0).integers(1000, 20000, examples * TOKENS).astype(np.int32)
    offsets = np.arange(0, len(ids) + 1, TOKENS)
    half = np.full(examples, TOKENS // 2, np.int32)
    label = np.arange(examples, dtype=np.int32) % 2
    tokens = TokenizedExamples(ids, offsets, half, label, TOKENS, label > 1)
    data = Data(find_task("MRPC"), tokens, {})
    trainer = project.new_trainer(args, net, data, tokens, workers, 2, None)
    seconds = []
    trainer.run_until(2, lambda progress: seconds.append(trainer.seconds))
    mx.nd.waitall()
    parameters = num_parameters(net)
    states = 4 * parameters * 4  # weights, gradients, m and v, in float32
    sums = parameters * 4  # the gradients of several batches, added up
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = BATCH_SIZE * TOKENS
    rest = peak - states - sums
    per_layer = rest / config.num_layers / rows / config.units / 4
    print(f"{parameters:,} parameters in {len(parameters_of(net))} arrays")
    print(f"weights, gradients, m, v    {states / MIB:8,.0f} MiB")
    print(f"gradients added up          {sums / MIB:8,.0f} MiB")
    print(f"all else (activations)      {rest / MIB:8,.0f} MiB, {per_layer:.1f} arrays of")
    print(f"                            [rows, units] a layer, of {rows} rows")
    print(f"highest resident memory     {peak / MIB:8,.0f} MiB ({'stock' if stock else 'fused'})")
    print(f"seconds an update           {(seconds[1] - seconds[0]):8.1f}")


main()

#!/usr/bin/env python3
"""Peak memory of bert_24_1024_16 at batch 32 of 128 tokens, as 4 batches of 8.

    python3 benchmarks/large_memory.py

Random weights, two updates on this machine's CPU. Prints the highest resident memory of the process
beside what it is made of on paper.
"""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bert import runtime

runtime.prepare()

import mxnet as mx
import numpy as np

from bert.classifier import Classifier
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import parameters_of
from bert.zoo import ZOO
from dataset import TokenizedExamples
from finetuning.data.splits import Dataset
from finetuning.data.tasks import find_task
from finetuning.options import parse
from finetuning.training.losses import loss_for
from finetuning.training.run import Run
from finetuning.training.start import initialize_head
from finetuning.training.trainer import Trainer
from finetuning.training.workers import open_workers

BATCH_SIZE, ACCUMULATE, TOKENS = 8, 4, 128
MIB = 2**20


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--stock", action="store_true", help="MXNet's own operators")
    stock = parser.parse_args().stock
    config = ZOO["bert_24_1024_16", "book_corpus_wiki_en_uncased"].config
    flags = f"--batch_size {BATCH_SIZE} --accumulate {ACCUMULATE} --optimizer adamw"
    args = parse("", flags.split())
    workers = open_workers(args)
    net = BERTClassifier(BERTModel(config, args.dropout, cls_only=True), 2, args.dropout)
    net.initialize(ctx=workers.ctx)
    initialize_head(net, 1, workers.ctx)
    Classifier(net, None, {}).compile(fused=not stock)
    examples = BATCH_SIZE * ACCUMULATE
    ids = np.random.default_rng(0).integers(1000, 20000, examples * TOKENS).astype(np.int32)
    offsets = np.arange(0, len(ids) + 1, TOKENS)
    half = np.full(examples, TOKENS // 2, np.int32)
    label = np.arange(examples, dtype=np.int32) % 2
    tokens = TokenizedExamples(ids, offsets, half, label, TOKENS, label > 1)
    data = Dataset(find_task("MRPC"), tokens, {})
    two_epochs = replace(args, epochs=2)
    trainer = Trainer(net, tokens, loss_for(data), workers, two_epochs)
    seconds = [trainer.seconds for _ in trainer.updates_until(2)]
    mx.nd.waitall()
    parameters = Run(args, Classifier(net, None, {}), data, None, workers).num_parameters
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

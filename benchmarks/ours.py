"""This project, through the functions that finetune_classifier.py calls; variant "stock" is
--no_native."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import workload

import finetune_classifier as project  # sets the threads, then loads MXNet


def main() -> None:
    args = workload.parse_args(__doc__)
    pairs = workload.read_pairs(args)
    text_a, text_b, label = zip(*pairs, strict=True)
    examples = project.dataset.Examples(list(text_a), list(text_b), np.array(label, np.int32))
    ctx = project.context(None)
    bert, tokenizer = project.zoo.load_directory(
        args.model, ctx=ctx, dropout=workload.DROPOUT, cls_only=True
    )
    net = project.BERTClassifier(bert, 2, workload.DROPOUT)
    net.classifier.initialize(ctx=ctx)
    project.compile_network(SimpleNamespace(no_native=args.variant == "stock"), net, ctx)
    tokenized = project.dataset.tokenize(examples, tokenizer, workload.MAX_LEN)
    tokens = len(tokenized.input_ids)

    watch = workload.Stopwatch()
    if args.mode == "inference":
        for _ in range(2):
            watch.start()
            project.predict(net, tokenized, workload.BATCH_SIZE, ctx)
            watch.step_done()
        watch.report(len(pairs), tokens)
        return
    trainer = project.Trainer(
        net,
        tokenized,
        project.SoftmaxCrossEntropyLoss(),
        project.optimizer.create("adamw", 0.01, 1e-6),
        ctx,
        batch_size=workload.BATCH_SIZE,
        accumulate=1,
        epochs=1,
        max_updates=None,
        lr=workload.LR,
        warmup_ratio=0.1,
        seed=workload.SEED,
    )
    lengths = tokenized.lengths
    epoch = project.dataset.training_batches(lengths, workload.BATCH_SIZE, workload.SEED, 1)
    timed = workload.typical_batches(epoch, lengths, args.batches)
    trainer.run_until(1, lambda progress: watch.step_done())
    trainer.run_until(workload.WARM_UP_STEPS, lambda progress: None)
    trainer.updates = timed.start  # an update is a function of its number
    watch.start()
    trainer.run_until(timed.stop, lambda progress: None)
    batches = epoch[timed.start : timed.stop]
    watch.report(sum(map(len, batches)), workload.tokens_of(batches, lengths))


main()

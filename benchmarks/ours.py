"""This project, through the functions that finetune_classifier.py calls, with its own flags;
variant "stock" is --no_native."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import workload

import dataset
import finetune_classifier as project  # sets the threads, then loads MXNet
from finetuning.data.reading import Examples
from finetuning.data.splits import Data
from finetuning.data.tasks import find_task
from finetuning.training.trainer import predict


def main() -> None:
    args = workload.parse_args(__doc__)
    flags = {
        "--pretrained_bert_parameters": args.model,
        "--optimizer": "adamw",
        "--batch_size": workload.BATCH_SIZE,
        "--max_len": workload.MAX_LEN,
        "--dropout": workload.DROPOUT,
        "--lr": workload.LR,
        "--seed": workload.SEED,
    }
    argv = [str(part) for flag in flags.items() for part in flag]
    options = project.parse_args(__doc__, argv + ["--no_native"] * (args.variant == "stock"))
    pairs = workload.read_pairs(args)
    text_a, text_b, label = zip(*pairs, strict=True)
    examples = Examples(list(text_a), list(text_b), np.array(label, np.int32))
    workers, task = project.new_workers(options), find_task("MRPC")
    net, tokenizer, _ = project.new_classifier(options, task, workers.ctx)
    project.compile_network(options, net, workers.ctx)
    if not net.bert.fused and args.variant != "stock":
        sys.exit("the fused operators are not used here: there is nothing to compare")
    tokenized = dataset.tokenize(examples, tokenizer, workload.MAX_LEN)
    lengths = tokenized.lengths

    watch = workload.Stopwatch()
    if args.mode == "inference":
        for _ in range(2):
            watch.start()
            predict(net, tokenized, workload.BATCH_SIZE, workers)
            watch.step_done()
        watch.report(len(pairs), int(lengths.sum()))
        return
    trainer = project.new_trainer(
        options, net, Data(task, tokenized, {}), tokenized, workers, 1, None
    )
    epoch = dataset.training_batches(lengths, workload.BATCH_SIZE, workload.SEED, 1)
    timed = workload.typical_batches(epoch, lengths, args.batches)
    trainer.run_until(1, lambda progress: watch.step_done())
    trainer.run_until(workload.WARM_UP_STEPS, lambda progress: None)
    trainer.updates = timed.start  # an update is a function of its number
    watch.start()
    trainer.run_until(timed.stop, lambda progress: None)
    batches = epoch[timed.start : timed.stop]
    watch.report(sum(map(len, batches)), workload.tokens_of(batches, lengths))


main()

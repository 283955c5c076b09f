"""This project, through the functions that finetune_classifier.py calls, with its own flags;
variant "stock" is --no_native."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import runtime

runtime.prepare()

import numpy as np
import workload

import dataset
from finetuning.data.splits import Dataset
from finetuning.data.tasks import find_task
from finetuning.options import parse
from finetuning.training.evaluation import predict
from finetuning.training.losses import loss_for
from finetuning.training.start import new_classifier
from finetuning.training.trainer import Trainer
from finetuning.training.workers import open_workers


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
    options = parse(__doc__, argv + ["--no_native"] * (args.variant == "stock"))
    pairs = workload.read_pairs(args)
    text_a, text_b, label = zip(*pairs, strict=True)
    examples = dataset.Examples(list(text_a), list(text_b), np.array(label, np.int32))
    workers, task = open_workers(options), find_task("MRPC")
    classifier = new_classifier(options, task, workers.ctx)
    if unavailable := classifier.compile(fused=args.variant != "stock"):
        sys.exit(f"the fused operators are not used here: {unavailable}")
    net, tokenizer, _ = classifier
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
    one_epoch = replace(options, epochs=1)
    trainer = Trainer(net, tokenized, loss_for(Dataset(task, tokenized, {})), workers, one_epoch)
    epoch = dataset.training_batches(len(tokenized), workload.BATCH_SIZE, workload.SEED, 1)
    timed = workload.typical_batches(epoch, lengths, args.batches)
    for _ in trainer.updates_until(1):
        watch.step_done()
    list(trainer.updates_until(workload.WARM_UP_STEPS))
    trainer.updates = timed.start  # an update is a function of its number
    watch.start()
    list(trainer.updates_until(timed.stop))
    batches = epoch[timed.start : timed.stop]
    watch.report(sum(map(len, batches)), workload.tokens_of(batches, lengths))


main()

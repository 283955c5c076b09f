"""This project, through the functions that finetune_classifier.py and predict.py call, with its own
flags; variant "stock" is --no_native."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import workload

from bert import runtime

args = workload.parse_args(__doc__)
BFLOAT16 = args.dtype == "bfloat16"
PREDICTED_TOGETHER = 128  # predict.py, by default
STOCK = args.variant == "stock"
if STOCK or args.mode == "training":
    runtime.prepare(bfloat16=BFLOAT16)
else:  # as predict.py
    runtime.set_threads()

import numpy as np

import dataset
from bert.classifier import build_classifier, read_classifier
from bert.inference import Inference


def main() -> None:
    if args.mode == "training":
        train()
        return
    saved = read_classifier(args.model / "run")
    if STOCK:
        from finetuning.training.inputs import logits_of

        model = build_classifier(saved)
        model.compile(fused=False, bfloat16=BFLOAT16)
        ctx = model.net.classifier[1].bias.list_ctx()[0]
        compute = lambda *batch: logits_of(model.net, *batch, ctx).asnumpy()  # noqa: E731
    else:
        inference = Inference.of_run(saved, BFLOAT16)
        compute = lambda *batch: dataset.logits_by(inference, *batch)  # noqa: E731
    if args.mode == "inference":
        examples = read_examples(saved.tokenizer)
        workload.inference(
            examples.lengths.tolist(),
            lambda batches: [compute(examples, np.array(batch)) for batch in batches],
            workload.BATCH_SIZES if STOCK else [PREDICTED_TOGETHER],
        )
        return
    texts = {tokens: text(tokens) for tokens in workload.LATENCY_TOKENS}
    workload.latency(lambda tokens: compute(texts[tokens], np.array([0])))


def read_examples(tokenizer) -> dataset.TokenizedExamples:
    text_a, text_b, label = zip(*workload.read_pairs(args), strict=True)
    examples = dataset.Examples(list(text_a), list(text_b), np.array(label, np.int32))
    return dataset.tokenize(examples, tokenizer, workload.MAX_LEN)


def text(tokens: int) -> dataset.TokenizedExamples:
    return dataset.TokenizedExamples(
        np.array(workload.random_ids(tokens), np.int32),
        np.array([0, tokens]),
        np.array([tokens]),
        np.zeros(1, np.int32),
        tokens,
        np.zeros(1, bool),
    )


def train() -> None:
    from finetuning.data.splits import Dataset
    from finetuning.data.tasks import find_task
    from finetuning.options import parse
    from finetuning.training.losses import loss_for
    from finetuning.training.start import new_classifier
    from finetuning.training.trainer import Trainer
    from finetuning.training.workers import open_workers

    flags = {
        "--pretrained_bert_parameters": args.model,
        "--optimizer": "adamw",
        "--batch_size": workload.BATCH_SIZE,
        "--max_len": workload.MAX_LEN,
        "--dropout": workload.DROPOUT,
        "--lr": workload.LR,
        "--seed": workload.SEED,
        "--dtype": args.dtype,
    }
    argv = [str(part) for flag in flags.items() for part in flag]
    options = parse(__doc__, argv + ["--no_native"] * STOCK)
    workers, task = open_workers(options), find_task("MRPC")
    classifier = new_classifier(options, task, workers.ctx)
    if unavailable := classifier.compile(fused=not STOCK, bfloat16=BFLOAT16):
        sys.exit(f"the fused operators are not used here: {unavailable}")
    tokenized = read_examples(classifier.tokenizer)
    lengths = tokenized.lengths

    watch = workload.Stopwatch()
    one_epoch = replace(options, epochs=1)
    loss = loss_for(Dataset(task, tokenized, {}))
    trainer = Trainer(classifier.net, tokenized, loss, workers, one_epoch)
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

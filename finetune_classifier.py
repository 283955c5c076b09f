#!/usr/bin/env python3
"""Fine-tune a pretrained BERT to classify sentences or pairs of sentences.

    GLUE_DIR=glue_data python3 finetune_classifier.py --batch_size 32 --optimizer bertadam \\
        --epochs 2 --gpu --seed 2 --lr 6e-5

Reads a task's files, trains, evaluates on the dev split after every epoch, and leaves in
--output_dir the best epoch's model.params, config.json and vocab.txt (all that is needed to load
it again), metrics.json, dev_predictions.tsv and train.log.

Exit codes: 0 done; 1 the run failed; 2 a flag or a file is wrong; 130, 143 interrupted.
"""

from __future__ import annotations

import sys

from arguments import MODEL_DEFAULTS, RESULT_ARGUMENTS, parse_args
from bert import runtime

# MXNet takes its number of threads from the environment while it is loaded, so the flags come
# first, and a wrong one or --help costs no time.
ARGUMENTS = parse_args(__doc__) if __name__ == "__main__" else None
NUM_THREADS = runtime.prepare(ARGUMENTS.num_threads if ARGUMENTS else None)

import argparse
import math
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import SoftmaxCrossEntropyLoss
from scipy.special import softmax

import checkpoint
import dataset
import metrics
import optimizer
import report
from bert import native, zoo
from bert.classifier import BERTClassifier, load_classifier
from bert.convert import config_to_huggingface
from bert.errors import UserError
from bert.parameters import parameters_of
from bert.tokenizer import BERTTokenizer
from report import ProgressReport, log
from training import NotFiniteError, Trainer, predict, seed_of


def main(args: argparse.Namespace) -> None:
    output_dir = Path(args.output_dir) if args.output_dir else None
    if output_dir:
        checkpoint.prepare_output_dir(output_dir)
    ctx = context(args.gpu)
    if args.model_parameters:
        net, tokenizer, config = load_classifier(args.model_parameters, args.dropout, ctx)
        agree_with_config(args, config)
    task = dataset.find_task(args.task_name)
    folder = dataset.task_folder(args.data_dir, task)
    dev_examples = dataset.read_glue(folder / "dev.tsv", task)
    train_examples = None
    if not args.only_inference:
        train_examples = dataset.read_glue(folder / "train.tsv", task)
        if args.max_train_samples:
            train_examples = train_examples.sample(args.max_train_samples, args.seed)
    if not args.model_parameters:
        net, tokenizer, config = new_classifier(args, task, ctx)
    report.start_logging(output_dir / "train.log" if output_dir else None)
    if ctx.device_type == "cpu" and not args.no_native:
        fuse(net)
    net.hybridize(static_alloc=True)

    dev = dataset.tokenize(dev_examples, tokenizer, args.max_len)
    if args.only_inference:
        log_header(args, task, net, {"dev": dev}, ctx)
        dev_metrics, _ = evaluate(net, dev, task, args.dev_batch_size, ctx)
        log.info(report.table(list(dev_metrics), [list(dev_metrics.values())]))
        if output_dir:
            checkpoint.write_json(
                output_dir / "eval_metrics.json", {"task": task.name, "dev": dev_metrics}
            )
            log.info(f"written to {output_dir / 'eval_metrics.json'}")
        return
    train = dataset.tokenize(train_examples, tokenizer, args.max_len)
    log_header(args, task, net, {"train": train, "dev": dev}, ctx)
    checkpoint.write_json(output_dir / "config.json", config)
    checkpoint.write_text(output_dir / "vocab.txt", tokenizer.vocabulary_text())

    trainer = Trainer(
        net,
        train,
        SoftmaxCrossEntropyLoss(),
        optimizer.create(args.optimizer, args.weight_decay, args.epsilon),
        ctx,
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        epochs=args.epochs,
        max_updates=args.training_steps,
        lr=args.lr,
        warmup_ratio=args.warmup_ratio,
        seed=args.seed,
    )
    results = {
        "task": task.name,
        "seed": args.seed,
        "arguments": {name: getattr(args, name) for name in RESULT_ARGUMENTS},
        "num_parameters": num_parameters(net),
        "epochs": [],
        "best": None,
    }
    best_logits = train_epochs(args, trainer, net, dev, task, results, output_dir, ctx)
    log_predictions(dev_examples, best_logits, task)
    log_results(results, task, output_dir)


def context(gpu: str | None) -> mx.Context:
    """Return the device to train on; UserError says what a GPU is missing."""
    if gpu is None:
        return mx.cpu()
    missing = runtime.why_no_gpu()
    if missing:
        raise UserError(f"--gpu: {missing}")
    if int(gpu) >= mx.context.num_gpus():
        raise UserError(f"--gpu {gpu}: there are {mx.context.num_gpus()}, numbered from 0")
    return mx.gpu(int(gpu))


def agree_with_config(args: argparse.Namespace, config: dict) -> None:
    """Take from a trained model's config what it decides; contradicting it is an error."""
    for name in MODEL_DEFAULTS:
        given, trained = getattr(args, name), config.get(name)
        if given is not None and given != trained:
            raise UserError(f"--{name} {given}: --model_parameters was trained with {trained}")
        setattr(args, name, trained)


def new_classifier(
    args: argparse.Namespace, task: dataset.Task, ctx: mx.Context
) -> tuple[BERTClassifier, BERTTokenizer, dict]:
    """Put a new head on a pretrained BERT; returns network, tokenizer and its config.json."""
    source = args.pretrained_bert_parameters
    options = {"ctx": ctx, "dropout": args.dropout, "cls_only": True}
    if source and Path(source).is_dir():
        bert, tokenizer = zoo.load_directory(source, **options)
    else:
        bert, tokenizer = zoo.get_model(
            args.bert_model, args.bert_dataset, pretrained=not source, **options
        )
        if source:
            zoo.load_params(bert, source, [ctx])
    if args.max_len > bert.config.max_length:
        raise UserError(
            f"--max_len {args.max_len}: this BERT has {bert.config.max_length} positions"
        )
    net = BERTClassifier(bert, len(task.labels), args.dropout)
    mx.random.seed(seed_of(args.seed, 0), ctx)
    net.classifier.initialize(ctx=ctx)
    config = {
        **config_to_huggingface(bert.config),
        "architectures": ["BertForSequenceClassification"],
        "hidden_dropout_prob": args.dropout,
        "attention_probs_dropout_prob": args.dropout,
        "id2label": {str(i): label for i, label in enumerate(task.labels)},
        "label2id": {label: i for i, label in enumerate(task.labels)},
        "do_lower_case": tokenizer.do_lower_case,
        **{name: getattr(args, name) for name in MODEL_DEFAULTS},
    }
    return net, tokenizer, config


def fuse(net: BERTClassifier) -> None:
    """Let a network compute with the fused CPU operators, where they can be had."""
    try:
        native.load()
    except native.NativeUnavailable as reason:
        log.info(f"slower   the fused operators are not used: {reason}")
    else:
        net.bert.fuse()


def num_parameters(net: BERTClassifier) -> int:
    return sum(math.prod(parameter.shape) for parameter in parameters_of(net).values())


def log_header(args, task, net, splits, ctx) -> None:
    """Say what is about to happen: task, sizes, labels, model, device."""
    sizes = ", ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    log.info(f"task      {task.name}: {sizes}")
    for name, examples in splits.items():
        counts = np.bincount(examples.label, minlength=len(task.labels))
        shares = ", ".join(
            f"{label}: {count} ({count / len(examples):.1%})"
            for label, count in zip(task.labels, counts, strict=True)
        )
        log.info(f"labels    {name} {shares}")
    for name, examples in splits.items():
        log.info(
            f"tokens    {name} mean {examples.lengths.mean():.1f}, longest "
            f"{examples.lengths.max()}; --max_len {args.max_len} truncates {examples.truncated}"
        )
    source = args.model_parameters or args.pretrained_bert_parameters or args.bert_dataset
    log.info(f"model     {args.bert_model}, {source}, {num_parameters(net):,} parameters")
    operators = "fused" if net.bert.fused else "stock"
    log.info(
        f"device    {ctx}, {NUM_THREADS} threads, MXNet {mx.__version__}, {operators} operators"
    )


def evaluate(net, examples, task, batch_size, ctx) -> tuple[dict[str, float], np.ndarray]:
    """Return the task's metrics and loss on labelled examples, and the logits behind them."""
    logits = predict(net, examples, batch_size, ctx)
    scores = metrics.evaluate(logits, examples.label, task.metrics)
    return {**scores, "loss": metrics.mean_loss(logits, examples.label)}, logits


def train_epochs(args, trainer, net, dev, task, results, output_dir, ctx) -> np.ndarray:
    """Train to the end, evaluating on the way; the best epoch's files are in output_dir after.

    Returns the best epoch's dev logits ``[examples, classes]``.
    """
    main_metric = task.metrics[0]
    epochs_without_improvement = 0
    loss_sum = seconds = samples = 0.0

    with ProgressReport(trainer.total_updates, trainer.updates, args.log_interval) as progress:

        def on_update(update):
            nonlocal loss_sum
            loss_sum += update.loss * update.examples
            progress(update)

        while trainer.updates < trainer.total_updates:
            epoch = trainer.updates // trainer.updates_per_epoch + 1
            epoch_end = min(epoch * trainer.updates_per_epoch, trainer.total_updates)
            stop = epoch_end
            if args.eval_steps:
                next_evaluation = (trainer.updates // args.eval_steps + 1) * args.eval_steps
                stop = min(stop, next_evaluation)
            trainer.run_until(stop, on_update)

            dev_metrics, logits = evaluate(net, dev, task, args.dev_batch_size, ctx)
            best = results["best"]
            improved = best is None or dev_metrics[main_metric] > best["dev"][main_metric]
            if improved:
                results["best"] = {"epoch": epoch, "update": stop, "dev": dev_metrics}
                best_logits = logits
                checkpoint.save_parameters(net, output_dir / "model.params")
                write_predictions(output_dir / "dev_predictions.tsv", logits, dev.label, task)
            log.info(
                f"epoch {epoch}, update {stop}: dev "
                + ", ".join(f"{name} {value:.4f}" for name, value in dev_metrics.items())
                + (", the best so far" if improved else "")
            )
            if stop == epoch_end:
                results["epochs"].append(
                    {
                        "epoch": epoch,
                        "train_loss": loss_sum / (trainer.samples - samples),
                        "seconds": trainer.seconds - seconds,
                        "samples_per_second": (trainer.samples - samples)
                        / (trainer.seconds - seconds),
                        "dev": dev_metrics,
                    }
                )
                loss_sum, seconds, samples = 0.0, trainer.seconds, trainer.samples
            checkpoint.write_json(output_dir / "metrics.json", results)
            if stop == epoch_end:
                better = results["best"]["epoch"] == epoch
                epochs_without_improvement = 0 if better else epochs_without_improvement + 1
                if epochs_without_improvement == args.early_stop:
                    log.info(f"no better for {args.early_stop} epochs: ending early")
                    break
    return best_logits


def write_predictions(path, logits, label, task) -> None:
    """Write one row an example: index, label, prediction, and one logit for each label."""
    header = ["index", "label", "prediction", *(f"logit_{name}" for name in task.labels)]
    rows = [
        [index, task.labels[true], task.labels[row.argmax()], *(f"{logit:.9g}" for logit in row)]
        for index, (true, row) in enumerate(zip(label, logits, strict=True))
    ]
    checkpoint.write_text(path, "".join("\t".join(map(str, row)) + "\n" for row in [header, *rows]))


def log_predictions(examples: dataset.Examples, logits: np.ndarray, task: dataset.Task) -> None:
    """Print the dev examples of which the model was surest, rightly and wrongly."""
    probability = softmax(logits, axis=1)
    predicted = probability.argmax(axis=1)
    surest = np.argsort(-probability.max(axis=1), kind="stable")
    right = predicted[surest] == examples.label[surest]
    log.info("\nsome dev predictions, the surest right and wrong ones")
    for index in [*surest[right][:2], *surest[~right][:2]]:
        log.info(
            f"  {task.label_column} {task.labels[examples.label[index]]}, predicted "
            f"{task.labels[predicted[index]]} ({probability[index].max():.1%}): "
            + " | ".join(text[index] for text in (examples.text_a, examples.text_b) if text)
        )


def log_results(results, task, output_dir) -> None:
    """Print the table of epochs, and where the files are."""
    rows = [
        [
            f"{row['epoch']}{'*' if row['epoch'] == results['best']['epoch'] else ''}",
            row["train_loss"],
            *row["dev"].values(),
            f"{row['seconds']:.1f}",
            f"{row['samples_per_second']:.1f}",
        ]
        for row in results["epochs"]
    ]
    columns = [f"dev {name}" for name in results["best"]["dev"]]
    log.info("")
    log.info(report.table(["epoch", "train loss", *columns, "seconds", "samples/s"], rows))
    best, metric = results["best"], task.metrics[0]
    log.info(
        f"* best dev {metric}: {best['dev'][metric]:.4f} (epoch {best['epoch']}); "
        "model.params and dev_predictions.tsv are of it"
    )
    log.info(f"files in {output_dir}: " + ", ".join(sorted(p.name for p in output_dir.iterdir())))


def command(args: argparse.Namespace) -> int:
    """Run, and turn what can be foreseen into one sentence and an exit code."""
    try:
        main(args)
    except UserError as error:
        print(f"finetune_classifier.py: {error}", file=sys.stderr)
        return 2
    except (NotFiniteError, OSError) as error:
        print(f"finetune_classifier.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(command(ARGUMENTS))

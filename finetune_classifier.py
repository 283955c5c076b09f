#!/usr/bin/env python3
"""Fine-tune a pretrained BERT to classify sentences or pairs of sentences.

    GLUE_DIR=glue_data python3 finetune_classifier.py --batch_size 32 --optimizer bertadam \\
        --epochs 2 --gpu --seed 2 --lr 6e-5

Reads a task's files, trains, evaluates on the dev split after every epoch, and leaves in
--output_dir the best epoch's model.params, config.json and vocab.txt (all that is needed to load
it again), metrics.json, dev_predictions.tsv and train.log. A run that was stopped, by whatever,
goes on with the same flags and --resume, and ends with the same bytes.

Exit codes: 0 done; 1 the run failed; 2 a flag or a file is wrong; 130, 143 interrupted.
"""

from __future__ import annotations

import sys

import interrupt
from arguments import CHECKPOINT_SECONDS, MODEL_DEFAULTS, RESULT_ARGUMENTS, parse_args
from bert import runtime

# MXNet takes its number of threads from the environment while it is loaded, so the flags come
# first, and a wrong one or --help costs no time.
ARGUMENTS = parse_args(__doc__) if __name__ == "__main__" else None
if __name__ == "__main__":
    interrupt.listen()
NUM_THREADS = runtime.prepare(ARGUMENTS.num_threads if ARGUMENTS else None)

import argparse
import math
from contextlib import nullcontext
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import SoftmaxCrossEntropyLoss

import checkpoint
import dataset
import metrics
import optimizer
import report
from bert import native, zoo
from bert.classifier import BERTClassifier, config_text, load_classifier
from bert.convert import config_to_huggingface
from bert.errors import UserError
from bert.parameters import parameters_of, read_params
from bert.tokenizer import BERTTokenizer
from checkpoint import SaveError
from report import ProgressReport, log
from run import Run
from training import NotFiniteError, OutOfMemoryError, Trainer, predict, seed_of


def main(args: argparse.Namespace) -> None:
    """Do what the flags say, alone in --output_dir."""
    output_dir = Path(args.output_dir) if args.output_dir else None
    with checkpoint.locked(output_dir) if output_dir else nullcontext():
        finetune(args, output_dir)


def finetune(args: argparse.Namespace, output_dir: Path | None) -> None:
    if not args.only_inference:
        check_output_dir(args, output_dir)
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
            text = checkpoint.json_text({"task": task.name, "dev": dev_metrics})
            checkpoint.write_text(output_dir / "eval_metrics.json", text)
            log.info(f"written to {output_dir / 'eval_metrics.json'}")
        return
    train = dataset.tokenize(train_examples, tokenizer, args.max_len)
    log_header(args, task, net, {"train": train, "dev": dev}, ctx)
    # The new layer of a pretrained BERT is a function of the seed.
    pretrained = net if args.model_parameters else net.bert
    weights = (parameter.data().asnumpy() for parameter in parameters_of(pretrained).values())
    identity = {
        "arguments": {name: getattr(args, name) for name in RESULT_ARGUMENTS},
        "contents": {
            "training data": checkpoint.fingerprint(train.arrays()),
            "dev data": checkpoint.fingerprint(dev.arrays()),
            "pretrained weights": checkpoint.fingerprint(weights),
        },
    }
    environment = {
        "device": str(ctx),
        "threads": NUM_THREADS,
        "operators": f"fused {native.load()}" if net.bert.fused else "stock",
        "processor": runtime.processor(),
        "MXNet": mx.__version__,
        "NumPy": np.__version__,
    }
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
        skip_nonfinite=args.skip_nonfinite,
    )
    header = {
        "task": task.name,
        "seed": args.seed,
        "arguments": identity["arguments"],
        "num_parameters": num_parameters(net),
    }
    run = Run(output_dir, trainer, header, identity, environment, args.keep_checkpoints)
    saved = checkpoint.load_newest(output_dir, log.warning) if args.resume else None
    if saved:
        check_same_run(args, saved[0], identity, environment)
        if saved[0]["finished"]:
            read_params(output_dir / "model.params")  # says so if it is damaged
            log.info(f"the run in {output_dir} is finished: there is nothing to resume")
            return
        run.restore(*saved)
        log.info(f"resumed   after update {trainer.updates} of {trainer.total_updates}")
    else:
        if args.resume:
            log.info("resumed   from the beginning: there is no whole checkpoint")
        if args.overwrite:
            checkpoint.remove_run(output_dir)
        run.save(with_checkpoint=True)
    vocabulary = tokenizer.vocabulary_text()
    checkpoint.write_text(output_dir / "vocab.txt", vocabulary)
    checkpoint.write_text(output_dir / "config.json", config_text(config, vocabulary))
    with interrupt.deferred():
        train_epochs(args, trainer, run, net, dev, task, ctx)
    log_results(run.results, task, output_dir)


def check_output_dir(args: argparse.Namespace, output_dir: Path) -> None:
    """Raise UserError where a new run would write over files that are not its own."""
    source = args.model_parameters or args.pretrained_bert_parameters
    if source and output_dir.resolve() == (
        Path(source).resolve() if Path(source).is_dir() else Path(source).resolve().parent
    ):
        raise UserError(f"--output_dir {output_dir} holds the model to begin with: choose another")
    if checkpoint.holds_run(output_dir) and not (args.resume or args.overwrite):
        raise UserError(
            f"{output_dir} holds a run already: --resume continues it, --overwrite deletes it, or "
            "choose another --output_dir"
        )


def check_same_run(args, saved: dict, identity: dict, environment: dict) -> None:
    """Raise UserError where the flags or files are not those of the run to resume."""
    arguments, contents = saved["identity"]["arguments"], saved["identity"]["contents"]
    differences = [
        f"--{name} was {arguments.get(name)} and is {value}"
        for name, value in identity["arguments"].items()
        if arguments.get(name) != value
    ] + [
        f"the {name} are not what they were"
        for name, value in identity["contents"].items()
        if contents.get(name) != value
    ]
    if differences:
        raise UserError(
            f"--resume: {args.output_dir} holds another run: {'; '.join(differences)}; put that "
            "back, or delete the run with --overwrite"
        )
    for name, value in environment.items():
        before = saved["environment"].get(name)
        if before != value:
            log.warning(
                f"warning: {name} was {before} and is {value}: the result may differ from that of "
                "an uninterrupted run in its last digits"
            )


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


def evaluate(
    net, examples, task, batch_size, ctx, before_batch=lambda: None
) -> tuple[dict[str, float], np.ndarray]:
    """Return the task's metrics and loss on labelled examples, and the logits behind them."""
    logits = predict(net, examples, batch_size, ctx, before_batch)
    scores = metrics.evaluate(logits, examples.label, task.metrics)
    return {**scores, "loss": metrics.mean_loss(logits, examples.label)}, logits


def train_epochs(args, trainer, run, net, dev, task, ctx) -> None:
    """Train to the end, evaluating and saving on the way; the best model's files are there after.

    Raises
    ------
    Interrupted
        A signal has come; a checkpoint is written.
    """
    total, epoch_length = trainer.total_updates, trainer.updates_per_epoch

    def finished() -> bool:
        return run.evaluated == total or run.epochs_without_improvement == args.early_stop

    def evaluation_due() -> bool:
        done = trainer.updates
        at_end = done == total or done % epoch_length == 0
        due = at_end or (args.eval_steps and done % args.eval_steps == 0)
        return done > run.evaluated and bool(due)

    def time_to_save() -> bool:
        return not args.checkpoint_steps and run.seconds_since_checkpoint > CHECKPOINT_SECONDS

    def next_stop() -> int:
        every = [n for n in (epoch_length, args.eval_steps, args.checkpoint_steps) if n]
        return min(total, *((trainer.updates // n + 1) * n for n in every))

    with ProgressReport(total, trainer.updates, args.log_interval) as progress:

        def on_update(update) -> bool:
            run.add(update)
            progress(update)
            return interrupt.received() or time_to_save()

        while not (finished() or interrupt.received()):
            if evaluation_due():
                try:
                    dev_metrics, logits = evaluate(
                        net, dev, task, args.dev_batch_size, ctx, interrupt.check
                    )
                except interrupt.Interrupted:
                    break  # the run that resumes this one evaluates again
                epoch = -(-trainer.updates // epoch_length)
                predictions = predictions_text(logits, dev.label, task)
                improved = run.record(epoch, task.metrics[0], dev_metrics, predictions)
                log.info(
                    f"epoch {epoch}, update {trainer.updates}: dev "
                    + ", ".join(f"{name} {value:.4f}" for name, value in dev_metrics.items())
                    + (", the best so far" if improved else "")
                )
            else:
                trainer.run_until(next_stop(), on_update)
            if not (evaluation_due() or finished() or interrupt.received()):
                interval = args.checkpoint_steps or epoch_length
                run.save(trainer.updates % interval == 0 or time_to_save())
    run.save(with_checkpoint=True, finished=finished())
    run.wait()
    if not finished():
        interrupt.check()
    elif run.evaluated < total:
        log.info(f"no better for {args.early_stop} epochs: ended early")


def predictions_text(logits, label, task) -> str:
    """Return dev_predictions.tsv: index, label, prediction, and one logit for each label."""
    header = ["index", "label", "prediction", *(f"logit_{name}" for name in task.labels)]
    rows = [
        [index, task.labels[true], task.labels[row.argmax()], *(f"{logit:.9g}" for logit in row)]
        for index, (true, row) in enumerate(zip(label, logits, strict=True))
    ]
    return "".join("\t".join(map(str, row)) + "\n" for row in [header, *rows])


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
    log.info(f"files in {output_dir}: {', '.join((*checkpoint.RESULT_FILES, 'train.log'))}")


def command(args: argparse.Namespace) -> int:
    """Run, and turn what can be foreseen into one sentence and an exit code."""
    try:
        main(args)
    except UserError as error:
        print(f"finetune_classifier.py: {error}", file=sys.stderr)
        return 2
    except interrupt.Interrupted as signal:
        print(f"finetune_classifier.py: {signal}; --resume goes on from here", file=sys.stderr)
        return signal.exit_code
    except (NotFiniteError, OutOfMemoryError, SaveError, OSError) as error:
        print(f"finetune_classifier.py: {error}", file=sys.stderr)
        return 1
    except mx.MXNetError as error:
        print(f"finetune_classifier.py: MXNet: {str(error).splitlines()[-1]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(command(ARGUMENTS))

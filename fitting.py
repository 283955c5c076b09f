"""From pretrained network to trained one: a run that is saved on its way, and folds of it."""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import L2Loss, SoftmaxCrossEntropyLoss

import checkpoint
import interrupt
import metrics
import optimizer
import report
from arguments import CHECKPOINT_SECONDS, RESULT_ARGUMENTS
from bert import native, runtime
from bert.classifier import BERTClassifier, config_text
from bert.errors import UserError
from bert.parameters import parameters_of, read_params
from bert.tokenizer import BERTTokenizer
from dataset import TokenizedExamples
from evaluation import WeightedCrossEntropy, evaluate, predictions_text
from report import ProgressReport, log
from run import Run
from tasks import Task
from training import Trainer


def new_trainer(args, net, train, task, class_weights, ctx, epochs, max_updates) -> Trainer:
    if task.regression:
        loss = L2Loss(weight=2)  # Gluon's halves the squared error
    elif class_weights is not None:
        loss = WeightedCrossEntropy(class_weights)
    else:
        loss = SoftmaxCrossEntropyLoss()
    return Trainer(
        net,
        train,
        loss,
        optimizer.create(args.optimizer, args.weight_decay, args.epsilon),
        ctx,
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        epochs=epochs,
        max_updates=max_updates,
        lr=args.lr,
        warmup_ratio=args.warmup_ratio,
        seed=args.seed,
        skip_nonfinite=args.skip_nonfinite,
    )


def num_parameters(net: BERTClassifier) -> int:
    return sum(math.prod(parameter.shape) for parameter in parameters_of(net).values())


def train_one(
    args: argparse.Namespace,
    net: BERTClassifier,
    tokenizer: BERTTokenizer,
    config: dict,
    task: Task,
    train: TokenizedExamples,
    dev: dict[str, TokenizedExamples],
    class_weights: np.ndarray | None,
    output_dir: Path,
    ctx: mx.Context,
) -> Run | None:
    """Train one model and leave its files in output_dir, going on with a run that is there.

    Returns None where --resume finds that the run is finished already.
    """
    # The new layer of a pretrained BERT is a function of the seed.
    pretrained = net if args.model_parameters else net.bert
    weights = (parameter.data().asnumpy() for parameter in parameters_of(pretrained).values())
    dev_arrays = (array for part in dev.values() for array in part.arrays())
    identity = {
        "arguments": {name: getattr(args, name) for name in RESULT_ARGUMENTS},
        "contents": {
            "training data": checkpoint.fingerprint(train.arrays()),
            "dev data": checkpoint.fingerprint(dev_arrays),
            "pretrained weights": checkpoint.fingerprint(weights),
        },
    }
    environment = {
        "device": str(ctx),
        "threads": args.num_threads,
        "operators": f"fused {native.load()}" if net.bert.fused else "stock",
        "processor": runtime.processor(),
        "MXNet": mx.__version__,
        "NumPy": np.__version__,
    }
    trainer = new_trainer(
        args, net, train, task, class_weights, ctx, args.epochs, args.training_steps
    )
    header = {
        "task": task.name,
        "seed": args.seed,
        "arguments": identity["arguments"],
        "num_parameters": num_parameters(net),
    }
    run = Run(output_dir, trainer, header, identity, environment, args.keep_checkpoints)
    with closing(run):
        saved = checkpoint.load_newest(output_dir, log.warning) if args.resume else None
        if saved:
            check_same_run(output_dir, saved[0], identity, environment)
            if saved[0]["finished"]:
                read_params(output_dir / "model.params")  # says so if it is damaged
                log.info(f"the run in {output_dir} is finished: there is nothing to resume")
                return None
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
    return run


def check_same_run(output_dir: Path, saved: dict, identity: dict, environment: dict) -> None:
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
            f"--resume: {output_dir} holds another run: {'; '.join(differences)}; put that "
            "back, or delete the run with --overwrite"
        )
    for name, value in environment.items():
        before = saved["environment"].get(name)
        if before != value:
            log.warning(
                f"warning: {name} was {before} and is {value}: the result may differ from that of "
                "an uninterrupted run in its last digits"
            )


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
                details = {}
                if not task.regression:
                    details = metrics.by_class(logits[""], dev[""].label, task.labels)
                predictions = {
                    f"dev_predictions{suffix}.tsv": predictions_text(
                        logits[suffix], part.label, task
                    )
                    for suffix, part in dev.items()
                }
                improved = run.record(epoch, task.metrics[0], dev_metrics, details, predictions)
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
    if not task.regression:
        report.log_classes(best)
    log.info(
        f"* best dev {metric}: {best['dev'][metric]:.4f} (epoch {best['epoch']}); "
        "model.params and dev_predictions.tsv are of it"
    )
    there = [
        name for name in (*checkpoint.RESULT_FILES, "train.log") if (output_dir / name).exists()
    ]
    log.info(f"files in {output_dir}: {', '.join(there)}")

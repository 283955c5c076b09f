"""From pretrained network to trained one: a run that is saved on its way, and what follows it."""

from __future__ import annotations

import argparse
import math
import platform
from contextlib import closing
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import L2Loss, SoftmaxCrossEntropyLoss

import optimizer
from bert import native, runtime
from bert.classifier import BERTClassifier, config_text
from bert.errors import UserError
from bert.files import read_json, write_json, write_text
from bert.parameters import parameters_of, read_params, set_parameters
from bert.tokenizer import BERTTokenizer
from dataset import DEV_EXAMPLES, length_statistics
from finetuning import console, signals
from finetuning.console import ProgressReport, log
from finetuning.data.splits import Data
from finetuning.flags import CHECKPOINT_SECONDS, RESULT_ARGUMENTS
from finetuning.results import metrics, model_card, tensorboard_events
from finetuning.results.tensorboard_events import EventFile
from finetuning.training import checkpoint
from finetuning.training.evaluation import (
    WeightedCrossEntropy,
    evaluate,
    labels_of,
    log_predictions,
    logits_of,
    mistakes_text,
    predict_test,
    predictions_text,
)
from finetuning.training.run import Run
from finetuning.training.trainer import Trainer, seed_of
from finetuning.training.workers import Workers


def new_head(net: BERTClassifier, seed: int, ctx: list[mx.Context]) -> None:
    """Give a network a new last layer, which is a function of the seed."""
    mx.random.seed(seed_of(seed, 0), mx.cpu())  # where Gluon draws it, whatever the devices are
    net.classifier.initialize(ctx=ctx, force_reinit=True)


def new_trainer(args, net, data, train, workers, epochs, max_updates) -> Trainer:
    """Return what trains a network on ``train`` (examples of ``data``)."""
    if data.task.regression:
        loss = L2Loss(weight=2)  # Gluon's halves the squared error
    elif data.class_weights is not None:
        loss = WeightedCrossEntropy(data.class_weights)
    else:
        loss = SoftmaxCrossEntropyLoss()
    return Trainer(
        net,
        train,
        loss,
        optimizer.create(args.optimizer, args.weight_decay, args.epsilon),
        workers,
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        epochs=epochs,
        max_updates=max_updates,
        lr=args.lr,
        warmup_ratio=args.warmup_ratio,
        seed=args.seed,
        skip_nonfinite=args.skip_nonfinite,
        scale_loss=args.dtype == "float16",
    )


def num_parameters(net: BERTClassifier) -> int:
    return sum(math.prod(parameter.shape) for parameter in parameters_of(net).values())


def fit(
    args: argparse.Namespace,
    net: BERTClassifier,
    tokenizer: BERTTokenizer,
    config: dict,
    data: Data,
    output_dir: Path,
    workers: Workers,
) -> dict:
    """Train one model, predict the test splits with the best, and leave all files in output_dir.

    Where --resume finds the run finished, only what follows the training is made again.

    Returns
    -------
    dict
        The content of metrics.json; empty on all ranks but the first.
    """
    train_one(args, net, tokenizer, config, data, output_dir, workers)
    results = read_json(output_dir / "metrics.json") if workers.first else {}
    if data.test:
        if workers.first:
            best = output_dir / "model.params"
            set_parameters(net, read_params(best), workers.ctx, best)
        workers.same_parameters(net)
        predict_test(
            net, data, args.predict_test, args.dev_batch_size, results, output_dir, workers
        )
    if not workers.first:
        return results
    if data.test:
        write_json(output_dir / "metrics.json", results)
    if args.calibrate:
        calibrate(output_dir)
    model_card.write(output_dir, results, log.warning)
    if data.dev_texts and not data.task.regression:
        logits = logits_of((output_dir / "dev_predictions.tsv").read_text(encoding="utf-8"))
        log_predictions(data.dev_texts, logits, data.task)
    log_results(results, data.task, output_dir)
    return results


def calibrate(output_dir: Path) -> None:
    """Fit temperature and threshold to the best epoch's dev logits, into config.json."""
    from finetuning.results import calibration  # scikit-learn comes with it

    text = (output_dir / "dev_predictions.tsv").read_text(encoding="utf-8")
    config = read_json(output_dir / "config.json")
    names = config["label2id"]
    label = np.array([names[name] for name in labels_of(text)])
    found = calibration.fit(logits_of(text), label)
    vocabulary = (output_dir / "vocab.txt").read_bytes().decode()
    write_text(
        output_dir / "config.json", config_text({**config, "calibration": found}, vocabulary)
    )
    log.info(
        f"\ncalibrated on the {len(label)} dev examples: temperature {found['temperature']:.3f}, "
        f"expected calibration error {found['ece_before']:.4f} before, {found['ece_after']:.4f} "
        "after"
    )
    if "threshold" in found:
        log.info(
            f"threshold {found['threshold']:.4f} for label {list(names)[1]!r}: F1 "
            f"{found['f1_before']:.4f} at 0.5, {found['f1_after']:.4f} with it"
        )


def train_one(
    args: argparse.Namespace,
    net: BERTClassifier,
    tokenizer: BERTTokenizer,
    config: dict,
    data: Data,
    output_dir: Path,
    workers: Workers,
) -> None:
    """Train one model and leave its files in output_dir, going on with a run that is there."""
    # The new layer of a pretrained BERT is a function of the seed.
    pretrained = net if args.model_parameters else net.bert
    workers.same_parameters(net)
    weights = [parameter.list_data()[0] for parameter in parameters_of(pretrained).values()]
    dev_arrays = (array for part in data.dev.values() for array in part.arrays())
    identity = {
        "arguments": {name: getattr(args, name) for name in RESULT_ARGUMENTS},
        "contents": {
            "training data": checkpoint.fingerprint(data.train.arrays()),
            "dev data": checkpoint.fingerprint(dev_arrays),
            "pretrained weights": checkpoint.fingerprint(weights),
        },
    }
    environment = {
        "device": str(workers),
        "threads": args.num_threads,
        "operators": f"fused {native.load()}{', AMX' * native.amx}" if net.bert.fused else "stock",
        "processor": runtime.processor(),
        "MXNet": mx.__version__,
        "NumPy": np.__version__,
    }
    trainer = new_trainer(args, net, data, data.train, workers, args.epochs, args.training_steps)
    header = {
        "task": data.task.name,
        "seed": args.seed,
        "arguments": identity["arguments"],
        "environment": {"Python": platform.python_version(), **environment},
        "num_parameters": num_parameters(net),
        "data": {
            "train": length_statistics(data.train, args.batch_size, args.seed),
            **{f"dev{suffix}": length_statistics(part) for suffix, part in data.dev.items()},
        },
    }
    folder = output_dir if workers.first else None
    run = Run(folder, trainer, header, identity, environment, args.keep_checkpoints)
    with closing(run):
        saved = None
        if args.resume and folder:
            saved = checkpoint.load_newest(folder, log.warning)
        saved = workers.same_checkpoint(saved)
        if saved:
            check_same_run(output_dir, saved[0], identity, environment)
            if saved[0]["finished"]:
                if folder:
                    read_params(folder / "model.params")  # says so if it is damaged
                log.info(f"the run in {output_dir} is finished: there is nothing to resume")
                return
            run.restore(*saved)
            log.info(f"resumed   after update {trainer.updates} of {trainer.total_updates}")
        else:
            if args.resume:
                log.info("resumed   from the beginning: there is no whole checkpoint")
            if args.overwrite and folder:
                checkpoint.remove_run(folder)
                tensorboard_events.remove(folder)
                model_card.remove(folder)
            run.save(with_checkpoint=True)
        if folder:
            vocabulary = tokenizer.vocabulary_text()
            write_text(folder / "vocab.txt", vocabulary)
            write_text(folder / "config.json", config_text(config, vocabulary))
            checkpoint.write_arrays(folder / DEV_EXAMPLES, data.dev[""].to_arrays())
        with signals.deferred():
            train_epochs(args, trainer, run, net, data, folder, workers)


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


def train_epochs(args, trainer, run, net, data, folder, workers) -> None:
    """Train to the end, evaluating and saving on the way; the best model's files are there after.

    Ranks do the same in the same order: what depends on a clock or a signal they agree upon.

    Raises
    ------
    Interrupted
        A signal has come; a checkpoint is written.
    """
    task, dev = data.task, data.dev
    total, epoch_length = trainer.total_updates, trainer.updates_per_epoch
    interrupted = save_now = False

    def finished() -> bool:
        return run.evaluated == total or run.epochs_without_improvement == args.early_stop

    def evaluation_due() -> bool:
        done = trainer.updates
        at_end = done == total or done % epoch_length == 0
        due = at_end or (args.eval_steps and done % args.eval_steps == 0)
        return done > run.evaluated and bool(due)

    def look_up() -> None:
        """See whether a signal has come, and whether it is time to save."""
        nonlocal interrupted, save_now
        late = not args.checkpoint_steps and run.seconds_since_checkpoint > CHECKPOINT_SECONDS
        interrupted, save_now = workers.agree(signals.received(), late)

    def next_stop() -> int:
        every = [n for n in (epoch_length, args.eval_steps, args.checkpoint_steps) if n]
        return min(total, *((trainer.updates // n + 1) * n for n in every))

    with (
        ProgressReport(total, trainer.updates, args.log_interval) as progress,
        EventFile(folder, args.tensorboard, trainer.updates, log.warning) as events,
    ):

        def on_update(update) -> bool:
            run.add(update)
            progress(update)
            scalars = {
                "train/loss": update.loss,
                "train/learning_rate": update.lr,
                "train/gradient_norm": update.gradient_norm,
                "train/samples_per_second": update.samples_per_second,
            }
            events.add(update.update, scalars)
            look_up()
            return interrupted or save_now

        # An evaluation can be given up by one rank only if it is the only one.
        check = signals.check if workers.ranks == 1 else lambda: None
        look_up()
        while not (finished() or interrupted):
            if evaluation_due():
                try:
                    dev_metrics, logits = evaluate(
                        net, dev, task, args.dev_batch_size, workers, check
                    )
                except signals.Interrupted:
                    break  # the run that resumes this one evaluates again
                events.add(trainer.updates, {f"dev/{name}": x for name, x in dev_metrics.items()})
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
                if data.dev_texts:
                    predictions["dev_mistakes.tsv"] = mistakes_text(
                        data.dev_texts, logits[""], task
                    )
                improved = run.record(epoch, task.metrics[0], dev_metrics, details, predictions)
                log.info(
                    f"epoch {epoch}, update {trainer.updates}: dev "
                    + ", ".join(f"{name} {value:.4f}" for name, value in dev_metrics.items())
                    + (", the best so far" if improved else "")
                )
                look_up()
            else:
                trainer.run_until(next_stop(), on_update)
            if not (evaluation_due() or finished() or interrupted):
                interval = args.checkpoint_steps or epoch_length
                run.save(trainer.updates % interval == 0 or save_now)
    run.save(with_checkpoint=True, finished=finished())
    run.wait()
    if not finished():
        signals.stop()
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
    log.info(console.table(["epoch", "train loss", *columns, "seconds", "samples/s"], rows))
    best, metric = results["best"], task.metrics[0]
    if not task.regression:
        console.log_classes(best)
    log.info(
        f"* best dev {metric}: {best['dev'][metric]:.4f} (epoch {best['epoch']}); "
        "model.params and dev_predictions.tsv are of it"
    )
    there = [
        name
        for name in (*checkpoint.RESULT_FILES, "README.md", "train.log")
        if (output_dir / name).exists()
    ]
    log.info(f"files in {output_dir}: {', '.join(there)}")

"""What finetune_classifier.py does, from the options to the last file."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.contrib import amp

from bert import native, runtime
from bert.classifier import load_classifier
from bert.errors import UserError
from bert.files import read_bytes, write_json, write_lines, write_text
from bert.parameters import read_params, set_parameters
from bert.run_config import config_text, read_config
from finetuning import console, signals
from finetuning.console import log
from finetuning.data import summary
from finetuning.data.splits import folds, read_splits, tokenize_splits
from finetuning.data.tasks import Task, task_from_config, task_to_config
from finetuning.options import Options
from finetuning.results import metrics, model_card
from finetuning.results.finished_run import read_results
from finetuning.results.predictions import (
    Predictions,
    check_size,
    confident_text,
    read_predictions,
)
from finetuning.training import repeats
from finetuning.training.check import try_longest_batch
from finetuning.training.evaluation import Evaluation, predict_test
from finetuning.training.folder import begin, check_inputs, check_results, claim, locked
from finetuning.training.folder import check as folder_check
from finetuning.training.loop import train
from finetuning.training.record import RESULT_FILES
from finetuning.training.run import Run
from finetuning.training.start import freeze, frozen_text, new_classifier
from finetuning.training.workers import Workers, open_workers


def finetune(options: Options) -> None:
    """Do what the options say, as the only process that writes to --output_dir."""
    workers = open_workers(options)
    folder = output_folder(options) if workers.first else None
    with locked(folder) if folder else nullcontext():
        if folder:
            check_output_folder(options, folder)
        run = prepare(options, workers)
        if options.check:
            check(run)
        elif options.only_inference:
            evaluate_only(run)
        elif options.folds:
            repeats.cross_validate(run, train_and_report)
        elif options.grid:
            repeats.train_grid(run, train_and_report)
        elif options.seeds:
            repeats.train_seeds(run, train_and_report)
        else:
            train_and_report(run)


def output_folder(options: Options) -> Path | None:
    """Return --output_dir; None where nothing is written."""
    return None if options.check else options.output_dir


def prepare(options: Options, workers: Workers) -> Run:
    """Load the classifier and the data, and print what is about to be trained on what."""
    trained = classifier = None
    if options.dtype == "float16":
        amp.init("float16")  # from now on MXNet puts casts around the operators of every network
    if options.model_parameters:
        classifier = load_classifier(options.model_parameters, options.dropout, workers.ctx)
        options = options.with_model_config(classifier.config)
        trained = task_from_config(classifier.config)
        classifier.config.pop("calibration", None)  # it was fitted to the parameters at the start
    splits = read_splits(options, trained)
    if options.calibrate and splits.task.regression:
        raise UserError(
            f"--calibrate is for classifiers, and {splits.task.name} is a regression: leave it out"
        )
    if options.swap_pairs and splits.task.text_b_column is None:
        raise UserError("--swap_pairs is for pairs of texts: leave it out")
    if options.swap_pairs and not splits.task.symmetric:
        raise UserError(
            f"--swap_pairs: a pair of {splits.task.name} has another meaning in the other order; "
            "leave it out"
        )
    if classifier is None:
        classifier = new_classifier(options, splits.task, workers.ctx)
    classifier.config.update(task_to_config(splits.task))
    folder = output_folder(options)
    if folder and workers.first:
        begin(folder, kind_of(options), options)
    if workers.first:
        console.start_logging(folder / "train.log" if folder else None)
    if options.freeze:
        freeze(classifier.net, options.freeze)
    classifier.net.bert.decay_lr_by_layer(options.layer_lr_decay)
    fused = workers.ctx[0].device_type == "cpu" and not options.no_native
    unavailable = classifier.compile(fused, options.dtype == "bfloat16")
    summary.log_files(splits.bad)
    if splits.bad.first and folder and workers.first:
        claim(folder, "skipped_rows.tsv")
        write_lines(folder / "skipped_rows.tsv", splits.bad.lines())
    for name, part in (splits.dev | splits.test).items():
        check_size(len(part), splits.task, name or "dev")
    data = tokenize_splits(splits, classifier.tokenizer, options)
    summary.log_data(data, classifier.tokenizer.unknown_id)
    run = Run(options, classifier, data, folder or Path(), workers, saves=folder is not None)
    log_machine(run, unavailable)
    return run


def check_output_folder(options: Options, folder: Path) -> None:
    """Raise UserError where files would be overwritten that are not the run's own."""
    check_inputs(folder, (options.train_file, options.dev_file, options.test_file))
    if options.only_inference:
        wanted = {
            "eval_metrics.json": True,
            "skipped_rows.tsv": options.skip_bad_rows,
            "test_predictions.tsv": bool(options.test_file),
            "predictions/*.tsv": options.predict_test,
        }
        check_results(folder, *(name for name, written in wanted.items() if written))
        return
    source = options.model_parameters or options.pretrained_bert_parameters
    if source:
        path = Path(source).resolve()
        if folder.resolve() == (path if path.is_dir() else path.parent):
            raise UserError(
                f"--output_dir {folder} is where the model to start from is: choose another folder"
            )
    folder_check(folder, kind_of(options), options.resume, options.overwrite)


def kind_of(options: Options) -> str:
    """Return what a folder's record calls a run with these options."""
    if options.grid:
        return "grid"
    return "seeds" if options.seeds else "folds" if options.folds else "single"


def check(run: Run) -> None:
    """Print examples as the model sees them, and try one batch."""
    data = run.data
    examples = data.train or next(iter((data.dev | data.test).values()))
    summary.log_examples(data.task, examples, run.classifier.tokenizer)
    if data.train:
        if run.options.folds:
            folds(data.train.label, run.options.folds, run.options.seed, data.task.regression)
        try_longest_batch(run)


def evaluate_only(run: Run) -> None:
    """Measure --model_parameters on the dev split, and predict the test split."""
    results: dict = {"task": run.data.task.name, "dtype": run.options.dtype}
    if run.data.dev:
        evaluation = Evaluation(run)
        results |= {"dev": evaluation.metrics, **evaluation.by_class()}
        console.log_scores(evaluation.metrics)
        if "per_class" in results:
            console.log_classes(results)
    predict_test(run, results)
    if run.output:
        claim(run.output, "eval_metrics.json")
        write_json(run.output / "eval_metrics.json", results)
        log.info(f"written to {run.output / 'eval_metrics.json'}")


def train_and_report(run: Run) -> dict:
    """Train one model, predict the test splits with the best, and leave all files in its folder.

    Where --resume finds the run finished, only what follows the training is done again.

    Returns
    -------
    dict
        The content of metrics.json; empty on all ranks but the first.
    """
    train(run)
    signals.check()
    folder = run.output
    task = run.data.task
    results = read_results(folder, task) if folder else {}
    if run.data.test:
        if folder:
            best = folder / "model.params"
            set_parameters(run.classifier.net, read_params(best), run.workers.ctx, best)
        run.workers.same_parameters(run.classifier.net)
        predict_test(run, results)
    if not folder:
        return results
    if run.data.test:
        write_json(folder / "metrics.json", results)
    predictions = read_predictions(folder / "dev_predictions.tsv", task, len(run.data.dev[""]))
    if run.options.calibrate:
        calibrate(folder, predictions, task)
    if model_card.write(folder, results, log.warning):
        claim(folder, "README.md")
    if run.data.dev_texts and not task.regression:
        log.info("\n" + confident_text(run.data.dev_texts, predictions.logits, task))
    console.log_epochs(results, task.metrics[0])
    if complaint := why_no_better_than_chance(run, results, predictions):
        log.warning(f"warning: {complaint}")
    files = (*RESULT_FILES, "README.md", "train.log")
    there = [name for name in files if (folder / name).exists()]
    log.info(f"files in {folder}: {', '.join(there)}")
    texts = ' --text_b "…"' if task.text_b_column else ""
    log.info(f'predict with: python3 predict.py --model_dir {folder} --text_a "…"{texts}')
    return results


def why_no_better_than_chance(run: Run, results: dict, predictions: Predictions) -> str | None:
    """Say what to try if the best model's dev predictions are no better than chance."""
    label, regression = run.data.dev[""].label, run.data.task.regression
    if not metrics.no_better_than_chance(predictions.logits, label, regression):
        return None
    lowest = min(row["train_loss"] or np.inf for row in results["epochs"])
    chance = metrics.chance_loss(run.train.label, regression)
    advice = (
        f"its loss fell from {chance:.3f} (chance) to {lowest:.3f} on the training data, so it has "
        "memorised them: check that the labels belong to the texts, or train on more data"
        if lowest < 0.9 * chance
        else "it did not learn the training data either: try a lower --lr than "
        f"{run.options.lr:g} or a longer --warmup_ratio, more --epochs, or another --seed, and "
        "check that the labels belong to the texts"
    )
    return f"on the dev data this model is no better than chance; {advice}"


def calibrate(folder: Path, predictions: Predictions, task: Task) -> None:
    """Fit temperature and thresholds to the best epoch's dev logits, into config.json."""
    from finetuning.results import calibration  # scikit-learn comes with it

    label, logits = predictions
    config = read_config(folder)
    if task.multi_label:
        found = calibration.fit_sets(logits, label, task.labels)
        logits, label = metrics.as_two_classes(logits, label)
    else:
        found = calibration.fit_temperature(logits, label)
    vocabulary = read_bytes(folder / "vocab.txt").decode()
    calibrated = config_text({**config, "calibration": found}, vocabulary)
    write_text(folder / "config.json", calibrated)
    log.info(
        f"\ncalibrated on the {len(predictions.label)} dev examples: temperature "
        f"{found['temperature']:.3f}, expected calibration error {found['ece_before']:.4f} before, "
        f"{found['ece_after']:.4f} after"
    )
    if reason := calibration.why_no_optimum(logits, label, found["temperature"]):
        log.warning(f"warning: this temperature is not an optimum: {reason}")
    if "threshold" in found:
        log.info(
            f"threshold {found['threshold']:.4f} for label {task.labels[1]!r}: F1 "
            f"{found['f1_before']:.4f} at 0.5, {found['f1_after']:.4f} with it"
        )
    if "thresholds" in found:
        log.info(
            f"thresholds of the {len(task.labels)} labels are in config.json: micro F1 "
            f"{found['micro_f1_before']:.4f} at 0.5, {found['micro_f1_after']:.4f} with them; "
            f"macro F1 {found['macro_f1_before']:.4f} and {found['macro_f1_after']:.4f}"
        )


def log_machine(run: Run, unavailable: str | None) -> None:
    """Print model and device; ``unavailable`` says why the fused operators are not used."""
    options, net = run.options, run.classifier.net
    if unavailable:
        log.info(f"warning   fused operators unavailable, training will be slower: {unavailable}")
    sizes = net.bert.config
    name = options.bert_model or f"bert_{sizes.num_layers}_{sizes.units}_{sizes.num_heads}"
    source = options.model_parameters or options.pretrained_bert_parameters or options.bert_dataset
    name = f"{name}, {source}" if source else name
    log.info(f"model     {name}, {run.num_parameters:,} parameters")
    if net.bert.frozen_layers is not None:
        log.info(f"frozen    {frozen_text(net)}")
    operators = "fused" if net.bert.fused else "stock"
    if options.dtype == "bfloat16":
        units = runtime.bfloat16_units()
        if units is None:
            log.info("warning   this processor emulates bfloat16, which is slower than float32")
        operators += f" operators, bfloat16 products{f' by {units}' if units else ''}"
    else:
        operators += f" operators, {options.dtype}"
        operators += " products by AMX" if net.bert.fused and native.amx else ""
        if net.bert.fused and runtime.bfloat16_units():  # MXNet's own are not faster in it
            operators += " (--dtype bfloat16 is faster here)"
    log.info(
        f"device    {run.workers}, {runtime.num_threads()} threads, MXNet {mx.__version__}, "
        f"{operators}"
    )

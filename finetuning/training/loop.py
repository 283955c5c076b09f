"""The training loop: next batch, update, evaluate, save, stop; and resuming a run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from bert.errors import UserError
from bert.files import write_text
from bert.parameters import read_params
from bert.run_config import config_text
from dataset import DEV_EXAMPLES
from finetuning import signals
from finetuning.console import ProgressReport, log
from finetuning.flags import flags_of
from finetuning.results.finished_run import read_results
from finetuning.results.predictions import mistakes_text, read_predictions
from finetuning.results.tensorboard_events import EventFile
from finetuning.training import checkpoint
from finetuning.training.check import Estimate
from finetuning.training.evaluation import Evaluation
from finetuning.training.folder import claim
from finetuning.training.inputs import OutOfMemoryError
from finetuning.training.kept import keep_outputs
from finetuning.training.losses import loss_for
from finetuning.training.record import read_record
from finetuning.training.run import Run
from finetuning.training.state import STATE, RunState
from finetuning.training.trainer import Progress, Trainer

# What follows from nothing but the training.
TRAINED_FILES = ("model.params", "metrics.json", "dev_predictions.tsv")


def train(run: Run) -> None:
    """Train a run's classifier, resuming if asked to; the best model's files are there afterwards.

    Raises
    ------
    Interrupted
        A signal has come; a checkpoint is written.
    """
    net, data = run.classifier.net, run.data
    run.workers.same_parameters(net)
    trainer = Trainer(net, run.train, loss_for(data), run.workers, run.options)
    with closing(RunState(run, trainer)) as state:
        if start_or_resume(run, trainer, state):
            keep_outputs(run)
            with signals.deferred():
                train_epochs(run, trainer, state)


def train_epochs(run: Run, trainer: Trainer, state: RunState) -> None:
    """Train to the end. All ranks do the same: what depends on a clock or signal they agree on."""
    options, workers = run.options, run.workers
    estimate = Estimate(run, trainer)
    interrupted, late = workers.agree(signals.received(), False)
    # An evaluation can be interrupted by a rank only if it is the only one.
    check = signals.check if workers.ranks == 1 else lambda: None
    with (
        ProgressReport(trainer.total_updates, trainer.updates, options.log_interval) as progress,
        EventFile(run.output, options.tensorboard, trainer.updates, log.warning) as events,
    ):
        if run.output and events.name:
            claim(run.output, events.name)
        while not (state.finished or interrupted):
            if state.evaluation_due:
                try:
                    evaluation = Evaluation(run, check)
                    improved = state.record(evaluation)
                except signals.Interrupted:
                    break  # resuming repeats the evaluation
                except (MemoryError, OutOfMemoryError):
                    state.save(with_checkpoint=True)  # what was trained can be resumed
                    raise
                events.add(trainer.updates, _named("dev", evaluation.metrics))
                log_evaluation(trainer.updates, state.epoch, evaluation, improved)
                interrupted, late = workers.agree(signals.received(), state.checkpoint_late)
            else:
                for update in trainer.updates_until(state.next_stop):
                    state.add(update)
                    progress(update)
                    estimate(update)
                    events.add(update.update, _train_scalars(update))
                    interrupted, late = workers.agree(signals.received(), state.checkpoint_late)
                    if interrupted or late:
                        trainer.pause()
            if not (state.evaluation_due or state.finished or interrupted):
                state.save(with_checkpoint=state.checkpoint_due or late)
    state.save(with_checkpoint=True, finished=state.finished)
    state.wait()
    if not state.finished:
        signals.stop()
    elif state.evaluated < trainer.total_updates:
        log.info(f"stopped early: no improvement for {options.early_stop} epochs")


def start_or_resume(run: Run, trainer: Trainer, state: RunState) -> bool:
    """Prepare the folder, or restore its newest checkpoint; returns whether training is needed."""
    folder = run.output
    saved = newest_state(folder) if run.options.resume and folder else None
    saved = run.workers.same_checkpoint(saved)
    if saved:
        check_same_run(run, saved[0], state)
        if saved[0]["finished"]:
            if folder:
                mend(run, folder)
            log.info(f"the run in {run.folder} is finished: there is nothing to resume")
            return False
        state.restore(*saved)
        log.info(f"resumed   after update {trainer.updates} of {trainer.total_updates}")
    else:
        if run.options.resume:
            log.info("resume    no complete checkpoint found: starting from the beginning")
        state.save(with_checkpoint=True)
    if folder:
        write_model_description(run, folder)
    return True


def newest_state(folder: Path) -> tuple[dict, dict] | None:
    """Return the newest complete checkpoint; of a finished run that has none, its record."""
    saved = checkpoint.load_newest(folder, log.warning, STATE)
    record = read_record(folder)
    if saved is None and record and record.finished:
        return {"identity": record.finished, "environment": {}, "finished": True}, {}
    if saved is None and (folder / "model.params").exists() and not (record and record.argv):
        raise UserError(
            f"--resume: {folder} holds a model but no checkpoint, so it cannot be told whether its "
            "training was finished: train again with --overwrite, or choose another --output_dir"
        )
    return saved


def mend(run: Run, folder: Path) -> None:
    """Write files again that a finished run lacks; UserError if they follow from its training."""
    lost = [name for name in TRAINED_FILES if not (folder / name).is_file()]
    if lost:
        raise UserError(
            f"the finished run in {folder} lacks {', '.join(lost)}, which only training gives: "
            "train it again with --overwrite"
        )
    task = run.data.task
    try:
        read_params(folder / "model.params")
        read_results(folder, task)
        predictions = read_predictions(folder / "dev_predictions.tsv", task, len(run.data.dev[""]))
    except UserError as error:
        raise UserError(
            f"{error}; only training gives this file: train again with --overwrite"
        ) from None
    described = ["config.json", "vocab.txt", DEV_EXAMPLES]
    if run.classifier.tokenizer.tokenizer_json is not None:
        described.append("tokenizer.json")
    if not all((folder / name).is_file() for name in described):
        write_model_description(run, folder)
    mistakes = folder / "dev_mistakes.tsv"
    if run.data.dev_texts and not mistakes.is_file():
        claim(folder, mistakes.name)
        write_text(mistakes, mistakes_text(run.data.dev_texts, predictions.logits, task))


def write_model_description(run: Run, folder: Path) -> None:
    """Write what is needed to load a run's model.params, and what exports are checked on."""
    claim(folder, "vocab.txt", "config.json", DEV_EXAMPLES)
    tokenizer = run.classifier.tokenizer
    if tokenizer.tokenizer_json is not None:
        claim(folder, "tokenizer.json")
        write_text(folder / "tokenizer.json", tokenizer.tokenizer_json)
    vocabulary = tokenizer.vocabulary_text()
    write_text(folder / "vocab.txt", vocabulary)
    write_text(folder / "config.json", config_text(run.classifier.config, vocabulary))
    checkpoint.write_arrays(folder / DEV_EXAMPLES, run.data.dev[""].to_arrays())


def check_same_run(run: Run, saved: dict, state: RunState) -> None:
    """Raise UserError where flags or files are not those of the run to resume."""
    # A run of an earlier version lacks the labels, and the flags that are new: it had what is their
    # default.
    contents = {"labels": state.identity["contents"]["labels"], **saved["identity"]["contents"]}
    defaults = {f.name: f.default for f, _ in flags_of(run.options)}
    arguments = defaults | saved["identity"]["arguments"]
    differences = [
        f"--{name} was {arguments[name]}, now {value}"
        for name, value in state.identity["arguments"].items()
        if arguments[name] != value
    ] + [
        f"the {name} have changed"
        for name, value in state.identity["contents"].items()
        if contents.get(name) != value
    ]
    if differences:
        raise UserError(
            f"--resume does not match the run in {run.folder}: {'; '.join(differences)}; use the "
            "original values, start over with --overwrite, or train its model further with "
            f"--model_parameters {run.folder} and another --output_dir"
        )
    for name, value in state.environment.items():
        before = saved["environment"].get(name)
        if before != value:
            log.warning(
                f"warning: {name} was {before}, now {value}: the result may differ from that of "
                "an uninterrupted run in its last digits"
            )


def log_evaluation(update: int, epoch: int, evaluation: Evaluation, improved: bool) -> None:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
    log.info(
        f"epoch {epoch}, update {update}: dev {scores}{', the best so far' if improved else ''}"
    )


def _train_scalars(update: Progress) -> dict[str, float]:
    return {
        "train/loss": update.loss,
        "train/learning_rate": update.lr,
        "train/gradient_norm": update.gradient_norm,
        "train/samples_per_second": update.samples_per_second,
    }


def _named(prefix: str, scalars: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in scalars.items()}

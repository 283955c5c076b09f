"""Export a fine-tuned model and verify it on the run's dev examples: export_classifier.py.

A folder with the model alone, as convert_gluonnlp.py writes it, is verified on random texts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx
import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

from bert.classifier import Classifier, load_classifier
from bert.errors import RunError, UserError
from bert.files import write_text
from bert.parameters import read_params, release_memory
from bert.prediction import averaged
from bert.terminal import say, shown
from dataset import (
    DEV_EXAMPLES,
    Examples,
    TokenizedExamples,
    evaluation_batches,
    padded_batch,
    tokenize,
)
from finetuning import console
from finetuning.data.tasks import Task, task_from_config
from finetuning.output import folder_target, replacing_folder
from finetuning.results import metrics, model_card
from finetuning.results.export_formats import FILES, FORMATS, Compute
from finetuning.results.finished_run import read_results
from finetuning.results.predictions import differ, read_predictions
from finetuning.training.evaluation import predict
from finetuning.training.workers import Workers

# Float32 logits that differ by more than this are not those of the same function: MXNet, PyTorch
# and ONNX Runtime have been seen to differ by a hundredth of it.
_TOLERANCE = 1e-3
# The same for the logits that a run in bfloat16 or float16 recorded, compared with float32.
_LOW_PRECISION_TOLERANCE = 0.3
_CONFIDENCE = 0.95
# What a run was measured on; a folder with none of these files holds the model alone.
_MEASURED = ("metrics.json", "dev_predictions.tsv", DEV_EXAMPLES)
_RANDOM_EXAMPLES = 64
# The files of weights, in all formats.
_WEIGHTS = (".params", ".safetensors", ".onnx")


def export(args: argparse.Namespace) -> None:
    """Do what export_classifier.py's flags say.

    Raises
    ------
    UserError
        The folder may not be written, or the run's files are missing or do not fit each other.
    RunError
        The export does not compute what the run does. Nothing of it is kept.
    """
    format, run = FORMATS[args.format], Path(args.model_dir)
    run = run if run.is_dir() else run.parent
    out = folder_target(Path(args.output_dir), [run], args.overwrite, is_export)
    check = load_check(run, args)
    say(f"comparing labels and logits of {check.what}")
    rows = [check.row("this project", check.logits, (run / "model.params").stat().st_size)]
    steps = [(args.format, format.write, _TOLERANCE)]
    if args.quantize and format.quantize:
        steps.append((f"{args.format}, int8", format.quantize, np.inf))

    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(out) as folder:
        for name, write, tolerance in steps:
            # Loaded for each step: an export is read back without the network in memory.
            release_memory()
            model = load_classifier(args.model_dir)
            config = model.config
            write(folder, model)
            del model
            release_memory()
            logits = logits_by(format.read(folder), check.examples, args.batch_size)
            difference = float(np.abs(logits - check.logits).max())
            if not difference <= tolerance:
                raise RunError(
                    f"the export's logits differ by up to {difference:.3g} from the run's: "
                    "nothing of it was kept"
                )
            rows.append(check.row(name, logits, _bytes_of_weights(folder)))
        table: list[list] = [check.header, *rows]
        card = model_card.export_text(config, check.arguments, format, check.what, table)
        write_text(folder / "README.md", card)
    say(console.table(check.header, rows))
    if note := model_card.long_text_note(config):
        say(f"note: {note}")
    say(shown(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}"))


def is_export(folder: Path) -> bool:
    """Tell whether a folder holds an export of this program, and nothing else."""
    return model_card.is_export(folder) and {path.name for path in folder.iterdir()} <= FILES


@dataclass(frozen=True)
class Check:
    """What an export is compared with: the run's dev examples and the logits it has for them."""

    task: Task
    examples: TokenizedExamples
    logits: np.ndarray  # [examples, outputs], as predict.py computes them
    arguments: dict  # the run's, from metrics.json
    labelled: bool  # False: the examples are random texts

    @property
    def what(self) -> str:
        kind = "dev examples of the run" if self.labelled else "random texts (there is no dev data)"
        return f"{len(self.examples)} {kind}"

    @property
    def header(self) -> list[str]:
        names = ["accuracy", "95 % interval"]
        if self.task.multi_label:
            names = ["micro_f1", "all labels right", "95 % interval"]
        if self.task.regression:
            names = ["pearson", "95 % interval"]
        changed = [] if self.task.regression else ["labels changed"]
        return ["", *(names if self.labelled else []), *changed, "max difference", "size MB"]

    def row(self, name: str, logits: np.ndarray, size: int) -> list[float | str]:
        """Return a row of the table for logits ``[examples, outputs]``; ``size`` in bytes."""
        changed = []
        if not self.task.regression:
            label = self.examples.label
            other = differ(metrics.decisions(logits, label), metrics.decisions(self.logits, label))
            changed = [str(other.sum())]
        difference = f"{np.abs(logits - self.logits).max():.2g}"
        score = self._score(logits) if self.labelled else []
        return [name, *score, *changed, difference, f"{size / 1e6:.1f}"]

    def _score(self, logits: np.ndarray) -> list[float | str]:
        label, first = self.examples.label, []
        if self.task.regression:
            metric = metrics.compute(logits, label, ("pearson",))["pearson"]
            low, high = metrics.pearson_interval(logits[:, 0], label, _CONFIDENCE)
        else:
            predicted = metrics.decisions(logits, label)
            if self.task.multi_label:
                first = [metrics.f1_of_sets(predicted, label)["micro_f1"]]
            right = int((~differ(predicted, label)).sum())
            metric = right / len(label)
            low, high = binomtest(right, len(label)).proportion_ci(_CONFIDENCE, method="wilson")
        known = np.isfinite([low, high]).all()
        return [*first, float(metric), f"{low:.3f} to {high:.3f}" if known else "unknown"]


def _bytes_of_weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in _WEIGHTS)


def load_check(run: Path, args: argparse.Namespace) -> Check:
    """Read what a run was measured on, or make up texts, and compute their logits.

    Raises
    ------
    UserError
        The files do not belong to each other or to the model.
    """
    model = load_classifier(args.model_dir)
    task = task_from_config(model.config)
    arguments, recorded = {}, None
    if any((run / name).exists() for name in _MEASURED):
        arguments = read_results(run, task)["arguments"]
        examples = read_dev_examples(run, model, task)
        recorded = read_predictions(run / "dev_predictions.tsv", task, len(examples)).logits
    else:
        examples = random_examples(model, task)
    model.compile()
    logits = predict(model.net, examples, args.batch_size, Workers([mx.cpu()]))
    tolerance = _TOLERANCE if arguments.get("dtype") == "float32" else _LOW_PRECISION_TOLERANCE
    if recorded is not None and not np.abs(logits - recorded).max() <= tolerance:
        raise UserError(
            f"{run}: model.params does not give the predictions in dev_predictions.tsv: is a run "
            "still writing there?"
        )
    return Check(task, examples, logits, arguments, recorded is not None)


def random_examples(model: Classifier, task: Task) -> TokenizedExamples:
    """Return texts of random words of the vocabulary, of all lengths, with meaningless labels."""
    random = np.random.default_rng(0)
    words, max_len = list(model.tokenizer.vocab), model.config["max_len"]

    def texts() -> list[str]:
        lengths = random.integers(1, max_len, _RANDOM_EXAMPLES)
        return [" ".join(random.choice(words, length)) for length in lengths]

    label = np.zeros(_RANDOM_EXAMPLES, np.float32 if task.regression else np.int32)
    pairs = texts() if task.text_b_column is not None else None
    return tokenize(Examples(texts(), pairs, label), model.tokenizer, max_len)


def read_dev_examples(run: Path, model: Classifier, task: Task) -> TokenizedExamples:
    """Read the examples a run was measured on; UserError if they are not the model's."""
    path = run / DEV_EXAMPLES
    arrays = read_params(path)
    try:
        examples = TokenizedExamples.from_arrays(arrays)
    except ValueError as error:
        raise UserError(f"{path} holds no examples: {error}") from None
    sizes, ids, label = model.net.bert.config, examples.input_ids, examples.label
    if ids.min() < 0 or ids.max() >= sizes.vocab_size or examples.lengths.max() > sizes.max_length:
        raise UserError(f"{path} holds examples of another model than the one beside it")
    if task.multi_label:
        known = label.shape == (len(examples), task.outputs) and label.max() <= 1
    elif task.regression:
        known = label.dtype.kind == "f"
    else:
        known = label.dtype.kind == "i" and 0 <= label.min() <= label.max() < task.outputs
    if not known:
        raise UserError(f"{path} holds labels of another task than the model's, {task.name}")
    return examples


def logits_by(compute: Compute, examples: TokenizedExamples, batch_size: int) -> np.ndarray:
    """Return the logits ``[examples, outputs]`` that a function of padded batches gives."""
    logits: dict[int, np.ndarray] = {}
    batches = evaluation_batches(examples.lengths, batch_size)
    for indices in tqdm(batches, unit=" batches", delay=1, leave=False, disable=None):
        logits |= zip(indices.tolist(), compute(*padded_batch(examples, indices)), strict=True)
    rows = np.stack([logits[i] for i in range(len(examples.lengths))])
    return averaged(rows, examples.windows)

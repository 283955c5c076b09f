"""The flags of finetune_classifier.py: their meanings and defaults, and how they combine.

``python -m finetuning.options`` prints docs/flags.md.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bert import __version__, terminal
from bert.errors import UserError
from bert.run_config import HEAD, LONG_TEXT
from bert.runtime import dtype_for
from bert.terminal import say
from finetuning import command
from finetuning.data.tasks import LANGUAGES, OWN_DATA, SEPARATOR, TASKS, find_task
from finetuning.flags import (
    OptionsParser,
    Rule,
    flag,
    flags_of,
    number,
    numbers,
    one_of,
    switch,
    tables,
)
from finetuning.training.record import recorded_flags

# How often a run is saved within an epoch unless --checkpoint_steps says otherwise.
CHECKPOINT_SECONDS = 300
_OUTPUT_DIR = Path("output_dir")

_COUNT, _SEED = number(int, 1), number(int, 0)
_POSITIVE = number(float, 0, open_low=True)
_RATE = number(float, 0, 1, open_high=True)
_SHARE = number(float, 0, 1, open_low=True, open_high=True)
_OPTIMIZER = one_of("bertadam", "adamw", "adam", "sgd")
_DTYPE = one_of("float32", "bfloat16", "float16", "auto")


def _frozen(text: str) -> int | str:
    if text in ("embeddings", "all"):
        return text
    try:
        return _COUNT(text)
    except UserError:
        raise UserError(
            f"must be a number of layers from 1 on, 'embeddings' or 'all', not {text!r} (without "
            "the flag nothing is frozen)"
        ) from None


def _separator(text: str) -> str:
    # Blank values are refused everywhere: they come from shell variables that are not set.
    return " " if text == "space" else text


@dataclass(frozen=True, kw_only=True)
class Options:
    """The values of all flags, complete and never written to; see :func:`parse`.

    Flags that decide the result are recorded in the order of their declarations.

    Attributes
    ----------
    given : frozenset of str
        The names of the flags that were on the command line, or on that of the run to resume.
    argv : tuple of str
        These flags with their values, as typed.
    grid : tuple of (str, tuple)
        The flags of :data:`GRID` that have several values, and those; the field of such a flag is
        the first.
    """

    given: frozenset[str] = frozenset()
    argv: tuple[str, ...] = field(default=(), compare=False)
    grid: tuple[tuple[str, tuple], ...] = ()

    # A table: default, type, placeholder, help.
    # fmt: off

    task_name: str = flag("MRPC", lambda name: find_task(name).name, "TASK",
        ", ".join(TASKS), decides=True, in_config=True, group="tasks with a name")
    data_dir: Path | None = flag(None, Path, "DIR", "folder with one subfolder per task",
        unset="$GLUE_DIR")
    language: str | None = flag(None, one_of(*LANGUAGES), "LANG",
        "language of XNLI: of the training file, and of the rows read of the dev and test files",
        unset="zh, or that of --model_parameters", decides=True)

    train_file: Path | None = flag(None, Path, "FILE",
        "train on these rows (.tsv: one line is one row, and quotes are text; .csv: RFC 4180; "
        ".jsonl: one JSON object per line; .parquet needs pyarrow)",
        group="your own files (.tsv, .csv or .jsonl, also with .gz; .parquet)")
    dev_file: Path | None = flag(None, Path, "FILE", "evaluate on these labelled rows")
    test_file: Path | None = flag(None, Path, "FILE",
        "predict these rows with the best epoch's model, into test_predictions.tsv")
    text_a_column: str = flag("text_a", str, "NAME", "column of the text")
    text_b_column: str | None = flag(None, str, "NAME", "column of the second text of a pair",
        unset="single texts")
    label_column: str = flag("label", str, "NAME", "column of the label")
    regression: bool = switch("the label column holds numbers to predict")
    multi_label: str | None = flag(None, _separator, "SEPARATOR",
        "a text has any number of labels: names in --label_column with this between them (a comma "
        "if it is left out; space: a space) or as a JSON list; or --label_column names several "
        "columns, separated by commas, with 0 or 1 in each",
        unset="one label", bare=SEPARATOR)
    quoted_tsv: bool = switch(
        "read the quotes of .tsv files as those of CSV, as spreadsheets write them",
        unset="quotes are text")
    dev_fraction: float | None = flag(None, _SHARE, "R",
        "evaluate on this share of --train_file, drawn within each label by the seed",
        decides=True)
    folds: int | None = flag(None, number(int, 2), "K",
        "cross-validate on --train_file: train K times, each time evaluating on another K-th of it",
        decides=True)

    class_weights: str | None = flag(None, str, "WEIGHTS",
        "per-label loss weights: balanced, or label=weight,...; the weighted losses are divided by "
        "the number of examples, and the dev loss is not weighted",
        unset="1 for all", decides=True, group="all data")
    skip_bad_rows: bool = switch("skip unusable rows and list them in skipped_rows.tsv",
        unset="stop at the first", decides=True)
    check: bool = switch("describe the data, run one batch, estimate time and memory, and stop")

    bert_model: str = flag("bert_12_768_12", str, "NAME",
        "a name that python -m bert.zoo lists, e.g. bert_6_384_12; a repository on the Hugging "
        "Face Hub (organisation/name); or a folder in its layout",
        decides=True, in_config=True, group="model")
    bert_dataset: str = flag("book_corpus_wiki_en_uncased", str, "NAME",
        "what --bert_model was pretrained on: python -m bert.zoo lists the names",
        decides=True, in_config=True)
    revision: str | None = flag(None, str, "REVISION",
        "branch, tag or commit of a repository on the Hub", unset="the latest", decides=True)
    pretrained_bert_parameters: Path | None = flag(None, Path, "PATH",
        "pretrained weights to start from: a .params file of --bert_model with its vocabulary in "
        "the same folder, or a folder in Hugging Face's layout",
        unset="those of --bert_model and --bert_dataset")
    model_parameters: Path | None = flag(None, Path, "PATH",
        "fine-tuned model to start from or to evaluate: a run's output folder, or the .params "
        "file in it; its config.json sets task, model and --max_len")

    batch_size: int = flag(32, numbers(_COUNT, "a size"), "N",
        "examples per batch, over all devices; several (16,32): train once with each, also "
        "crossed with several --lr, --epochs and --seeds, and compare the models",
        decides=True, group="training")
    optimizer: str = flag("bertadam", _OPTIMIZER, "NAME",
        "bertadam: decoupled weight decay, no bias correction; adamw: with bias correction; "
        "adam (epsilon is added before the bias correction), sgd: MXNet's",
        decides=True)
    epochs: int = flag(3, numbers(_COUNT, "a number"), "N",
        "passes over the training data; several: as --batch_size", decides=True)
    lr: float = flag(5e-5, numbers(_POSITIVE, "a rate"), "RATE",
        "peak learning rate; several: as --batch_size", decides=True)
    layer_lr_decay: float = flag(1.0, number(float, 0, 1, open_low=True), "R",
        "layer-wise decay of the learning rate: each layer's is R times that of the layer above "
        "it, down to the embeddings (https://arxiv.org/abs/2006.05987)",
        decides=True)
    epsilon: float = flag(1e-6, _POSITIVE, "E", "added to Adam's denominator", decides=True)
    weight_decay: float = flag(0.01, number(float, 0), "W",
        "weight decay for everything except biases and LayerNorm", decides=True)
    max_grad_norm: float = flag(1.0, number(float, 0), "NORM",
        "scale gradients down to this global norm where theirs is larger; 0: never", decides=True)
    dropout: float = flag(0.1, _RATE, "P", "dropout rate in the complete network", decides=True)
    warmup_ratio: float = flag(0.1, _RATE, "R",
        "share of the updates in which the learning rate rises to its peak; then it falls to 0, "
        "which it would reach after the last update",
        decides=True)
    max_len: int = flag(128, number(int, 5), "N",
        "maximum tokens per example, including [CLS] and [SEP]; longer examples are truncated, "
        "or as --long_text says",
        decides=True, in_config=True)
    long_text: str = flag(HEAD, one_of(*LONG_TEXT), "HOW",
        "what the model sees of a text that is longer than --max_len: head, its beginning; "
        "head_tail, the first quarter and the rest from its end; windows, all of it, in "
        "overlapping windows, whose logits are averaged (each is an example of a training batch)",
        decides=True, in_config=True)
    swap_pairs: bool = switch(
        "train on each pair in either order, in turn (in every epoch half of the pairs are "
        "swapped): for pairs whose label does not depend on the order, such as paraphrases "
        "(https://arxiv.org/abs/2203.13491)",
        decides=True)
    seed: int = flag(2, _SEED, "N", "random seed for the new layer, shuffling and dropout",
        decides=True)
    seeds: tuple[int, ...] = flag((), numbers(_SEED, "a seed"), "N,N,...",
        "train once per seed, into output_dir/seed-N, and compare the models")
    freeze: int | str | None = flag(None, _frozen, "LAYERS",
        "do not train, and use no dropout in: the embeddings and the first N layers (a number), "
        "the embeddings (embeddings), or all that was pretrained (all); this part then computes "
        "each example once (without the fused CPU operators: in every epoch)",
        unset="train all", decides=True)
    training_steps: int | None = flag(None, _COUNT, "N",
        "make N updates, in as many epochs as they need (--epochs is then ignored)",
        unset="--epochs", decides=True)
    max_train_samples: int | None = flag(None, _COUNT, "N",
        "train on N examples, drawn by the seed", unset="all", decides=True)
    accumulate: int = flag(1, _COUNT, "N",
        "accumulate gradients over N batches per update; equivalent to one batch N times as large",
        decides=True)
    skip_nonfinite: int = flag(0, number(int, 0), "N",
        "skip up to N updates with a non-finite loss or gradient", unset="0: stop at the first")

    early_stop: int | None = flag(None, _COUNT, "N",
        "stop after N epochs without improvement on the dev set",
        unset="never", decides=True, group="evaluation and output")
    eval_steps: int | None = flag(None, _COUNT, "N", "evaluate every N updates too",
        unset="after each epoch only", decides=True)
    dev_batch_size: int = flag(32, _COUNT, "N", "examples per batch in evaluation and prediction",
        alias="--test_batch_size", decides=True)
    only_inference: bool = switch(
        "do not train: evaluate --model_parameters on the dev set, predict the test set if asked "
        "to, and write eval_metrics.json if --output_dir is given")
    predict_test: bool = switch(
        "predict the task's test set with the best epoch's model, into predictions/TASK.tsv in "
        "gluebenchmark.com's format (pack_submission.py packs these files); test sets with labels, "
        "into test_predictions.tsv, and score them")
    calibrate: bool = switch(
        "after training, fit the temperature of the probabilities and, for two labels or "
        "--multi_label, the thresholds with the highest F1 to the dev set; predict.py finds them "
        "in config.json "
        "(with --resume also for a finished run)")
    output_dir: Path | None = flag(None, Path, "DIR", "folder for the run's files",
        unset="./output_dir")
    tensorboard: bool | None = switch("write TensorBoard event files into --output_dir",
        default=None, unset="if tensorboard is installed", opposite="--no_tensorboard")
    log_interval: int = flag(10, _COUNT, "N", "log every N updates")

    resume: bool = switch(
        "continue the run in --output_dir from its latest complete checkpoint, or start over if "
        "there is none",
        group="saving and resuming")
    overwrite: bool = switch("delete the run in --output_dir and start over")
    checkpoint_steps: int | None = flag(None, _COUNT, "N", "write a checkpoint every N updates",
        unset=f"after each epoch, and every {CHECKPOINT_SECONDS // 60} minutes")
    keep_checkpoints: int = flag(1, _COUNT, "K",
        "checkpoints to keep; each takes the space of three or four models")

    gpu: tuple[int, ...] | None = flag(None, numbers(number(int, 0), "a GPU"), "IDS",
        "GPU numbers, e.g. 0,1; with no number: the first GPU, or under Horovod the one of this "
        "rank",
        unset="the CPU", bare=(), group="machine")
    comm_backend: str = flag("device", one_of("device", "horovod"), "NAME",
        "how gradients are summed: device, across the GPUs of one process; horovod, across the "
        "processes of horovodrun")
    dtype: str = flag("float32", _DTYPE, "TYPE",
        "data type of matrix products: float32; bfloat16 (CPU); float16 with dynamic loss "
        "scaling (GPU); auto: bfloat16 on a CPU that multiplies faster in it (AVX512-BF16, AMX), "
        "otherwise float32; the type that auto takes is recorded; parameters stay float32",
        decides=True)
    num_threads: int | None = flag(None, _COUNT, "N", "CPU threads",
        unset="the physical cores this process may use")
    no_native: bool = switch("use MXNet's own operators, not the faster ones compiled for this CPU")

    # fmt: on

    @property
    def own_files(self) -> bool:
        """Whether the data is the user's own files and not a GLUE task."""
        return bool(self.train_file or self.dev_file or self.test_file)

    def deciding(self) -> dict[str, Any]:
        """Return the values that, with the data, decide the result: metrics.json records them."""
        return {f.name: getattr(self, f.name) for f, about in flags_of(self) if about.decides}

    def in_config(self) -> dict[str, Any]:
        """Return the values that a model trained with them has in its config.json."""
        return {f.name: getattr(self, f.name) for f, about in flags_of(self) if about.in_config}

    def with_model_config(self, config: dict) -> Options:
        """Take from a trained model's config.json what it decides, and its columns' names.

        Raises
        ------
        UserError
            A flag that was given contradicts it.
        """
        for name, value in self.in_config().items():
            trained = config.get(name, HEAD)  # earlier versions' config.json lacks long_text
            if name in self.given and value != trained:
                raise UserError(f"--{name} {value}: --model_parameters was trained with {trained}")
        columns = {"text_a_column", "label_column"} - self.given
        names = (columns | self.in_config().keys()) & config.keys()
        return replace(self, **{name: config[name] for name in names})


def _missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def _is_folder(options: Options, name: str) -> bool:
    return name in options.given and Path(getattr(options, name)).is_dir()


def _same_columns(options: Options) -> bool:
    columns = ("text_a_column", "text_b_column", "label_column")
    # A trained model's config.json may have other defaults.
    counted = options.given if options.model_parameters else columns
    names = [getattr(options, name) for name in columns if name in counted]
    return len(set(names)) < len(names)


# Flags that take several values.
GRID = ("lr", "epochs", "batch_size")
_FILES = "train_file dev_file test_file"
_DEV = {"dev_file", "dev_fraction", "folds"}

# fmt: off
RULES: tuple[Rule[Options], ...] = (
    Rule("only_inference", needs="model_parameters"),
    Rule("only_inference", "--only_inference does not train",
        excludes="train_file resume overwrite seeds freeze swap_pairs"),
    Rule(lambda o: o.only_inference and bool({"predict_test", "test_file"} & o.given),
        "predicting with --only_inference", needs="output_dir"),
    Rule(_FILES, "--task_name is not for your own files", excludes="task_name"),
    Rule(_FILES, "--language is for XNLI's files", excludes="language"),
    Rule(_FILES, "--predict_test is not for your own files", excludes="predict_test"),
    Rule("text_a_column text_b_column label_column regression multi_label quoted_tsv",
        needs=_FILES),
    Rule(_same_columns, "the columns of texts and label must be different ones"),
    Rule("dev_fraction folds", needs="train_file"),
    Rule("dev_file test_file", needs="train_file only_inference"),
    Rule(lambda o: o.train_file is not None and len(_DEV & o.given) != 1,
        "pass exactly one of --dev_file, --dev_fraction and --folds with --train_file (e.g. "
        "--dev_fraction 0.1)"),
    Rule("folds", "--folds leaves no single model that could predict", excludes="test_file"),
    Rule("folds", "--folds evaluates on rows that this model saw", excludes="model_parameters"),
    Rule("regression", "--regression has no labels to weight", excludes="class_weights"),
    Rule("multi_label", "--multi_label is for labels, not for numbers", excludes="regression"),
    Rule("multi_label", "--multi_label weights all labels alike (for rare ones, --calibrate fits a "
        "threshold per label)", excludes="class_weights"),
    Rule("calibrate", "--calibrate is for the training of a classifier",
        excludes="only_inference regression"),
    Rule("model_parameters", "--model_parameters already holds the pretrained weights",
        excludes="pretrained_bert_parameters"),
    Rule(lambda o: _is_folder(o, "bert_model"),
        "--bert_model is a folder, which holds all that is needed",
        excludes="bert_dataset pretrained_bert_parameters model_parameters revision"),
    Rule(lambda o: _is_folder(o, "pretrained_bert_parameters"),
        "--pretrained_bert_parameters is a folder, which holds all that is needed",
        excludes="bert_model bert_dataset"),
    Rule(lambda o: "/" in o.bert_model, "--bert_model is a repository", excludes="bert_dataset"),
    Rule("revision", "--revision is for models from the Hugging Face Hub",
        excludes="pretrained_bert_parameters model_parameters"),
    Rule("resume", "--resume continues a run, --overwrite deletes it", excludes="overwrite"),
    Rule("seeds", "--seeds trains once per seed", excludes="seed folds"),
    Rule(lambda o: bool(o.grid), "several values of --lr, --epochs or --batch_size train several "
        "models", excludes="folds check only_inference"),
    Rule(lambda o: bool(o.grid) and o.training_steps is not None and "epochs" in dict(o.grid),
        "--training_steps replaces --epochs: give one value of --epochs"),
    Rule(lambda o: bool(o.grid) and o.comm_backend == "horovod",
        "--comm_backend horovod trains one model: give one value of --lr, --epochs and "
        "--batch_size"),
    Rule(lambda o: bool(o.tensorboard) and _missing("tensorboard"),
        "--tensorboard: TensorBoard is not installed; run pip install tensorboard"),
    Rule(lambda o: o.dtype == "float16", "--dtype float16 (on a CPU, use bfloat16)", needs="gpu"),
    Rule(lambda o: o.dtype == "bfloat16", "--dtype bfloat16 is for CPUs", excludes="gpu"),
    Rule(lambda o: o.comm_backend == "horovod" and _missing("horovod"),
        "--comm_backend horovod: Horovod is not installed; run make setup-distributed"),
    Rule(lambda o: o.comm_backend == "horovod", "--comm_backend horovod trains one model",
        excludes="seeds folds check"),
)
# fmt: on

# Flags of gluonnlp's script of the same name that change nothing here: they are accepted.
NEEDLESS = dict.fromkeys(
    ("pad", "round_to"),
    "batches are padded to their longest example, which does not change the result",
)
# Others, which are refused, and what to do instead.
_INT8 = "export_classifier.py --format onnx --quantize dynamic"
ELSEWHERE = {
    "deploy": "predict.py runs a trained model, export_classifier.py exports it",
    "model_prefix": "export_classifier.py exports a trained model",
    "only_calibration": f"{_INT8} exports a trained model with 8-bit weights",
    "num_calib_batches": f"{_INT8} needs no calibration batches",
    "quantized_dtype": f"{_INT8} chooses the type of the integers",
    "calib_mode": f"{_INT8} needs no calibration",
}


def parse(description: str | None, argv: list[str] | None = None) -> Options:
    """Read the flags; exits with code 2 and one sentence if they are wrong or do not combine.

    What follows from several flags is settled: the folders, where the pretrained weights come
    from, what ``--dtype auto`` means here, and ``seed``, the first of ``--seeds``. What a trained
    model decides is not yet: see :meth:`Options.with_model_config`.
    """
    parser = OptionsParser("finetune_classifier.py", description)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add(Options)
    for name in (*NEEDLESS, *ELSEWHERE):
        parser.hide(name)
    argv = list(sys.argv[1:] if argv is None else argv)
    values = parser.read(argv)
    if values.get("resume"):
        # A run knows its flags; those on this command line come later and so count. Where it is
        # written does not come from the file.
        folder = values.get("output_dir", _OUTPUT_DIR)
        argv = recorded_flags(folder) + argv
        values = {**parser.read(argv), "output_dir": folder}
    for name in values.keys() & ELSEWHERE:
        parser.error(f"--{name} is a flag of gluonnlp's script: here, {ELSEWHERE[name]}")
    for name in values.keys() & NEEDLESS:
        say(f"{parser.prog}: note: --{name} is not needed: {NEEDLESS[name]}", sys.stderr)
        del values[name]
    kept = tuple(text for text in argv if text not in ("--resume", "--overwrite"))
    lists = {name: values[name] for name in GRID if name in values}
    values.update((name, found[0]) for name, found in lists.items())
    grid = tuple((name, found) for name, found in lists.items() if len(found) > 1)
    options = Options(**values, given=frozenset(values), argv=kept, grid=grid)
    for rule in RULES:
        if complaint := rule.complaint(options, options.given):
            parser.error(complaint)
    return _settled(options)


def _settled(options: Options) -> Options:
    # What auto means is recorded, so that a run does not continue in another type elsewhere.
    changes: dict[str, Any] = {"dtype": dtype_for(options.dtype, options.gpu is not None)}
    if not options.data_dir and os.environ.get("GLUE_DIR"):
        changes["data_dir"] = Path(os.environ["GLUE_DIR"])
    if not (options.output_dir or options.only_inference):
        changes["output_dir"] = _OUTPUT_DIR
    if options.seeds:
        changes["seed"] = options.seeds[0]
    if options.own_files and not options.model_parameters:
        changes["task_name"] = OWN_DATA
    # A folder or a repository holds all that is needed: names that would be ignored are empty.
    for name in ("bert_model", "pretrained_bert_parameters"):
        if _is_folder(options, name):
            folder = Path(getattr(options, name))
            changes |= {"pretrained_bert_parameters": folder, "bert_model": "", "bert_dataset": ""}
    if "/" in options.bert_model:
        changes["bert_dataset"] = ""
    return replace(options, **changes)


def document() -> str:
    """Return the text of docs/flags.md."""
    others = [f"| `--{name}` | not needed: {why} |" for name, why in NEEDLESS.items()]
    others += [f"| `--{name}` | {advice} |" for name, advice in ELSEWHERE.items()]
    return f"""\
# Flags of finetune_classifier.py

Generated by `python -m finetuning.options > docs/flags.md`: do not edit. `--help` prints the same.

Flags with an asterisk decide, together with the data, what a run results in: metrics.json records
them, and a run resumes only with the values that it began with.

{tables(Options)}
## Combinations that are refused

{chr(10).join(f"- {rule}" for rule in RULES)}

## Flags of gluonnlp's script that are not flags here

| flag | here |
| --- | --- |
{chr(10).join(others)}
"""


def main() -> int:
    def work() -> None:
        # Unlike what is only shown, a file must be complete.
        with (
            suppress(BrokenPipeError),
            open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as file,
        ):
            file.write(document())

    return command.run("finetuning.options", work)


if __name__ == "__main__":
    terminal.start(main)

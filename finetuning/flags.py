"""The flags of finetune_classifier.py: what they mean, their defaults, and how they combine."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from pathlib import Path

from bert import __version__
from bert.errors import UserError
from finetuning.data.tasks import OWN_DATA, find_task

# The arguments that, with the data, determine the result: metrics.json records them.
RESULT_ARGUMENTS = (
    "task_name",
    "dev_fraction",
    "folds",
    "class_weights",
    "skip_bad_rows",
    "bert_model",
    "bert_dataset",
    "revision",
    "batch_size",
    "optimizer",
    "epochs",
    "lr",
    "epsilon",
    "weight_decay",
    "dropout",
    "warmup_ratio",
    "max_len",
    "seed",
    "training_steps",
    "max_train_samples",
    "accumulate",
    "early_stop",
    "eval_steps",
    "dev_batch_size",
    "dtype",
)

# Flags that a trained model's config.json decides; without one, these are the defaults.
MODEL_DEFAULTS = {
    "task_name": "MRPC",
    "bert_model": "bert_12_768_12",
    "bert_dataset": "book_corpus_wiki_en_uncased",
    "max_len": 128,
}


DEFAULT_SEED = 2
# How often a run is saved within an epoch unless --checkpoint_steps says otherwise.
CHECKPOINT_SECONDS = 300


Options = argparse.Namespace


def replace(options: Options, **changes) -> Options:
    """Return options with some of them changed."""
    return Options(**{**vars(options), **changes})


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def _number(kind: type, low: float, high: float = math.inf, open_low=False, open_high=True):
    """Return a converter for argparse that takes a number within bounds."""

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        above = value > low if open_low else value >= low
        below = value < high if open_high else value <= high
        if not (above and below):
            least = f"more than {low:g}" if open_low else f"at least {low:g}"
            most = (
                "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high:g}"
            )
            raise argparse.ArgumentTypeError(f"{text} is not {least}{most}")
        return value

    return convert


_COUNT = _number(int, 1)
_SEED = _number(int, 0, 2**31)


def _gpus(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"takes the numbers of GPUs, as 0,1, not {text!r}")
    if len(set(map(int, numbers))) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text} names a GPU twice")
    return [int(number) for number in numbers]


def _seeds(text: str) -> list[int]:
    seeds = [_SEED(part.strip()) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names a seed twice")
    return seeds


def _build_parser(description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        usage="%(prog)s [flags]",
        description=description,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        add_help=False,
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--task_name",
        metavar="TASK",
        help="CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI (default: MRPC)",
    )
    data.add_argument(
        "--data_dir",
        metavar="DIR",
        default=os.environ.get("GLUE_DIR"),
        help="folder with a folder for each task (default: the environment's GLUE_DIR)",
    )
    data.add_argument(
        "--max_len",
        metavar="N",
        type=_number(int, 5),
        help="tokens of a pair, [CLS] and two [SEP] included; longer ones are cut (default: 128)",
    )
    data.add_argument(
        "--max_train_samples",
        metavar="N",
        type=_COUNT,
        help="train on N examples chosen by the seed (default: all)",
    )

    data.add_argument(
        "--class_weights",
        metavar="WEIGHTS",
        help="weigh the loss of each label: balanced, or label=weight,… (default: all weigh 1)",
    )
    data.add_argument(
        "--skip_bad_rows",
        action="store_true",
        help="leave out rows that cannot be used, and list them in skipped_rows.tsv "
        "(default: end at the first)",
    )
    data.add_argument(
        "--check",
        action="store_true",
        help="look at the data, run one batch forward and backward, report, and stop",
    )

    own = parser.add_argument_group("your own files (TSV, CSV or JSON Lines; .gz may follow)")
    own.add_argument("--train_file", metavar="FILE", help="rows to train on, in place of a task's")
    own.add_argument("--dev_file", metavar="FILE", help="labelled rows to evaluate on")
    own.add_argument(
        "--test_file",
        metavar="FILE",
        help="rows to predict with the best epoch's model, into test_predictions.tsv",
    )
    own.add_argument(
        "--text_a_column", metavar="NAME", help="the column of the text (default: text_a)"
    )
    own.add_argument(
        "--text_b_column",
        metavar="NAME",
        help="the column of the second text of a pair (default: single texts)",
    )
    own.add_argument(
        "--label_column", metavar="NAME", help="the column of the label (default: label)"
    )
    own.add_argument(
        "--regression", action="store_true", help="the label column holds numbers to predict"
    )
    own.add_argument(
        "--dev_fraction",
        metavar="R",
        type=_number(float, 0, 1, open_low=True),
        help="evaluate on this share of --train_file, chosen by the seed within each label",
    )
    own.add_argument(
        "--folds",
        metavar="K",
        type=_number(int, 2),
        help="cross-validate on --train_file: train K times, each time evaluating on another "
        "K-th of it",
    )

    model = parser.add_argument_group("model")
    model.add_argument(
        "--bert_model",
        metavar="NAME",
        help="bert_12_768_12, bert_24_1024_16 or bert_6_384_12; a repository on the Hugging Face "
        "Hub (organisation/name); or a folder in its layout (default: bert_12_768_12)",
    )
    model.add_argument(
        "--bert_dataset",
        metavar="NAME",
        help="what it was pretrained on: python -m bert.zoo prints the table (default: "
        "book_corpus_wiki_en_uncased)",
    )
    model.add_argument(
        "--revision",
        metavar="REVISION",
        help="branch, tag or commit of the repository on the Hub (default: the newest)",
    )
    model.add_argument(
        "--pretrained_bert_parameters",
        metavar="PATH",
        help="pretrained weights to begin with: a .params file of --bert_model with its vocabulary "
        "beside it, or a folder in Hugging Face's layout (default: those of --bert_model and "
        "--bert_dataset)",
    )
    model.add_argument(
        "--model_parameters",
        metavar="PATH",
        help="a fine-tuned model to begin with: a run's output folder, or the .params file in it; "
        "its config.json decides task, architecture, tokenizer and --max_len",
    )
    model.add_argument(
        "--dropout",
        metavar="P",
        type=_number(float, 0, 1),
        default=0.1,
        help="dropout rate, everywhere in the network (default: 0.1)",
    )

    train = parser.add_argument_group("training")
    train.add_argument(
        "--epochs", metavar="N", type=_COUNT, default=3, help="passes over the data (default: 3)"
    )
    train.add_argument(
        "--batch_size",
        metavar="N",
        type=_COUNT,
        default=32,
        help="examples in a batch, over all devices (default: 32)",
    )
    train.add_argument(
        "--accumulate",
        metavar="N",
        type=_COUNT,
        default=1,
        help="batches an update adds up, with the result of one batch N times as large "
        "(default: 1)",
    )
    train.add_argument(
        "--optimizer",
        choices=("bertadam", "adamw", "adam", "sgd"),
        default="bertadam",
        help="bertadam: decoupled weight decay, no bias correction; adamw: with bias correction; "
        "adam, sgd: MXNet's (default: bertadam)",
    )
    train.add_argument(
        "--lr",
        metavar="RATE",
        type=_number(float, 0, open_low=True),
        default=5e-5,
        help="the highest learning rate (default: 5e-5)",
    )
    train.add_argument(
        "--warmup_ratio",
        metavar="R",
        type=_number(float, 0, 1),
        default=0.1,
        help="share of the updates over which the learning rate rises; then it falls to 0 "
        "(default: 0.1)",
    )
    train.add_argument(
        "--epsilon",
        metavar="E",
        type=_number(float, 0, open_low=True),
        default=1e-6,
        help="added to Adam's denominator (default: 1e-6)",
    )
    train.add_argument(
        "--weight_decay",
        metavar="W",
        type=_number(float, 0),
        default=0.01,
        help="on all but biases and LayerNorm (default: 0.01)",
    )
    train.add_argument(
        "--seed",
        metavar="N",
        type=_SEED,
        help="of the new layer, the shuffling and the dropout (default: 2)",
    )
    train.add_argument(
        "--seeds",
        metavar="N,N,…",
        type=_seeds,
        help="train once for each of these seeds, into output_dir/seed-N, and compare them",
    )
    train.add_argument(
        "--training_steps",
        metavar="N",
        type=_COUNT,
        help="end after N updates, wherever that is, with an evaluation (default: all epochs)",
    )

    evaluation = parser.add_argument_group("evaluation and output")
    evaluation.add_argument(
        "--dev_batch_size",
        "--test_batch_size",
        metavar="N",
        type=_COUNT,
        default=32,
        help="examples in a batch of the evaluation (default: 32)",
    )
    evaluation.add_argument(
        "--eval_steps",
        metavar="N",
        type=_COUNT,
        help="evaluate every N updates too (default: after each epoch only)",
    )
    evaluation.add_argument(
        "--early_stop",
        metavar="N",
        type=_COUNT,
        help="end after N epochs without a better dev score (default: never)",
    )
    evaluation.add_argument(
        "--only_inference",
        action="store_true",
        help="evaluate --model_parameters on the dev split (and predict the test split) and stop; "
        "writes eval_metrics.json where --output_dir is given",
    )
    evaluation.add_argument(
        "--predict_test",
        action="store_true",
        help="predict the task's test split with the best epoch's model, into "
        "predictions/TASK.tsv as gluebenchmark.com takes it (pack_submission.py packs them)",
    )
    evaluation.add_argument(
        "--output_dir", metavar="DIR", help="where the run's files go (default: ./output_dir)"
    )
    evaluation.add_argument(
        "--calibrate",
        action="store_true",
        help="after training, fit to the dev split the temperature of the probabilities and, for "
        "two classes, the threshold with the highest F1; kept in config.json for predict.py (with "
        "--resume also for a run that is finished)",
    )
    evaluation.add_argument(
        "--tensorboard",
        action="store_true",
        default=None,
        help="write TensorBoard's event files into the output folder (default: where tensorboard "
        "is installed)",
    )
    evaluation.add_argument(
        "--no_tensorboard", dest="tensorboard", action="store_false", help="write none"
    )
    evaluation.add_argument(
        "--log_interval",
        metavar="N",
        type=_COUNT,
        default=10,
        help="updates between two lines of the log (default: 10)",
    )

    saving = parser.add_argument_group("saving and resuming")
    saving.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --output_dir from its newest whole checkpoint, or from the "
        "beginning where there is none",
    )
    saving.add_argument(
        "--overwrite",
        action="store_true",
        help="delete the run in --output_dir and start anew",
    )
    saving.add_argument(
        "--checkpoint_steps",
        metavar="N",
        type=_COUNT,
        help="write a checkpoint every N updates (default: after each epoch, and every "
        f"{CHECKPOINT_SECONDS // 60} minutes)",
    )
    saving.add_argument(
        "--keep_checkpoints",
        metavar="K",
        type=_COUNT,
        default=1,
        help="checkpoints to keep; each takes the space of three or four models (default: 1)",
    )
    saving.add_argument(
        "--skip_nonfinite",
        metavar="N",
        type=_number(int, 0),
        default=0,
        help="pass over up to N updates whose loss or gradient is not finite (default: 0)",
    )

    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--gpu",
        metavar="IDS",
        nargs="?",
        const=[],
        type=_gpus,
        help="train on these GPUs, as 0,1; alone, on the first, under Horovod on the rank's own "
        "(default: the CPU)",
    )
    machine.add_argument(
        "--comm_backend",
        choices=("device", "horovod"),
        default="device",
        help="who adds up the gradients: MXNet, of the GPUs of one process; or Horovod, of the "
        "processes that horovodrun.py has started (default: device)",
    )
    machine.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="what dense layers multiply in; bfloat16 on CPUs, float16 (with dynamic loss scaling) "
        "on GPUs; the parameters are float32 in any case (default: float32)",
    )
    machine.add_argument(
        "--num_threads",
        metavar="N",
        type=_COUNT,
        help="CPU threads (default: the physical cores this process may use)",
    )
    machine.add_argument(
        "--no_native",
        action="store_true",
        help="use MXNet's own operators, not the faster ones built for this CPU",
    )
    machine.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    machine.add_argument("-h", "--help", action="help", help="show this text and exit")
    return parser


def parse_args(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; exits with code 2 and one sentence where they do not go together."""
    parser = _build_parser(description)
    args = parser.parse_args(argv)
    if args.only_inference and not args.model_parameters:
        parser.error("--only_inference needs --model_parameters: the model to evaluate")
    if args.model_parameters and args.pretrained_bert_parameters:
        parser.error("--model_parameters and --pretrained_bert_parameters exclude each other")
    if args.only_inference and (args.resume or args.overwrite):
        parser.error("--only_inference does not train: leave --resume and --overwrite out")
    if args.seeds and (args.seed is not None or args.folds or args.only_inference):
        parser.error(
            "--seeds trains once for each seed: leave --seed, --folds and --only_inference out"
        )
    if args.seed is None:
        args.seed = args.seeds[0] if args.seeds else DEFAULT_SEED
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        parser.error("--tensorboard: install it with pip install tensorboard")
    if args.dtype == "float16" and args.gpu is None:
        parser.error("--dtype float16 is for a GPU (--gpu); a CPU has bfloat16")
    if args.dtype == "bfloat16" and args.gpu is not None:
        parser.error("--dtype bfloat16 is for a CPU; a GPU that MXNet supports has float16")
    if args.comm_backend == "horovod":
        if importlib.util.find_spec("horovod") is None:
            parser.error("--comm_backend horovod: it is not installed; make setup-distributed does")
        if args.seeds or args.folds or args.check:
            parser.error(
                "--comm_backend horovod trains one model: leave --seeds, --folds and --check out"
            )
    _check_data_flags(parser, args)
    _check_model_flags(parser, args)
    if not args.model_parameters:
        for name, default in MODEL_DEFAULTS.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
    if args.output_dir is None and not args.only_inference:
        args.output_dir = "./output_dir"
    return args


def _check_model_flags(parser: _Parser, args: argparse.Namespace) -> None:
    """Settle where the pretrained weights come from.

    A folder is afterwards in --pretrained_bert_parameters, wherever it was given: --bert_model
    and --bert_dataset, which metrics.json records, then have nothing to say.
    """
    if args.bert_model and Path(args.bert_model).is_dir():
        if args.pretrained_bert_parameters:
            parser.error("--bert_model is a folder: leave --pretrained_bert_parameters out")
        args.pretrained_bert_parameters, args.bert_model = args.bert_model, ""
    weights, is_repository = args.pretrained_bert_parameters, "/" in (args.bert_model or "")
    if weights and Path(weights).is_dir():
        if args.bert_model or args.bert_dataset:
            parser.error(
                f"the folder {weights} says which BERT it holds: leave --bert_model and "
                "--bert_dataset out"
            )
        args.bert_model = args.bert_dataset = ""
    elif is_repository:
        if args.bert_dataset:
            parser.error(
                f"--bert_model {args.bert_model} is a repository: leave --bert_dataset out"
            )
        args.bert_dataset = ""
    if args.revision and (weights or args.model_parameters):
        parser.error("--revision is for what comes from the Hub")


def _check_data_flags(parser: _Parser, args: argparse.Namespace) -> None:
    """Settle where the data comes from: a task of GLUE, or the user's own files."""
    own = args.train_file or args.dev_file or args.test_file
    if args.task_name:
        if own:
            parser.error("--task_name is for GLUE's files; leave it out with files of your own")
        try:
            args.task_name = find_task(args.task_name).name
        except UserError as error:
            parser.error(str(error))
    for flag in ("text_a_column", "text_b_column", "label_column", "regression"):
        if getattr(args, flag) and not own:
            parser.error(f"--{flag} goes with --train_file, --dev_file or --test_file")
    if (args.dev_fraction or args.folds) and not args.train_file:
        parser.error("--dev_fraction and --folds divide a --train_file, which is not given")
    if own and args.predict_test:
        parser.error("--predict_test is for GLUE's test files; --test_file alone predicts yours")
    if (args.predict_test or args.test_file) and args.only_inference and not args.output_dir:
        parser.error("predictions need an --output_dir")
    if args.folds and args.test_file:
        parser.error("--folds trains no one model that could predict --test_file")
    if args.calibrate and (args.only_inference or args.regression):
        parser.error(
            "--calibrate follows the training of a classifier: leave --only_inference "
            "and --regression out"
        )
    if args.regression and args.class_weights:
        parser.error("--class_weights: a regression has no classes")
    columns = [args.text_a_column, args.text_b_column, args.label_column]
    if any(name and columns.count(name) > 1 for name in columns):
        parser.error("two of --text_a_column, --text_b_column and --label_column are the same")
    if args.only_inference:
        if args.train_file:
            parser.error("--only_inference does not train: pass --dev_file or --test_file")
        return
    if own and not args.train_file:
        parser.error("there is no --train_file to train on (or pass --only_inference)")
    if own and sum(map(bool, (args.dev_file, args.dev_fraction, args.folds))) != 1:
        parser.error("--train_file needs one of --dev_file, --dev_fraction and --folds")
    if args.folds and args.model_parameters:
        parser.error("--folds begins anew for every fold: --model_parameters has seen the rows")
    if own and not args.model_parameters:
        args.task_name = OWN_DATA
        args.text_a_column = args.text_a_column or "text_a"
        args.label_column = args.label_column or "label"

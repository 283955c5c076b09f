"""The flags of finetune_classifier.py: what they mean, their defaults, and how they combine."""

from __future__ import annotations

import argparse
import math
import os

from bert import __version__

# The arguments that, with the data, determine the result: metrics.json records them.
RESULT_ARGUMENTS = (
    "task_name",
    "bert_model",
    "bert_dataset",
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
)

# Flags that a trained model's config.json decides; without one, these are the defaults.
MODEL_DEFAULTS = {
    "task_name": "MRPC",
    "bert_model": "bert_12_768_12",
    "bert_dataset": "book_corpus_wiki_en_uncased",
    "max_len": 128,
}


# How often a run is saved within an epoch unless --checkpoint_steps says otherwise.
CHECKPOINT_SECONDS = 300


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


def _build_parser(description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        usage="%(prog)s [flags]",
        description=description,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        add_help=False,
    )

    data = parser.add_argument_group("data")
    data.add_argument("--task_name", metavar="TASK", help="GLUE task (default: MRPC)")
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

    model = parser.add_argument_group("model")
    model.add_argument(
        "--bert_model",
        metavar="NAME",
        help="bert_12_768_12, bert_24_1024_16 or bert_6_384_12 (default: bert_12_768_12)",
    )
    model.add_argument(
        "--bert_dataset",
        metavar="NAME",
        help="what it was pretrained on (default: book_corpus_wiki_en_uncased)",
    )
    model.add_argument(
        "--pretrained_bert_parameters",
        metavar="PATH",
        help="pretrained weights to begin with: a .params file of --bert_model, or a Hugging Face "
        "model directory (default: those of --bert_model and --bert_dataset)",
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
        type=_number(int, 0, 2**31),
        default=2,
        help="of the new layer, the shuffling and the dropout (default: 2)",
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
        help="evaluate --model_parameters on the dev split and stop; writes eval_metrics.json "
        "where --output_dir is given",
    )
    evaluation.add_argument(
        "--output_dir", metavar="DIR", help="where the run's files go (default: ./output_dir)"
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
        const="0",
        help="train on a GPU; alone, on the first (default: the CPU)",
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
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if args.gpu is not None and not args.gpu.isdigit():
        parser.error(f"--gpu takes a GPU's number, not {args.gpu!r}")
    if not args.model_parameters:
        for name, default in MODEL_DEFAULTS.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
    if args.output_dir is None and not args.only_inference:
        args.output_dir = "./output_dir"
    return args

"""Make a run folder of a model that gluonnlp's finetune_classifier.py has fine-tuned.

    python -m finetuning.convert_gluonnlp model_bert_MRPC_2.params DIR \\
        --task_name MRPC
    python -m finetuning.convert_gluonnlp old.params DIR --labels no,yes \\
        --text_b_column text_b

DIR gets model.params, config.json and vocab.txt, which predict.py,
export_classifier.py and finetune_classifier.py --model_parameters read; and
model.vocab for gluonnlp. A task's labels get the order that they have in
gluonnlp.

The vocabulary is gluonnlp's own .vocab file: with --vocab, or else of the
parameters' name or the dataset's (book_corpus_wiki_en_uncased-a6607397.vocab)
in the folder of the parameters or in gluonnlp's ~/.mxnet/models. The vocab.txt
of the Hugging Face Hub has another order and does not fit.

Exit codes: 0 success; 1 the disk is full, and the like; 2 a flag or file is
wrong.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from bert import runtime, terminal, zoo
from bert.errors import UserError
from bert.files import mxnet_home, replacing
from bert.terminal import say, shown
from finetuning import command
from finetuning.data.tasks import TASKS, Task, find_task, own_task, task_to_config
from finetuning.parser import Parser, count

# Where gluonnlp's order of the labels is not that of transformers, which this project has.
_NLI = ("neutral", "entailment", "contradiction")
_LABELS = {
    "MNLI": _NLI,
    "XNLI": _NLI,
    "QNLI": ("not_entailment", "entailment"),
    "RTE": ("not_entailment", "entailment"),
}
_HEAD = "classifier.1"
# Its other names: without dropout, and of the script's regressions before version 0.9.
_HEADS = (_HEAD, "classifier.0", "regression.1", "regression.0")
_DROPOUT = 0.1  # of the script, which has no flag for it


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; exits with code 2 if they do not go together."""
    parser = Parser(
        "finetuning.convert_gluonnlp",
        __doc__,
        usage="python -m %(prog)s FILE DIR --task_name TASK|--labels A,B,...|--regression [flags]",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the fine-tuned parameters")
    parser.add_argument("dir", metavar="DIR", type=Path, help="the folder to create")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--task_name", metavar="TASK", help=f"what it was trained on: {', '.join(TASKS)}"
    )
    kind.add_argument(
        "--labels", metavar="A,B,...", help="of another task: the labels, in the order of training"
    )
    kind.add_argument("--regression", action="store_true", help="another task predicts a number")
    parser.add_argument(
        "--text_b_column",
        metavar="NAME",
        help="another task has pairs of texts: the column of the second (default: single texts)",
    )
    parser.add_argument(
        "--bert_model",
        metavar="NAME",
        default="bert_12_768_12",
        help="as in the training (default: %(default)s)",
    )
    parser.add_argument(
        "--bert_dataset",
        metavar="NAME",
        default=zoo.DEFAULT_DATASET,
        help="as in the training (default: %(default)s)",
    )
    parser.add_argument(
        "--max_len",
        metavar="N",
        type=count,
        default=128,
        help="as in the training (default: %(default)s)",
    )
    parser.add_argument("--vocab", metavar="FILE", type=Path, help="gluonnlp's vocabulary")
    args = parser.parse_args(argv)
    if args.task_name and args.text_b_column:
        parser.error("--task_name says what the texts are: leave out --text_b_column")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    def work() -> None:
        runtime.prepare()
        convert(args)

    return command.run("finetuning.convert_gluonnlp", work)


def convert(args: argparse.Namespace) -> None:
    """Write the folder that the flags describe."""
    import mxnet as mx

    from bert import export
    from bert.huggingface import config_from_huggingface, config_to_huggingface
    from bert.modeling import BERTClassifier, BERTModel
    from bert.parameters import arrays_of, read_params, set_parameters
    from bert.tokenizer import BERTTokenizer, check_vocabulary

    if args.dir.exists():
        raise UserError(f"{args.dir} already exists: choose a new folder")
    task = task_of(args)
    arrays = with_our_head(read_params(args.file), task, args.file)
    beside = args.file.parent / "config.json"  # of a BERT that bert.convert wrote for gluonnlp
    if beside.is_file():
        sizes = config_from_huggingface(beside)
    else:
        sizes = zoo.look_up(args.bert_model, args.bert_dataset).config
    if not 5 <= args.max_len <= sizes.max_length:
        raise UserError(f"--max_len {args.max_len}: must be from 5 to {sizes.max_length}")
    # As the script decides it, also for wiki_cn_cased.
    tokenizer = BERTTokenizer(find_vocabulary(args), "uncased" in args.bert_dataset)
    check_vocabulary(tokenizer, sizes.vocab_size)
    net = BERTClassifier(BERTModel(sizes, cls_only=True), task.outputs)
    set_parameters(net, arrays, [mx.cpu()], args.file)
    config = {
        **config_to_huggingface(sizes),
        "architectures": ["BertForSequenceClassification"],
        "hidden_dropout_prob": _DROPOUT,
        "attention_probs_dropout_prob": _DROPOUT,
        **tokenizer.in_config(),
        "bert_model": args.bert_model,
        "bert_dataset": args.bert_dataset,
        "max_len": args.max_len,
        **task_to_config(task),
    }
    args.dir.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.dir) as folder:
        folder.mkdir()
        export.write_gluon(folder, arrays_of(net), config, tokenizer)
    texts = ' --text_b "…"' if task.text_b_column else ""
    say(shown(f"vocabulary: {tokenizer.vocab_file}"))
    say(
        shown(
            f"written to {args.dir}; predict with: python3 predict.py --model_dir {args.dir} "
            f'--text_a "…"{texts}'
        )
    )


def task_of(args: argparse.Namespace) -> Task:
    """Return the task of the flags, with its labels in gluonnlp's order."""
    if args.task_name:
        task = find_task(args.task_name)
        return replace(task, labels=_LABELS.get(task.name, task.labels))
    labels = tuple(label.strip() for label in args.labels.split(",")) if args.labels else ()
    if not args.regression and (len(labels) < 2 or len(set(labels)) < len(labels) or "" in labels):
        raise UserError(f"--labels {args.labels}: must be at least two different labels")
    return own_task("text_a", args.text_b_column, "label", args.regression, labels)


def with_our_head(arrays: dict[str, np.ndarray], task: Task, path: Path) -> dict[str, np.ndarray]:
    """Return the parameters of gluonnlp's classifier by this project's names.

    Raises UserError if they have no head, or the head's outputs are not those of the task.
    """
    if any(name.startswith("roberta.") for name in arrays):
        raise UserError(f"{path} is a RoBERTa: only gluonnlp's fine-tuned BERTs can be converted")
    head = next((name for name in _HEADS if f"{name}.weight" in arrays), None)
    if head is None:
        raise UserError(
            f"{path} has no classification head: a pretrained BERT is for finetune_classifier.py "
            "--pretrained_bert_parameters"
        )
    outputs = len(arrays[f"{head}.weight"])
    if outputs != task.outputs:
        labels = f" ({', '.join(task.labels)})" if task.labels else ""
        raise UserError(
            f"{path} gives {outputs} numbers for a text, but the task has {task.outputs}{labels}: "
            "pass the --task_name or all --labels that it was trained with"
        )
    return {
        f"{_HEAD}.{name.removeprefix(f'{head}.')}" if name.startswith(f"{head}.") else name: array
        for name, array in arrays.items()
    }


def find_vocabulary(args: argparse.Namespace) -> Path:
    """Return the path of gluonnlp's vocabulary; UserError if it is not where it may be."""
    if args.vocab:
        return args.vocab
    home = mxnet_home()
    folders = [args.file.parent, *([home / "models"] if home else [])]
    choices = [args.file.with_suffix(".vocab")]
    for folder in folders:
        choices += sorted(folder.glob(f"{args.bert_dataset}-*.vocab"))
    vocab = next((path for path in choices if path.is_file()), None)
    if vocab is None:
        raise UserError(
            f"no {args.bert_dataset}-*.vocab in {' or '.join(map(str, folders))}: gluonnlp put it "
            "into ~/.mxnet/models where the model was trained; copy it from there beside "
            f"{args.file.name}, or pass it with --vocab (the vocab.txt of the Hugging Face Hub has "
            "another order and does not fit)"
        )
    return vocab


if __name__ == "__main__":
    terminal.start(main)

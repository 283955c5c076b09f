"""Convert a pretrained BERT or a fine-tuned run to another folder layout.

    python -m bert.convert SRC DST --to huggingface|gluon

SRC is a run's output folder, or a pretrained BERT: a name of the zoo (with
--bert_dataset), a repository on the Hugging Face Hub, a folder in its layout,
or a .params file with its vocabulary in the same folder (if there is no
config.json either, --bert_model says which model of the zoo it is). DST is a
new folder.

huggingface: config.json, model.safetensors and the tokenizer's files. A run
becomes a BertForSequenceClassification (or RobertaForSequenceClassification,
and so on) with its labels, which AutoModelForSequenceClassification and
AutoTokenizer open. The tensors are bit-identical.

gluon: parameters and config, for this project and for gluonnlp: model.params,
config.json, vocab.txt (and tokenizer.json, if the tokenizer is not the original
BERT's), and model.vocab for gluonnlp. --model_parameters and predict.py read a
run's folder; --pretrained_bert_parameters reads a pretrained BERT's
model.params. Those of a BERT load into gluonnlp's own networks.
(export_classifier.py --format gluon writes a symbol file instead: the graph
itself, which MXNet runs without a definition of the network.)

Exit codes: 0 success; 1 the disk is full, and the like; 2 a flag or a file is
wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bert import runtime
from bert.errors import UserError
from bert.files import replacing
from bert.terminal import say, shown, start


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bert.convert",
        usage="%(prog)s SRC DST --to huggingface|gluon [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("src", metavar="SRC", help="the model")
    parser.add_argument("dst", metavar="DST", help="the folder to create")
    parser.add_argument(
        "--to", required=True, choices=("huggingface", "gluon"), help="the layout to write"
    )
    parser.add_argument(
        "--bert_model", metavar="NAME", help="the model in a .params file, e.g. bert_12_768_12"
    )
    parser.add_argument(
        "--bert_dataset",
        metavar="NAME",
        help="pretraining data of a model of the zoo (default: book_corpus_wiki_en_uncased)",
    )
    parser.add_argument(
        "--revision", help="branch, tag or commit of a repository on the Hub (default: the newest)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    runtime.prepare()
    try:
        convert(args)
    except UserError as error:
        say(shown(f"bert.convert: {error}"), sys.stderr)
        return 2
    except OSError as error:
        say(shown(f"bert.convert: {error}"), sys.stderr)
        return 1
    return 0


def convert(args: argparse.Namespace) -> None:
    from bert import export

    dst = Path(args.dst)
    if dst.exists():
        raise UserError(f"{dst} already exists: choose a new folder")
    write = export.write_huggingface if args.to == "huggingface" else export.write_gluon
    model = export.read_model(args.src, args.bert_model, args.bert_dataset, args.revision)
    dst.parent.mkdir(parents=True, exist_ok=True)
    with replacing(dst) as folder:
        folder.mkdir()
        write(folder, *model)
    say(shown(f"written to {dst}: {', '.join(sorted(file.name for file in dst.iterdir()))}"))


if __name__ == "__main__":
    start(main)

"""A model as a folder for other programs: Hugging Face's layout, or Gluon's.

    python -m bert.convert SRC DST --to huggingface|gluon

SRC is a run's output folder, or a pretrained BERT: a name of the zoo (with --bert_dataset), a
repository on the Hugging Face Hub, a folder in its layout, or a .params file with its vocabulary
beside it (then --bert_model says which model of the zoo it is, where there is no config.json).
DST is a new folder.

huggingface: config.json, model.safetensors and the tokenizer's files. A run becomes a
BertForSequenceClassification with its labels, which AutoModelForSequenceClassification and
AutoTokenizer open; the tensors are the same bits.

gluon: model.params, config.json, vocab.txt, and model.vocab for gluonnlp. A run's is what
--model_parameters and predict.py take; a pretrained BERT's model.params goes with
--pretrained_bert_parameters. Both load into gluonnlp's own networks.

Exit codes: 0 done; 1 the disk is full, and the like; 2 a flag or a file is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bert import convert, zoo
from bert.classifier import BERTClassifier, config_text, is_run, load_classifier
from bert.errors import UserError
from bert.files import replacing
from bert.modeling import BERTModel
from bert.parameters import arrays_of, parameters_of, set_parameters, write_params
from bert.tokenizer import BERTTokenizer, check_vocabulary

# What a run's config.json says of itself; no other program asks for it.
_CHECKSUMS = ("vocab_sha256", "sha256")
# Of a classifier's symbol: int32 [B, L], [B, L] and [B].
SYMBOL_INPUTS = ("input_ids", "token_types", "valid_length")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bert.convert",
        usage="%(prog)s SRC DST --to huggingface|gluon [flags]",
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
    )
    parser.add_argument("src", metavar="SRC", help="the model")
    parser.add_argument("dst", metavar="DST", help="the folder to make")
    parser.add_argument(
        "--to", required=True, choices=("huggingface", "gluon"), help="the layout to write"
    )
    parser.add_argument(
        "--bert_model", metavar="NAME", help="what a .params file holds, as bert_12_768_12"
    )
    parser.add_argument(
        "--bert_dataset",
        metavar="NAME",
        help=f"what a model of the zoo was pretrained on (default: {zoo.DEFAULT_DATASET})",
    )
    parser.add_argument("--revision", help="of a repository on the Hub (default: the newest)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Do what the flags say; returns the exit code."""
    args = parse_args(argv)
    try:
        arrays, config, tokenizer = read(args)
        dst = Path(args.dst)
        if dst.exists():
            raise UserError(f"{dst} is there already: name a new folder")
        write = to_huggingface if args.to == "huggingface" else to_gluon
        dst.parent.mkdir(parents=True, exist_ok=True)
        with replacing(dst) as folder:
            folder.mkdir()
            write(folder, arrays, config, tokenizer)
    except UserError as error:
        print(f"bert.convert: {error}", file=sys.stderr)
        return 2
    except (OSError, SafetensorError) as error:
        print(f"bert.convert: cannot write {args.dst}: {error}", file=sys.stderr)
        return 1
    print(f"written to {dst}: {', '.join(sorted(file.name for file in dst.iterdir()))}")
    return 0


def read(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict, BERTTokenizer]:
    """Return a model's parameters by Gluon's names, its config.json and its tokenizer.

    The parameters are those of a classifier where it is a run's folder, else of a BERT.
    """
    src = Path(args.src)
    if is_run(src):
        net, tokenizer, config = load_classifier(src)
        return arrays_of(net), config, tokenizer
    if src.suffix == ".params":
        source = zoo.find_params(src, args.bert_model or src.name, args.bert_dataset)
    else:
        source = zoo.find(args.src, args.bert_dataset, args.revision)
    tokenizer = BERTTokenizer(source.vocab, source.do_lower_case)
    check_vocabulary(tokenizer, source.config.vocab_size)
    config = {
        **convert.config_to_huggingface(source.config),
        "architectures": ["BertModel"],
        "do_lower_case": tokenizer.do_lower_case,
    }
    return zoo.read_weights(source), config, tokenizer


def to_huggingface(
    folder: Path, arrays: dict[str, np.ndarray], config: dict, tokenizer: BERTTokenizer
) -> None:
    """Fill a folder with what Hugging Face's ``from_pretrained`` reads.

    Parameters
    ----------
    folder : Path
    arrays : dict of str to arrays
        The parameters of a BERT or of a classifier, by Gluon's names.
    config : dict
        Its ``config.json``.
    tokenizer : BERTTokenizer
    """
    write_tokenizer_and_config(folder, config, tokenizer)
    tensors = convert.to_huggingface(arrays, config["num_hidden_layers"])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_tokenizer_and_config(folder: Path, config: dict, tokenizer: BERTTokenizer) -> None:
    """Write config.json with the labels, and the tokenizer's files, as Hugging Face reads them."""
    config = {key: value for key, value in config.items() if key not in _CHECKSUMS}
    _write(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name, text in tokenizer.huggingface_files(config["max_position_embeddings"]).items():
        _write(folder / name, text)


def read_classifier(folder: Path, num_classes: int) -> BERTClassifier:
    """Read a classifier from a folder that :func:`to_huggingface` has filled."""
    config = convert.config_from_huggingface(folder / "config.json")
    weights = folder / "model.safetensors"
    tensors = convert.read_safetensors(weights)
    encoder = convert.to_gluon(tensors, config, weights)
    arrays = {f"bert.{name}": array for name, array in encoder.items()}
    arrays |= {ours: tensors[theirs] for ours, theirs in convert.HEAD_NAMES.items()}
    net = BERTClassifier(BERTModel(config, cls_only=True), num_classes)
    set_parameters(net, arrays, [mx.cpu()], weights)
    return net


def to_symbol(
    folder: Path, net: BERTClassifier, config: dict, tokenizer: BERTTokenizer
) -> tuple[Path, Path]:
    """Fill a folder with a classifier as MXNet's symbol, without the fused operators.

    Returns
    -------
    symbol, parameters : Path
        ``classifier-symbol.json``, inputs :data:`SYMBOL_INPUTS`, output ``logits_output``; and
        ``classifier-0000.params``.
    """
    symbol = net(*(mx.sym.var(name) for name in SYMBOL_INPUTS))
    # Gluon numbers its blocks as they are made; these names are always the same.
    names = {parameter.name: name for name, parameter in parameters_of(net).items()}
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        node["name"] = names.get(node["name"], node["name"].removeprefix(net.prefix))
    (output,) = graph["heads"]
    graph["nodes"][output[0]]["name"] = "logits"
    write_tokenizer_and_config(folder, config, tokenizer)
    paths = folder / "classifier-symbol.json", folder / "classifier-0000.params"
    _write(paths[0], json.dumps(graph, indent=2) + "\n")
    write_params(paths[1], {f"arg:{name}": array for name, array in arrays_of(net).items()})
    return paths


def to_gluon(
    folder: Path, arrays: dict[str, np.ndarray], config: dict, tokenizer: BERTTokenizer
) -> None:
    """Fill a folder with what this project and gluonnlp read; see :func:`to_huggingface`."""
    vocabulary = tokenizer.vocabulary_text()
    config = {key: value for key, value in config.items() if key not in _CHECKSUMS}
    _write(folder / "config.json", config_text(config, vocabulary))
    _write(folder / "vocab.txt", vocabulary)
    _write(folder / "model.vocab", tokenizer.gluonnlp_vocabulary())
    write_params(folder / "model.params", arrays)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")

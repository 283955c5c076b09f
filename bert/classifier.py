"""The classifier: BERT with a head, and the folder of a run that holds a fine-tuned one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import mxnet as mx
from mxnet.gluon import HybridBlock, nn
from mxnet.initializer import Normal

from bert import native
from bert.errors import UserError
from bert.files import json_text, read_json
from bert.huggingface import config_from_huggingface
from bert.modeling import INITIALIZER_RANGE, BERTModel
from bert.parameters import read_params, set_parameters
from bert.tokenizer import BERTTokenizer, check_vocabulary


class BERTClassifier(HybridBlock):
    """Dropout and one dense layer on the pooled [CLS] row (section 4.1).

    Parameters are named as in ``gluonnlp.model.BERTClassifier``, and saved files load in both
    directions (unless its dropout is 0: then its dense layer is called ``classifier.0``).

    Parameters
    ----------
    bert : BERTModel
    num_classes : int
        Number of labels; 1 for regression.
    dropout : float

    Inputs
        as those of :class:`bert.modeling.BERTModel`
    Outputs
        - **logits** ``[B, num_classes]`` float32
    """

    def __init__(self, bert: BERTModel, num_classes: int = 2, dropout: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.bert = bert
        self.num_classes = num_classes
        with self.name_scope():
            self.classifier = nn.HybridSequential()
            self.classifier.add(nn.Dropout(dropout))
            self.classifier.add(
                nn.Dense(
                    num_classes,
                    in_units=bert.config.units,
                    weight_initializer=Normal(INITIALIZER_RANGE),
                )
            )

    def hybrid_forward(self, F, *batch):
        _, pooled = self.bert(*batch)
        return self.classifier(pooled)


class Classifier(NamedTuple):
    """A network with its tokenizer and config: what a run's folder holds."""

    net: BERTClassifier
    tokenizer: BERTTokenizer
    config: dict  # the content of config.json

    def compile(self, fused: bool = True, bfloat16: bool = False) -> str | None:
        """Compile the network into one graph.

        Parameters
        ----------
        fused : bool
            Use the fused CPU operators of :mod:`bert.native`, if they can be built.
        bfloat16 : bool
            Compute the encoder's matrix products in bfloat16.

        Returns
        -------
        str or None
            Why the fused operators are unavailable; MXNet's own, slower ones are used then.
        """
        unavailable = None
        if bfloat16:
            self.net.bert.use_bfloat16()
        if fused:
            try:
                native.load()
            except native.NativeUnavailable as reason:
                unavailable = str(reason)
            else:
                self.net.bert.fuse()
        self.net.hybridize(static_alloc=True)
        return unavailable


_NO_CHECKSUM = "0" * 64
# The keys of a run's config.json that other config.json files lack.
_KEYS = ("task_name", "max_len", "id2label", "do_lower_case", "vocab_sha256", "sha256")


def config_text(config: dict, vocabulary: str) -> str:
    """Return the text of a run's ``config.json``.

    It contains the checksum of ``vocab.txt``, whose text is given, and its own checksum, computed
    with zeros in the checksum's place.
    """
    content = {**config, "vocab_sha256": _sha256(vocabulary), "sha256": _NO_CHECKSUM}
    text = json_text(content)
    return text.replace(f'"sha256": "{_NO_CHECKSUM}"', f'"sha256": "{_sha256(text)}"')


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check(folder: Path, config: dict) -> None:
    """Raise UserError if a run's config.json or vocab.txt has changed since it was written."""
    text = (folder / "config.json").read_bytes().decode()
    text = text.replace(f'"sha256": "{config["sha256"]}"', f'"sha256": "{_NO_CHECKSUM}"')
    if _sha256(text) != config["sha256"]:
        raise UserError(f"{folder / 'config.json'} is damaged or was edited: its checksum differs")
    vocab = folder / "vocab.txt"
    try:
        checksum = hashlib.sha256(vocab.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the vocabulary {vocab}: {error.strerror}") from None
    if checksum != config["vocab_sha256"]:
        raise UserError(f"{vocab} is damaged or was edited: its checksum in config.json differs")


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a training run's, by its ``config.json``."""
    path = folder / "config.json"
    return path.is_file() and {"task_name", "sha256"} <= set(read_json(path))


def load_classifier(
    path: str | Path,
    dropout: float = 0.1,
    ctx: mx.Context | list[mx.Context] | None = None,
) -> Classifier:
    """Load a fine-tuned model from a run's folder, or from the ``.params`` file in one.

    Parameters
    ----------
    path : path
    dropout : float
        Dropout rate, if the model is trained further.
    ctx : mx.Context or list of them, optional
        Where the parameters live; default ``mx.cpu()``.

    Returns
    -------
    Classifier
        Its ``config`` has ``task_name``, ``max_len`` and ``id2label``.

    Raises
    ------
    UserError
        The folder is not a run's, or its files are damaged or do not match.
    """
    path = Path(path)
    parameters = path / "model.params" if path.is_dir() else path
    if not parameters.is_file():
        raise UserError(
            f"{parameters}: no such model (expected the --output_dir of a training run)"
        )
    folder = parameters.parent
    config = read_json(folder / "config.json")
    missing = [key for key in _KEYS if key not in config]
    if missing:
        raise UserError(
            f"{folder / 'config.json'} is not from a fine-tuning run: missing keys "
            f"{', '.join(missing)}"
        )
    _check(folder, config)
    tokenizer = BERTTokenizer(folder / "vocab.txt", config["do_lower_case"])
    bert = BERTModel(config_from_huggingface(folder / "config.json"), dropout, cls_only=True)
    if config["max_len"] not in range(5, bert.config.max_length + 1):
        raise UserError(
            f"{folder / 'config.json'}: max_len is {config['max_len']!r}, but must be a number "
            f"from 5 to {bert.config.max_length}"
        )
    check_vocabulary(tokenizer, bert.config.vocab_size)
    net = BERTClassifier(bert, len(config["id2label"]), dropout)
    contexts = ctx if isinstance(ctx, list) else [ctx or mx.cpu()]
    set_parameters(net, read_params(parameters), contexts, parameters)
    return Classifier(net, tokenizer, config)

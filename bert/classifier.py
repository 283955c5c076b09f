"""The classifier: BERT with a head, and the folder of a run that holds a fine-tuned one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import mxnet as mx
from mxnet.gluon import HybridBlock, nn
from mxnet.initializer import Normal

from bert import native
from bert.errors import UserError
from bert.huggingface import config_from_huggingface
from bert.modeling import INITIALIZER_RANGE, BERTModel
from bert.parameters import read_params, set_parameters
from bert.run_config import read_config
from bert.tokenizer import BERTTokenizer, check_vocabulary, read_tokenizer


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
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config)
    bert = BERTModel(config_from_huggingface(folder / "config.json"), dropout, cls_only=True)
    if config["max_len"] > bert.config.max_length:
        raise UserError(
            f"{folder / 'config.json'}: max_len is {config['max_len']}, but must be a number from "
            f"5 to {bert.config.max_length}"
        )
    check_vocabulary(tokenizer, bert.config.vocab_size)
    net = BERTClassifier(bert, len(config["id2label"]), dropout)
    contexts = ctx if isinstance(ctx, list) else [ctx or mx.cpu()]
    set_parameters(net, read_params(parameters), contexts, parameters)
    return Classifier(net, tokenizer, config)

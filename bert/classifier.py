"""A fine-tuned classifier, and the folder of a run that holds one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bert import native
from bert.config import BERTConfig
from bert.errors import UserError
from bert.huggingface import config_from_huggingface
from bert.parameters import read_params, set_parameters
from bert.run_config import read_config
from bert.tokenizer import BERTTokenizer, check_vocabulary, read_tokenizer

if TYPE_CHECKING:  # predict.py loads no MXNet where it needs none
    import mxnet as mx

    from bert.modeling import BERTClassifier


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


class SavedClassifier(NamedTuple):
    """What a run's folder holds: the parameters by structural name, and what belongs to them."""

    parameters: dict[str, np.ndarray]
    sizes: BERTConfig
    tokenizer: BERTTokenizer
    config: dict  # the content of config.json
    path: Path  # of the parameters


def read_classifier(path: str | Path) -> SavedClassifier:
    """Read a run's folder, or the ``.params`` file in one. Loads no MXNet.

    Raises
    ------
    UserError
        The folder is not a run's, or its files are damaged or do not match; names and shapes of
        the parameters are not checked.
    """
    path = Path(path)
    parameters = path / "model.params" if path.is_dir() else path
    if not parameters.is_file():
        raise UserError(
            f"{parameters}: no such model (expected the --output_dir of a training run, or what "
            "python3 -m finetuning.convert_gluonnlp made of a file of gluonnlp's)"
        )
    folder = parameters.parent
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} has no config.json: finetune_classifier.py --resume writes that of a "
            "finished run again; gluonnlp's script wrote none, so its .params can only be passed "
            "as --pretrained_bert_parameters, with its vocabulary beside it"
        )
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config)
    sizes = config_from_huggingface(folder / "config.json")
    if config["max_len"] > sizes.max_length:
        raise UserError(
            f"{folder / 'config.json'}: max_len is {config['max_len']}, but must be a number from "
            f"5 to {sizes.max_length}"
        )
    check_vocabulary(tokenizer, sizes.vocab_size)
    return SavedClassifier(read_params(parameters), sizes, tokenizer, config, parameters)


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
    return build_classifier(read_classifier(path), dropout, ctx)


def build_classifier(
    saved: SavedClassifier,
    dropout: float = 0.1,
    ctx: mx.Context | list[mx.Context] | None = None,
) -> Classifier:
    """Return the network of a run that was read, as :func:`load_classifier` does."""
    import mxnet as mx

    from bert.modeling import BERTClassifier, BERTModel

    bert = BERTModel(saved.sizes, dropout, cls_only=True)
    net = BERTClassifier(bert, len(saved.config["id2label"]), dropout)
    contexts = ctx if isinstance(ctx, list) else [ctx or mx.cpu()]
    set_parameters(net, saved.parameters, contexts, saved.path)
    return Classifier(net, saved.tokenizer, saved.config)

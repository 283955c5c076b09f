"""A fine-tuned classifier, and the folder of a run that holds one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bert import native, runtime
from bert.config import BERTConfig
from bert.encoding import EncodedTexts
from bert.errors import RunError, UserError
from bert.huggingface import config_from_huggingface
from bert.inference import Inference, classifier_shapes
from bert.parameters import check_parameters, read_params, set_parameters
from bert.prediction import Answer, answers, averaged
from bert.run_config import HEAD, read_config
from bert.terminal import shown
from bert.tokenizer import BERTTokenizer, check_vocabulary, read_tokenizer

if TYPE_CHECKING:  # predict.py loads no MXNet where it needs none
    import mxnet as mx

    from bert.modeling import BERTClassifier


log = logging.getLogger("bert")
_BATCH = 32  # texts, or windows of long texts, that are computed together
# Of input_ids [T], token_types [T] and valid_length [B]: the logits [B, labels].
_Compute = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Classifier:
    """A fine-tuned model: ``classifier(texts)`` predicts.

    ``net, tokenizer, config = classifier`` takes it apart.

    Parameters
    ----------
    net : BERTClassifier, or a function that returns it
    tokenizer : BERTTokenizer
    config : dict
        The content of ``config.json``.
    saved : SavedClassifier, optional
        What it was read from; ``net`` is then a function. Texts are predicted from it, without
        MXNet, until the network is first used, which may change its parameters.
    bfloat16 : bool
        With ``saved``: multiply in bfloat16. A network knows itself what it multiplies in.
    """

    def __init__(
        self,
        net: Any,
        tokenizer: BERTTokenizer,
        config: dict,
        saved: SavedClassifier | None = None,
        bfloat16: bool = False,
    ):
        self._net, self._saved, self._bfloat16 = net, saved, bfloat16
        self._inference: Inference | None = None  # of ``saved``
        self.tokenizer, self.config = tokenizer, config

    @property
    def net(self) -> BERTClassifier:
        """The network of MXNet, which is loaded for it if need be."""
        if self._saved is not None:
            self._net, self._saved, self._inference = self._net(), None, None
        return self._net

    def __iter__(self) -> Iterator[Any]:
        return iter((self.net, self.tokenizer, self.config))

    def __call__(self, texts: Sequence[str], texts_b: Sequence[str] | None = None) -> list[Answer]:
        """Predict texts, or pairs of texts.

        Parameters
        ----------
        texts, texts_b : sequences of str
            ``texts_b`` is for a model of pairs, and as long as ``texts``.

        Returns
        -------
        list of dict
            ``{"label": …, "probabilities": {label: …}}`` for each text, or ``{"score": …}`` of a
            regression: see :func:`bert.prediction.answers`.

        Raises
        ------
        UserError
            The texts are not those of such a model.
        RunError
            The network's outputs are not finite.
        """
        self._check(texts, texts_b)
        config = self.config
        how = config.get("long_text", HEAD)
        encoded = self.tokenizer.encode(texts, texts_b, config["max_len"], how)
        compute = self._compute() if len(texts) else None
        batches = [
            compute(*_packed(encoded, first, first + _BATCH))
            for first in range(0, len(encoded.first_segment), _BATCH)
            if compute
        ]
        logits = np.concatenate([np.empty((0, len(config["id2label"])), np.float32), *batches])
        if not np.isfinite(logits).all():
            raise RunError("the network's outputs are not finite")
        return answers(averaged(logits, encoded.windows), config)

    def _check(self, texts: Sequence[str], texts_b: Sequence[str] | None) -> None:
        if isinstance(texts, str) or isinstance(texts_b, str):
            raise UserError("pass a list of texts, not one text")
        if (self.config["text_b_column"] is not None) != (texts_b is not None):
            what = "single texts: leave out" if texts_b is not None else "pairs of texts: pass"
            raise UserError(f"this model takes {what} texts_b")
        if texts_b is not None and len(texts) != len(texts_b):
            raise UserError(f"there are {len(texts)} texts, but {len(texts_b)} in texts_b")

    def _compute(self) -> _Compute:
        """Return what computes logits: C++ from the parameters as they are now, or the network."""
        sizes = self.net.bert.config if self._saved is None else self._saved.sizes
        if not sizes.is_plain:
            return self._by_network
        try:
            if self._saved is not None:
                self._inference = self._inference or Inference.of_run(self._saved, self._bfloat16)
                return self._inference
            if self.net.classifier[1].bias.list_ctx()[0].device_type == "cpu":
                return Inference.of(self.net)
        except native.NativeUnavailable as reason:
            log.warning(f"warning: fused operators unavailable ({reason}): prediction is slower")
        return self._by_network

    def _by_network(
        self, input_ids: np.ndarray, token_types: np.ndarray, valid_length: np.ndarray
    ) -> np.ndarray:
        """Compute with MXNet, on the network's device; without the fused operators text by text."""
        net = self.net
        import mxnet as mx

        ctx = net.classifier[1].bias.list_ctx()[0]
        if net.bert.fused:
            offsets, no_dropout = np.cumsum([0, *valid_length]), np.zeros(2)
            arrays = (input_ids, token_types, offsets, no_dropout)
            return net(*(mx.nd.array(x, ctx, "int32") for x in arrays)).asnumpy()
        ends = np.cumsum(valid_length)[:-1]
        rows = [
            net(*(mx.nd.array(x, ctx, "int32") for x in ([ids], [types], [len(ids)]))).asnumpy()
            for ids, types in zip(
                np.split(input_ids, ends), np.split(token_types, ends), strict=True
            )
        ]
        return np.concatenate(rows)

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
    dtype: str = "float32",
) -> Classifier:
    """Load a fine-tuned model from a run's folder, or from the ``.params`` file in one.

    MXNet is loaded when the model's network is first used.

    Parameters
    ----------
    path : path
    dropout : float
        Dropout rate, if the model is trained further.
    ctx : mx.Context or list of them, optional
        Where the parameters live; default ``mx.cpu()``.
    dtype : str
        What the encoder's dense layers multiply in: ``"float32"``, ``"bfloat16"`` (on CPUs), or
        ``"auto"``, bfloat16 on a CPU that multiplies faster in it; see
        :func:`bert.runtime.dtype_for`. Parameters stay float32.

    Returns
    -------
    Classifier
        Its ``config`` has ``task_name``, ``max_len`` and ``id2label``.

    Raises
    ------
    UserError
        The folder is not a run's, its files are damaged or do not match, or there is no such
        ``dtype`` on the device.
    """
    contexts = ctx if isinstance(ctx, list) else [ctx] if ctx else []
    gpu = any(context.device_type == "gpu" for context in contexts)
    taken = runtime.dtype_for(dtype, gpu)
    if taken not in ("float32", "bfloat16") or (gpu and taken == "bfloat16"):
        raise UserError(
            f"dtype must be float32, bfloat16 (on CPUs) or auto, not {shown(str(dtype))}"
        )
    bfloat16 = taken == "bfloat16"
    saved = read_classifier(path)
    shapes = classifier_shapes(saved.sizes, len(saved.config["id2label"]))
    check_parameters(saved.parameters, shapes, saved.path)

    def build() -> BERTClassifier:
        return build_classifier(saved, dropout, ctx, bfloat16).net

    return Classifier(build, saved.tokenizer, saved.config, saved, bfloat16)


def build_classifier(
    saved: SavedClassifier,
    dropout: float = 0.1,
    ctx: mx.Context | list[mx.Context] | None = None,
    bfloat16: bool = False,
) -> Classifier:
    """Return the classifier of a run that was read, with its network; see :func:`load_classifier`.

    Loads MXNet, with :func:`bert.runtime.prepare` if that was not called before.
    """
    if "mxnet" not in sys.modules:
        runtime.prepare(bfloat16=bfloat16)
    import mxnet as mx

    from bert.modeling import BERTClassifier, BERTModel

    bert = BERTModel(saved.sizes, dropout, cls_only=True)
    net = BERTClassifier(bert, len(saved.config["id2label"]), dropout)
    if bfloat16:
        bert.use_bfloat16()
    contexts = ctx if isinstance(ctx, list) else [ctx or mx.cpu()]
    set_parameters(net, saved.parameters, contexts, saved.path)
    return Classifier(net, saved.tokenizer, saved.config)


def _packed(
    encoded: EncodedTexts, first: int, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return input_ids, token_types ``[T]`` and valid_length ``[B]`` of windows, unpadded."""
    offsets = encoded.offsets[first : end + 1]
    lengths = np.diff(offsets)
    position = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], lengths)
    types = position >= np.repeat(encoded.first_segment[first:end], lengths)
    return encoded.input_ids[offsets[0] : offsets[-1]], types, lengths

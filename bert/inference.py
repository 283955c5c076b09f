"""A classifier's forward pass on a CPU in one C++ function, without padding and without MXNet.

    inference = Inference.of_run(read_classifier("output_dir"))
    logits = inference(input_ids, token_types, valid_length)

The weights are packed once, in the order in which products read them. A sentence's logits have the
same bits whatever other sentences it is computed with, and for any number of threads.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bert import native, runtime
from bert.config import BERTConfig, parameter_shapes
from bert.parameters import check_parameters, parameters_of

if TYPE_CHECKING:
    import mxnet as mx
    from numpy.typing import ArrayLike

    from bert.classifier import SavedClassifier
    from bert.modeling import BERTClassifier

_HEAD = ("classifier.1.weight", "classifier.1.bias")
_NO_MEMORY, _INVALID = 1, 2  # what bert_inference_run returns


def classifier_shapes(sizes: BERTConfig, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a classifier's parameters, by structural name, in C++'s order."""
    head = zip(_HEAD, ((num_classes, sizes.units), (num_classes,)), strict=True)
    return {f"bert.{name}": shape for name, shape in parameter_shapes(sizes).items()} | dict(head)


class Inference:
    """A classifier's network, packed for inference.

    Parameters
    ----------
    parameters : dict of str to float32 arrays
        By the names and with the shapes of :func:`classifier_shapes`. They must not change
        afterwards.
    sizes : BERTConfig
        ``sizes.is_plain`` must be true.
    bfloat16 : bool
        Multiply in bfloat16 in the encoder's dense layers, and add up in float32.

    Raises
    ------
    NativeUnavailable
        There is no compiler, or it fails: see :mod:`bert.native`.
    ValueError
        A parameter has another shape.
    MemoryError
    """

    def __init__(
        self, parameters: Mapping[str, np.ndarray], sizes: BERTConfig, bfloat16: bool = False
    ):
        if not sizes.is_plain:
            raise ValueError("a model of other operations than BERT's")
        library = native.library()
        self._reads_token_types = sizes.reads_token_types
        self.num_classes = len(parameters[_HEAD[1]])
        shapes = classifier_shapes(sizes, self.num_classes)
        self._parameters = [np.ascontiguousarray(parameters[name], np.float32) for name in shapes]
        if [array.shape for array in self._parameters] != list(shapes.values()):
            raise ValueError("the parameters' shapes are not those of the sizes")
        numbers = np.array(
            [
                *(sizes.vocab_size, sizes.token_type_vocab_size, sizes.max_length),
                *(sizes.num_layers, sizes.units, sizes.hidden_size, sizes.num_heads),
                self.num_classes,
            ],
            np.int64,
        )
        pointers = (ctypes.c_void_p * len(self._parameters))(
            *(array.ctypes.data for array in self._parameters)
        )
        library.bert_inference_new.restype = ctypes.c_void_p
        epsilon = ctypes.c_float(sizes.layer_norm_eps)
        amx = bfloat16 and runtime.allow_amx()
        handle = library.bert_inference_new(
            _pointer(numbers), epsilon, pointers, int(bfloat16), int(amx)
        )
        if handle is None:
            raise MemoryError("there is not enough memory for the packed weights")
        self._network = ctypes.c_void_p(handle)
        self._run = library.bert_inference_run
        self._lock = threading.Lock()  # the network has one set of buffers
        weakref.finalize(self, library.bert_inference_delete, self._network)

    @classmethod
    def of_run(cls, saved: SavedClassifier, bfloat16: bool = False) -> Inference:
        """Pack a run's network; UserError if its parameters are not those of its sizes."""
        shapes = classifier_shapes(saved.sizes, len(saved.config["id2label"]))
        check_parameters(saved.parameters, shapes, saved.path)
        return cls(saved.parameters, saved.sizes, bfloat16)

    @classmethod
    def of(cls, net: BERTClassifier) -> Inference:
        """Pack the parameters that a network on CPUs has now, in the precision it computes in.

        Changes of its parameters need a new one.
        """
        arrays = {name: _view(p.list_data()[0]) for name, p in parameters_of(net).items()}
        return cls(arrays, net.bert.config, net.bert.bfloat16)

    def __call__(
        self, input_ids: ArrayLike, token_types: ArrayLike, valid_length: ArrayLike
    ) -> np.ndarray:
        """Return the logits of B sentences or pairs, of T tokens in total.

        Parameters
        ----------
        input_ids, token_types : int32 ``[T]``
            Those of all sentences, one after the other, without padding.
        valid_length : int32 ``[B]``
            How many tokens each sentence has.

        Returns
        -------
        float32 array ``[B, num_classes]``

        Raises
        ------
        ValueError
            A length is not between 1 and the model's most, they do not add up to T, or an id is not
            in its table.
        MemoryError
        """
        ids, types, lengths = (
            np.ascontiguousarray(array, np.int32)
            for array in (input_ids, token_types, valid_length)
        )
        if not (ids.ndim == types.ndim == lengths.ndim == 1 and len(ids) == len(types)):
            raise ValueError("input_ids and token_types must be [T], valid_length [B]")
        if not self._reads_token_types:
            types = np.zeros_like(types)
        logits = np.empty((len(lengths), self.num_classes), np.float32)
        tokens, sentences = ctypes.c_int64(len(ids)), ctypes.c_int64(len(lengths))
        batch = (_pointer(ids), _pointer(types), tokens, _pointer(lengths), sentences)
        with self._lock:
            code = self._run(self._network, *batch, _pointer(logits))
        if code == _NO_MEMORY:
            raise MemoryError("there is not enough memory for a batch")
        if code == _INVALID:
            raise ValueError("an id is not in its table, or the lengths are not those of sentences")
        return logits


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _view(array: mx.nd.NDArray) -> np.ndarray:
    """Return MXNet's own memory of a float32 array: a copy of BERT base has 438 MB."""
    from mxnet.base import _LIB, check_call

    array.wait_to_read()
    pointer = ctypes.POINTER(ctypes.c_float)()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    return np.ctypeslib.as_array(pointer, array.shape)

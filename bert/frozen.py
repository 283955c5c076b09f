"""A classifier's frozen part, and the network behind it: for the fused operators' packed rows.

What a frozen part computes of an example never changes, so it can be computed once and kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mxnet import nd
from mxnet.gluon import HybridBlock, nn

from bert.modeling import BERTClassifier, BERTModel


class BehindFrozen(HybridBlock):
    """The part of a classifier behind its frozen part; the parameters are the classifier's.

    Parameters
    ----------
    net : BERTClassifier
        Fused, with a frozen part.

    Inputs
        - **hidden** ``[T, units]`` float32: what :func:`frozen_output` returns
        - **offsets**, **dropout**: as of :meth:`bert.modeling.BERTModel.fuse`

        or only **hidden** ``[B, units]``, where all layers are frozen
    Outputs
        - **logits** ``[B, num_classes]`` float32
    """

    def __init__(self, net: BERTClassifier, **kwargs):
        super().__init__(**kwargs)
        bert = net.bert
        self.cells = nn.HybridSequential()
        self.cells.add(*list(bert.encoder.transformer_cells)[bert.frozen_layers :])
        self.pooler = None if bert.frozen_pooler else bert.pooler
        self._pool = bert.pool
        self.classifier = net.classifier

    def hybrid_forward(self, F, hidden, *batch):
        for cell in self.cells:
            hidden = cell(hidden, *batch)
        return self.classifier(hidden if self.pooler is None else self._pool(F, hidden))


class Kept(NamedTuple):
    """What a frozen part has computed of examples, and the network that starts behind it."""

    network: BehindFrozen
    rows: np.ndarray  # [all tokens, units] float32; [windows, units] where all layers are frozen


def frozen_output(
    bert: BERTModel, input_ids: nd.NDArray, token_types: nd.NDArray, offsets: nd.NDArray
) -> nd.NDArray:
    """Return what the frozen part of a fused BERT computes, without dropout.

    It computes one operator after the other: a graph would keep its memory.

    Parameters
    ----------
    bert : BERTModel
    input_ids, token_types, offsets
        Packed, as of :meth:`bert.modeling.BERTModel.fuse`.

    Returns
    -------
    NDArray float32
        ``[T, units]``; where all layers are frozen, ``[B, units]``: the [CLS] rows, or what the
        pooler makes of them if it is frozen too.
    """
    batch = offsets, nd.zeros(2, offsets.context, dtype="int32")
    hidden = bert.embed_packed(nd, input_ids, token_types, *batch, **_weights(bert))
    for cell in list(bert.encoder.transformer_cells)[: bert.frozen_layers]:
        hidden = cell.hybrid_forward(nd, hidden, *batch, **_weights(cell))
    return bert.pool(nd, hidden) if bert.frozen_pooler else hidden


def _weights(block: HybridBlock) -> dict[str, nd.NDArray]:
    return {name: parameter.data() for name, parameter in block._reg_params.items()}

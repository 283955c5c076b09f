"""What a network takes, and what may go wrong while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mxnet as mx
import numpy as np

from bert.errors import RunError, lacks_memory
from bert.modeling import BERTClassifier
from dataset import TokenizedExamples, packed_batch, padded_batch


class NotFiniteError(RunError):
    """A loss, a gradient or an output is no longer a finite number."""


class OutOfMemoryError(RunError):
    """A batch needs more memory than there is."""


def network_inputs(
    net: BERTClassifier,
    examples: TokenizedExamples,
    indices: np.ndarray,
    ctx: mx.Context,
    dropout_seed: int | None = None,
) -> list[mx.nd.NDArray]:
    """Return a batch as the network takes it: padded, or packed for the fused operators.

    Where what a frozen part gives for the examples is kept, the batch is for the network behind it.
    Without ``dropout_seed`` the fused operators drop nothing; the stock operators ask autograd.
    """
    kept = examples.kept
    if kept and not len(kept.network.cells):
        arrays = [kept.rows[indices]]
    elif net.bert.fused:
        rate = 0 if dropout_seed is None else round(net.bert.dropout * 2**24)
        dropout = np.array([dropout_seed or 0, rate], np.int32)
        input_ids, token_types, offsets = packed_batch(examples, indices)
        ids = [kept.rows[examples.tokens_of(indices)]] if kept else [input_ids, token_types]
        arrays = [*ids, offsets, dropout]
    else:
        arrays = [*padded_batch(examples, indices)]
    return [mx.nd.array(array, ctx, array.dtype) for array in arrays]


def logits_of(
    net: BERTClassifier,
    examples: TokenizedExamples,
    indices: np.ndarray,
    ctx: mx.Context,
    dropout_seed: int | None = None,
) -> mx.nd.NDArray:
    """Return the logits ``[B, num_classes]`` of a batch, as :func:`network_inputs` describes it."""
    network = examples.kept.network if examples.kept else net
    return network(*network_inputs(net, examples, indices, ctx, dropout_seed))


@contextmanager
def memory_for(examples: TokenizedExamples, batches: list[np.ndarray], flag: str) -> Iterator[None]:
    """Turn MXNet's and NumPy's failure to allocate into an OutOfMemoryError that names ``flag``."""
    try:
        yield
    except (mx.MXNetError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        longest = max(int(examples.lengths[indices].max()) for indices in batches)
        raise OutOfMemoryError(
            f"there is not enough memory for a batch of {max(map(len, batches))} examples of up to "
            f"{longest} tokens: lower {flag}, or --max_len"
        ) from None

"""BERT's forward pass on packed rows, by the fused CPU operators of :mod:`bert.native`.

The tokens of all pairs of a batch follow each other in one array, ``[T, units]``, without padding;
pair b has the rows ``offsets[b]`` to ``offsets[b + 1]``. The mathematics is that of
:mod:`bert.modeling`, whose blocks call these functions with their parameters. In bfloat16 a layer
is one operator. Otherwise dense layers use MXNet's operator, except that on processors with AMX
float32 is multiplied by their matrix units; in bfloat16 MXNet uses these itself.

``dropout`` is an int32 array ``[2]`` given at every step: a seed, and the rate times 2^24 (0 when
not training). ``site`` numbers the places where dropout is applied.
"""

from __future__ import annotations

import numpy as np

from bert import native

SITES_PER_LAYER = 3
_KINDS = ("relu", "silu", "gelu_new", "gelu")  # the order in native/activations.h
# A layer's parameters, in the order of native/layer.cc.
LAYER_PARAMETERS = (
    *("attention_cell_proj_query_weight", "attention_cell_proj_query_bias"),
    *("attention_cell_proj_key_weight", "attention_cell_proj_key_bias"),
    *("attention_cell_proj_value_weight", "attention_cell_proj_value_bias"),
    *("proj_weight", "proj_bias", "layer_norm_gamma", "layer_norm_beta"),
    *("ffn_ffn_1_weight", "ffn_ffn_1_bias", "ffn_ffn_2_weight", "ffn_ffn_2_bias"),
    *("ffn_layer_norm_gamma", "ffn_layer_norm_beta"),
)
# NumPy has no bfloat16; this is how MXNet represents it.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


def dense(F, data, weight, num_hidden, bfloat16):
    """Return ``data`` times the transpose of ``weight``, with float32 or bfloat16 factors.

    Inputs, outputs and gradients are float32 either way. bfloat16 products are added up in float32,
    and each sum is rounded once. float32 products use :mod:`bert.native` if it has the operator.
    """
    if native.amx and not bfloat16:
        return F.bert_dense(data, weight)
    if bfloat16:
        data, weight = (F.amp_cast(array, dtype=BFLOAT16) for array in (data, weight))
    product = F.FullyConnected(data, weight, num_hidden=num_hidden, flatten=False, no_bias=True)
    return F.amp_cast(product, dtype="float32") if bfloat16 else product


def embeddings(F, config, input_ids, token_types, token_type_table, offsets, dropout, weights):
    """Return the sum of the embeddings after LayerNorm and dropout, ``[T, embedding units]``."""
    return F.bert_embedding(
        weights["word_embed_0_weight"],
        token_type_table,
        weights["encoder_position_weight"],
        weights["encoder_layer_norm_gamma"],
        weights["encoder_layer_norm_beta"],
        input_ids,
        token_types,
        offsets,
        dropout,
        site=0,
        eps=config.layer_norm_eps,
    )


def encoder_cell(F, config, layer, cls_only, bfloat16, hidden, offsets, dropout, weights):
    """Return a layer's output ``[T, units]``; with cls_only the [CLS] rows, ``[B, units]``."""
    units = config.units
    site = 1 + SITES_PER_LAYER * layer
    if bfloat16 and not native.amx:
        return F.bert_layer(
            hidden,
            offsets,
            dropout,
            *(weights[name] for name in LAYER_PARAMETERS),
            heads=config.num_heads,
            site=site,
            eps=config.layer_norm_eps,
            kind=_KINDS.index(config.hidden_act),
            cls=int(cls_only),
            bfloat16=1,
        )

    def product(data, weight, num_hidden):
        return dense(F, data, weight, num_hidden, bfloat16)

    projections = [
        weights[f"attention_cell_proj_{name}_weight"] for name in ("query", "key", "value")
    ]
    bias = F.concat(
        *[weights[f"attention_cell_proj_{name}_bias"] for name in ("query", "key", "value")], dim=0
    )
    attributes = {"heads": config.num_heads, "site": site}
    if cls_only:
        first_tokens = F.slice_axis(offsets, axis=0, begin=0, end=-1)
        residual = F.take(hidden, first_tokens)
        query = product(residual, projections[0], units)
        key_value = product(hidden, F.concat(*projections[1:], dim=0), 2 * units)
        context = F.bert_cls_attention(query, key_value, bias, offsets, dropout, **attributes)
    else:
        residual = hidden
        # One product for all three. Joining the weights at each step moves few bytes, and the
        # gradients of the common input need no addition.
        qkv = product(hidden, F.concat(*projections, dim=0), 3 * units)
        context = F.bert_attention(qkv, bias, offsets, dropout, **attributes)

    attended = F.bert_add_norm(
        product(context, weights["proj_weight"], units),
        weights["proj_bias"],
        residual,
        weights["layer_norm_gamma"],
        weights["layer_norm_beta"],
        dropout,
        site=site + 1,
        eps=config.layer_norm_eps,
    )
    inner = product(attended, weights["ffn_ffn_1_weight"], config.hidden_size)
    if config.hidden_act == "gelu":
        inner = F.bert_bias_gelu(inner, weights["ffn_ffn_1_bias"])
    else:
        kind = _KINDS.index(config.hidden_act)
        inner = F.bert_bias_activation(inner, weights["ffn_ffn_1_bias"], kind=kind)
    return F.bert_add_norm(
        product(inner, weights["ffn_ffn_2_weight"], units),
        weights["ffn_ffn_2_bias"],
        attended,
        weights["ffn_layer_norm_gamma"],
        weights["ffn_layer_norm_beta"],
        dropout,
        site=site + 2,
        eps=config.layer_norm_eps,
    )

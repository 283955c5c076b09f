"""BERT as Gluon HybridBlocks (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

Every parameter has gluonnlp's structural name
(``encoder.transformer_cells.0.attention_cell.proj_query.weight``), so a saved file loads into
``gluonnlp.model.BERTModel`` and vice versa.

Shapes: B pairs in a batch, L tokens in its longest pair, ``units`` the width of the model.
Inside the encoder the token axis comes first, ``[L, B, units]``: MXNet's attention operators need
this order, and the [CLS] rows are one contiguous slice.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn
from mxnet.initializer import Normal

from bert import fused
from bert.config import BERTConfig, Shapes, embedding_shapes, layer_shapes
from bert.family import activate

# "initializer_range" of every published BERT: the standard deviation of new weights.
INITIALIZER_RANGE = 0.02


class _ParameterBlock(HybridBlock):
    """A block that owns all parameters of its computation, under dotted structural names.

    Gluon names a parameter after the child block that owns it. Owning them here keeps one layer's
    mathematics in one function, so that operators can be fused across gluonnlp's child blocks, and
    files still have gluonnlp's names.
    """

    def __init__(self, shapes: Shapes, **kwargs):
        super().__init__(**kwargs)
        self._structural_names = {}
        for name, shape in shapes.items():
            init = {"bias": "zeros", "beta": "zeros", "gamma": "ones"}.get(name.split(".")[-1])
            init = init or Normal(INITIALIZER_RANGE)
            attribute = name.replace(".", "_")
            self._structural_names[attribute] = name
            setattr(self, attribute, self.params.get(attribute, shape=shape, init=init))

    def _collect_params_with_prefix(self, prefix=""):
        dot = prefix + "." if prefix else ""
        collected = {dot + self._structural_names[k]: v for k, v in self._reg_params.items()}
        for name, child in self._children.items():
            collected.update(child._collect_params_with_prefix(dot + name))
        return collected


class EncoderCell(_ParameterBlock):
    """One layer of the encoder: attention, then the feed-forward layers (section 3 and fig. 1).

    Parameters
    ----------
    config : BERTConfig
    layer : int
        From 0.
    dropout : float
        Rate on the attention probabilities and on the output of both halves.
    cls_only : bool
        Compute the output for the first token of each pair only: a classifier reads nothing else
        of the last layer. This saves the query, projection and feed-forward of the other tokens.

    Inputs
        - **hidden** ``[L, B, units]`` float32
        - **valid_length** ``[B]`` int32
    Outputs
        - **hidden** ``[L, B, units]`` float32, or ``[1, B, units]`` with ``cls_only``
    """

    def __init__(
        self, config: BERTConfig, layer: int, dropout: float, cls_only: bool = False, **kwargs
    ):
        super().__init__(layer_shapes(config), **kwargs)
        self._config = config
        self._layer = layer
        self._dropout = dropout
        self._cls_only = cls_only
        self.fused = False
        self.bfloat16 = False
        self.frozen = False

    def hybrid_forward(self, F, hidden, *batch, **weights):
        if self.fused:
            how = (self._config, self._layer, self._cls_only, self.bfloat16)
            batch = _without_dropout(F, *batch) if self.frozen else batch
            return fused.encoder_cell(F, *how, hidden, *batch, weights)
        (valid_length,) = batch
        rate = 0.0 if self.frozen else self._dropout
        units, heads = self._config.units, self._config.num_heads
        eps = self._config.layer_norm_eps

        queries = F.slice_axis(hidden, axis=0, begin=0, end=1) if self._cls_only else hidden

        def dense(data, name, num_hidden):
            weight, bias = weights[f"{name}_weight"], weights[f"{name}_bias"]
            return _dense(F, data, weight, bias, num_hidden, self.bfloat16)

        query = dense(queries, "attention_cell_proj_query", units)
        # The attention operators take keys and values interleaved head by head; interleaving the
        # weights (units² numbers) is cheaper than interleaving their products.
        weight = F.concat(
            weights["attention_cell_proj_key_weight"].reshape((heads, -1, units)),
            weights["attention_cell_proj_value_weight"].reshape((heads, -1, units)),
            dim=1,
        ).reshape((-1, units))
        bias = F.concat(
            weights["attention_cell_proj_key_bias"].reshape((heads, -1)),
            weights["attention_cell_proj_value_bias"].reshape((heads, -1)),
            dim=1,
        ).reshape((-1,))
        key_value = _dense(F, hidden, weight, bias, 2 * units, self.bfloat16)
        # [B * heads, Lq, L], divided by sqrt(units / heads) in the operator
        scores = F.contrib.interleaved_matmul_encdec_qk(query, key_value, heads=heads)
        # softmax needs a length for each of its rows: [B] -> [B * heads, Lq]
        lengths = F.broadcast_like(
            F.repeat(valid_length, heads).expand_dims(1), scores, lhs_axes=(1,), rhs_axes=(1,)
        )
        probabilities = F.softmax(scores, length=lengths, use_length=True, axis=-1)
        probabilities = F.Dropout(probabilities, p=rate)
        context = F.contrib.interleaved_matmul_encdec_valatt(key_value, probabilities, heads=heads)

        attended = F.Dropout(dense(context, "proj", units), p=rate)
        attended = _layer_norm(F, queries + attended, weights, "layer_norm", eps)

        inner = dense(attended, "ffn_ffn_1", self._config.hidden_size)
        inner = activate(F, inner, self._config.hidden_act)
        outer = F.Dropout(dense(inner, "ffn_ffn_2", units), p=rate)
        return _layer_norm(F, attended + outer, weights, "ffn_layer_norm", eps)


def _without_dropout(F, offsets, dropout):
    return offsets, F.zeros_like(dropout)


def _dense(F, data, weight, bias, num_hidden, bfloat16):
    if bfloat16:
        return F.broadcast_add(fused.dense(F, data, weight, num_hidden, bfloat16), bias)
    return F.FullyConnected(data, weight, bias, num_hidden=num_hidden, flatten=False)


def _layer_norm(F, data, weights, name, eps):
    return F.LayerNorm(data, weights[f"{name}_gamma"], weights[f"{name}_beta"], eps=eps)


class Encoder(HybridBlock):
    """The layers, one after the other; inputs and outputs are those of :class:`EncoderCell`."""

    def __init__(self, config: BERTConfig, dropout: float, cls_only: bool, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.transformer_cells = nn.HybridSequential()
            for layer in range(config.num_layers):
                last = layer == config.num_layers - 1
                self.transformer_cells.add(EncoderCell(config, layer, dropout, cls_only and last))

    def hybrid_forward(self, F, hidden, *batch):
        for cell in self.transformer_cells:
            hidden = cell(hidden, *batch)
        return hidden


class BERTModel(_ParameterBlock):
    """The pretrained part of BERT, or of a member of its family: embeddings, encoder and pooler.

    The pooler is a dense layer on the [CLS] rows. Where it is not pretrained
    (:class:`bert.family.Member`), it is the first layer of the classifier's head.

    Parameters
    ----------
    config : BERTConfig
    dropout : float
        Rate of every dropout inside.
    cls_only : bool
        Return only the [CLS] rows, and compute nothing that only the other rows need.

    Inputs
        - **input_ids** ``[B, L]`` int32
        - **token_types** ``[B, L]`` int32: 0 for the first sentence, 1 for the second; ignored by a
          model of fewer than two types
        - **valid_length** ``[B]`` int32: tokens that are not padding
    Outputs
        - **hidden** ``[B, L, units]`` float32, ``[B, 1, units]`` with ``cls_only``
        - **pooled** ``[B, units]`` float32: the pooler's output after its activation

    :meth:`fuse` changes the inputs to packed ones.

    Attributes
    ----------
    frozen_layers : int or None
        How many layers are frozen, as the embeddings then are; None: nothing is.
    frozen_pooler : bool
    """

    def __init__(self, config: BERTConfig, dropout: float = 0.1, cls_only: bool = False, **kwargs):
        super().__init__(embedding_shapes(config), **kwargs)
        self.config = config
        self.dropout = dropout
        self.cls_only = cls_only
        self.fused = False
        self.bfloat16 = False
        self.frozen_layers: int | None = None
        self.frozen_pooler = False
        with self.name_scope():
            self.encoder = Encoder(config, dropout, cls_only)
            activation = config.member.pooler_activation
            self.pooler = nn.Dense(
                config.units,
                # Of activations, Gluon's dense layer has tanh and relu.
                activation=None if activation == "gelu" else activation,
                in_units=config.units,
                weight_initializer=Normal(INITIALIZER_RANGE),
            )

    def fuse(self) -> None:
        """Use packed rows and the fused CPU operators, which :func:`bert.native.load` has loaded.

        Needs ``cls_only``. The inputs become **input_ids** and **token_types** ``[T]`` int32,
        **offsets** ``[B + 1]`` int32 and **dropout** ``[2]`` int32 (see :mod:`bert.fused`), the
        outputs **hidden** ``[B, units]``, the [CLS] rows, and **pooled** ``[B, units]``.
        """
        if not self.cls_only:
            raise ValueError("only a BERT with cls_only can be fused")
        self.fused = True
        for cell in self.encoder.transformer_cells:
            cell.fused = True

    def freeze(self, layers: int, pooler: bool = False) -> None:
        """Take the embeddings, the first layers and perhaps the pooler out of the training.

        Their parameters have no gradients, and nothing is dropped in them. Call it before the
        network computes; :mod:`bert.frozen` computes what is behind them alone.

        Parameters
        ----------
        layers : int
            From 0 (the embeddings alone) to all.
        pooler : bool
            Needs all layers.
        """
        cells = list(self.encoder.transformer_cells)
        if not 0 <= layers <= len(cells) or (pooler and layers < len(cells)):
            raise ValueError(f"cannot freeze {layers} of {len(cells)} layers, pooler {pooler}")
        self.frozen_layers, self.frozen_pooler = layers, pooler
        for cell in cells[:layers]:
            cell.frozen = True
        for block in [self, *cells[:layers], *[self.pooler] * pooler]:
            for parameter in block._reg_params.values():
                parameter.grad_req = "null"

    def decay_lr_by_layer(self, rate: float) -> None:
        """Make each layer's learning rate ``rate`` times that of the layer above it.

        The pooler's is multiplied by 1, the last layer's by ``rate``, and so on; the embeddings' by
        ``rate ** (num_layers + 1)`` (Zhang et al. 2021, https://arxiv.org/abs/2006.05987).
        """
        cells = list(self.encoder.transformer_cells)
        for distance, block in enumerate([*reversed(cells), self], start=1):
            for parameter in block._reg_params.values():
                parameter.lr_mult = rate**distance

    def use_bfloat16(self) -> None:
        """Compute the matrix products of the encoder's dense layers in bfloat16, on a CPU."""
        self.bfloat16 = True
        for cell in self.encoder.transformer_cells:
            cell.bfloat16 = True

    def hybrid_forward(self, F, input_ids, token_types, *batch, **weights):
        config = self.config
        frozen = self.frozen_layers is not None
        if self.fused:
            own = _without_dropout(F, *batch) if frozen else batch
            hidden = self.embed_packed(F, input_ids, token_types, *own, **weights)
            hidden = self.encoder(hidden, *batch)
            return hidden, self.pool(F, hidden)
        token_types, token_type_table = self._token_types(F, token_types, weights)
        word = F.Embedding(
            F.transpose(input_ids),
            weights["word_embed_0_weight"],
            input_dim=config.vocab_size,
            output_dim=config.embedding_units,
        )
        token_type = F.Embedding(
            F.transpose(token_types),
            token_type_table,
            input_dim=max(1, config.token_type_vocab_size),
            output_dim=config.embedding_units,
        )
        position = F.slice_like(weights["encoder_position_weight"], word, axes=(0,))  # [L, units]
        hidden = F.broadcast_add(word + token_type, position.expand_dims(1))
        hidden = _layer_norm(F, hidden, weights, "encoder_layer_norm", config.layer_norm_eps)
        hidden = F.Dropout(hidden, p=0.0 if frozen else self.dropout)
        hidden = self.encoder(self._project(F, hidden, weights), *batch)
        pooled = self.pool(F, F.slice_axis(hidden, axis=0, begin=0, end=1).reshape((-3, 0)))
        return F.swapaxes(hidden, 0, 1), pooled

    def embed_packed(self, F, input_ids, token_types, offsets, dropout, **weights):
        """Return the embeddings of packed rows ``[T, units]``, as the encoder takes them."""
        token_types, table = self._token_types(F, token_types, weights)
        ids = (input_ids, token_types, table)
        hidden = fused.embeddings(F, self.config, *ids, offsets, dropout, weights)
        return self._project(F, hidden, weights)

    def _token_types(self, F, token_types, weights):
        """Return the token types that the model knows, and their embeddings."""
        if not self.config.reads_token_types:
            token_types = F.zeros_like(token_types)
        if self.config.token_type_vocab_size:
            return token_types, weights["token_type_embed_0_weight"]
        # one type, of zeros
        return token_types, F.zeros_like(weights["encoder_layer_norm_gamma"]).expand_dims(0)

    def _project(self, F, embedded, weights):
        """Widen the embeddings to the encoder's units, if they are narrower."""
        if self.config.embedding_size is None:
            return embedded
        weight, bias = weights["embed_project_weight"], weights["embed_project_bias"]
        return F.FullyConnected(embedded, weight, bias, num_hidden=self.config.units, flatten=False)

    def pool(self, F, rows):
        """Return what the pooler makes of the [CLS] rows ``[B, units]``."""
        member = self.config.member
        if member.dropout_before_pooler and not self.frozen_pooler:
            rows = F.Dropout(rows, p=self.dropout)
        pooled = self.pooler(rows)
        return activate(F, pooled, "gelu") if member.pooler_activation == "gelu" else pooled


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
        as those of :class:`BERTModel`
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

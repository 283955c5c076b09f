"""A fine-tuned BERT as an ONNX graph, with the inputs that Hugging Face's exporter gives it.

MXNet's own exporter writes operators that newer opsets have dropped; BERT has a dozen kinds of
operator, so its graph is written out here. The operators are in the order in which ONNX Runtime
looks for them: it fuses attention, bias + GELU and residual + LayerNorm.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from bert.config import BERTConfig

# The first with LayerNormalization.
OPSET = 17
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Added to the attention scores of padding: exp of it is 0 in float32.
_MASKED = -10000.0


class _Graph:
    """A graph under construction: its nodes and initializers.

    Every method adds to the graph and returns the name of its output, by which other nodes refer
    to it.
    """

    def __init__(self, arrays: dict[str, np.ndarray], config: BERTConfig):
        self.arrays = arrays
        self.config = config
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: ArrayLike) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind: str, *inputs: str, name: str, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.arrays[name])

    def dense(self, data: str, parameters: str, name: str) -> str:
        # ONNX multiplies from the right: [in, out], where Gluon has [out, in].
        kernel = self.constant(f"{parameters}.weight", self.arrays[f"{parameters}.weight"].T)
        product = self.node("MatMul", data, kernel, name=f"{name}/MatMul")
        return self.node("Add", product, self.weight(f"{parameters}.bias"), name=f"{name}/Add")

    def layer_norm(self, data: str, parameters: str, name: str) -> str:
        inputs = (data, self.weight(f"{parameters}.gamma"), self.weight(f"{parameters}.beta"))
        epsilon = self.config.layer_norm_eps
        return self.node("LayerNormalization", *inputs, name=name, axis=-1, epsilon=epsilon)


def build(
    arrays: dict[str, np.ndarray], config: BERTConfig, half_embeddings: bool = False
) -> onnx.ModelProto:
    """Return the graph of a classifier.

    Parameters
    ----------
    arrays : dict of str to float32 arrays
        The parameters of a :class:`bert.classifier.BERTClassifier`, by structural name.
    config : BERTConfig
    half_embeddings : bool
        Keep the word embeddings, half of a small model, in float16: for a model that will be
        quantized, because 8 bits hurt the embeddings more than the products.

    Returns
    -------
    onnx.ModelProto
        Inputs ``input_ids``, ``attention_mask`` (1 for a token, 0 for padding, which comes last)
        and ``token_type_ids``, int64 ``[batch, sequence]``; output ``logits`` float32
        ``[batch, labels]``. Checked by ``onnx.checker``.
    """
    graph = _Graph(arrays, config)
    for i in (0, 1, 2):
        graph.constant(f"axis_{i}", np.array([i], np.int64))
    graph.constant("one", np.float32(1))
    hidden = _embeddings(graph, half_embeddings)
    _mask(graph)
    units_per_head = config.units // config.num_heads
    graph.constant("heads", np.array((0, 0, config.num_heads, units_per_head), np.int64))
    graph.constant("units", np.array([0, 0, config.units], np.int64))
    graph.constant("scale", np.float32(math.sqrt(units_per_head)))
    graph.constant("half", np.float32(0.5))
    graph.constant("root_2", np.float32(math.sqrt(2)))
    for layer in range(config.num_layers):
        hidden = _layer(graph, layer, hidden)
    hidden = graph.node("Squeeze", hidden, "axis_1", name="first_row")
    pooled = graph.node("Tanh", graph.dense(hidden, "bert.pooler", "pooler"), name="pooler/Tanh")
    head = [graph.weight("classifier.1.weight"), graph.weight("classifier.1.bias")]
    graph.node("Gemm", pooled, *head, name="logits", transB=1)
    return _model(graph)


def _embeddings(graph: _Graph, half: bool) -> str:
    """Return the sum of the embeddings after LayerNorm, [batch, sequence, units]."""
    table = graph.arrays["bert.word_embed.0.weight"]
    table_name = graph.constant("bert.word_embed.0.weight", table.astype("f2") if half else table)
    word = graph.node("Gather", table_name, "input_ids", name="word")
    if half:
        word = graph.node("Cast", word, name="word/float32", to=TensorProto.FLOAT)
    types = graph.weight("bert.token_type_embed.0.weight")
    token_type = graph.node("Gather", types, "token_type_ids", name="token_type")
    shape = graph.node("Shape", "input_ids", name="shape")
    length = graph.node("Slice", shape, "axis_1", "axis_2", name="length")
    name = "bert.encoder.position_weight"
    positions = graph.constant(name, graph.arrays[name][None])
    position = graph.node("Slice", positions, "axis_0", length, "axis_1", name="position")
    hidden = graph.node("Add", word, token_type, name="word+token_type")
    hidden = graph.node("Add", hidden, position, name="embedding")
    return graph.layer_norm(hidden, "bert.encoder.layer_norm", "embedding/LayerNorm")


def _mask(graph: _Graph) -> None:
    """Add "mask": 0 for tokens, a large negative number for padding, [batch, 1, 1, sequence]."""
    mask = graph.node("Unsqueeze", "attention_mask", "axis_1", name="mask/rows")
    mask = graph.node("Unsqueeze", mask, "axis_2", name="mask/heads")
    mask = graph.node("Cast", mask, name="mask/float", to=TensorProto.FLOAT)
    mask = graph.node("Sub", "one", mask, name="mask/inverse")
    graph.node("Mul", mask, graph.constant("masked", np.float32(_MASKED)), name="mask")


def _layer(graph: _Graph, layer: int, hidden: str) -> str:
    """Return a layer's output, [batch, sequence, units]; of the last, only the row of [CLS]."""
    parameters, site = f"bert.encoder.transformer_cells.{layer}", f"layer_{layer}"
    queries = hidden
    if layer == graph.config.num_layers - 1:  # the classifier reads the output for [CLS] only
        first = graph.constant("first_token", np.array([0], np.int64))
        queries = graph.node("Gather", hidden, first, name="queries", axis=1)

    def heads(part: str, order: list[int]) -> str:
        data = queries if part == "query" else hidden
        name = f"{site}/{part}"
        data = graph.dense(data, f"{parameters}.attention_cell.proj_{part}", name)
        data = graph.node("Reshape", data, "heads", name=f"{name}/heads")
        return graph.node("Transpose", data, name=f"{name}/Transpose", perm=order)

    # [batch, heads, sequence, units / heads]; the keys with the last two exchanged
    query, key, value = (
        heads("query", [0, 2, 1, 3]),
        heads("key", [0, 2, 3, 1]),
        heads("value", [0, 2, 1, 3]),
    )
    scores = graph.node("MatMul", query, key, name=f"{site}/scores")
    scores = graph.node("Div", scores, "scale", name=f"{site}/scores/scaled")
    scores = graph.node("Add", scores, "mask", name=f"{site}/scores/masked")
    probability = graph.node("Softmax", scores, name=f"{site}/Softmax", axis=-1)
    context = graph.node("MatMul", probability, value, name=f"{site}/context")
    context = graph.node("Transpose", context, name=f"{site}/context/Transpose", perm=[0, 2, 1, 3])
    context = graph.node("Reshape", context, "units", name=f"{site}/context/units")
    attended = graph.dense(context, f"{parameters}.proj", f"{site}/proj")
    attended = graph.node("Add", attended, queries, name=f"{site}/proj/residual")
    attended = graph.layer_norm(attended, f"{parameters}.layer_norm", f"{site}/proj/LayerNorm")

    inner = graph.dense(attended, f"{parameters}.ffn.ffn_1", f"{site}/ffn_1")
    # x Φ(x) = x (1 + erf(x / √2)) / 2
    cdf = graph.node("Div", inner, "root_2", name=f"{site}/gelu/Div")
    cdf = graph.node("Erf", cdf, name=f"{site}/gelu/Erf")
    cdf = graph.node("Add", cdf, "one", name=f"{site}/gelu/Add")
    inner = graph.node("Mul", inner, cdf, name=f"{site}/gelu/Mul")
    inner = graph.node("Mul", inner, "half", name=f"{site}/gelu")
    outer = graph.dense(inner, f"{parameters}.ffn.ffn_2", f"{site}/ffn_2")
    outer = graph.node("Add", outer, attended, name=f"{site}/ffn_2/residual")
    return graph.layer_norm(outer, f"{parameters}.ffn.layer_norm", f"{site}/ffn_2/LayerNorm")


def _model(graph: _Graph) -> onnx.ModelProto:
    """Return the finished, checked model."""
    tokens = ("batch", "sequence")
    logits = ("batch", len(graph.arrays["classifier.1.bias"]))
    tensor = helper.make_tensor_value_info
    # Declared because it cannot be inferred, and ONNX Runtime fuses only nodes of known shapes.
    embedding = tensor("embedding", TensorProto.FLOAT, (*tokens, graph.config.units))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert_classifier",
            [tensor(name, TensorProto.INT64, tokens) for name in INPUTS],
            [tensor("logits", TensorProto.FLOAT, logits)],
            graph.initializers,
            value_info=[embedding],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,  # opset 17's, which old runtimes read
        producer_name="finetune_classifier",
    )
    onnx.checker.check_model(model, full_check=True)
    return model

"""A fine-tuned BERT as an ONNX graph, with the inputs that Hugging Face's exporter gives it.

MXNet's own exporter writes operators that newer opsets have dropped; BERT is a dozen kinds of
operator, so its graph is written out here. They stand in the order in which ONNX Runtime looks for
them: it joins attention, bias + GELU and residual + LayerNorm into operators of its own.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bert.modeling import BERTConfig

# The first with LayerNormalization.
OPSET = 17
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# What is added to the attention scores of padding: e to the power of it is 0 in float32.
_MASKED = -10000.0


class _Graph:
    """Nodes and initializers on their way into a graph; each method returns an output's name."""

    def __init__(self):
        self.nodes = []
        self.initializers = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind: str, *inputs: str, name: str, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name


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
        Keep the word embeddings, half of a small model, in float16: for a model that is to be
        quantized, whose products 8 bits hurt less than they would hurt these.

    Returns
    -------
    onnx.ModelProto
        Inputs ``input_ids``, ``attention_mask`` (1 for a token, 0 for padding, which stands at the
        end) and ``token_type_ids``, int64 ``[batch, sequence]``; output ``logits`` float32
        ``[batch, labels]``. Checked by ``onnx.checker``.
    """
    graph = _Graph()
    units, eps = config.units, config.layer_norm_eps

    def weight(name: str, value: np.ndarray | None = None) -> str:
        return graph.constant(name, arrays[name] if value is None else value)

    def dense(data: str, name: str, site: str) -> str:
        # ONNX multiplies from the right: [in, out], where Gluon has [out, in].
        kernel = weight(f"{name}.weight", arrays[f"{name}.weight"].T)
        product = graph.node("MatMul", data, kernel, name=f"{site}/MatMul")
        return graph.node("Add", product, weight(f"{name}.bias"), name=f"{site}/Add")

    def layer_norm(data: str, name: str, site: str) -> str:
        parameters = (weight(f"{name}.gamma"), weight(f"{name}.beta"))
        return graph.node("LayerNormalization", data, *parameters, name=site, axis=-1, epsilon=eps)

    axes = [graph.constant(f"axis_{i}", np.array([i], np.int64)) for i in (0, 1, 2)]
    one = graph.constant("one", np.float32(1))

    # Embeddings.
    embeddings = arrays["bert.word_embed.0.weight"]
    if half_embeddings:
        embeddings = embeddings.astype(np.float16)
    embeddings = weight("bert.word_embed.0.weight", embeddings)
    word = graph.node("Gather", embeddings, "input_ids", name="word")
    if half_embeddings:
        word = graph.node("Cast", word, name="word/float32", to=TensorProto.FLOAT)
    token_type = graph.node(
        "Gather", weight("bert.token_type_embed.0.weight"), "token_type_ids", name="token_type"
    )
    shape = graph.node("Shape", "input_ids", name="shape")
    length = graph.node("Slice", shape, axes[1], axes[2], name="length")
    position = graph.node(
        "Slice",
        weight("bert.encoder.position_weight", arrays["bert.encoder.position_weight"][None]),
        axes[0],
        length,
        axes[1],
        name="position",
    )
    hidden = graph.node("Add", word, token_type, name="word+token_type")
    hidden = graph.node("Add", hidden, position, name="embedding")
    hidden = layer_norm(hidden, "bert.encoder.layer_norm", "embedding/LayerNorm")

    # 0 for tokens and a large negative number for padding, [batch, 1, 1, sequence].
    mask = graph.node("Unsqueeze", "attention_mask", axes[1], name="mask/rows")
    mask = graph.node("Unsqueeze", mask, axes[2], name="mask/heads")
    mask = graph.node("Cast", mask, name="mask/float", to=TensorProto.FLOAT)
    mask = graph.node("Sub", one, mask, name="mask/inverse")
    mask = graph.node("Mul", mask, graph.constant("masked", np.float32(_MASKED)), name="mask")

    heads = (0, 0, config.num_heads, units // config.num_heads)
    split = graph.constant("heads", np.array(heads, np.int64))
    joined = graph.constant("units", np.array([0, 0, units], np.int64))
    scale = graph.constant("scale", np.float32(math.sqrt(units // config.num_heads)))
    half = graph.constant("half", np.float32(0.5))
    root = graph.constant("root_2", np.float32(math.sqrt(2)))
    for layer in range(config.num_layers):
        name, site = f"bert.encoder.transformer_cells.{layer}", f"layer_{layer}"
        # [batch, heads, sequence, units / heads]; the keys with the last two exchanged
        orders = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
        projected, queries = {}, hidden
        if layer == config.num_layers - 1:
            # The classifier reads nothing of the last layer but the output for [CLS].
            first = graph.constant("first_token", np.array([0], np.int64))
            queries = graph.node("Gather", hidden, first, name="queries", axis=1)
        for part, order in orders.items():
            data = queries if part == "query" else hidden
            data = dense(data, f"{name}.attention_cell.proj_{part}", f"{site}/{part}")
            data = graph.node("Reshape", data, split, name=f"{site}/{part}/heads")
            projected[part] = graph.node(
                "Transpose", data, name=f"{site}/{part}/Transpose", perm=order
            )
        scores = graph.node("MatMul", projected["query"], projected["key"], name=f"{site}/scores")
        scores = graph.node("Div", scores, scale, name=f"{site}/scores/scaled")
        scores = graph.node("Add", scores, mask, name=f"{site}/scores/masked")
        probability = graph.node("Softmax", scores, name=f"{site}/Softmax", axis=-1)
        context = graph.node("MatMul", probability, projected["value"], name=f"{site}/context")
        context = graph.node(
            "Transpose", context, name=f"{site}/context/Transpose", perm=[0, 2, 1, 3]
        )
        context = graph.node("Reshape", context, joined, name=f"{site}/context/units")
        attended = dense(context, f"{name}.proj", f"{site}/proj")
        attended = graph.node("Add", attended, queries, name=f"{site}/proj/residual")
        attended = layer_norm(attended, f"{name}.layer_norm", f"{site}/proj/LayerNorm")

        inner = dense(attended, f"{name}.ffn.ffn_1", f"{site}/ffn_1")
        # x Φ(x) = x (1 + erf(x / √2)) / 2
        cdf = graph.node("Div", inner, root, name=f"{site}/gelu/Div")
        cdf = graph.node("Erf", cdf, name=f"{site}/gelu/Erf")
        cdf = graph.node("Add", cdf, one, name=f"{site}/gelu/Add")
        inner = graph.node("Mul", inner, cdf, name=f"{site}/gelu/Mul")
        inner = graph.node("Mul", inner, half, name=f"{site}/gelu")
        hidden = dense(inner, f"{name}.ffn.ffn_2", f"{site}/ffn_2")
        hidden = graph.node("Add", hidden, attended, name=f"{site}/ffn_2/residual")
        hidden = layer_norm(hidden, f"{name}.ffn.layer_norm", f"{site}/ffn_2/LayerNorm")

    hidden = graph.node("Squeeze", hidden, axes[1], name="first_row")
    pooled = graph.node("Tanh", dense(hidden, "bert.pooler", "pooler"), name="pooler/Tanh")
    head = [weight("classifier.1.weight"), weight("classifier.1.bias")]
    graph.node("Gemm", pooled, *head, name="logits", transB=1)

    tokens = ("batch", "sequence")
    # Said, because it cannot be inferred, and ONNX Runtime joins only what it knows the shapes of.
    hidden_shape = (*tokens, units)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert_classifier",
            [helper.make_tensor_value_info(name, TensorProto.INT64, tokens) for name in INPUTS],
            [
                helper.make_tensor_value_info(
                    "logits", TensorProto.FLOAT, ("batch", len(arrays["classifier.1.bias"]))
                )
            ],
            graph.initializers,
            value_info=[
                helper.make_tensor_value_info("embedding", TensorProto.FLOAT, hidden_shape)
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,  # of opset 17's time: old runtimes read it
        producer_name="finetune_classifier",
    )
    onnx.checker.check_model(model, full_check=True)
    return model

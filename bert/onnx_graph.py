"""A fine-tuned BERT as an ONNX graph, with the inputs that Hugging Face's exporter gives it.

MXNet's own exporter writes operators that newer opsets have dropped; BERT has a dozen kinds of
operator, so its graph is written out here. The operators are in the order in which ONNX Runtime
looks for them: it fuses attention, bias + GELU and residual + LayerNorm.

The file is written without a message that holds the weights, which protobuf would copy again and
again.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, TensorProto, helper

from bert.config import BERTConfig
from bert.errors import UserError

# The first with LayerNormalization.
OPSET = 17
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # the last if the model reads them
_MOST_BYTES = 2**31 - 1  # of a protobuf message
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
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: ArrayLike) -> str:
        self.constants[name] = np.asarray(value)
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


def write(
    path: Path, arrays: dict[str, np.ndarray], config: BERTConfig, half_embeddings: bool = False
) -> None:
    """Write a classifier as an ONNX file.

    Its inputs are ``input_ids``, ``attention_mask`` (1 for a token, 0 for padding, which comes
    last) and, if the model reads token types, ``token_type_ids``, int64 ``[batch, sequence]``; its
    output is ``logits`` float32 ``[batch, labels]``. The graph is checked by ``onnx.checker``.
    Besides ``arrays`` it needs the memory of their largest one.

    Parameters
    ----------
    path : Path
    arrays : dict of str to float32 arrays
        The parameters of a :class:`bert.classifier.BERTClassifier`, by structural name.
    config : BERTConfig
    half_embeddings : bool
        Keep the word embeddings, half of a small model, in float16: for a model that will be
        quantized, because 8 bits hurt the embeddings more than the products.

    Raises
    ------
    UserError
        The weights do not fit a file of ONNX.
    OSError
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
    activations = {config.hidden_act, config.member.pooler_activation}
    if activations & {"gelu", "gelu_new"}:
        graph.constant("half", np.float32(0.5))
    if "gelu" in activations:
        graph.constant("root_2", np.float32(math.sqrt(2)))
    if "gelu_new" in activations:
        graph.constant("cubic", np.float32(0.044715))
        graph.constant("root_2_over_pi", np.float32(math.sqrt(2 / math.pi)))
    for layer in range(config.num_layers):
        hidden = _layer(graph, layer, hidden)
    hidden = graph.node("Squeeze", hidden, "axis_1", name="first_row")
    pooled = graph.dense(hidden, "bert.pooler", "pooler")
    pooled = _activation(graph, pooled, config.member.pooler_activation, "pooler")
    head = [graph.weight("classifier.1.weight"), graph.weight("classifier.1.bias")]
    graph.node("Gemm", pooled, *head, name="logits", transB=1)
    _write(path, graph, _checked_model(graph))


def _embeddings(graph: _Graph, half: bool) -> str:
    """Return the sum of the embeddings after LayerNorm, [batch, sequence, units].

    The sum is called "embedding". A narrow embedding is projected to the units.
    """
    table = graph.arrays["bert.word_embed.0.weight"]
    table_name = graph.constant("bert.word_embed.0.weight", table.astype("f2") if half else table)
    word = graph.node("Gather", table_name, "input_ids", name="word")
    if half:
        word = graph.node("Cast", word, name="word/float32", to=TensorProto.FLOAT)
    if graph.config.reads_token_types:
        types = graph.weight("bert.token_type_embed.0.weight")
        token_type = graph.node("Gather", types, "token_type_ids", name="token_type")
    elif graph.config.token_type_vocab_size:  # one type
        token_type = graph.weight("bert.token_type_embed.0.weight")
    else:
        token_type = None
    shape = graph.node("Shape", "input_ids", name="shape")
    length = graph.node("Slice", shape, "axis_1", "axis_2", name="length")
    name = "bert.encoder.position_weight"
    positions = graph.constant(name, graph.arrays[name][None])
    position = graph.node("Slice", positions, "axis_0", length, "axis_1", name="position")
    if token_type:
        word = graph.node("Add", word, token_type, name="word+token_type")
    hidden = graph.node("Add", word, position, name="embedding")
    hidden = graph.layer_norm(hidden, "bert.encoder.layer_norm", "embedding/LayerNorm")
    if graph.config.embedding_size is None:
        return hidden
    return graph.dense(hidden, "bert.embed_project", "embedding/projection")


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
    inner = _activation(graph, inner, graph.config.hidden_act, site)
    outer = graph.dense(inner, f"{parameters}.ffn.ffn_2", f"{site}/ffn_2")
    outer = graph.node("Add", outer, attended, name=f"{site}/ffn_2/residual")
    return graph.layer_norm(outer, f"{parameters}.ffn.layer_norm", f"{site}/ffn_2/LayerNorm")


def _activation(graph: _Graph, data: str, kind: str, site: str) -> str:
    """Return an activation of ``data``, one of the values of family.ACTIVATIONS or tanh."""
    if kind in ("relu", "tanh"):
        operator = {"relu": "Relu", "tanh": "Tanh"}[kind]
        return graph.node(operator, data, name=f"{site}/{operator}")
    if kind == "silu":
        sigmoid = graph.node("Sigmoid", data, name=f"{site}/Sigmoid")
        return graph.node("Mul", data, sigmoid, name=f"{site}/silu")
    if kind == "gelu_new":  # erf(x / √2) is approximated by tanh(√(2 / π) (x + 0.044715 x³))
        square = graph.node("Mul", data, data, name=f"{site}/gelu/square")
        cube = graph.node("Mul", square, data, name=f"{site}/gelu/cube")
        cube = graph.node("Mul", cube, "cubic", name=f"{site}/gelu/cubic")
        cdf = graph.node("Add", data, cube, name=f"{site}/gelu/sum")
        cdf = graph.node("Mul", cdf, "root_2_over_pi", name=f"{site}/gelu/scaled")
        cdf = graph.node("Tanh", cdf, name=f"{site}/gelu/Tanh")
    else:  # x Φ(x) = x (1 + erf(x / √2)) / 2
        cdf = graph.node("Div", data, "root_2", name=f"{site}/gelu/Div")
        cdf = graph.node("Erf", cdf, name=f"{site}/gelu/Erf")
    cdf = graph.node("Add", cdf, "one", name=f"{site}/gelu/Add")
    data = graph.node("Mul", data, cdf, name=f"{site}/gelu/Mul")
    return graph.node("Mul", data, "half", name=f"{site}/gelu")


def _checked_model(graph: _Graph) -> ModelProto:
    """Return the finished model without its constants, checked."""
    tokens = ("batch", "sequence")
    logits = ("batch", len(graph.arrays["classifier.1.bias"]))
    tensor = helper.make_tensor_value_info
    # Declared because it cannot be inferred, and ONNX Runtime fuses only nodes of known shapes.
    embedding = tensor("embedding", TensorProto.FLOAT, (*tokens, graph.config.embedding_units))
    names = INPUTS if graph.config.reads_token_types else INPUTS[:2]
    inputs = [tensor(name, TensorProto.INT64, tokens) for name in names]
    # To the checker, a weight is an input of its type and shape.
    small, large = [], []
    for name, array in graph.constants.items():
        if array.size <= len(graph.constants["heads"]):
            small.append(onnx.numpy_helper.from_array(array, name))
        else:
            large.append(tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert_classifier",
            inputs + large,
            [tensor("logits", TensorProto.FLOAT, logits)],
            small,
            value_info=[embedding],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,  # opset 17's, which old runtimes read
        producer_name="finetune_classifier",
    )
    onnx.checker.check_model(model, full_check=True)
    del model.graph.initializer[:], model.graph.input[len(inputs) :]
    return model


def _write(path: Path, graph: _Graph, model: ModelProto) -> None:
    """Write what ``onnx.save`` writes for the model with its constants, byte for byte.

    Protobuf writes the fields of a message in the order of their numbers; the constants are a field
    in the middle of the graph, and the graph is one in the middle of the model.
    """
    heads = [
        TensorProto(
            dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), name=name
        ).SerializeToString()
        + _field(TensorProto.RAW_DATA_FIELD_NUMBER, array.nbytes)
        for name, array in graph.constants.items()
    ]
    heads = [
        _field(GraphProto.INITIALIZER_FIELD_NUMBER, len(head) + array.nbytes) + head
        for head, array in zip(heads, graph.constants.values(), strict=True)
    ]
    first = GraphProto(node=model.graph.node, name=model.graph.name).SerializeToString()
    for field in ("node", "name"):
        model.graph.ClearField(field)
    last = model.graph.SerializeToString()
    size = sum(map(len, [first, *heads, last])) + sum(a.nbytes for a in graph.constants.values())
    if size > _MOST_BYTES:
        raise UserError(
            f"an ONNX file has at most {_MOST_BYTES:,} bytes, and this model needs {size:,}: "
            "choose another --format"
        )
    opset = ModelProto(opset_import=model.opset_import).SerializeToString()
    for field in ("graph", "opset_import"):
        model.ClearField(field)
    with path.open("wb") as file:
        file.write(model.SerializeToString())
        file.write(_field(ModelProto.GRAPH_FIELD_NUMBER, size) + first)
        for head, array in zip(heads, graph.constants.values(), strict=True):
            file.write(head)
            file.write(np.ascontiguousarray(array).data.cast("B"))
        file.write(last + opset)


def _field(number: int, length: int) -> bytes:
    """Return how protobuf begins a field of so many bytes."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """Return a number as protobuf writes it: 7 bits a byte, the low ones first."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)
    return bytes(content)

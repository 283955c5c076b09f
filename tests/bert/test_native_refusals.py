"""What the fused operators refuse, before they read or write memory that is not theirs."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from test_native import EPS, assert_fails, skip_without_amx

pytestmark = pytest.mark.usefixtures("fused_operators")


@pytest.mark.parametrize(
    "ids, types, offsets",
    [
        ([20, 0], [0, 0], [0, 2]),
        ([-1, 0], [0, 0], [0, 2]),
        ([0, 0], [0, 2], [0, 2]),
        ([0, 0], [0, 0], [0, 3]),
        ([0] * 9, [0] * 9, [0, 9]),
    ],
)
def test_an_index_outside_its_table_is_an_error_and_no_access_to_memory(ids, types, offsets):
    tables = np.ones((20, 8)), np.ones((2, 8)), np.ones((8, 8))
    inputs = *tables, np.ones(8), np.ones(8), *map(np.array, (ids, types, offsets, [0, 0]))
    gradient = np.ones((len(ids), 8))
    assert_fails("bert_embedding", "bert_embedding", inputs, gradient, site=0, eps=EPS)


@pytest.mark.parametrize("offsets", [[0, 2, 2], [0, 3, 2], [0, 1, 3], [1, 1, 2]])
def test_offsets_that_do_not_rise_to_the_number_of_tokens_are_an_error(offsets):
    inputs = np.ones((2, 24)), np.ones(24), np.array(offsets), np.array([0, 0])
    assert_fails("offsets", "bert_attention", inputs, np.ones((2, 8)), heads=2, site=0)


@pytest.mark.parametrize("offsets", [[0, 2**31 - 1, -2, 6], [0, -(2**31), 6], [0, 2**31 - 1, 6]])
def test_offsets_whose_differences_exceed_an_int_are_an_error(offsets):
    inputs = np.ones((6, 24)), np.ones(24), np.array(offsets), np.array([0, 0])
    assert_fails("offsets", "bert_attention", inputs, np.ones((6, 8)), heads=2, site=0)


def test_a_pair_of_too_many_tokens_is_an_error():
    tokens = 2**16 + 1
    inputs = np.ones((tokens, 3)), np.ones(3), np.array([0, tokens]), np.array([0, 0])
    assert_fails("65536 tokens", "bert_attention", inputs, np.ones((tokens, 1)), heads=1, site=0)


INTEGERS = {"offsets": (3,), "dropout": (2,), "ids": (6,), "types": (6,)}
SHAPES = {
    "bert_attention": {"qkv": (6, 24), "bias": (24,), "offsets": (3,), "dropout": (2,)},
    "bert_cls_attention": {
        **{"q": (2, 8), "kv": (6, 16), "bias": (24,), "offsets": (3,), "dropout": (2,)},
    },
    "bert_embedding": {
        **{"word": (5, 8), "token_type": (2, 8), "position": (4, 8), "gamma": (8,), "beta": (8,)},
        **{"ids": (6,), "types": (6,), "offsets": (3,), "dropout": (2,)},
    },
    "bert_add_norm": {
        **{"x": (6, 8), "bias": (8,), "residual": (6, 8), "gamma": (8,), "beta": (8,)},
        **{"dropout": (2,)},
    },
    "bert_bias_gelu": {"x": (6, 8), "bias": (8,)},
    "bert_bias_activation": {"x": (6, 8), "bias": (8,)},
    "bert_adam": {
        **{"hyper": (4,), "lr": (2,), "decay": (2,)},
        **{f"{state}{i}": (3, 4) for i in range(2) for state in ("weight", "gradient", "m", "v")},
    },
    "bert_dense": {"x": (6, 8), "weight": (4, 8)},
}
ATTRIBUTES = {
    "bert_attention": {"heads": 2, "site": 0},
    "bert_cls_attention": {"heads": 2, "site": 0},
    "bert_embedding": {"site": 0, "eps": EPS},
    "bert_add_norm": {"site": 0, "eps": EPS},
    "bert_adam": {"parameters": 2, "beta1": 0.9, "beta2": 0.999},
}


def call(operator, shapes, **attributes):
    arrays = []
    for name, shape in shapes.items():
        array = mx.nd.ones(shape)
        if name in INTEGERS:
            array = mx.nd.zeros(shape, dtype="int32")
        if name == "offsets" and shape == (3,):
            array[:] = mx.nd.array([0, 2, 6], dtype="int32")
        arrays.append(array)
    attributes = {**ATTRIBUTES.get(operator, {}), **attributes}
    return getattr(mx.nd, operator)(*arrays, **attributes).asnumpy()


# Of these the first size is decided by nothing else.
ANY_ROWS = {
    "bert_embedding": ("word", "token_type"),
    "bert_bias_gelu": "x",
    "bert_bias_activation": "x",
    "bert_dense": ("x", "weight"),
}


def wrong_shapes(shape, any_rows):
    yield (*shape, 1)
    yield shape[:-1] or (1, *shape)
    for place in range(any_rows, len(shape)):
        for size in {1, shape[place] - 1, shape[place] + 1, 2 * shape[place]} - {0, shape[place]}:
            yield (*shape[:place], size, *shape[place + 1 :])


@pytest.mark.parametrize("operator", SHAPES)
def test_an_input_of_a_wrong_shape_is_an_error_and_no_access_to_memory(operator):
    if operator == "bert_dense":
        skip_without_amx()
    assert np.isfinite(call(operator, SHAPES[operator])).all()
    for name, shape in SHAPES[operator].items():
        for wrong in wrong_shapes(shape, name in ANY_ROWS.get(operator, ())):
            if name == "position" and wrong[0] > 4:
                continue  # more positions than the longest pair has are right
            with pytest.raises(mx.MXNetError):
                call(operator, {**SHAPES[operator], name: wrong})


@pytest.mark.parametrize("heads", [0, -1, 3, 16, 2**31, "x", "", None])
@pytest.mark.parametrize("operator", ["bert_attention", "bert_cls_attention"])
def test_heads_that_do_not_divide_the_columns_are_an_error(operator, heads):
    with pytest.raises(mx.MXNetError, match="heads"):
        call(operator, SHAPES[operator], heads=heads)


@pytest.mark.parametrize("parameters", [0, -1, 10**9, 2**31, "x"])
def test_a_number_of_parameters_that_cannot_be_is_an_error(parameters):
    with pytest.raises(mx.MXNetError):
        call("bert_adam", SHAPES["bert_adam"], parameters=parameters)


def test_more_columns_than_the_operators_compute_with_are_an_error():
    with pytest.raises(mx.MXNetError, match="more than 65536"):
        call("bert_bias_gelu", {"x": (1, 2**16 + 1), "bias": (2**16 + 1,)})

"""What a value must be: taken as it is, or refused with its place in the file."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert import schema
from bert.errors import UserError

SHAPE = schema.fields(
    {
        "name": schema.text,
        "kind": schema.one_of("a", "b"),
        "best": schema.fields({"epoch": schema.whole(1, 9)}, {"loss": schema.number(0)}),
    },
    {
        "flag": schema.flag,
        "rows": schema.items(schema.items(schema.whole())),
        "scores": schema.entries(schema.number(), schema.matching("[a-z]+")),
        "revision": schema.optional(schema.text),
    },
)
WHOLE = {"name": "x", "kind": "a", "best": {"epoch": 9, "loss": 0.5}}


def test_what_has_the_shape_is_taken():
    schema.check(SHAPE, WHOLE, "file")
    more = {"flag": False, "rows": [[1], []], "scores": {"f": -1e9}, "revision": None}
    schema.check(SHAPE, WHOLE | more | {"another": [{}]}, "file")


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"name": 1}, "name is 1, but must be text"),
        ({"name": "\ud800"}, "name is '\\ud800', but must be text"),
        ({"kind": "c"}, "kind is 'c', but must be one of a, b"),
        ({"kind": ["a"]}, "kind is ['a'], but must be one of a, b"),
        ({"best": None}, "best is None, but must be an object"),
        ({"best": {"loss": 1}}, "best lacks epoch"),
        ({"best": {"epoch": 0}}, "best.epoch is 0, but must be a whole number from 1 to 9"),
        ({"best": {"epoch": True}}, "best.epoch is True, but must be"),
        ({"best": {"epoch": 1.0}}, "best.epoch is 1.0, but must be"),
        ({"best": {"epoch": 1, "loss": math.nan}}, "best.loss is nan, but must be a number"),
        ({"best": {"epoch": 1, "loss": math.inf}}, "best.loss is inf, but must be a number"),
        ({"best": {"epoch": 1, "loss": 10**400}}, "but must be a number"),
        ({"flag": 1}, "flag is 1, but must be true or false"),
        ({"rows": [[1], 2]}, "an item of rows is 2, but must be a list"),
        ({"rows": [[1], ["x"]]}, "an item of an item of rows is 'x', but must be a whole"),
        ({"scores": {"f": "x"}}, "scores.f is 'x', but must be a number"),
        ({"scores": {"../f": 1}}, "a name in scores is '../f', but must be"),
        ({"revision": 5}, "revision is 5, but must be text"),
    ],
)
def test_what_has_not_is_refused_with_its_place(changes, sentence):
    with pytest.raises(UserError) as error:
        schema.check(SHAPE, WHOLE | changes, "file")
    assert str(error.value).startswith("file: ") and sentence in str(error.value)
    assert len(str(error.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from(["name", "kind", "best", "flag", "rows", "scores", "revision"]))
def test_no_value_ends_otherwise_than_in_a_sentence(value, name):
    try:
        schema.check(SHAPE, WHOLE | {name: value}, "file")
        schema.check(SHAPE, value, "file")
    except UserError as error:
        assert str(error).startswith("file: ")

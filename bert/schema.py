"""Shapes: what the content of a JSON file must be, declared beside the code that reads the file.

A shape is a function of a value and of its place in the file (``"best.epoch"``). It raises
ValueError, with a message for the user, where the value is not what it must be.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bert.errors import UserError
from bert.files import is_unicode

Shape = Callable[[Any, str], None]

_LARGEST_INT32 = 2**31 - 1
_LARGEST = 1e100  # more than the square of a float32, and far from what float64 can hold


def check(shape: Shape, content: object, source: str | Path) -> None:
    """Raise UserError, which names the source, unless a content has a shape."""
    try:
        shape(content, "")
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def _refuse(value: object, place: str, wanted: str) -> None:
    raise ValueError(f"{place} is {reprlib.repr(value)}, but must be {wanted}")


def number(low: float = -_LARGEST, high: float = _LARGEST) -> Shape:
    """Take a finite number from ``low`` to ``high``."""
    return _number((int, float), low, high, "a number")


def whole(low: int = 0, high: int = _LARGEST_INT32) -> Shape:
    """Take a whole number from ``low`` to ``high``."""
    return _number(int, low, high, "a whole number")


def _number(kinds, low: float, high: float, what: str) -> Shape:
    bounds = "" if low == -_LARGEST else f" from {low:g} to {high:.10g}"

    def shape(value: Any, place: str) -> None:
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            _refuse(value, place, what + bounds)

    return shape


def text(value: Any, place: str) -> None:
    """Take a string that can be written as UTF-8."""
    if not (isinstance(value, str) and is_unicode(value)):
        _refuse(value, place, "text")


def anything(value: Any, place: str) -> None:
    """Take every value: it is only shown."""


def matching(pattern: str | re.Pattern) -> Shape:
    """Take a string that a regular expression matches as a whole."""

    def shape(value: Any, place: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            _refuse(value, place, "a name that a run writes")

    return shape


def flag(value: Any, place: str) -> None:
    """Take true or false."""
    if not isinstance(value, bool):
        _refuse(value, place, "true or false")


def one_of(*names: str) -> Shape:
    """Take one of several strings."""

    def shape(value: Any, place: str) -> None:
        if value not in names:
            _refuse(value, place, f"one of {', '.join(names)}")

    return shape


def optional(inner: Shape) -> Shape:
    """Take null, or what ``inner`` takes."""
    return lambda value, place: None if value is None else inner(value, place)


def items(inner: Shape) -> Shape:
    """Take a list of what ``inner`` takes."""

    def shape(value: Any, place: str) -> None:
        if not isinstance(value, list):
            _refuse(value, place, "a list")
        where = f"an item of {place}"
        for item in value:
            inner(item, where)

    return shape


def entries(inner: Shape, name: Shape = text) -> Shape:
    """Take an object with values that ``inner`` takes, of names that ``name`` takes."""

    def shape(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, place, "an object")
        for key, item in value.items():
            name(key, f"a name in {place}")
            inner(item, f"{place}.{key}")

    return shape


def fields(needed: Mapping[str, Shape], possible: Mapping[str, Shape] | None = None) -> Shape:
    """Take an object with these names; other names in it are not looked at."""
    known = {**needed, **(possible or {})}

    def shape(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, place or "the content", "an object")
        missing = [name for name in needed if name not in value]
        if missing:
            raise ValueError(f"{place or 'it'} lacks {', '.join(missing)}")
        for name in known.keys() & value.keys():
            known[name](value[name], f"{place}.{name}" if place else name)

    return shape

"""Flags declared as the fields of a dataclass: the parser, ``--help`` and the tables of
docs/flags.md follow from the declarations.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import struct
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, TypeVar

from bert.errors import UserError
from finetuning.parser import Parser

Convert = Callable[[str], Any]

# The normal numbers of float32, in which networks compute.
_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127


@dataclasses.dataclass(frozen=True)
class Flag:
    """What is known of a flag besides the name, type and default of its field.

    Attributes
    ----------
    convert : callable, optional
        Turns the text into the value, or raises UserError or ValueError. None: a switch.
    metavar, help : str
    unset : str
        What holds without the flag, where the default does not say so.
    group : str
        The heading that this flag and those after it have in ``--help``.
    alias, opposite : str
        Another flag of the same meaning; one that turns a switch off.
    bare : object
        The value of the flag alone, where its value may be left out.
    decides : bool
        Whether it decides, with the data, what a run results in.
    in_config : bool
        Whether a trained model's config.json decides it.
    """

    convert: Convert | None
    metavar: str
    help: str
    unset: str = ""
    group: str = ""
    alias: str = ""
    opposite: str = ""
    bare: Any = None
    decides: bool = False
    in_config: bool = False


def flag(default: Any, convert: Convert, metavar: str, help: str, **more: Any) -> Any:
    """Declare a flag that takes a value; ``more`` is as in :class:`Flag`."""
    about = Flag(convert, metavar, help, **more)
    return dataclasses.field(default=default, metadata={"flag": about})


def switch(help: str, default: bool | None = False, **more: Any) -> Any:
    """Declare a flag without a value; ``more`` is as in :class:`Flag`."""
    return dataclasses.field(default=default, metadata={"flag": Flag(None, "", help, **more)})


def flags_of(options: Any) -> list[tuple[dataclasses.Field, Flag]]:
    """Return the fields of a dataclass, or of an object of it, that declare flags."""
    fields = dataclasses.fields(options)
    return [(field, field.metadata["flag"]) for field in fields if field.metadata]


def number(
    kind: type,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> Convert:
    """Return a converter to an int that fits int32, or to a finite float that fits float32."""
    least = f"{'more than' if open_low else 'at least'} {low:g}"
    most = f" and {'less than' if open_high else 'at most'} {high:g}" if high < math.inf else ""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if value != value:
            raise UserError(f"must be a {'whole ' if kind is int else ''}number, not {text!r}")
        size = abs(value)
        if size >= 2**31 if kind is int else size and not _FLOAT32[0] <= size <= _FLOAT32[1]:
            raise UserError(f"must be a number that {kind.__name__}32 can hold, not {text}")
        # What it is where it is used: 1 - 1e-9 is 1 in float32.
        used = value if kind is int else struct.unpack("f", struct.pack("f", value))[0]
        if not low <= used <= high or (open_low and used == low) or (open_high and used == high):
            raise UserError(f"must be {least}{most}, not {text}")
        return value

    return convert


def numbers(convert: Convert, what: str) -> Convert:
    """Return a converter to a tuple of different numbers, separated by commas."""

    def convert_all(text: str) -> tuple[int, ...]:
        found = tuple(convert(part.strip()) for part in text.split(","))
        if len(set(found)) < len(found):
            raise UserError(f"{text} names {what} twice")
        return found

    return convert_all


def one_of(*names: str) -> Convert:
    """Return a converter that takes one of several names."""

    def convert(text: str) -> str:
        if text not in names:
            raise UserError(f"must be {listed(names, 'or')}, not {text!r}")
        return text

    return convert


def listed(words: Sequence[str], conjunction: str) -> str:
    """Return ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rule(Generic[T]):
    """A combination of flags that is refused.

    Attributes
    ----------
    when : str or callable
        Flags, separated by spaces, any of which was given; or a condition on the options.
    why : str
        The beginning of the sentence.
    needs, excludes : str
        Flags of which, then, one must be given or none may be. Without either it is refused.
    """

    when: str | Callable[[T], bool]
    why: str = ""
    needs: str = ""
    excludes: str = ""

    def __str__(self) -> str:
        subjects = self.when.split() if isinstance(self.when, str) else []
        return self._sentence(subjects, self.excludes.split())

    def complaint(self, options: T, given: Collection[str]) -> str | None:
        """Return the sentence for the user, if the options, of which some are given, break it."""
        if isinstance(self.when, str):
            subjects = [name for name in self.when.split() if name in given]
            applies = bool(subjects)
        else:
            subjects, applies = [], self.when(options)
        others = [name for name in f"{self.needs} {self.excludes}".split() if name in given]
        broken = not others if self.needs else bool(others) or not self.excludes
        return self._sentence(subjects, others) if applies and broken else None

    def _sentence(self, subjects: list[str], excluded: list[str]) -> str:
        def flags(names: list[str], conjunction: str) -> str:
            return listed([f"--{name}" for name in names], conjunction)

        if self.needs:
            verb = "need" if len(subjects) > 1 else "needs"
            subject = self.why or flags(subjects, "and")
            return f"{subject} {verb} {flags(self.needs.split(), 'or')}"
        return f"{self.why}: leave out {flags(excluded, 'and')}" if self.excludes else self.why


class OptionsParser(Parser):
    """Reads the flags that a dataclass declares."""

    def __init__(self, prog: str, description: str | None):
        super().__init__(
            prog, description, usage="%(prog)s [flags]", argument_default=argparse.SUPPRESS
        )

    def add(self, options: type) -> None:
        """Add the flags that a dataclass declares."""
        group = self.add_argument_group()
        for field, about in flags_of(options):
            if about.group:
                group = self.add_argument_group(about.group)
            names = [f"--{field.name}", *filter(None, [about.alias])]
            default = _default(field, about)
            how: dict[str, Any] = {"help": about.help + (f" (default: {default})" * bool(default))}
            if about.convert is None:
                how["action"] = "store_true"
            else:
                how |= {"type": _for_argparse(about.convert), "metavar": about.metavar}
            if about.bare is not None:
                how |= {"nargs": "?", "const": about.bare}
            group.add_argument(*names, **how)
            if about.opposite:
                how |= {"help": f"turn --{field.name} off", "action": "store_false"}
                group.add_argument(about.opposite, dest=field.name, **how)

    def hide(self, name: str) -> None:
        """Take a flag, with or without a value, of which ``--help`` says nothing."""
        self.add_argument(f"--{name}", nargs="?", const=True, help=argparse.SUPPRESS)

    def read(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the values of the flags given, by name."""
        return vars(self.parse_args(argv))


def _for_argparse(convert: Convert) -> Convert:
    def convert_or_complain(text: str) -> Any:
        try:
            return convert(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert_or_complain


def _default(field: dataclasses.Field, about: Flag) -> str:
    """Return what holds without a flag, in words; nothing for a switch that is off."""
    value = field.default
    if about.unset or value is None or value is False or value == ():
        return about.unset
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def tables(options: type) -> str:
    """Return the flags as Markdown, a table for each group; those that decide have an asterisk."""
    lines = []
    for field, about in flags_of(options):
        if about.group:
            lines += ["", f"## {about.group[0].upper()}{about.group[1:]}", ""]
            lines += ["| flag | default | meaning |", "| --- | --- | --- |"]
        names = filter(None, (f"--{field.name}", about.alias, about.opposite))
        value = f"[{about.metavar}]" if about.bare is not None else about.metavar
        name = " ".join(filter(None, (", ".join(f"`{n}`" for n in names), value)))
        cells = (name + " \\*" * about.decides, _default(field, about), about.help)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines[1:]) + "\n"

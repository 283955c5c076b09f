"""How every command reads its flags: one form of help, and one form of errors."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from bert.terminal import shown

# As wide as the terminal, up to so many columns.
_WIDEST_HELP = 100


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence and exit code 2; flags cannot be abbreviated.

    Parameters
    ----------
    prog : str
        The command's name, as messages show it.
    description : str
        The script's docstring; its indented lines are printed as they are.
    old_spellings : mapping of str to str, optional
        Flags that still work but are not in ``--help``: {old: new}.
    **options
        As of :class:`argparse.ArgumentParser`.
    """

    def __init__(
        self,
        prog: str,
        description: str | None,
        old_spellings: Mapping[str, str] | None = None,
        **options: Any,
    ):
        super().__init__(
            prog, description=description, formatter_class=_Help, allow_abbrev=False, **options
        )
        self._old_spellings = old_spellings or {}

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        for before, text in zip([self.prog, *args], args, strict=False):
            name, equals, value = text.partition("=")
            if not text.strip() or (name.startswith("--") and equals and not value.strip()):
                flag = name if text.strip() else before
                which = f"the value of {flag}" if flag.startswith("-") else "an argument"
                self.error(f"{which} is empty: is a shell variable not set?")
        return super().parse_known_args(list(map(self._current_spelling, args)), namespace)

    def _current_spelling(self, argument: str) -> str:
        flag, equals, value = argument.partition("=")
        return self._old_spellings.get(flag, flag) + equals + value

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace(": must be ", " must be ", 1)
        self.exit(2, shown(f"{self.prog}: {message} (--help lists the flags)") + "\n")


class _Help(argparse.HelpFormatter):
    """As wide as the terminal, in whole words; of the description, indented lines stay as is."""

    def __init__(self, prog: str):
        columns = min(_WIDEST_HELP, shutil.get_terminal_size().columns)
        super().__init__(prog, width=columns - 2)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if part.startswith(" ") else "\n".join(self._split_lines(part, width))
            for part in text.strip("\n").split("\n\n")
        )


def count(text: str) -> int:
    """Convert a flag's value to an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def add_num_threads(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--num_threads``."""
    parser.add_argument(
        "--num_threads", metavar="N", type=count, help="CPU threads (default: the physical cores)"
    )


def require(parser: argparse.ArgumentParser, packages: Sequence[str]) -> None:
    """End with an error if one of these optional packages is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            parser.error(f"{package} is not installed: pip install {package}")

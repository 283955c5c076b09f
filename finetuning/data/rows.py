"""What becomes of the rows and lines of a run's files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bert.errors import UserError
from bert.terminal import shown

# Of bad rows: how many are kept in memory, and bytes of their list beyond which it is on the disk.
_MOST_BAD_ROWS_KEPT, _LONGEST_LIST = 5, 1 << 20


class Row(NamedTuple):
    """A row of a file, usable or not."""

    # Of the file, from 1, on which it begins; of a bad one, that of its problem. A file without
    # lines: the row's number, from 0.
    line: int
    values: Sequence[str | None] = ()  # in the wanted columns; of a bad row, what can be read
    problem: str | None = None  # why it cannot be used
    lines: int = 1  # how many it takes: a quoted field may contain line ends
    foreign: bool = False  # it is in another language than the one that is read
    kept: Sequence[Any] = ()  # in the columns to keep: text, or a JSON value; () if unreadable


@dataclass
class InputFile:
    """A file, and what its lines turn out to be while it is read.

    Attributes
    ----------
    path : Path
    column_advice, quoted_advice : str
        What to do if a column is missing, and if the fields of a TSV look quoted.
    header, blank : int
        How many lines are its header, and blank.
    rows, row_lines, first_of_several : int
        Its rows that are used, the lines that they take, and the first of more than one line.
    skipped, skipped_lines : int
        Its rows that are not used, and their lines.
    foreign : int
        Its rows in other languages than the one that is read.
    looks_quoted : int or None
        The first line of a TSV with a text as spreadsheets quote it.
    unlabelled, first_unlabelled : int, str
        How many rows to predict have no label of the task, and the first of them.
    unit : str
        What :attr:`Row.line` counts: lines, or of Parquet rows.
    """

    path: Path
    column_advice: str = ""
    quoted_advice: str = ""
    header: int = 0
    blank: int = 0
    rows: int = 0
    row_lines: int = 0
    first_of_several: int | None = None
    skipped: int = 0
    skipped_lines: int = 0
    foreign: int = 0
    looks_quoted: int | None = None
    unlabelled: int = 0
    first_unlabelled: str = ""
    unit: str = "line"

    def place(self, number: int) -> str:
        """Return where a row is, given its :attr:`Row.line`."""
        if self.unit == "row":  # as the output's index
            return f"row {number} of {self.path} (counted from 0)"
        return f"{self.path}, line {number}"

    def counts(self) -> str:
        """Return how many lines the file has, and what they are; the numbers add up."""
        if self.unit == "row":
            used = f": {self.rows} used, {self.skipped} skipped" if self.skipped else ""
            return f"{self.rows + self.skipped} rows{used}"
        parts = [
            f"{self.header} header" if self.header else "",
            f"{self.rows} rows{_in_lines(self.rows, self.row_lines)}",
        ]
        if self.first_of_several:
            parts[-1] += f" (line breaks in quotes, first in line {self.first_of_several})"
        if self.skipped:
            parts.append(f"{self.skipped} skipped{_in_lines(self.skipped, self.skipped_lines)}")
        if self.foreign:
            parts.append(f"{self.foreign} in other languages")
        if self.blank:
            parts.append(f"{self.blank} blank")
        total = self.header + self.row_lines + self.skipped_lines + self.foreign + self.blank
        return f"{total} lines: {', '.join(filter(None, parts))}"

    def count_skipped(self, row: Row) -> None:
        self.skipped += 1
        self.skipped_lines += row.lines

    def count_unlabelled(self, line: int, label: str | None) -> None:
        """Count a row to predict without a label of the task; None: it has none at all."""
        self.unlabelled += 1
        if label is not None and not self.first_unlabelled:
            self.first_unlabelled = f"{self.unit} {line}: {label!r}"

    def count(self, row: Row) -> None:
        """Count a row that is used."""
        self.rows += 1
        self.row_lines += row.lines
        if row.lines > 1 and self.first_of_several is None:
            self.first_of_several = row.line


def _in_lines(rows: int, lines: int) -> str:
    return f" in {lines} lines" if lines != rows else ""


class BadRows:
    """Counts and lists the bad rows of the files that it is told of.

    Parameters
    ----------
    skip : bool
        False: the first bad row raises a UserError.

    Attributes
    ----------
    skipped, kept : int
    first : list of (InputFile, int, str)
        The first of them: file, :attr:`Row.line`, problem; the list of all is not in memory.
    files : list of InputFile
    """

    def __init__(self, skip: bool = False):
        self._skip = skip
        self.skipped = self.kept = 0
        self.first: list[tuple[InputFile, int, str]] = []
        self.files: list[InputFile] = []
        self._all = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - is open as long as it is filled
            _LONGEST_LIST, "w+", encoding="utf-8", newline="\n"
        )

    def add(
        self, file: InputFile, row: Row, problem: str, kept: bool, tolerated: bool = False
    ) -> None:
        """Add a row that is skipped, or ``kept`` in spite of its problem.

        Raises UserError if bad rows are not to be skipped, unless this one is ``tolerated``.
        """
        if not (self._skip or tolerated):
            raise UserError(f"{file.place(row.line)}: {problem}")
        self.kept += kept
        self.skipped += not kept
        if kept:
            problem += " (kept, with missing texts empty)"
        if len(self.first) < _MOST_BAD_ROWS_KEPT:
            self.first.append((file, row.line, problem))
        with contextlib.suppress(FileNotFoundError):  # no temporary folder: it stays in memory
            self._all.write("\t".join(map(shown, (file.path, row.line, problem))) + "\n")

    def lines(self) -> Iterator[str]:
        """Yield the lines of a TSV file with all bad rows: file, line, problem."""
        yield "file\tline\tproblem\n"
        self._all.seek(0)
        yield from self._all

"""Lines of UTF-8 text files, plain or gzipped; files of another kind are recognised."""

from __future__ import annotations

import gzip
import re
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bert.errors import UserError

# Far longer than any text for BERT: such a line lacks its line end, or a closing quote.
LONGEST_LINE = 1_000_000
# A line's number in its file (from 1), the line with its end, and its problem or None.
Line = tuple[int, str, str | None]

# How many of a file's first bytes are looked at.
_START = 64
_EXPORT = "export it as CSV (UTF-8) from the program that wrote it"
_PANDAS = "convert it in Python with pandas.read_{}(…).to_csv(…, index=False)"
_PARQUET = (
    "pass the file itself under a name that ends in .parquet, or to predict.py with --input_format "
    "parquet"
)
# How a file begins, what it is, and what helps: {} are its name and that of the new file.
# UTF-32's byte order mark begins with UTF-16's, and so comes first.
_SIGNATURES = (
    (rb"\x1f\x8b", "a gzip file", "gunzip -c < {} > {}"),
    (rb"PK\x03\x04.{26}(\[Content|_rels|docProps|xl/)", "an Excel file", _EXPORT),
    (rb"PK\x03\x04", "a zip file", "unzip -p {} > {}"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file", "bunzip2 -c < {} > {}"),
    (rb"\xfd7zXZ\x00", "an xz file", "xz -dc < {} > {}"),
    (rb"\x28\xb5\x2f\xfd", "a zstd file", "zstd -dc < {} > {}"),
    (rb"\x04\x22\x4d\x18", "an lz4 file", "lz4 -dc < {} > {}"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip file", "7z e -so {} > {}"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel file", _EXPORT),
    (rb"%PDF-\d", "a PDF file", "get its rows as CSV"),
    (rb"SQLite format 3\x00", "an SQLite database", "sqlite3 -csv -header {} 'SELECT …' > {}"),
    (rb"PAR1[\x00-\x08\x0e-\x1f]", "a Parquet file", _PARQUET),
    (rb"ARROW1\x00|FEA1", "an Arrow file", _PANDAS.format("feather")),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _PANDAS.format("hdf")),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32 text", "iconv -f UTF-32 -t UTF-8 {} > {}"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {} > {}"),
)


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file.

    Raises UserError if the file cannot be read, or is recognised as something else than text.
    """
    gzipped = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if gzipped else path.open("rb") as file:
            if sentence := not_text(path, file.peek(_START)[:_START]):
                raise UserError(sentence)
            yield from split_lines(file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"it is damaged ({error})"
        raise UserError(f"cannot read {path}: {reason}") from None


def split_lines(file: BinaryIO | gzip.GzipFile) -> Iterator[Line]:
    """Read an open file as :func:`read_lines`; a byte order mark is dropped."""
    # Split before decoding: str.splitlines knows line ends (U+2028) that files do not have, and a
    # decoding error can then name its line.
    number = 0
    while content := file.readline(LONGEST_LINE):
        number += 1
        problem = None
        if number == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if len(content) == LONGEST_LINE and not content.endswith(b"\n"):
            problem = f"the line is longer than {LONGEST_LINE:,} bytes"
            # For csv, the rest of the line still opens or closes a quoted field.
            quotes = content.count(b'"')
            while not content.endswith(b"\n") and (content := file.readline(LONGEST_LINE)):
                quotes += content.count(b'"')
            content = b'"' * (quotes % 2) + b"\n"
        if b"\0" in content:
            problem = problem or (
                f"byte {content.index(0) + 1} is NUL, which is not text; if the file is in UTF-16, "
                "convert it with iconv -f UTF-16 -t UTF-8 FILE"
            )
            content = content.replace(b"\0", "\ufffd".encode())
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            problem = problem or (
                f"byte {error.start + 1} (0x{content[error.start]:02X}) is not UTF-8 text; if "
                "the file is in Latin-1 or Windows-1252, convert it with iconv -f WINDOWS-1252 "
                "-t UTF-8 FILE"
            )
            text = content.decode(errors="replace")
        yield number, text, problem


def not_text(path: Path, start: bytes) -> str | None:
    """Return a sentence if a file is not UTF-8 text, with the command that converts it.

    Parameters
    ----------
    path : Path
    start : bytes
        The file's first bytes (decompressed if its name ends in .gz), 64 of them or all.
    """
    found = [entry[1:] for entry in _SIGNATURES if re.match(entry[0], start, re.DOTALL)]
    if encoding := _without_mark(start):
        found.append((f"{encoding[:-2]} text", f"iconv -f {encoding} -t UTF-8 {{}} > {{}}"))
    if not found:
        return None
    what, advice = found[0]
    endings = [ending for ending in path.suffixes if ending.lower() != ".gz"]
    names = [shlex.quote(str(path)), shlex.quote("new" + "".join(endings[-1:]))]
    first = ""
    if path.suffix.lower() == ".gz":
        first, names[0] = "gunzip it and ", shlex.quote(str(path.with_suffix("")))
    if "{}" in advice:
        advice = f"{first}convert it with {advice.format(*names)}"
    return f"{path} is {what}, not UTF-8 text: {advice}"


def _without_mark(start: bytes) -> str | None:
    """Return the encoding of UTF-16 or UTF-32 text that has no byte order mark."""
    units = len(start) // 4
    # Which bytes of each four are NUL in at least half of them, as in any European text.
    nul = [start[i : 4 * units : 4].count(0) * 2 >= units > 1 for i in range(4)]
    if nul[0] == nul[2] and nul[1] == nul[3] and nul[0] != nul[1]:
        return "UTF-16BE" if nul[0] else "UTF-16LE"
    if nul[1] and nul[2] and nul[0] != nul[3]:
        return "UTF-32BE" if nul[0] else "UTF-32LE"
    return None

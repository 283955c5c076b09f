"""What is printed: any text is shown as text, and no stream can end a program."""

from __future__ import annotations

import io
import subprocess
import sys
import unicodedata

import pytest
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from bert.terminal import say, shown

# With lone surrogates, as names of files have them, and whole planes of odd characters.
ANY_TEXT = st.text(st.characters(), max_size=300)
_PRINTABLE_ASCII = "".join(map(chr, range(32, 127)))


@given(ANY_TEXT, st.sampled_from(["", "\n", "\n\t"]))
@example("\x1b]0;title\x07\x9b1m\u202e\u2066\u200b\ufeff\x00\r\n\t\udcff\U000e0041\u2028", "")
def test_nothing_that_controls_a_terminal_is_shown(text, keep):
    for character in shown(text, keep=keep):
        assert character in keep or character.isprintable()
        assert character in keep or unicodedata.category(character)[0] != "C"
    shown(text, keep=keep).encode()  # any encoding of Unicode can hold it


@given(st.text(st.sampled_from(_PRINTABLE_ASCII)))
def test_plain_text_is_not_changed(text):
    assert shown(text) == text


@given(st.text(st.characters(exclude_categories=("C", "Z"))))
def test_other_peoples_letters_are_not_changed(text):
    assert shown(text) == "".join(x if x.isprintable() else shown(x) for x in text)


@given(ANY_TEXT, st.integers(1, 50))
def test_the_length_is_bounded(text, most):
    assert len(shown(text, most)) <= most
    if len(text) > most:
        assert "…" in shown(text, most)


def test_a_long_text_keeps_its_two_ends():
    text = shown("first " + "\x1b" * 10_000_000 + " last", 40)
    assert text.startswith("first ") and text.endswith(" last") and len(text) == 40


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "full"), BrokenPipeError(), ValueError("closed")])
def test_printing_never_fails(error):
    say("text", Broken(error))


def test_printing_without_a_stream_never_fails(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("text", sys.stderr)


PROGRAM = """
import os, sys
from bert import terminal

def main():
    descriptor = os.open(os.devnull, os.O_RDONLY)
    assert descriptor > 2, descriptor  # none of the standard ones
    for stream in (sys.stdout, sys.stderr):
        terminal.say("犬 “dog”", stream)
    from tqdm import tqdm
    list(tqdm(range(3)))
    return int(sys.argv[1])

terminal.start(main)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "ascii:strict"])
@pytest.mark.parametrize(
    "streams",
    [
        *("", ">&-", "2>&-", "<&-", "<&- >&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"),
        *(">&- 2>/dev/full", "| true", "2>&1 | true", "2>&1 >/dev/full | true"),
    ],
)
def test_whatever_the_streams_a_program_runs_to_its_end(streams, encoding, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    for code in (0, 3):
        command = f"{sys.executable} {program} {code} {streams}; exit ${{PIPESTATUS[0]}}"
        environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True)
        assert done.returncode == code, done.stderr.decode()
        assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_what_a_library_prints_is_shown_as_text_but_for_its_bars(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, warnings\n"
        "from bert import terminal\n"
        "terminal.open_streams()\n"
        "print('a\\x1b[2J\\u202e\\tb', 1)\n"
        "warnings.warn('c\\x9b1m')\n"
        "sys.stderr.write('\\r50%|bar|'), sys.stderr.write('\\x1b[A\\x1b[A')\n"
    )
    run = subprocess.run(
        [sys.executable, program], env={"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert run.stdout == b"a\\x1b[2J\\u202e\tb 1\n"
    assert b"c\\x9b1m" in run.stderr and run.stderr.endswith(b"\r50%|bar|\x1b[A\x1b[A")


@pytest.mark.parametrize(
    ("ends", "code", "says"),
    [
        ("{}['\\x1b[2J' + chr(155)]", 1, "KeyError: '\\x1b[2J\\x9b'"),
        ("exec('raise ValueError(chr(27) + chr(8238))')", 1, "ValueError: \\x1b\\u202e\n"),
        ("exec('raise KeyboardInterrupt')", 130, ""),
    ],
)
def test_the_end_of_a_program_is_shown_as_text(ends, code, says, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"from bert import terminal\nterminal.start(lambda: {ends})")
    run = subprocess.run(
        [sys.executable, program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert run.returncode == code and says in run.stderr
    assert bool(says) == run.stderr.startswith("Traceback")
    assert shown(run.stderr, keep="\n") == run.stderr

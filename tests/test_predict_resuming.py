"""predict.py interrupted: nothing is lost, repeated or overwritten, and memory does not grow."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_script
from helpers import interrupt, predict_here, write_sentences


def test_a_closed_pipe_is_not_an_error(runs, tmp_path):
    test = write_sentences(tmp_path / "test.csv", 3000, 7)
    command = [sys.executable, "predict.py", "--model_dir", runs / "single", "--input", test]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize("ending", ["jsonl", "tsv", "csv"])
def test_killed_and_resumed_it_loses_and_repeats_nothing(ending, runs, tmp_path):
    test = write_sentences(tmp_path / "test.csv", 4000, 7)
    flags = ("--model_dir", runs / "single", "--input", test, "--batch_size", "4", "--resume")
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    assert predict_here(*flags, "--output", whole) == 0

    partial = tmp_path / f"out.{ending}.predict.partial"
    command = [sys.executable, "predict.py", *map(str, flags), "--output", str(output)]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not output.exists() and 0 < partial.stat().st_size < whole.stat().st_size

    assert predict_here(*flags, "--output", output) == 0
    assert output.read_bytes() == whole.read_bytes() and not partial.exists()


@pytest.mark.parametrize("cut", [0, 1, 9000, 20_000, -1])
def test_an_output_cut_anywhere_is_completed(cut, runs, tmp_path, monkeypatch):
    test = write_sentences(tmp_path / "test.csv", 300, 7)
    flags = ("--model_dir", runs / "single", "--input", test, "--batch_size", "4")
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.predict.partial"
    assert predict_here(*flags, "--output", output) == 0
    whole = output.read_bytes()
    output.unlink()
    interrupt(monkeypatch, (*flags, "--output", output), after=3)
    assert not output.exists() and partial.read_bytes() == whole
    os.truncate(partial, cut if cut >= 0 else len(whole) + cut)
    assert predict_here(*flags, "--output", output, "--resume") == 0
    assert output.read_bytes() == whole
    assert sorted(tmp_path.iterdir()) == [output, test]


def longer(path):
    path.write_text(path.read_text() + "the dog\n")


def another_text(path):
    path.write_text(path.read_text().replace("dog", "cat", 1))


@pytest.mark.parametrize(
    "change, changed",
    [
        (another_text, "--input"),
        (longer, "--input"),
        (("--model_dir", "pairs"), "config.json, model.params"),
        (("--batch_size", "5"), "--batch_size"),
        (("--dtype", "bfloat16"), "--dtype"),
        (("--format", "csv"), "--format, the columns"),
    ],
)
def test_only_the_same_is_resumed(change, changed, runs, tmp_path, monkeypatch, capsys):
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "the dog", "one": "a dog", "two": "the cat"}\n' * 300)
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.predict.partial"
    flags = ["--model_dir", runs / "single", "--input", test, "--output", output]
    flags += ["--batch_size", "4"]
    interrupt(monkeypatch, flags, after=1)
    before = partial.read_bytes()
    assert before
    if callable(change):
        change(test)
    else:
        flags += [change[0], runs / change[1] if change[0] == "--model_dir" else change[1]]
    capsys.readouterr()
    assert predict_here(*flags, "--resume") == 2
    error = capsys.readouterr().err
    assert f"out.jsonl: {changed} changed" in error and error.count("\n") == 1
    assert predict_here(*flags) == 2  # nor is it thrown away without a word
    assert "--resume" in capsys.readouterr().err
    assert partial.read_bytes() == before and not output.exists()
    if change != longer:  # whose last line is not JSON
        assert predict_here(*flags, "--overwrite") == 0
        assert not partial.exists() and len(output.read_bytes().splitlines()) >= 300


def test_what_is_not_an_interrupted_output_stays(runs, tmp_path, capsys):
    test = write_sentences(tmp_path / "test.csv", 5, 7)
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.predict.partial"
    flags = ("--model_dir", runs / "single", "--input", test, "--output", output)
    output.write_text("notes\n")
    for more in ((), ("--resume",)):
        assert predict_here(*flags, *more) == 2
        assert "already exists: pass --overwrite" in capsys.readouterr().err
    assert output.read_text() == "notes\n" and len(list(tmp_path.iterdir())) == 2
    output.unlink()
    keep = tmp_path / "keep"
    keep.write_text("mine\n")
    for foreign in (lambda path: path.write_text("mine\n"), lambda path: path.symlink_to(keep)):
        for path in (partial, tmp_path / "out.jsonl.predict.json"):
            foreign(path)
            for more in ((), ("--resume",), ("--overwrite",)):
                assert predict_here(*flags, *more) == 2
                error = capsys.readouterr().err
                assert path.name in error and "move it away" in error and error.count("\n") == 1
            assert path.read_text() == keep.read_text() == "mine\n"
            assert not output.exists()
            path.unlink()
    # A record can be forged to make another file, by a hard link, an interrupted output.
    (tmp_path / "out.jsonl.predict.json").write_text('{"program": "predict.py", "origin": {}}')
    os.link(keep, partial)
    for more in ((), ("--resume",), ("--overwrite",)):
        assert predict_here(*flags, *more) == 2
        assert f"{partial} is a link to another file" in capsys.readouterr().err
    assert keep.read_text() == "mine\n"
    partial.unlink()
    (tmp_path / "out.jsonl.partial").write_text("mine\n")
    assert predict_here(*flags) == 0
    assert (tmp_path / "out.jsonl.partial").read_text() == "mine\n"


@pytest.mark.slow
def test_100_000_rows_take_no_more_memory_and_survive_being_killed(runs, tmp_path):
    peaks = []
    for rows in (10_000, 100_000):
        test = write_sentences(tmp_path / f"{rows}.csv", rows, 7)
        # Not ru_maxrss: Linux counts into that what the process of the tests has taken.
        code = (
            "import re, runpy, sys; sys.argv = sys.argv[1:]\n"
            "try: runpy.run_path('predict.py', run_name='__main__')\n"
            "except SystemExit as end: assert end.code == 0\n"
            "status = open('/proc/self/status').read()\n"
            "print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1], file=sys.stderr)"
        )
        output = tmp_path / "out.jsonl"
        run = run_script(
            *("-c", code, "predict.py", "--model_dir", runs / "single"),
            *("--input", test, "--output", output),
        )
        assert run.returncode == 0, run.stderr
        assert output.read_bytes().count(b"\n") == rows
        peaks.append(int(run.stderr.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 20  # MiB

    # The 100,000 again, killed ten times on the way.
    again, moments = tmp_path / "again.jsonl", random.Random(4)
    flags = ("--model_dir", runs / "single", "--input", test, "--output", again, "--resume")
    command = [sys.executable, "predict.py", *map(str, flags)]
    partial, lengths = tmp_path / "again.jsonl.predict.partial", []
    for kills in range(11):
        before = partial.stat().st_size if partial.exists() else 0
        process = subprocess.Popen(command, cwd=ROOT)
        while kills < 10 and process.poll() is None:
            if partial.exists() and partial.stat().st_size > before:
                time.sleep(moments.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
                lengths.append(partial.stat().st_size)
                break
            time.sleep(0.002)
        process.wait(120)
    print(f"peaks {peaks} MiB; killed at {lengths} of {output.stat().st_size} bytes")
    assert len(lengths) == 10
    assert again.read_bytes() == output.read_bytes()

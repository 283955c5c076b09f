"""Where commands write: every script that writes, and every kind of target."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, run_script
from helpers import FLAGS, write_sentences

import export_classifier
import pack_submission
import plot_runs
import predict
from finetuning.data.tasks import TASKS


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_bert):
    """A finished run with predictions of a test set beside its other files."""
    import finetune_classifier

    folder = tmp_path_factory.mktemp("finished")
    train = write_sentences(folder / "train.csv", 60, 0)
    argv = ["--pretrained_bert_parameters", tiny_bert, "--max_len", "32", *FLAGS]
    argv += ["--train_file", train, "--dev_fraction", "0.2", "--output_dir", folder / "run"]
    assert finetune_classifier.main([str(flag) for flag in argv]) == 0
    (folder / "run/predictions").mkdir()
    rows = "".join(f"{index}\t1\n" for index in range(TASKS["CoLA"].rows["test.tsv"]))
    (folder / "run/predictions/CoLA.tsv").write_text(f"index\tprediction\n{rows}")
    return folder / "run"


class Command(NamedTuple):
    """A command without its output."""

    main: Callable[[list[str]], int]
    argv: list[str]
    inputs: list[Path]

    def __call__(self, flag, output, *more) -> int:
        return self.main([*self.argv, flag, str(output), *more])


@pytest.fixture(params=["predict", "pack_submission"])
def writes_file(request, finished, tmp_path) -> Command:
    run = shutil.copytree(finished, tmp_path / "run")
    if request.param == "pack_submission":
        return Command(pack_submission.main, [str(run)], [run / "predictions/CoLA.tsv"])
    rows = write_sentences(tmp_path / "in.csv", 9, 1)
    argv = ["--model_dir", str(run), "--input", str(rows), "--format", "jsonl"]
    return Command(predict.main, argv, [rows, run / "config.json", run / "dev_predictions.tsv"])


@pytest.fixture(params=["export_classifier", "plot_runs"])
def writes_folder(request, finished, tmp_path) -> Command:
    run = shutil.copytree(finished, tmp_path / "run")
    if request.param == "plot_runs":
        return Command(plot_runs.main, [str(run)], [run])
    argv = ["--model_dir", str(run), "--format", "gluon"]
    return Command(export_classifier.main, argv, [run])


def tree(folder: Path) -> dict[Path, bytes | str]:
    """Return what is in a folder: links, and the content of files."""
    return {
        path: str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def sentence(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error, error
    return error


def test_an_existing_file_is_replaced_only_if_asked(writes_file, tmp_path, capsys):
    output = tmp_path / "out"
    output.write_text("mine\n")
    capsys.readouterr()
    assert writes_file("--output", output) == 2
    assert "already exists: pass --overwrite" in sentence(capsys)
    assert output.read_text() == "mine\n"
    assert writes_file("--output", output, "--overwrite") == 0
    new = output.read_bytes()
    assert b"mine" not in new
    (tmp_path / "link").symlink_to(output)
    output.write_text("mine\n")
    assert writes_file("--output", tmp_path / "link", "--overwrite") == 0
    assert (tmp_path / "link").is_symlink() and output.read_bytes() == new
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"run", "in.csv", "out", "link"}  # no other file is left


@pytest.mark.parametrize(
    "how", ["path", "other spelling", "symbolic link", "hard link", "two links"]
)
def test_an_input_is_never_the_output(how, writes_file, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for number, path in enumerate(writes_file.inputs):
        output = tmp_path / f"out{number}"
        match how:
            case "path":
                output = path
            case "other spelling":
                output = tmp_path / "folder" / ".." / path.relative_to(tmp_path)
            case "symbolic link":
                output.symlink_to(path)
            case "hard link":
                output.hardlink_to(path)
            case "two links":
                (tmp_path / f"between{number}").symlink_to(path)
                output.symlink_to(tmp_path / f"between{number}")
        before = tree(tmp_path)
        for more in ((), ("--overwrite",)):
            capsys.readouterr()
            assert writes_file("--output", output, *more) == 2
            assert "is an input of this command" in sentence(capsys)
        assert tree(tmp_path) == before


def dangling(path):
    path.symlink_to(path.with_name("missing"))


def loop(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    "make, name, complaint",
    [
        (dangling, "out", "is a link to"),
        (loop, "out", "symbolic links"),
        (Path.mkdir, "out", "is a folder"),
        (None, "missing/out", "create the folder"),
        (None, "run/config.json/out", "Not a directory"),
        (None, "x" * 300, "too long"),
        (None, "/sys/out", "cannot write"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(
    make, name, complaint, writes_file, tmp_path, capsys
):
    if name == "/sys/out" and not Path("/sys").is_dir():
        pytest.skip("this system has no /sys")
    if make:
        make(tmp_path / name)
    before = tree(tmp_path)
    for more in ((), ("--overwrite",)):
        capsys.readouterr()
        assert writes_file("--output", tmp_path / name, *more) == 1
        error = sentence(capsys)
        assert "cannot write" in error and complaint in error
    assert tree(tmp_path) == before


def read_in_background(path) -> tuple[threading.Thread, list[bytes]]:
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    reader.start()
    return reader, found


def test_a_fifo_is_written_through(writes_file, tmp_path):
    assert writes_file("--output", tmp_path / "file") == 0
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    for path in (fifo, tmp_path / "link"):
        reader, found = read_in_background(fifo)
        assert writes_file("--output", path) == 0
        reader.join(30)
        assert found == [(tmp_path / "file").read_bytes()]
        assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_device_is_written_through(writes_file, tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with device.open("wb"):
            pass
    except OSError:
        pytest.skip("only root can make a device")
    for more in ((), ("--overwrite",)):
        assert writes_file("--output", device, *more) == 0
        assert stat.S_ISCHR(device.stat().st_mode)
    assert not [path for path in tmp_path.iterdir() if "null" in path.name and path != device]


def test_an_open_file_is_written_through(writes_file, tmp_path):
    """/dev/stdout where the shell has sent it into a pipe, or to the end of a file."""
    assert writes_file("--output", tmp_path / "file") == 0
    expected = (tmp_path / "file").read_bytes()
    script = f"{writes_file.main.__module__}.py"
    (tmp_path / "link").symlink_to("/dev/fd/3")
    log = tmp_path / "log"
    log.write_bytes(b"first\n")
    shell = f'"$@" --output /dev/stdout | cat; "$@" --output {tmp_path}/link 3>> {log}'
    run = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, script, *writes_file.argv],
        cwd=ROOT,
        capture_output=True,
    )
    assert run.returncode == 0 and run.stdout.startswith(expected), run.stderr
    assert log.read_bytes() == b"first\n" + expected
    assert Path("/dev/stdout").is_symlink() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    "shell, code",
    [
        ('"$@" --output {0}/out >&-', 0),
        ('"$@" --output {0}/out <&-', 0),
        ('"$@" --output /dev/stdout >&-', 1),
        ('"$@" --output /dev/full', 1),
    ],
)
def test_a_closed_or_full_stream(shell, code, writes_file, tmp_path):
    script = f"{writes_file.main.__module__}.py"
    run = subprocess.run(
        ["bash", "-c", shell.format(tmp_path), "bash", sys.executable, script, *writes_file.argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == code, run.stderr
    assert (tmp_path / "out").exists() is (code == 0)
    assert "Traceback" not in run.stderr and run.stderr.count("\n") <= 1 + (code == 0)


def test_predict_without_standard_streams_is_one_sentence(finished):
    for shell, complaint in (
        ('"$@" < /dev/null >&-', "standard output is closed"),
        ('"$@" <&-', "standard input is closed"),
    ):
        command = [sys.executable, "predict.py", "--model_dir", str(finished)]
        run = subprocess.run(
            ["bash", "-c", shell, "bash", *command], cwd=ROOT, capture_output=True, text=True
        )
        assert run.returncode == 2 and complaint in run.stderr and run.stderr.count("\n") == 1


def test_standard_output_that_is_appended_to_the_input_is_refused(finished, tmp_path):
    rows = write_sentences(tmp_path / "in.csv", 9, 1)
    before = rows.read_bytes()
    command = [sys.executable, "predict.py", "--model_dir", str(finished), "--input", str(rows)]
    with rows.open("ab") as file:
        run = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2 and "is an input" in run.stderr and rows.read_bytes() == before


def test_two_processes_never_write_one_output(finished, tmp_path):
    rows = tmp_path / "in.fifo.csv"
    os.mkfifo(rows)
    command = [sys.executable, "predict.py", "--model_dir", str(finished), "--input", str(rows)]
    command += ["--output", str(tmp_path / "out.jsonl"), "--batch_size", "1"]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "out.jsonl.predict.partial"
    with rows.open("w") as file:
        file.write("text\n" + "the dog\n" * 40)
        file.flush()
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        other = write_sentences(tmp_path / "in.csv", 9, 1)
        for more in ((), ("--overwrite",), ("--resume",)):
            argv = ["--model_dir", finished, "--input", other, "--output", tmp_path / "out.jsonl"]
            second = run_script("predict.py", *argv, *more)
            assert second.returncode == 2 and "another process is writing" in second.stderr
    assert first.wait(60) == 0, first.stderr.read()
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(40))
    assert {path.name for path in tmp_path.iterdir()} == {rows.name, "in.csv", "out.jsonl"}


def foreign(path):
    path.mkdir()
    (path / "README.md").write_text("mine\n")
    (path / "index.html").write_text("mine\n")


@pytest.mark.parametrize(
    "make, name, code, complaint",
    [
        (foreign, "out", 2, "other files"),
        (None, "run", 2, "is an input of this command"),
        (lambda path: path.symlink_to("run"), "out", 2, "is an input of this command"),
        (None, ".", 2, "other files"),
        (dangling, "out", 1, "is a link to"),
        (Path.touch, "out", 1, "is not a folder"),
        (os.mkfifo, "out", 1, "is not a folder"),
        (None, "/dev/null", 1, "is not a folder"),
        (None, "run/config.json/out", 1, "Not a directory"),
        (None, "/sys/out", 1, "cannot write"),
    ],
)
def test_a_folder_is_written_only_if_it_is_new_or_the_commands_own(
    make, name, code, complaint, writes_folder, tmp_path, capsys
):
    if make:
        make(tmp_path / name)
    before = tree(tmp_path)
    for more in ((), ("--overwrite",)):
        capsys.readouterr()
        assert writes_folder("--output_dir", tmp_path / name, *more) == code
        assert complaint in sentence(capsys)
    assert tree(tmp_path) == before


def test_a_folder_of_the_commands_own_is_replaced_if_asked(writes_folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    assert writes_folder("--output_dir", tmp_path / "link") == 0
    written = tree(out)
    capsys.readouterr()
    assert writes_folder("--output_dir", out) == 2
    assert "pass --overwrite" in sentence(capsys)
    assert writes_folder("--output_dir", tmp_path / "link", "--overwrite") == 0
    assert (tmp_path / "link").is_symlink() and tree(out).keys() == written.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out", "link"}


def test_predictions_may_stand_beside_the_model(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    rows = write_sentences(tmp_path / "in.csv", 9, 1)
    argv = ["--model_dir", str(run), "--input", str(rows), "--output", str(run / "new.jsonl")]
    for more in ([], ["--overwrite"]):
        assert predict.main([*argv, *more]) == 0
    command = [sys.executable, "predict.py", *argv[:4]]
    with (run / "out.jsonl").open("wb") as file:
        assert subprocess.run(command, cwd=ROOT, stdout=file).returncode == 0
    assert (run / "out.jsonl").read_bytes() == (run / "new.jsonl").read_bytes()

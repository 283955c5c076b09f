"""How commands end: exit codes and sentences, with whatever streams they are started."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from finetuning import command


def end(error):
    def work():
        raise error

    return command.run("x.py", work)


class MXNetError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (IsADirectoryError(errno.EISDIR, "Is a directory", "train.log"), "move the folder away"),
        (FileExistsError(errno.EEXIST, "File exists", "out"), "move away what is in its place"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room"),
        (OSError("a sentence"), "x.py: a sentence\n"),
        (MemoryError(), "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (MXNetError("Check failed: AlignedMallocPitch failed"), "not enough memory"),
        (MXNetError(""), "MXNet: no message"),
        (ImportError("cannot import name 'x' from 'finetuning'"), "--resume"),
    ],
)
def test_an_error_of_the_system_is_one_sentence_that_says_what_to_do(error, says, capsys):
    assert end(error) == 1
    sentence = capsys.readouterr().err
    assert says in sentence and sentence.count("\n") == 1 and "Errno" not in sentence


def test_other_peoples_text_in_a_sentence_is_one_line(capsys):
    assert end(FileNotFoundError(errno.ENOENT, "No such file", "a\nb\x1b[2J\u202e\udcff")) == 1
    assert capsys.readouterr().err == "x.py: a\\nb\\x1b[2J\\u202e\\udcff: No such file\n"


def test_a_fault_in_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError())


FINETUNE = "--epochs 1 --batch_size 14 --max_len 32 --num_threads 1 --seeds 1,2 --output_dir"


@pytest.mark.parametrize(
    ("streams", "encoding"),
    [
        (">&-", "utf-8"),
        ("2>&-", "utf-8"),
        ("<&- >&- 2>&-", "utf-8"),
        (">/dev/full 2>/dev/full", "utf-8"),
        ("2>&1 | true", "utf-8"),
        ("", "ascii"),
        ("", "latin-1"),
    ],
)
def test_a_training_runs_to_its_end(streams, encoding, tiny_bert, glue_dir, tmp_path):
    for path in (glue_dir / "MRPC").iterdir():
        header, *rows = path.read_text().splitlines()
        rows = [row.replace(" ", " “犬” ") for row in rows]
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    run = f"{sys.executable} finetune_classifier.py --pretrained_bert_parameters {tiny_bert}"
    shell = f"{run} --data_dir {glue_dir} {FINETUNE} {tmp_path}/out {streams}"
    done = subprocess.run(
        ["bash", "-c", f"PYTHONIOENCODING={encoding} {shell}; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    for log, there in (("out/train.log", "one to ship"), ("out/seed-2/train.log", "“犬”")):
        assert there in (tmp_path / log).read_text(encoding="utf-8")
    assert (tmp_path / "out/seed-2/model.params").is_file()


@pytest.mark.parametrize(("streams", "exit_code"), [(">&-", 2), (">/dev/full", 1)])
def test_predictions_that_cannot_be_printed_are_a_failure(
    streams, exit_code, finetune_here, glue_dir
):
    code, out = finetune_here("--data_dir", glue_dir, "--epochs", "1")
    assert code == 0
    predict = f"{sys.executable} predict.py --model_dir {out} --text_a dog --text_b cat {streams}"
    done = subprocess.run(["bash", "-c", predict], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == exit_code
    assert "standard output" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "script",
    [
        *("download_glue_data.py", "export_classifier.py", "finetune_classifier.py"),
        *("pack_submission.py", "plot_runs.py", "predict.py"),
    ],
)
def test_ctrl_c_during_the_imports_ends_without_a_traceback(script, tmp_path):
    (tmp_path / "argparse.py").write_text(
        "import sys, time; print('importing', file=sys.stderr, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, script, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert rest == "" and process.returncode in (-signal.SIGINT, 130)

"""Every foreseeable mistake ends in one sentence that names file and line, and exit code 2."""

from __future__ import annotations

import os
import shutil

import pytest
from conftest import ROOT, run_script

FLAGS = ("--max_len", "32", "--num_threads", "1", "--training_steps", "1")


def refused(*flags, out=None, env=None) -> str:
    """Run the script, check how it refuses, and return its one sentence."""
    run = run_script("finetune_classifier.py", *FLAGS, *flags, env=env)
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stderr.count("\n") == 1 and "Traceback" not in run.stderr, run.stderr
    if out is not None and out.exists():
        assert {p.name for p in out.iterdir()} <= {"train.log", ".lock"}, (
            "something is half written"
        )
    return run.stderr


def write(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new, 1))


DATA_MISTAKES = {
    "an empty file": (lambda tsv: tsv.write_bytes(b""), "line 1", "the file is empty"),
    "only a header": (
        lambda tsv: tsv.write_bytes(tsv.read_bytes().split(b"\n")[0] + b"\n"),
        "",
        "no usable rows",
    ),
    "a row with too few fields": (
        lambda tsv: write(tsv, b"\t4\t5\t", b"\t5\t"),
        "line 4",
        "4 tab-separated fields",
    ),
    "a label that the task does not have": (
        lambda tsv: tsv.write_bytes(tsv.read_bytes() + b"2\t8\t9\ta cat\ta dog\n"),
        "line ",
        "'2' is not a label of MRPC",
    ),
    "text that is not UTF-8": (
        lambda tsv: write(tsv, b"\t2\t3\t", b"\t2\t3\t\xff\xfe"),
        "line 3",
        "not UTF-8",
    ),
    "a header without the columns": (
        lambda tsv: write(tsv, b"Quality", b"Goodness"),
        "line 1",
        "'Quality'",
    ),
    "no file at all": (lambda tsv: tsv.unlink(), "", "No such file"),
}


@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize("mistake", DATA_MISTAKES)
def test_a_data_file_with(mistake, split, tiny_bert, glue_dir, tmp_path):
    damage, line, complaint = DATA_MISTAKES[mistake]
    tsv = glue_dir / "MRPC" / f"{split}.tsv"
    damage(tsv)
    out = tmp_path / "out"
    sentence = refused(
        *("--pretrained_bert_parameters", tiny_bert, "--data_dir", glue_dir, "--output_dir", out),
        out=out,
    )
    assert str(tsv) in sentence and line in sentence and complaint in sentence


def test_glue_dir_is_missing(tiny_bert, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "GLUE_DIR"}
    flags = ("--pretrained_bert_parameters", tiny_bert, "--output_dir", tmp_path / "out")
    assert "GLUE_DIR" in refused(*flags, env=environment)


def test_the_tasks_folder_is_missing(tiny_bert, tmp_path):
    flags = ("--pretrained_bert_parameters", tiny_bert, "--output_dir", tmp_path / "out")
    sentence = refused(*flags, "--data_dir", tmp_path)
    assert str(tmp_path / "MRPC") in sentence and "download_glue_data.py" in sentence


MODEL_MISTAKES = {
    "weights that are cut short": (
        lambda bert: os.truncate(bert / "model.safetensors", 5000),
        "model.safetensors",
    ),
    "weights of another size": (
        lambda bert: write(
            bert / "config.json", b'"intermediate_size": 64', b'"intermediate_size": 32'
        ),
        "model.safetensors",
    ),
    "weights of another depth": (
        lambda bert: write(
            bert / "config.json", b'"num_hidden_layers": 2', b'"num_hidden_layers": 3'
        ),
        "encoder.layer.2.attention",
    ),
    "a vocabulary that does not fit": (
        lambda bert: write(bert / "vocab.txt", b"river\n", b""),
        "this is not the model's vocabulary",
    ),
    "a config that is not JSON": (
        lambda bert: write(bert / "config.json", b"{", b""),
        "config.json",
    ),
    "a config without sizes": (
        lambda bert: (bert / "config.json").write_text("{}"),
        "lacks vocab_size",
    ),
    "no weights": (lambda bert: (bert / "model.safetensors").unlink(), "model.safetensors"),
}


@pytest.mark.parametrize("mistake", MODEL_MISTAKES)
def test_a_pretrained_model_with(mistake, tiny_bert, glue_dir, tmp_path):
    damage, complaint = MODEL_MISTAKES[mistake]
    bert = tmp_path / "bert"
    shutil.copytree(tiny_bert, bert)
    damage(bert)
    out = tmp_path / "out"
    sentence = refused(
        *("--pretrained_bert_parameters", bert, "--data_dir", glue_dir, "--output_dir", out),
        out=out,
    )
    assert str(bert) in sentence and complaint in sentence


def test_an_output_folder_that_cannot_be_written(tiny_bert, glue_dir, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file" / "out"
    flags = ("--pretrained_bert_parameters", tiny_bert, "--data_dir", glue_dir)
    assert str(out) in refused(*flags, "--output_dir", out)


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (("--epochs", "0"), "--epochs"),
        (("--lr", "nan"), "--lr"),
        (("--warmup_ratio", "1"), "--warmup_ratio"),
        (("--optimizer", "lamb"), "--optimizer"),
        (("--no_such_flag",), "--no_such_flag"),
        (("--only_inference",), "--model_parameters"),
        (("--gpu", "first"), "--gpu"),
        (("--task_name", "SQuAD"), "MRPC"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_flag(flags, complaint, glue_dir, tmp_path):
    sentence = refused("--data_dir", glue_dir, "--output_dir", tmp_path / "out", *flags)
    assert complaint in sentence


def test_a_gpu_that_is_not_there_is_asked_for_in_vain(tiny_bert, glue_dir, tmp_path):
    import mxnet

    if mxnet.context.num_gpus():
        pytest.skip("this machine has a GPU")
    flags = ("--pretrained_bert_parameters", tiny_bert, "--data_dir", glue_dir)
    sentence = refused(*flags, "--output_dir", tmp_path / "out", "--gpu")
    assert "CPU" in sentence or "driver" in sentence


def test_the_flags_of_a_trained_model_cannot_be_contradicted(tiny_bert, glue_dir, tmp_path):
    out = tmp_path / "out"
    run = run_script(
        "finetune_classifier.py",
        *FLAGS,
        *("--pretrained_bert_parameters", tiny_bert, "--data_dir", glue_dir, "--output_dir", out),
    )
    assert run.returncode == 0, run.stderr
    inference = ("--only_inference", "--model_parameters", out, "--data_dir", glue_dir)
    run = run_script("finetune_classifier.py", *inference, "--max_len", "16")
    assert run.returncode == 2 and "--max_len 16" in run.stderr

    os.truncate(out / "model.params", (out / "model.params").stat().st_size - 1)
    run = run_script("finetune_classifier.py", *inference)
    assert run.returncode == 2 and str(out / "model.params") in run.stderr
    (out / "config.json").write_text("{}")
    run = run_script("finetune_classifier.py", *inference)
    assert run.returncode == 2 and str(out / "config.json") in run.stderr


def test_help_says_what_every_flag_does_without_loading_mxnet():
    run = run_script("-X", "importtime", ROOT / "finetune_classifier.py", "--help")
    assert run.returncode == 0
    assert "--warmup_ratio" in run.stdout and "default: 0.1" in run.stdout
    assert "mxnet" not in run.stderr and "numpy" not in run.stderr  # each takes its time


def test_a_wrong_file_ends_the_script_with_2(tiny_bert, tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n,no\n")
    run = run_script(
        *("finetune_classifier.py", "--pretrained_bert_parameters", tiny_bert, *FLAGS),
        *("--text_a_column", "text", "--train_file", tmp_path / "t.csv", "--dev_fraction", "0.5"),
        *("--output_dir", tmp_path / "out"),
    )
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "t.csv, line 2: the text is empty" in run.stderr

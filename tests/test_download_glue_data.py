"""download_glue_data.py: its flags, and the real MRPC where its raw files are at hand."""

from __future__ import annotations

import os

import pytest
from conftest import ROOT, run_script

from download_glue_data import main, parse_args
from finetuning.data.tasks import DOWNLOADABLE


def test_dry_run_says_what_would_be_fetched_and_fetches_nothing(tmp_path):
    run = run_script("download_glue_data.py", "--dry_run", "--data_dir", tmp_path / "glue")
    assert run.returncode == 0
    assert len(run.stdout.splitlines()) == len(DOWNLOADABLE) and "QNLIv2.zip" in run.stdout
    assert not (tmp_path / "glue").exists()


@pytest.mark.parametrize(
    "asked, tasks",
    [
        ("all", list(DOWNLOADABLE)),
        ("SST,sts", ["SST-2", "STS-B"]),
        ("diagnostic, cola,CoLA", ["AX", "CoLA"]),
    ],
)
def test_old_and_new_names_of_tasks_are_known(asked, tasks):
    assert [task.name for task in parse_args(["--tasks", asked]).tasks] == tasks
    assert parse_args([]).tasks == list(DOWNLOADABLE.values())


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (("--tasks", "SQuAD"), "unknown task 'SQuAD': use one of CoLA, SST-2, MRPC"),
        (("--tasks", ","), "name one or more of CoLA"),
        (("--mirror", "example.org"), "must begin with http:// or https://, not 'example.org'"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_sentence(flags, complaint, capsys):
    with pytest.raises(SystemExit) as end:
        main(list(flags))
    (sentence,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and flags[0] in sentence and complaint in sentence


def test_help_loads_no_large_package_and_fits_a_terminal():
    command = ("-X", "importtime", ROOT / "download_glue_data.py", "--help")
    run = run_script(*command, env={**os.environ, "COLUMNS": "80"})
    assert run.returncode == 0 and "--path_to_mrpc" in run.stdout
    loaded = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert not loaded & {"mxnet", "numpy", "requests", "tqdm"}
    assert max(map(len, run.stdout.splitlines())) <= 80


def test_downloading_needs_no_mxnet(tmp_path):
    program = (
        "import sys; sys.modules['mxnet'] = None\n"
        "import download_glue_data; sys.exit(download_glue_data.main(sys.argv[1:]))"
    )
    flags = ("--data_dir", tmp_path / "glue", "--tasks", "MRPC", "--path_to_mrpc", tmp_path)
    run = run_script("-c", program, *flags)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "--path_to_mrpc: cannot read" in run.stderr


def test_the_real_mrpc_becomes_glues_three_files(mrpc_raw, tmp_path):
    flags = ("--data_dir", tmp_path, "--tasks", "mrpc", "--path_to_mrpc", mrpc_raw)
    run = run_script("download_glue_data.py", *flags)
    assert run.returncode == 0, run.stderr
    rows = {
        name: (tmp_path / "MRPC" / name).read_text(encoding="utf-8").split("\n")[:-1]
        for name in DOWNLOADABLE["MRPC"].rows
    }
    assert [len(lines) - 1 for lines in rows.values()] == [3668, 408, 1725]
    published = set((mrpc_raw / "dev_ids.tsv").read_text().splitlines())
    assert {"\t".join(line.split("\t")[1:3]) for line in rows["dev.tsv"][1:]} == published
    assert rows["train.tsv"][0] == "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    assert rows["test.tsv"][0] == "index\t#1 ID\t#2 ID\t#1 String\t#2 String"
    assert all(len(line.split("\t")) == 5 for lines in rows.values() for line in lines)
    assert [line.split("\t")[0] for line in rows["test.tsv"][1:4]] == ["0", "1", "2"]

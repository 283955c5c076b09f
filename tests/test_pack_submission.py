"""pack_submission.py: one file for gluebenchmark.com."""

from __future__ import annotations

import shutil
import zipfile

from conftest import run_script

from pack_submission import main as pack


def test_several_runs_are_packed_into_one_submission(tmp_path, capsys):
    for run, names in {"a": ["CoLA"], "b": ["MNLI-m", "MNLI-mm", "AX"]}.items():
        (tmp_path / run / "predictions").mkdir(parents=True)
        for name in names:
            (tmp_path / run / "predictions" / f"{name}.tsv").write_text("index\tprediction\n0\t1\n")
    packed = str(tmp_path / "submission.zip")
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert pack([*runs, "--output", packed]) == 0
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["AX.tsv", "CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
        assert archive.read("CoLA.tsv") == b"index\tprediction\n0\t1\n"
    assert "missing: SST-2, MRPC, STS-B, QQP, QNLI, RTE, WNLI" in capsys.readouterr().out

    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert pack([*runs, str(tmp_path / "c"), "--output", packed]) == 2
    assert "of the same test set" in capsys.readouterr().err
    assert pack([str(tmp_path), "--output", packed]) == 2
    assert "--predict_test" in capsys.readouterr().err


def test_packing_runs_as_a_script(tmp_path):
    run = run_script("pack_submission.py", tmp_path)
    assert run.returncode == 2 and run.stderr.count("\n") == 1

"""pack_submission.py: one file for gluebenchmark.com."""

from __future__ import annotations

import shutil
import zipfile

import pytest
from conftest import run_script

from pack_submission import main as pack

PREDICTIONS = {
    "CoLA": "index\tprediction\n0\t1\n",
    "STS-B": "index\tprediction\n0\t1.2500\n1\t5.0000\n",
    **dict.fromkeys(("MNLI-m", "MNLI-mm", "AX"), "index\tprediction\n0\tneutral\n"),
}


def test_several_runs_are_packed_into_one_submission(tmp_path, capsys):
    for run, names in {"a": ["CoLA"], "b": ["MNLI-m", "MNLI-mm", "AX"]}.items():
        (tmp_path / run / "predictions").mkdir(parents=True)
        for name in names:
            (tmp_path / run / "predictions" / f"{name}.tsv").write_text(PREDICTIONS[name])
    packed = str(tmp_path / "submission.zip")
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert pack([*runs, "--output", packed]) == 0
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["AX.tsv", "CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
        assert archive.read("CoLA.tsv") == b"index\tprediction\n0\t1\n"
    assert "missing: SST-2, MRPC, STS-B, QQP, QNLI, RTE, WNLI" in capsys.readouterr().out

    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert pack([*runs, "--output", packed]) == 2
    assert "already exists: pass --overwrite" in capsys.readouterr().err
    assert pack([*runs, "--output", packed, "--overwrite"]) == 0
    assert pack([*runs, str(tmp_path / "c"), "--output", packed]) == 2
    assert "of the same test set" in capsys.readouterr().err
    assert pack([str(tmp_path), "--output", packed]) == 2
    assert "--predict_test" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("CoLA", "index\tprediction\n", "line 2: the file was cut off"),
        ("CoLA", "index\tprediction\n0\t1\n1\t", "line 3: the file was cut off"),
        ("CoLA", "index\tprediction\n0\t1\n2\t1\n", "line 3: not the row 1"),
        ("CoLA", "index\tprediction\n0\t1\ngarbage\n", "line 3: not the row 1"),
        ("CoLA", "index\tprediction\n0\tneutral\n", "line 2: not the row 0"),
        ("AX", "index\tprediction\n0\t1\n", "line 2: not the row 0"),
        ("STS-B", "index\tprediction\n0\tnan\n", "line 2: not the row 0"),
        ("STS-B", PREDICTIONS["STS-B"], ""),
    ],
)
def test_damaged_predictions_are_not_packed(name, content, complaint, tmp_path, capsys):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / f"{name}.tsv").write_text(content)
    packed = tmp_path / "s.zip"
    assert pack([str(tmp_path), "--output", str(packed)]) == (2 if complaint else 0)
    assert complaint in capsys.readouterr().err and packed.exists() is not bool(complaint)


def test_packing_runs_as_a_script(tmp_path):
    run = run_script("pack_submission.py", tmp_path)
    assert run.returncode == 2 and run.stderr.count("\n") == 1

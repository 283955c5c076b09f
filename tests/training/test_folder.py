"""A run's folder knows what is its own: nothing else is deleted, nothing of an old run stays."""

from __future__ import annotations

import json
import os

import pytest
from conftest import write_mrpc

from bert.errors import UserError
from finetuning.training import folder

RUN = ("--epochs", "1", "--lr", "1e-3", "--batch_size", "8")


@pytest.fixture
def data(tmp_path):
    path = write_mrpc(tmp_path / "glue", train=40, dev=20)
    dev = (path / "MRPC/dev.tsv").read_text().splitlines()[1:]
    rows = [f"{i}\t{line.split(chr(9), 1)[1]}" for i, line in enumerate(dev)]
    header = "index\t#1 ID\t#2 ID\t#1 String\t#2 String"
    (path / "MRPC/test.tsv").write_text("\n".join([header, *rows]) + "\n")
    return path


def names(out) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.name != ".lock"}


def test_an_overwritten_run_leaves_nothing_and_takes_nothing_else(finetune_here, data, tmp_path):
    flags = ("--data_dir", data, *RUN, "--no_tensorboard")
    assert finetune_here(*flags, "--predict_test")[0] == 0
    out = tmp_path / "out"
    assert "predictions/MRPC.tsv" in names(out)
    mine = ["notes.txt", ".mine.tmp", "predictions/mine.csv"]
    for name in mine:
        (out / name).write_text("mine")
    code, _ = finetune_here(*flags, "--seeds", "4,5", "--overwrite")
    assert code == 0
    tops = {name.split("/")[0] for name in names(out)}
    expected = {"seed-4", "seed-5", "metrics.json", "run.json", "train.log", "predictions"}
    assert tops == expected | {"notes.txt", ".mine.tmp"}
    assert all((out / name).read_text() == "mine" for name in mine)
    assert finetune_here(*flags, "--overwrite")[0] == 0
    assert not list(out.glob("seed-*")) and (out / "model.params").exists()


@pytest.mark.parametrize("flag", [(), ("--resume",), ("--overwrite",)])
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model.params", "metrics.json", "eval_metrics.json"),
        *("test_predictions.tsv", "skipped_rows.tsv", "predictions/MRPC.tsv"),
    ],
)
def test_files_that_no_run_has_written_are_refused_and_kept(
    name, flag, finetune_here, data, capsys
):
    code, out = finetune_here("--data_dir", data, *RUN, *flag, out="made")
    assert code == 0
    for path in out.iterdir():
        path.unlink()
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("{}")
    assert finetune_here("--data_dir", data, *RUN, *flag, out="made")[0] == 2
    assert f"holds {name}, which no run has written" in capsys.readouterr().err
    assert (out / name).read_text() == "{}"


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_predictions_that_the_run_has_not_written_are_kept(flag, finetune_here, data, capsys):
    code, out = finetune_here("--data_dir", data, *RUN)
    assert code == 0
    (out / "predictions").mkdir()
    (out / "predictions/MRPC.tsv").write_text("mine")
    assert finetune_here("--data_dir", data, *RUN, "--predict_test", flag)[0] == 2
    assert "holds predictions/MRPC.tsv, which no run has written" in capsys.readouterr().err
    assert (out / "predictions/MRPC.tsv").read_text() == "mine"


@pytest.mark.parametrize("name", ["test_predictions.tsv", "seed-1/dev_mistakes.tsv", "train.tsv"])
@pytest.mark.parametrize("linked", [False, True])
def test_an_input_is_neither_overwritten_nor_deleted(name, linked, finetune_here, tmp_path, capsys):
    rows = "text_a\tlabel\n" + "".join(f"red dog {i}\tl{i % 2}\n" for i in range(20))
    source = tmp_path / "out" / name
    source.parent.mkdir(parents=True)
    source.write_text(rows)
    given = tmp_path / "link.tsv" if linked else source
    if linked:
        given.symlink_to(source)
    flags = ("--train_file", given, "--dev_file", given, "--test_file", given, *RUN)
    for more in ((), ("--overwrite",)):
        refused = name != "train.tsv"
        assert finetune_here(*flags, *more)[0] == 2 * refused
        assert (f"{given} is an input of this command" in capsys.readouterr().err) == refused
        assert source.read_text() == rows


def test_an_evaluation_replaces_nothing(finetune_here, data, capsys):
    flags = ("--data_dir", data, "--predict_test")
    trained = finetune_here(*flags, *RUN)[1]
    other = finetune_here("--data_dir", data, *RUN, "--seed", "9", "--predict_test", out="other")[1]
    before = (other / "predictions/MRPC.tsv").read_bytes()
    evaluation = ("--model_parameters", trained, "--only_inference")
    assert finetune_here(*evaluation, *flags, out="other", bert=False)[0] == 2
    assert f"{other}/predictions/MRPC.tsv already exists" in capsys.readouterr().err
    assert (other / "predictions/MRPC.tsv").read_bytes() == before
    for code in (0, 2):
        assert finetune_here(*evaluation, "--data_dir", data, out="again", bert=False)[0] == code
    assert "again/eval_metrics.json already exists" in capsys.readouterr().err


def test_links_are_not_followed_and_names_from_a_record_stay_inside(finetune_here, data, tmp_path):
    flags = ("--data_dir", data, *RUN, "--no_tensorboard")
    code, out = finetune_here(*flags)
    assert code == 0
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/MRPC.tsv").write_text("precious")
    (out / "predictions").symlink_to(tmp_path / "precious")
    record = json.loads((out / "run.json").read_text())
    record["files"].append("predictions/MRPC.tsv")
    (out / "run.json").write_text(json.dumps(record))
    folder.remove(out, folder.find_run(out))
    assert (tmp_path / "precious/MRPC.tsv").read_text() == "precious"
    for name in ("../precious/MRPC.tsv", "/etc/passwd", "predictions/../../x.tsv", "seed-1/../.."):
        record["files"] = [name]
        (out / "run.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match="not the record of a run"):
            folder.find_run(out)


@pytest.mark.parametrize("content", ["", "[]", "[" * 9999, '{"kind": 5}'])
def test_a_damaged_record_is_refused_with_a_way_out(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"not the record of a run .*choose another --output_dir"):
        folder.find_run(tmp_path)


def test_a_finished_run_is_never_trained_again(finetune_here, data, capsys):
    flags = ("--data_dir", data, *RUN)
    code, out = finetune_here(*flags)
    assert code == 0
    before = (out / "model.params").read_bytes()
    for path in out.glob("checkpoint-*"):
        path.unlink()
    assert finetune_here(*flags, "--resume", "--lr", "5e-2")[0] == 2
    assert "--lr was 0.001, now 0.05" in capsys.readouterr().err
    assert finetune_here(*flags, "--resume")[0] == 0
    assert finetune_here(*flags, "--resume", "--epochs", "3")[0] == 2
    assert f"--model_parameters {out}" in capsys.readouterr().err
    assert (out / "model.params").read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "dev_examples.params"])
def test_a_file_that_a_finished_run_lacks_is_written_again(name, finetune_here, data):
    flags = ("--data_dir", data, *RUN)
    code, out = finetune_here(*flags)
    assert code == 0
    before = (out / name).read_bytes()
    (out / name).unlink()
    assert finetune_here(*flags, "--resume")[0] == 0
    assert (out / name).read_bytes() == before


@pytest.mark.parametrize("name", ["model.params", "metrics.json", "dev_predictions.tsv"])
def test_what_only_training_gives_is_named_with_the_way_out(name, finetune_here, data, capsys):
    flags = ("--data_dir", data, *RUN)
    code, out = finetune_here(*flags)
    assert code == 0
    for damage in (lambda path: path.write_text("{}"), lambda path: path.unlink()):
        damage(out / name)
        assert finetune_here(*flags, "--resume")[0] == 2
        error = capsys.readouterr().err
        assert name in error and "--overwrite" in error and error.count("\n") == 1


def test_one_kind_of_run_does_not_resume_another(finetune_here, data, capsys):
    flags = ("--data_dir", data, *RUN)
    assert finetune_here(*flags, "--seeds", "1,2", out="seeds")[0] == 0
    single, out = finetune_here(*flags, out="single")
    assert single == 0
    before = (out / "metrics.json").read_bytes()
    assert finetune_here(*flags, "--seeds", "1,2", "--resume", out="single")[0] == 2
    assert "holds a run, not the runs of --seeds" in capsys.readouterr().err
    assert (out / "metrics.json").read_bytes() == before


def test_a_run_knows_its_flags(data, tiny_bert, tmp_path, monkeypatch):
    import finetune_classifier

    out, alone = str(tmp_path / "out"), str(tmp_path / "alone")
    flags = ["--pretrained_bert_parameters", tiny_bert, "--max_len", "32", "--data_dir", data, *RUN]
    flags = [*map(str, flags), "--seed", "7"]
    assert finetune_classifier.main([*flags, "--output_dir", alone]) == 0
    monkeypatch.setattr(os, "fsync", _failing(os.fsync, 25))
    assert finetune_classifier.main([*flags, "--output_dir", out]) == 1
    monkeypatch.undo()
    monkeypatch.delenv("GLUE_DIR", raising=False)
    assert finetune_classifier.main(["--resume", "--output_dir", out]) == 0
    same = [(tmp_path / name / "model.params").read_bytes() for name in ("out", "alone")]
    assert same[0] == same[1]


def _failing(fsync, number):
    calls = iter(range(1, 10**6))

    def failing(descriptor):
        if next(calls) == number:
            raise OSError(28, os.strerror(28))
        fsync(descriptor)

    return failing

"""The flags of finetune_classifier.py: declared once, checked, and the same in help and docs."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_script

from bert import runtime
from bert.errors import UserError
from finetuning import options as module
from finetuning.flags import flags_of, listed, number
from finetuning.options import ELSEWHERE, NEEDLESS, RULES, Options, document, parse

FLAGS = flags_of(Options)
NAMES = [f"--{field.name}" for field, _ in FLAGS]
SPELLINGS = NAMES + [name for _, about in FLAGS for name in (about.alias, about.opposite) if name]
TRAIN = ("--train_file", "t.csv", "--dev_fraction", "0.1")
MODEL = ("--model_parameters", "run")


def refused(capsys, *flags) -> str:
    """Check that the flags are refused in one sentence, which is returned."""
    with pytest.raises(SystemExit) as exit:
        parse("", [str(flag) for flag in flags])
    sentence = capsys.readouterr().err
    assert exit.value.code == 2 and sentence.count("\n") == 1
    return sentence


@pytest.fixture(scope="module", params=["80", "200"])
def help_text(request):
    """What --help prints on a terminal of so many columns, and that number."""
    environment = os.environ | {"COLUMNS": request.param}
    run = run_script("finetune_classifier.py", "--help", env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout, int(request.param)


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_flag_is_in_the_docs(name):
    assert document().count(f"`{name}`") == 1


def test_every_flag_is_in_the_help_in_whole_words_and_within_the_terminal(help_text):
    text, columns = help_text
    assert max(map(len, text.splitlines())) <= columns
    words = text.split()
    flags = {word.rstrip(",") for word in words}  # from Python 3.13 on "--flag, --alias"
    for field, about in FLAGS:
        assert f"--{field.name}" in flags
        assert about.help in " ".join(words), "a word is broken"
    assert not set(words) & {f"--{name}" for name in (*NEEDLESS, *ELSEWHERE)}


def test_defaults_are_in_the_help(help_text):
    text = " ".join(help_text[0].split())
    for sentence in (
        "peak learning rate; several: as --batch_size (default: 5e-5)",
        "passes over the training data; several: as --batch_size (default: 3)",
        "per task (default: $GLUE_DIR)",
        "(default: 0: stop at the first)",
    ):
        assert sentence in text
    assert "None" not in text and "False" not in text


def test_the_first_example_of_the_help_runs_on_what_make_setup_installs(help_text):
    text, _ = help_text
    example = re.search(r"python3 finetune_classifier\.py(.*?)\n\n", text, re.DOTALL).group(1)
    options = parse("", example.replace("\\", "").split())
    assert options.gpu is None and (ROOT / options.data_dir / "MRPC").is_dir()
    assert (options.bert_model, options.bert_dataset) == ("bert_6_384_12", "minilm_en_uncased")


def test_the_docs_are_those_generated_from_the_declarations():
    assert (ROOT / "docs/flags.md").read_text(encoding="utf-8") == document(), (
        "run: python -m finetuning.options > docs/flags.md"
    )


def test_docs_for_which_the_disk_has_no_room_are_a_failure():
    command = [sys.executable, "-m", "finetuning.options"]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    run = run_script("-m", "finetuning.options")
    assert run.returncode == 0 and run.stdout == document()


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_refused(name, value, capsys):
    assert name in refused(capsys, name, value)
    assert name in refused(capsys, f"{name}={value}")


def test_an_empty_environment_variable_is_one_that_is_not_set(monkeypatch):
    monkeypatch.setenv("GLUE_DIR", "")
    assert parse("", []).data_dir is None
    monkeypatch.setenv("GLUE_DIR", "glue")
    assert str(parse("", []).data_dir) == "glue"
    assert str(parse("", ["--data_dir", "other"]).data_dir) == "other"


def test_abbreviations_are_refused(capsys):
    assert "--calib" in refused(capsys, "--calib")


# What breaks each of the rules, in their order.
BREAKS = (
    ("--only_inference",),
    (*MODEL, "--only_inference", "--resume"),
    (*MODEL, "--only_inference", "--test_file", "t.csv"),
    (*TRAIN, "--task_name", "RTE"),
    (*TRAIN, "--language", "de"),
    (*TRAIN, "--predict_test"),
    ("--regression",),
    (*TRAIN, "--text_b_column", "text_a"),
    ("--folds", "2"),
    ("--dev_file", "d.csv"),
    (*TRAIN, "--dev_file", "d.csv"),
    ("--train_file", "t.csv", "--folds", "2", "--test_file", "t.csv"),
    ("--train_file", "t.csv", "--folds", "2", *MODEL),
    (*TRAIN, "--regression", "--class_weights", "balanced"),
    (*TRAIN, "--multi_label", ";", "--regression"),
    (*TRAIN, "--multi_label", "--class_weights", "balanced"),
    (*TRAIN, "--regression", "--calibrate"),
    (*MODEL, "--pretrained_bert_parameters", "bert.params"),
    ("--bert_model", "{folder}", "--revision", "v1"),
    ("--pretrained_bert_parameters", "{folder}", "--bert_model", "bert_6_384_12"),
    ("--bert_model", "organisation/name", "--bert_dataset", "wiki_cn_cased"),
    (*MODEL, "--revision", "v1"),
    ("--resume", "--overwrite"),
    ("--seeds", "1,2", "--seed", "1"),
    ("--lr", "1e-4,2e-4", "--check"),
    ("--epochs", "2,3", "--training_steps", "9"),
    ("--lr", "1e-4,2e-4", "--comm_backend", "horovod"),
    ("--tensorboard",),
    ("--dtype", "float16"),
    ("--dtype", "bfloat16", "--gpu"),
    ("--comm_backend", "horovod"),
    ("--comm_backend", "horovod", "--check"),
)


@pytest.mark.parametrize(
    "rule, flags", list(zip(RULES, BREAKS, strict=True)), ids=map(" ".join, BREAKS)
)
def test_a_combination_that_is_refused(rule, flags, capsys, monkeypatch, tmp_path):
    missing = {"tensorboard": True, "horovod": "--check" not in flags}
    monkeypatch.setattr(module, "_missing", missing.__getitem__)
    flags = [flag.format(folder=tmp_path) for flag in flags]
    sentence = refused(capsys, *flags)
    assert rule.why in sentence
    if rule.needs:
        assert f" needs {listed([f'--{name}' for name in rule.needs.split()], 'or')} (" in sentence
    excluded = [f"--{name}" for name in rule.excludes.split() if f"--{name}" in flags]
    if rule.excludes:
        assert f": leave out {listed(excluded, 'and')} (" in sentence


def test_what_combines_is_taken(tmp_path):
    for flags in (
        TRAIN,
        ("--train_file", "t.csv", "--folds", "2", "--regression", "--text_b_column", "b"),
        (*MODEL, "--only_inference", "--dev_file", "d.csv"),
        (*MODEL, "--only_inference", "--predict_test", "--output_dir", "out"),
        (*MODEL, "--train_file", "t.csv", "--dev_file", "d.csv", "--text_b_column", "text_a"),
        ("--dtype", "bfloat16"),
        ("--dtype", "float16", "--gpu", "0,1"),
        ("--bert_model", "organisation/name", "--revision", "v1"),
        ("--seeds", "3,4", "--calibrate", "--resume"),
    ):
        parse("", list(flags))


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (("--accumulate", "0"), "--accumulate must be at least 1, not 0"),
        (("--accumulate", "1.5"), "--accumulate must be a whole number, not '1.5'"),
        (("--training_steps", str(2**31)), "--training_steps must be a number that int32 can hold"),
        (("--lr", "0"), "--lr must be more than 0, not 0"),
        (("--lr", "nan"), "--lr must be a number, not 'nan'"),
        (("--lr", "inf"), "--lr must be a number that float32 can hold, not inf"),
        (("--lr", "1e39"), "--lr must be a number that float32 can hold, not 1e39"),
        (("--epsilon", "1e-50"), "--epsilon must be a number that float32 can hold, not 1e-50"),
        (("--weight_decay", "-0.1"), "--weight_decay must be at least 0, not -0.1"),
        (("--dropout", "0.999999999"), "--dropout must be at least 0 and less than 1, not 0.9999"),
        (("--seeds", "1,2,1"), "1,2,1 names a seed twice"),
        (("--optimizer", "lamb"), "--optimizer must be bertadam, adamw, adam or sgd, not 'lamb'"),
        (("--lr",), "--lr: expected one argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_value_that_is_refused(flags, complaint, capsys):
    assert complaint in refused(capsys, *flags)


@pytest.mark.parametrize("text", ["1.17549436e-38", "3.40282346e38", "1e-6"])
def test_what_float32_holds_is_taken_as_it_is(text):
    assert number(float, 0)(text) == float(text)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_flag_of_gluonnlps_script_is_answered_with_what_to_do(name, capsys):
    for value in ((), ("5",)):
        sentence = refused(capsys, f"--{name}", *value)
        assert f"--{name} is a flag of gluonnlp's script" in sentence
        assert any((ROOT / word).is_file() for word in sentence.split())


def test_the_needless_flags_of_gluonnlps_script_are_accepted_with_a_note(capsys):
    options = parse("", ["--pad", "--round_to", "8", "--epochs", "2"])
    assert options == parse("", ["--epochs", "2"])
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2 and "--pad is not needed" in "".join(notes)
    assert "--round_to is not needed" in "".join(notes)


RECORDED = (
    "task_name dev_fraction folds class_weights skip_bad_rows bert_model bert_dataset revision "
    "batch_size optimizer epochs lr epsilon weight_decay dropout warmup_ratio max_len seed "
    "training_steps max_train_samples accumulate early_stop eval_steps dev_batch_size dtype"
).split()


def test_what_decides_is_recorded_under_the_names_of_old_in_their_order():
    recorded = {name: x for name, x in parse("", []).deciding().items() if name in RECORDED}
    assert list(recorded) == RECORDED, "a run that was begun before could not be resumed"
    assert {name: value for name, value in recorded.items() if value not in (None, False)} == {
        "task_name": "MRPC",
        "bert_model": "bert_12_768_12",
        "bert_dataset": "book_corpus_wiki_en_uncased",
        "batch_size": 32,
        "optimizer": "bertadam",
        "epochs": 3,
        "lr": 5e-5,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
        "dropout": 0.1,
        "warmup_ratio": 0.1,
        "max_len": 128,
        "seed": 2,
        "accumulate": 1,
        "dev_batch_size": 32,
        "dtype": "float32",
    }


@pytest.mark.parametrize("units, taken", [(None, "float32"), ("AVX-512", "bfloat16")])
def test_auto_is_the_type_that_the_processor_is_faster_in(units, taken, monkeypatch):
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: units)
    options = parse("", ["--dtype", "auto"])
    assert options.dtype == options.deciding()["dtype"] == taken
    assert parse("", ["--dtype", "auto", "--gpu"]).dtype == "float32"
    assert parse("", []).dtype == "float32"


def test_options_are_never_written_to():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("", []).seed = 3


def test_what_follows_from_other_flags_is_settled(tmp_path, monkeypatch):
    monkeypatch.delenv("GLUE_DIR", raising=False)
    plain = parse("", ["--task_name", "sst"])
    assert plain.task_name == "SST-2" and str(plain.output_dir) == "output_dir"
    assert parse("", ["--seeds", "5,6"]).seed == 5
    own = parse("", list(TRAIN))
    assert own.own_files and own.task_name == "own data" and own.text_a_column == "text_a"
    for flag in ("--bert_model", "--pretrained_bert_parameters"):
        folder = parse("", [flag, str(tmp_path)])
        assert folder.pretrained_bert_parameters == tmp_path
        assert folder.bert_model == folder.bert_dataset == ""
    repository = parse("", ["--bert_model", "organisation/name"])
    assert (repository.bert_model, repository.bert_dataset) == ("organisation/name", "")
    assert parse("", [*MODEL, "--only_inference"]).output_dir is None
    assert parse("", ["--gpu"]).gpu == () and parse("", ["--gpu", "1, 0"]).gpu == (1, 0)
    assert parse("", ["--no_tensorboard"]).tensorboard is False and plain.tensorboard is None


CONFIG = {
    "task_name": "RTE",
    "bert_model": "bert_6_384_12",
    "bert_dataset": "minilm_en_uncased",
    "max_len": 64,
    "long_text": "windows",
    "text_a_column": "sentence1",
    "label_column": "gold",
}


def test_a_trained_model_decides_what_its_config_says():
    options = parse("", [*MODEL, "--max_len", "64", "--epochs", "5"]).with_model_config(CONFIG)
    assert options.in_config().items() <= CONFIG.items() and len(options.in_config()) == 5
    assert (options.text_a_column, options.label_column) == ("sentence1", "gold")
    assert options.epochs == 5


def test_a_column_that_is_named_is_not_the_trained_models():
    flags = [*MODEL, "--only_inference", "--dev_file", "d.csv", "--text_a_column", "x"]
    options = parse("", flags).with_model_config(CONFIG)
    assert (options.text_a_column, options.label_column) == ("x", "gold")


@pytest.mark.parametrize(
    "flags", [("--max_len", "128"), ("--task_name", "MRPC"), ("--long_text", "head")]
)
def test_a_trained_model_is_not_contradicted(flags):
    with pytest.raises(UserError, match=" ".join(flags)):
        parse("", [*MODEL, *flags]).with_model_config(CONFIG)


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (("--train_file", "t.csv"), "--dev_fraction"),
        (("--train_file", "t.csv", "--dev_fraction", "1"), "--dev_fraction"),
        (("--train_file", "t.csv", "--folds", "1"), "--folds"),
        (("--train_file", "t.csv", "--folds", "2", "--dev_fraction", "0.1"), "one of"),
        (("--train_file", "t.csv", "--dev_file", "d.csv", "--task_name", "RTE"), "--task_name"),
        (("--dev_file", "d.csv"), "--train_file"),
        (("--folds", "2"), "--train_file"),
        (("--regression",), "--regression"),
        (("--text_a_column", "x"), "--text_a_column"),
        (
            ("--train_file", "t", "--folds", "2", "--regression", "--class_weights", "balanced"),
            "--class_weights",
        ),
        (
            ("--train_file", "t", "--folds", "2", "--text_a_column", "x", "--label_column", "x"),
            "must be different",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_flags_that_do_not_go_together_are_refused(flags, complaint, capsys):
    assert complaint in refused(capsys, *flags)


def test_every_flag_is_read_where_it_takes_effect():
    """A new flag needs no test of its own to be noticed when its wiring is deleted."""
    read = set()
    for path in [*(ROOT / "finetuning").rglob("*.py"), ROOT / "finetune_classifier.py"]:
        if path.name == "options.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("options"):
                read.add(node.attr)
    unread = {field.name for field, _ in FLAGS} - read
    assert not unread

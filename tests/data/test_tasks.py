"""Every GLUE task, on small files in its real layout: columns, labels, metrics, submission."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run_script

from bert.errors import UserError
from finetuning.data import reading
from finetuning.data.rows import BadRows
from finetuning.data.tasks import (
    AX,
    DOWNLOADABLE,
    SUBMISSION_FILES,
    TASKS,
    find_task,
    own_task,
    task_folder,
)
from finetuning.results.texts import file_rows

_MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
_MNLI_ROW = "{i}\t31193\t31193n\tfiction\t( cat )\t( dog )\t(S cat)\t(S dog)\t{a}\t{b}"
_MNLI_TEST = (_MNLI_HEADER, _MNLI_ROW)
_MNLI_DEV = (
    _MNLI_HEADER + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
    # One of five people disagrees: only the gold label is the label.
    _MNLI_ROW + "\tneutral\t{y}\t{y}\t{y}\t{y}\t{y}",
)
_STSB = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
    "{i}\tmain-news\tMSRpar\t2012test\t{i}\tnone\tnone\t{a}\t{b}",
)
_COLA = (None, "gj04\t{y}\t\t{a}")
_MRPC = "#1 ID\t#2 ID\t#1 String\t#2 String"
_QNLI = "index\tquestion\tsentence"
_PAIR = "index\tsentence1\tsentence2"


def _with_label(layout, name):
    return f"{layout[0]}\t{name}", layout[1] + "\t{y}"


_ROW = "{i}\t{a}\t{b}"
# Task -> file -> (header, row); {i} is the row's number, {a} and {b} its texts, {y} its label.
LAYOUTS = {
    "CoLA": {"train": _COLA, "dev": _COLA, "test": ("index\tsentence", "{i}\t{a}")},
    "SST-2": {
        **dict.fromkeys(("train", "dev"), ("sentence\tlabel", "{a} \t{y}")),
        "test": ("index\tsentence", "{i}\t{a} "),
    },
    "MRPC": {
        **dict.fromkeys(("train", "dev"), (f"\ufeffQuality\t{_MRPC}", "{y}\t11\t22\t{a}\t{b}")),
        "test": (f"index\t{_MRPC}", "{i}\t11\t22\t{a}\t{b}"),
    },
    "STS-B": {**dict.fromkeys(("train", "dev"), _with_label(_STSB, "score")), "test": _STSB},
    "QQP": {
        **dict.fromkeys(
            ("train", "dev"),
            ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "{i}\t7\t8\t{a}\t{b}\t{y}"),
        ),
        "test": ("id\tquestion1\tquestion2", _ROW),
    },
    "MNLI": {
        "train": (_MNLI_HEADER + "\tlabel1\tgold_label", _MNLI_ROW + "\tneutral\t{y}"),
        "dev_matched": _MNLI_DEV,
        "dev_mismatched": _MNLI_DEV,
        "test_matched": _MNLI_TEST,
        "test_mismatched": _MNLI_TEST,
    },
    "QNLI": {
        **dict.fromkeys(("train", "dev"), _with_label((_QNLI, _ROW), "label")),
        "test": (_QNLI, _ROW),
    },
    **{
        name: {
            **dict.fromkeys(("train", "dev"), _with_label((_PAIR, _ROW), "label")),
            "test": (_PAIR, _ROW),
        }
        for name in ("RTE", "WNLI")
    },
}
LABELS = {
    **{key: ["0", "1"] for key in ("CoLA", "SST-2", "MRPC", "QQP", "WNLI")},
    **{key: ["entailment", "not_entailment"] for key in ("QNLI", "RTE")},
    "MNLI": ["contradiction", "entailment", "neutral"],
    "STS-B": ["0.000", "2.500", "5.000"],
}
METRICS = {
    "CoLA": ["matthews"],
    **{key: ["accuracy"] for key in ("SST-2", "QNLI", "RTE", "WNLI")},
    **{key: ["accuracy", "f1"] for key in ("MRPC", "QQP")},
    "MNLI": ["accuracy", "accuracy_mm"],
    "STS-B": ["pearson", "spearman"],
}
SUBMISSIONS = {name: [name] for name in LAYOUTS} | {"MNLI": ["MNLI-m", "MNLI-mm", "AX"]}
ROWS = {"train": 12, "test": 7, "test_matched": 7, "test_mismatched": 5}
# What readers of these files misread: characters that look like line ends, and single quotes.
FIRST_A, FIRST_B = 'the "red cat\u2028sat', "a dog\rran '"


def write_task(folder, name):
    """Write a task's files; row r has the label r modulo the number of labels."""
    (folder / name).mkdir(parents=True)
    for split, (header, row) in LAYOUTS[name].items():
        lines = [] if header is None else [header]
        for i in range(ROWS.get(split, 9)):
            values = {
                "a": f"the cat {'ran ' * (i % 5)}{split} {i}" if i else FIRST_A,
                "b": f"the dog {'sat ' * (i % 4)}{split} {i}" if i else FIRST_B,
                "y": LABELS[name][i % len(LABELS[name])],
            }
            lines.append(row.format(i=i, **values))
        (folder / name / f"{split}.tsv").write_bytes(("\n".join(lines) + "\n").encode())
    if name == "MNLI":
        (folder / "AX").mkdir()
        lines = [_PAIR, *(_ROW.format(i=i, a="the cat", b="a dog") for i in range(4))]
        (folder / "AX" / "AX.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_columns_and_labels_are_found_by_their_names(name, tmp_path):
    task = TASKS[name]
    folder = write_task(tmp_path, name) / name
    examples = reading.read_glue(folder / "train.tsv", task)
    space = " " if name == "SST-2" else ""
    assert examples.text_a[0] == FIRST_A + space
    assert examples.text_a[2] == "the cat ran ran train 2" + space
    assert len(examples) == 12
    if task.text_b_column is None:
        assert examples.text_b is None
    else:
        assert examples.text_b[:2] == [FIRST_B, "the dog sat train 1"]
    expected = [LABELS[name][i % len(LABELS[name])] for i in range(12)]
    if name == "STS-B":
        assert examples.label.tolist() == [float(score) for score in expected]
    else:
        assert [task.labels[i] for i in examples.label] == expected
        assert list(task.labels) == LABELS[name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_task_is_trained_evaluated_and_predicted(name, finetune_here, tmp_path):
    data = write_task(tmp_path / "glue", name)
    flags = ("--task_name", name, "--data_dir", data, "--batch_size", "12", "--predict_test")
    code, out = finetune_here(*flags, "--epochs", "1", "--lr", "0.01")
    assert code == 0
    best = json.loads((out / "metrics.json").read_text())["best"]
    assert list(best["dev"]) == [*METRICS[name], "loss"]
    config = json.loads((out / "config.json").read_text())
    if name != "STS-B":
        assert list(config["id2label"].values()) == LABELS[name]
        assert [row["support"] for row in best["per_class"].values()] == [
            9 // len(LABELS[name]) + (i < 9 % len(LABELS[name])) for i in range(len(LABELS[name]))
        ]
    assert sorted(p.stem for p in (out / "predictions").iterdir()) == sorted(SUBMISSIONS[name])
    rows_of = {"MNLI-mm": 5, "AX": 4}
    for submission in SUBMISSIONS[name]:
        lines = (out / "predictions" / f"{submission}.tsv").read_text().split("\n")
        assert lines[0] == "index\tprediction" and lines[-1] == ""
        fields = [line.split("\t") for line in lines[1:-1]]
        assert [index for index, _ in fields] == [str(i) for i in range(rows_of.get(submission, 7))]
        for _, prediction in fields:
            if name == "STS-B":
                assert 0 <= float(prediction) <= 5
            else:
                assert prediction in LABELS[name]


def test_a_trained_folder_gives_the_same_submission_without_training(finetune_here, tmp_path):
    data = write_task(tmp_path / "glue", "MNLI")
    flags = ("--data_dir", data, "--predict_test")
    _, trained = finetune_here("--task_name", "mnli", *flags, "--epochs", "2", "--lr", "0.003")
    inference = ("--model_parameters", trained, "--only_inference", *flags)
    code, out = finetune_here(*inference, out="again", bert=False)
    assert code == 0
    for name in SUBMISSIONS["MNLI"]:
        path = f"predictions/{name}.tsv"
        assert (out / path).read_bytes() == (trained / path).read_bytes()
    evaluated = json.loads((out / "eval_metrics.json").read_text())["dev"]
    best = json.loads((trained / "metrics.json").read_text())["best"]["dev"]
    assert evaluated["accuracy_mm"] == best["accuracy_mm"]
    predicted = (trained / "dev_predictions_mm.tsv").read_text().splitlines()[1:]
    right = [row.split("\t")[1] == row.split("\t")[2] for row in predicted]
    assert np.mean(right) == best["accuracy_mm"]


def test_a_swapped_header_is_followed_by_name(tmp_path):
    (tmp_path / "dev.tsv").write_text("label\tsentence2\tindex\tsentence1\nnot_entailment\tB\t0\tA")
    examples = reading.read_glue(tmp_path / "dev.tsv", TASKS["RTE"])
    assert (examples.text_a[0], examples.text_b[0]) == ("A", "B")
    assert examples.label.tolist() == [1]


def test_a_header_where_cola_has_none_is_not_taken_for_a_sentence(tmp_path):
    (tmp_path / "train.tsv").write_text("source\tlabel\tstar\tsentence\ngj04\t1\t\tA cat.\n")
    with pytest.raises(UserError, match="line 1: 'label' is not a label of CoLA"):
        reading.read_glue(tmp_path / "train.tsv", TASKS["CoLA"])


def test_a_few_malformed_rows_of_qqp_are_skipped_and_no_more(tmp_path):
    header, row = LAYOUTS["QQP"]["train"]
    path = tmp_path / "train.tsv"
    whole = [row.format(i=i, a="the cat", b="", y=i % 2) for i in range(4)]
    path.write_text("\n".join([header, whole[0], "17\t1\t2\ttorn", " apart?\t0", *whole[1:]]))
    bad = BadRows()
    examples = reading.read_glue(path, TASKS["QQP"], bad)
    assert len(examples) == 4 and examples.text_b[3] == ""
    assert [line for _, line, _ in bad.first] == [3, 4]

    path.write_text("\n".join([header, *whole, *["torn"] * 101]))
    with pytest.raises(UserError, match="line 106"):
        reading.read_glue(path, TASKS["QQP"])
    (tmp_path / "rte.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ttorn\n")
    with pytest.raises(UserError, match="line 2: 2 tab-separated fields"):
        reading.read_glue(tmp_path / "rte.tsv", TASKS["RTE"])


def test_every_row_of_qqps_test_split_keeps_its_number(tmp_path):
    path = tmp_path / "test.tsv"
    path.write_text("id\tquestion1\tquestion2\n0\ta cat\n1\ta dog\ta bird\n")
    examples = reading.read_glue(path, TASKS["QQP"], labelled=False)
    assert examples.text_a[:] == ["a cat", "a dog"] and examples.text_b[:] == ["", "a bird"]


@pytest.mark.parametrize(
    "spelling, name",
    [
        *(("SST", "SST-2"), ("sst2", "SST-2"), ("SST_2", "SST-2"), ("STS", "STS-B")),
        *(("sts-b", "STS-B"), ("stsb", "STS-B"), ("cola", "CoLA"), ("mnli", "MNLI")),
        ("mnli-mm", "MNLI"),
    ],
)
def test_the_usual_spellings_name_a_task(spelling, name):
    assert find_task(spelling).name == name


def test_the_folder_of_a_task_may_have_another_spelling(tmp_path):
    (tmp_path / "mrpc").mkdir()
    assert task_folder(tmp_path, TASKS["MRPC"]) == tmp_path / "mrpc"
    with pytest.raises(UserError, match="download_glue_data"):
        task_folder(tmp_path, TASKS["RTE"])


@pytest.mark.parametrize("task", DOWNLOADABLE.values(), ids=DOWNLOADABLE)
def test_a_declaration_is_complete(task):
    trained = [] if task is AX else ["train.tsv"]
    assert list(task.rows) == [*trained, *task.dev_files.values(), *task.test_files.values()]
    assert all(count > 0 for count in task.rows.values())
    assert task.downloads and all(d.url.startswith("https://") for d in task.downloads)
    assert set(task.metrics) <= {"accuracy", "f1", "matthews", "pearson", "spearman"}
    assert bool(task.labels) != task.regression
    for spelling in (task.name, task.name.lower(), *task.spellings):
        assert find_task(spelling, DOWNLOADABLE) is task
    assert set(task.test_files) <= set(SUBMISSION_FILES)


def test_an_unknown_task_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="'SQuAD': use one of CoLA, SST-2"):
        find_task("SQuAD")


def test_the_diagnostic_set_is_said_to_need_a_model_of_mnli():
    for spelling in ("AX", "diagnostic"):
        with pytest.raises(UserError, match="MNLI with --predict_test"):
            find_task(spelling)


def test_the_real_mrpc_gives_glues_numbers_of_rows(mrpc_raw, tmp_path):
    run = run_script(
        *("download_glue_data.py", "--data_dir", tmp_path, "--tasks", "MRPC"),
        *("--path_to_mrpc", mrpc_raw),
    )
    assert run.returncode == 0, run.stderr
    rows = {
        split: len(
            reading.read_glue(tmp_path / "MRPC" / f"{split}.tsv", TASKS["MRPC"], None, known)
        )
        for split, known in (("train", True), ("dev", True), ("test", False))
    }
    assert rows == {"train": 3668, "dev": 408, "test": 1725}
    # As a user's own file, to train on and to predict.
    own = own_task("#1 String", "#2 String", "Quality", False, ("0", "1"))
    bad = BadRows()
    train = reading.read_own(tmp_path / "MRPC" / "train.tsv", own, bad)
    expected = reading.read_glue(tmp_path / "MRPC" / "train.tsv", TASKS["MRPC"])
    assert train.text_a[:] == expected.text_a[:] and train.text_b[:] == expected.text_b[:]
    assert bad.files[0].counts() == "3669 lines: 1 header, 3668 rows"
    assert len(list(file_rows(tmp_path / "MRPC" / "test.tsv", own, False))) == 1725

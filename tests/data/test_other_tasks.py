"""Tasks with a name that are not GLUE's, on small files in their publishers' layouts."""

from __future__ import annotations

import json
from dataclasses import replace as changed

import pytest
from conftest import write_bert_directory

import download_glue_data
import predict
from bert.errors import UserError
from bert.tokenizer import SPECIAL_TOKENS
from finetuning.data import reading
from finetuning.data.tasks import LANGUAGES, TASKS, find_task, task_file, task_folder

CHINESE = list("我们家里有一个猫狗鱼好不很的")
XNLI_COLUMNS = (
    "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2 promptID pairID genre label1 label2 label3 label4 label5 "
    "sentence1_tokenized sentence2_tokenized match"
).split()
NLI = ["neutral", "contradiction", "entailment"]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def xnli_row(language, label, text_a, text_b):
    values = dict.fromkeys(XNLI_COLUMNS, "") | {"language": language, "gold_label": label}
    # One of five people disagrees, and the tokenized text is another column.
    values |= {"label1": "neutral", "sentence1_tokenized": "x", "match": "True"}
    return list((values | {"sentence1": text_a, "sentence2": text_b}).values())


def write_xnli(folder):
    """Write what the two archives of XNLI contain: all languages in one file, ten rows of each."""
    for name in ("xnli.dev.tsv", "xnli.test.tsv"):
        rows = [
            xnli_row(language, NLI[i % 3], f"我们 {language}", f'"狗 {i}')
            for language in LANGUAGES
            for i in range(10)
        ]
        lines(folder / "XNLI" / "XNLI-1.0" / name, [XNLI_COLUMNS, *rows])
    for language in ("zh", "de"):
        rows = [
            [f"我们 {language} {i}", "狗", ("contradictory", "neutral", "entailment")[i % 3]]
            for i in range(24)
        ]
        path = folder / "XNLI" / "XNLI-MT-1.0" / "multinli" / f"multinli.train.{language}.tsv"
        lines(path, [["premise", "hypo", "label"], *rows])
    return folder


def write_lcqmc(folder, header=False, ending="txt"):
    for name, count in (("train", 24), ("dev", 10), ("test", 10)):
        rows = [[f"我们 {'很' * (i % 4)}", f"猫 {i}", str(i % 2)] for i in range(count)]
        top = [["text_a", "text_b", "label"]] if header else []
        lines(folder / "LCQMC" / f"{name}.{ending}", top + rows)
    return folder


def write_chnsenticorp(folder):
    for name, count in (("train", 24), ("dev", 10), ("test", 10)):
        columns = ["label", "text_a"] if name == "train" else ["qid", "label", "text_a"]
        rows = [[str(i), str(i % 2), f'"{"不" * (1 - i % 2)}好 {i}'] for i in range(count)]
        rows = [row[-len(columns) :] for row in rows]
        lines(folder / "ChnSentiCorp" / f"{name}.tsv", [columns, *rows])
    return folder


@pytest.fixture(scope="module")
def chinese_bert(tiny_config, tmp_path_factory):
    config = changed(tiny_config, vocab_size=len(SPECIAL_TOKENS) + len(CHINESE))
    return write_bert_directory(tmp_path_factory.mktemp("zh") / "bert", config, CHINESE)


@pytest.fixture
def finetune(finetune_here, chinese_bert):
    def run(*flags, out="out"):
        model = ("--pretrained_bert_parameters", chinese_bert, "--max_len", "32")
        return finetune_here(*model, "--epochs", "1", *flags, out=out, bert=False)

    return run


@pytest.mark.parametrize(
    "name, write",
    [("XNLI", write_xnli), ("lcqmc", write_lcqmc), ("chnsenticorp", write_chnsenticorp)],
)
def test_a_task_is_trained_scored_on_its_test_set_and_predicted(
    name, write, finetune, tmp_path, capsys
):
    task, data = find_task(name), write(tmp_path / "data")
    code, out = finetune("--task_name", name, "--data_dir", data, "--predict_test")
    assert code == 0
    results = json.loads((out / "metrics.json").read_text())
    assert list(results["best"]["dev"]) == ["accuracy", "loss"]
    assert results["data"]["train"]["examples"] == 24 and results["data"]["dev"]["examples"] == 10
    rows = [row.split("\t") for row in (out / "test_predictions.tsv").read_text().splitlines()[1:]]
    assert len(rows) == 10 and not (out / "predictions").exists()
    assert results["test"] == {"accuracy": sum(row[1] == row[2] for row in rows) / 10}

    # predict.py reads the task's own file, and every row of it.
    test = task_file(data / task.name, task, task.test_files["test"])
    argv = ("--model_dir", out, "--input", test, "--output", tmp_path / "p.jsonl")
    capsys.readouterr()
    assert predict.main([str(flag) for flag in (*argv, "--input_format", "tsv")]) == 0
    answers = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(answers) == (150 if name == "XNLI" else 10)
    for row in rows:
        assert answers[int(row[0])]["label"] == row[2]


def test_of_xnli_one_language_is_read_and_rows_keep_their_numbers(tmp_path):
    folder = write_xnli(tmp_path) / "XNLI"
    for language in ("zh", "de"):
        task = changed(TASKS["XNLI"], language=language)
        train = reading.read_glue(task_file(folder, task, task.train_file), task)
        assert len(train) == 24 and train.text_a[1] == f"我们 {language} 1"
        assert [task.labels[i] for i in train.label[:3]] == [
            "contradiction",
            "neutral",
            "entailment",
        ]
        bad = reading.BadRows()
        dev = reading.read_glue(task_file(folder, task, "xnli.dev.tsv"), task, bad)
        assert dev.text_a[:] == [f"我们 {language}"] * 10 and dev.text_b[3] == '"狗 3'
        first = 10 * LANGUAGES.index(language)
        assert dev.origin["row"].tolist() == list(range(first, first + 10))
        counts = "151 lines: 1 header, 10 rows, 140 in other languages"
        assert bad.files[0].counts() == counts


def test_a_model_is_evaluated_in_its_own_language_and_in_another(finetune, finetune_here, tmp_path):
    data = write_xnli(tmp_path / "data")
    flags = ("--task_name", "xnli", "--data_dir", data)
    code, german = finetune(*flags, "--language", "de", out="de")
    assert code == 0
    assert json.loads((german / "config.json").read_text())["language"] == "de"
    inference = ("--only_inference", "--model_parameters", german, "--data_dir", data)
    for given, language in (((), "de"), (("--language", "sw"), "sw")):
        out = f"again-{language}"
        code, out = finetune_here(*inference, *given, "--predict_test", out=out, bert=False)
        assert code == 0
        rows = (out / "test_predictions.tsv").read_text().splitlines()[1:]
        assert int(rows[0].split("\t")[0]) == 10 * LANGUAGES.index(language)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("ending", ["txt", "tsv"])
def test_lcqmc_is_read_with_a_header_and_without(header, ending, tmp_path):
    folder, task = write_lcqmc(tmp_path, header, ending) / "LCQMC", TASKS["LCQMC"]
    for name, labelled in (("train.txt", True), ("test.txt", False)):
        examples = reading.read_glue(task_file(folder, task, name), task, None, labelled)
        assert examples.text_a[1] == "我们 很" and examples.label[:3].tolist() == [0, 1, 0]
        assert examples.labelled


def test_a_test_set_without_labels_is_predicted_and_not_scored(finetune, tmp_path):
    data = write_chnsenticorp(tmp_path / "data")
    lines(data / "ChnSentiCorp" / "test.tsv", [["qid", "text_a"], ["0", "好"], ["1", "不好"]])
    code, out = finetune("--task_name", "ChnSentiCorp", "--data_dir", data, "--predict_test")
    assert code == 0
    assert len((out / "test_predictions.tsv").read_text().splitlines()) == 3
    assert "test" not in json.loads((out / "metrics.json").read_text())


def test_it_is_said_where_the_files_are_to_be_had(tmp_path, capsys):
    with pytest.raises(SystemExit):
        download_glue_data.main(["--tasks", "MRPC,xnli"])
    assert "XNLI is not downloaded: unpack XNLI-1.0.zip and XNLI-MT" in capsys.readouterr().err
    for name in ("XNLI", "LCQMC", "ChnSentiCorp"):
        with pytest.raises(UserError, match=TASKS[name].where[:20]):
            task_folder(tmp_path, TASKS[name])
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=TASKS[name].where[:20]):
            task_file(tmp_path / name, TASKS[name], TASKS[name].train_file)


def test_a_language_is_refused_where_there_is_but_one(finetune, tmp_path, capsys):
    data = write_lcqmc(tmp_path / "data")
    flags = ("--task_name", "LCQMC", "--data_dir", data, "--language", "de")
    assert finetune(*flags)[0] == 2
    assert "--language is for XNLI: LCQMC has one language" in capsys.readouterr().err

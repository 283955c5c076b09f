"""A model that gluonnlp's script has fine-tuned becomes a run folder, head and all."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from conftest import WORDS, gluonnlp_bert, sentence_pairs

import export_classifier
import finetune_classifier
import predict
from bert import load_classifier, zoo
from bert.parameters import read_params, write_params
from bert.pretrained import find_params, load
from finetuning import convert_gluonnlp
from finetuning.convert_gluonnlp import parse_args, task_of
from finetuning.data.tasks import TASKS

DATASET = "book_corpus_wiki_en_uncased"
# In another order than vocab.txt has, as in gluonnlp's zoo.
TOKENS = ["[UNK]", "[PAD]", "[SEP]", "[CLS]", "[MASK]", *WORDS]
SPECIAL = {f"{name}_token": f"[{name[:4].rstrip('i').upper()}]" for name in ("cls", "sep", "mask")}


@pytest.fixture(autouse=True)
def zoo_of_a_tiny_bert(tiny_config, monkeypatch, tmp_path):
    """The zoo's BERT base is tiny, and gluonnlp's home is a folder with its vocabulary."""
    # Not $MXNET_HOME, where the compiled operators are.
    monkeypatch.setattr(convert_gluonnlp, "mxnet_home", lambda: tmp_path / "home")
    checkpoint = zoo.ZOO["bert_12_768_12", DATASET]
    tiny = replace(checkpoint, config=tiny_config)
    monkeypatch.setitem(zoo.ZOO, ("bert_12_768_12", DATASET), tiny)
    content = {"idx_to_token": TOKENS, "token_to_idx": {t: i for i, t in enumerate(TOKENS)}}
    content |= {"unknown_token": "[UNK]", "padding_token": "[PAD]", **SPECIAL}
    content |= {"bos_token": None, "eos_token": None, "reserved_tokens": None}
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    (models / f"{DATASET}-a6607397.vocab").write_text(json.dumps(content))


def fine_tuned(tiny_config, path, outputs=2, dropout=0.1):
    """Save a classifier as gluonnlp's script does; returns the network."""
    import gluonnlp

    mx.random.seed(3)
    net = gluonnlp.model.BERTClassifier(gluonnlp_bert(tiny_config), outputs, dropout)
    net.initialize(mx.init.Normal(0.3))
    path.parent.mkdir(exist_ok=True)
    net(mx.nd.zeros((1, 2)), mx.nd.zeros((1, 2)), mx.nd.array([2]))  # its head has no sizes before
    net.save_parameters(str(path))
    return net


def convert(*flags) -> int:
    return convert_gluonnlp.main([str(flag) for flag in flags])


def their_probabilities(gluonnlp, net, pairs, vocab_file):
    """Return what gluonnlp's own tokenizer, transform and network give for pairs of texts."""
    vocab = gluonnlp.vocab.BERTVocab.from_json(vocab_file.read_text())
    tokenizer = gluonnlp.data.BERTTokenizer(vocab, lower=True)
    transform = gluonnlp.data.BERTSentenceTransform(tokenizer, 32, pad=False, pair=True)
    for pair in pairs:
        ids, length, types = (mx.nd.array([x]) for x in transform(pair))
        logits = net(ids, types, length.reshape(-1).astype("float32"))
        yield mx.nd.softmax(logits).asnumpy()[0]


def predictions(model, pairs, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [json.dumps({"text_a": a, "text_b": b}) + "\n" for a, b in pairs]
    source.write_text("".join(rows))
    argv = ("--model_dir", model, "--input", source, "--output", output, "--overwrite")
    assert predict.main([str(flag) for flag in argv]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("dropout", [0.1, 0.0])
def test_it_predicts_what_gluonnlp_does(gluonnlp, tiny_config, tmp_path, capsys, dropout):
    old, run = tmp_path / "old" / "model_bert_RTE_2.params", tmp_path / "run"
    net = fine_tuned(tiny_config, old, dropout=dropout)
    assert convert(old, run, "--task_name", "RTE", "--max_len", "32") == 0
    assert "a6607397.vocab" in (printed := capsys.readouterr().out) and "--text_b" in printed
    pairs = [pair[:2] for pair in sentence_pairs(20, 5)]
    labels = gluonnlp.data.classification.RTETask().class_labels
    (vocab_file,) = (tmp_path / "home" / "models").iterdir()
    expected = their_probabilities(gluonnlp, net, pairs, vocab_file)
    found = predictions(run, pairs, tmp_path)
    assert len({row["probabilities"]["entailment"] for row in found}) == 20
    for row, probability in zip(found, expected, strict=True):
        assert row["label"] == labels[probability.argmax()]
        np.testing.assert_allclose(
            [row["probabilities"][label] for label in labels], probability, atol=1e-5
        )


def test_it_is_evaluated_and_exported(gluonnlp, tiny_config, tmp_path, capsys):
    old, run = tmp_path / "old" / "model_bert_RTE_2.params", tmp_path / "run"
    fine_tuned(tiny_config, old)
    assert convert(old, run, "--task_name", "rte", "--max_len", "32") == 0
    (tmp_path / "RTE").mkdir()
    rows = [f"{i}\t{a}\t{b}\tentailment\n" for i, (a, b, _) in enumerate(sentence_pairs(20, 5))]
    header = "index\tsentence1\tsentence2\tlabel\n"
    (tmp_path / "RTE" / "dev.tsv").write_text(header + "".join(rows))
    evaluated = tmp_path / "evaluated"
    argv = ("--only_inference", "--model_parameters", run, "--data_dir", tmp_path)
    argv += ("--output_dir", evaluated)
    assert finetune_classifier.main([str(flag) for flag in argv]) == 0
    scores = json.loads((evaluated / "eval_metrics.json").read_text())
    pairs = [pair[:2] for pair in sentence_pairs(20, 5)]
    labels = [row["label"] for row in predictions(run, pairs, tmp_path)]
    assert scores["dev"]["accuracy"] == labels.count("entailment") / 20

    exported = tmp_path / "exported"
    argv = ("--model_dir", run, "--format", "huggingface", "--output_dir", exported)
    assert export_classifier.main([str(flag) for flag in argv]) == 0
    assert "64 random texts (there is no dev data)" in capsys.readouterr().out
    assert "Results on 64 random texts" in (exported / "README.md").read_text()
    assert json.loads((exported / "config.json").read_text())["id2label"]["0"] == "not_entailment"


def test_labels_of_every_task_have_gluonnlps_order(gluonnlp):
    theirs = gluonnlp.data.classification
    for name, task in TASKS.items():
        found = task_of(parse_args(["a", "b", "--task_name", name]))
        expected = theirs.get_task("SST" if name == "SST-2" else name).class_labels
        assert list(found.labels) == (expected or []) and sorted(found.labels) == sorted(
            task.labels
        )


def test_other_tasks_are_described_by_flags(gluonnlp, tiny_config, tmp_path):
    old = tmp_path / "old" / "mine.params"
    fine_tuned(tiny_config, old, outputs=3)
    flags = ("--labels", "no, maybe,yes", "--text_b_column", "answer", "--max_len", "32")
    assert convert(old, tmp_path / "run", *flags) == 0
    config = load_classifier(tmp_path / "run").config
    assert list(config["label2id"]) == ["no", "maybe", "yes"]
    assert (config["text_a_column"], config["text_b_column"]) == ("text_a", "answer")


def test_a_regression_of_older_versions_keeps_its_head(gluonnlp, tiny_config, tmp_path):
    old = tmp_path / "old" / "model_bert_STS-B_2.params"
    fine_tuned(tiny_config, old, outputs=1)
    arrays = read_params(old)
    write_params(old, {n.replace("classifier.", "regression."): a for n, a in arrays.items()})
    assert convert(old, tmp_path / "run", "--task_name", "STS-B", "--max_len", "32") == 0
    net = load_classifier(tmp_path / "run").net
    assert net.classifier[1].weight.data().asnumpy().tolist() == (
        arrays["classifier.1.weight"].tolist()
    )


def test_the_refusal_of_such_a_file_names_the_command(tiny_bert, tmp_path, capsys):
    old = tmp_path / "model_bert_MRPC_2.params"
    old.write_bytes(b"x")
    for path in (old, tmp_path):
        assert predict.main(["--model_dir", str(path), "--text_a", "x", "--text_b", "y"]) == 2
        assert "python3 -m finetuning.convert_gluonnlp" in capsys.readouterr().err


def test_a_head_that_is_left_out_is_announced(gluonnlp, tiny_config, tmp_path, caplog):
    old = tmp_path / "home" / "models" / "model_bert_MRPC_2.params"
    fine_tuned(tiny_config, old)
    load(find_params(old, "bert_12_768_12"), cls_only=True)
    assert caplog.text.count("model_bert_MRPC_2.params is a classifier's: its encoder is used") == 1


def no_vocabulary(old):
    for path in (old.parent.parent / "home" / "models").iterdir():
        path.unlink()
    (old.parent / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS))


def no_head(old):
    arrays = read_params(old)
    write_params(old, {n.removeprefix("bert."): a for n, a in arrays.items() if n[0] == "b"})


def roberta(old):
    arrays = read_params(old)
    write_params(old, {n.replace("bert.", "roberta."): array for n, array in arrays.items()})


@pytest.mark.parametrize(
    "change, flags, complaint",
    [
        (roberta, "--task_name MRPC", "is a RoBERTa: only gluonnlp's fine-tuned BERTs"),
        (no_vocabulary, "--task_name MRPC", "pass it with --vocab .the vocab.txt of the Hugging"),
        (no_head, "--task_name MRPC", "has no classification head"),
        (None, "--task_name MNLI", "gives 2 numbers for a text, but the task has 3 .neutral"),
        (None, "--regression", "gives 2 numbers for a text, but the task has 1: pass"),
        (None, "--labels a,a", "at least two different labels"),
        (None, "--labels a,", "at least two different labels"),
        (None, "--task_name SQuAD", "unknown task 'SQuAD'"),
        (None, "--task_name MRPC --bert_dataset x", "there is no bert_12_768_12 pretrained on x"),
        (None, "--task_name MRPC --max_len 49", "--max_len 49: must be from 5 to 48"),
        (None, "--task_name MRPC --vocab x", "cannot read .*x: No such"),
        (lambda old: old.unlink(), "--task_name MRPC", "cannot read"),
        (lambda old: (old.parent.parent / "run").mkdir(), "--task_name MRPC", "already exists"),
    ],
)
def test_what_does_not_fit_is_refused(
    gluonnlp, tiny_config, tmp_path, capsys, change, flags, complaint
):
    old, run = tmp_path / "old" / "model_bert_MRPC_2.params", tmp_path / "run"
    fine_tuned(tiny_config, old)
    if change:
        change(old)
    assert convert(old, run, "--max_len", "32", *flags.split()) == 2
    assert re.search(complaint, capsys.readouterr().err)
    assert not (run / "config.json").exists()

"""A run's folder: what is written into it, and which folders are refused."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest

from bert import load_classifier, native
from bert.classifier import Classifier
from bert.errors import UserError
from bert.huggingface import config_to_huggingface
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import arrays_of, write_params
from bert.run_config import config_text, is_run


@pytest.fixture
def net(tiny_config) -> BERTClassifier:
    net = BERTClassifier(BERTModel(tiny_config, cls_only=True), 3)
    net.initialize(mx.init.Normal(0.3))
    return net


@pytest.fixture
def run(net, tiny_bert, tiny_config, tmp_path):
    """A run's folder with three labels."""
    vocabulary = (tiny_bert / "vocab.txt").read_text()
    config = {
        **config_to_huggingface(tiny_config),
        "task_name": "own",
        "max_len": 32,
        "id2label": {"0": "grün", "1": "b", "2": "c"},
        "label2id": {"grün": 0, "b": 1, "c": 2},
        "do_lower_case": False,
        "text_a_column": "text",
        "text_b_column": None,
        "label_column": "label",
        "problem_type": "single_label_classification",
        "bert_model": "",
        "bert_dataset": "",
    }
    (tmp_path / "config.json").write_text(config_text(config, vocabulary), encoding="utf-8")
    (tmp_path / "vocab.txt").write_text(vocabulary)
    write_params(tmp_path / "model.params", arrays_of(net))
    return tmp_path


def test_a_run_is_read_back(run, net):
    assert is_run(run)
    for path in (run, str(run / "model.params")):
        read, tokenizer, config = load_classifier(path, dropout=0.3)
        assert config["id2label"] == {"0": "grün", "1": "b", "2": "c"}
        assert not tokenizer.do_lower_case and tokenizer.vocab_file == run / "vocab.txt"
        assert read.bert.dropout == 0.3
        expected, found = arrays_of(net), arrays_of(read)
        assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())
        assert set(found) == set(expected)


def test_parameters_are_put_on_every_device(run):
    contexts = [mx.cpu(0), mx.cpu(1)]
    net, _, _ = load_classifier(run, ctx=contexts)
    assert net.classifier[1].bias.list_ctx() == contexts


def edit(old: str, new: str):
    def change(run):
        path = run / "config.json"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


def rewrite(**changes):
    """Change config.json and give it a valid checksum."""

    def change(run):
        config = json.loads((run / "config.json").read_text(encoding="utf-8")) | changes
        text = config_text(config, (run / "vocab.txt").read_text())
        (run / "config.json").write_text(text, encoding="utf-8")

    return change


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda run: (run / "config.json").unlink(), "no config.json.*pretrained_bert_parameters"),
        (lambda run: (run / "model.params").unlink(), "no such model .expected the --output_dir"),
        (edit('"max_len"', '"length"'), "is not from a fine-tuning run: missing keys max_len"),
        (edit("grün", "rot"), "config.json is damaged or was edited"),
        (lambda run: (run / "vocab.txt").open("a").write("x\n"), "vocab.txt is damaged or was"),
        (lambda run: (run / "vocab.txt").unlink(), "cannot read .*vocab.txt: No such"),
        (rewrite(max_len=49), "max_len is 49, but must be a number from 5 to 48"),
        (rewrite(max_len="32"), "max_len is '32', but must be"),
        (rewrite(id2label={"0": "a", "1": "b"}), "do not number the same labels"),
        (
            rewrite(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
            r"classifier.1.\w+ has shape \(3.*needs \(2",
        ),
        (rewrite(num_hidden_layers=1), "unexpected: bert.encoder.transformer_cells.1"),
        (rewrite(num_attention_heads=5), "32 units are not divisible by 5 heads"),
        (rewrite(num_hidden_layers=1001), "invalid number of layers: 1001"),
    ],
)
def test_a_folder_that_is_no_complete_run_is_refused(run, change, complaint):
    change(run)
    with pytest.raises(UserError, match=complaint):
        load_classifier(run)


def test_values_that_are_not_finite_are_refused(run, net):
    arrays = arrays_of(net)
    arrays["classifier.1.bias"][0] = np.nan
    write_params(run / "model.params", arrays)
    with pytest.raises(UserError, match=r"classifier\.1\.bias contains values that are not finite"):
        load_classifier(run)


def test_other_folders_are_no_runs(tiny_bert, tmp_path):
    assert not is_run(tiny_bert) and not is_run(tmp_path)


def test_compiling_uses_the_fused_operators_or_says_why_not(net, monkeypatch):
    classifier = Classifier(net, None, {})
    assert classifier.compile(fused=False) is None and not net.bert.fused

    def unavailable():
        raise native.NativeUnavailable("no compiler")

    with monkeypatch.context() as patch:
        patch.setattr(native, "load", unavailable)
        assert classifier.compile() == "no compiler" and not net.bert.fused
    assert classifier.compile() is None and net.bert.fused

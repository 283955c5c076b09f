"""Members of BERT's family: trained, resumed, predicted with and exported like a BERT."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from conftest import sentence_pairs, write_bert_directory, write_mrpc
from helpers import resumed_after_kill
from tokenizers.processors import RobertaProcessing

import export_classifier
import predict
from bert.classifier import load_classifier
from bert.parameters import arrays_of


def write_model(folder, config, kind: str):
    """Write a small model of a kind, with RoBERTa's tokenizer where it has that."""
    small = replace(config, num_layers=1)
    if kind == "roberta":
        bpe = tokenizers.ByteLevelBPETokenizer()
        texts = [text for a, b, _ in sentence_pairs(50, 1) for text in (a, b)]
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        bpe.train_from_iterator(texts, 300, special_tokens=special, show_progress=False)
        small = replace(
            small,
            vocab_size=bpe.get_vocab_size(),
            model_type=kind,
            token_type_vocab_size=1,
            unused_positions=2,
        )
        write_bert_directory(folder, small)
        (folder / "vocab.txt").unlink()
        bpe._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
        bpe.save(str(folder / "tokenizer.json"))
        return folder
    changes = {
        "ernie": {"hidden_act": "relu"},
        "distilbert": {"token_type_vocab_size": 0},
        "electra": {"embedding_size": 16},
    }
    return write_bert_directory(folder, replace(small, model_type=kind, **changes[kind]))


@pytest.mark.parametrize("kind", ["ernie", "distilbert", "roberta", "electra"])
def test_a_model_is_trained_predicted_with_and_exported(
    kind, tiny_config, tmp_path, finetune_here, capsys
):
    model = write_model(tmp_path / "model", tiny_config, kind)
    data = write_mrpc(tmp_path / "data", train=32, dev=10)
    flags = ("--pretrained_bert_parameters", model, "--data_dir", data, "--max_len", "32")
    code, run = finetune_here(*flags, "--epochs", "1", "--batch_size", "8", bert=False)
    assert code == 0, capsys.readouterr().err
    net, tokenizer, config = load_classifier(run)
    assert config["model_type"] == net.bert.config.model_type == kind
    classes = {"ernie": "Ernie", "distilbert": "DistilBert", "roberta": "Roberta"}
    architecture = classes.get(kind, "Electra") + "ForSequenceClassification"
    assert config["architectures"] == [architecture]
    ids = tokenizer.encode(["the cat"], ["a dog"], 32).input_ids.tolist()
    if kind == "roberta":
        a, b = (tokenizer.encode([text], None, 32).input_ids[1:-1] for text in ("the cat", "a dog"))
        assert ids == [0, *a, 2, 2, *b, 2]
    capsys.readouterr()
    assert predict.main(["--model_dir", str(run), "--text_a", "a cat", "--text_b", "a dog"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["label"] in ("0", "1")
    for fused in (False, True):  # in Python, by the network's own operators and the fused ones
        classifier = load_classifier(run)
        if fused:
            classifier.compile()
        for answer in classifier(["a cat"] * 2, ["a dog"] * 2):
            expected = printed["probabilities"]
            assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    for format in ("gluon", "huggingface", "onnx"):
        if format == "onnx":
            pytest.importorskip("onnxruntime")
        out = tmp_path / format
        argv = ["--model_dir", str(run), "--format", format, "--output_dir", str(out)]
        assert export_classifier.main(argv) == 0, capsys.readouterr().err  # compares the logits
        written = json.loads((out / "config.json").read_text())
        names = ("dim", "n_heads") if kind == "distilbert" else ("hidden_size", "layer_norm_eps")
        assert written["architectures"] == [architecture] and set(names) <= set(written)
        about = json.loads((out / "tokenizer_config.json").read_text())
        given = about.get("model_input_names", ["token_type_ids"])
        assert ("token_type_ids" in given) == net.bert.config.reads_token_types


def test_the_head_is_drawn_from_the_seed_and_dropped_out_twice(
    tiny_config, tmp_path, finetune_here
):
    """RoBERTa's head has a layer that BERT's pooler is; a pretrained model brings none."""
    model = write_model(tmp_path / "model", tiny_config, "roberta")
    data = write_mrpc(tmp_path / "data", train=8, dev=4)
    flags = ("--pretrained_bert_parameters", model, "--data_dir", data, "--max_len", "32")
    poolers = []
    for seed in (1, 2, 1):
        once = (*flags, "--training_steps", "1", "--lr", "1e-12", "--seed", seed, "--overwrite")
        code, run = finetune_here(*once, bert=False)
        assert code == 0
        poolers.append(load_classifier(run).net.bert.pooler.weight.data().asnumpy())
    np.testing.assert_array_equal(poolers[0], poolers[2])
    assert np.abs(poolers[0] - poolers[1]).max() > 0.01


@pytest.mark.parametrize("kind", ["ernie", "distilbert", "roberta", "electra"])
def test_what_is_frozen_is_all_that_was_pretrained(kind, tiny_config, tmp_path, finetune_here):
    model = write_model(tmp_path / "model", tiny_config, kind)
    data = write_mrpc(tmp_path / "data", train=16, dev=4)
    flags = ("--pretrained_bert_parameters", model, "--data_dir", data, "--max_len", "32")
    nets = []
    for out, lr in (("start", "1e-12"), ("end", "1e-2")):
        code, run = finetune_here(*flags, "--freeze", "all", "--lr", lr, out=out, bert=False)
        assert code == 0
        nets.append(arrays_of(load_classifier(run).net))
    moved = {name for name, array in nets[0].items() if np.abs(array - nets[1][name]).max() > 1e-4}
    new = {"classifier.1.weight", "classifier.1.bias"}
    if kind != "ernie":
        new |= {"bert.pooler.weight", "bert.pooler.bias"}
    assert moved == new


def test_a_killed_run_of_roberta_resumes_to_the_same_bytes(tiny_config, tmp_path):
    model = write_model(tmp_path / "model", tiny_config, "roberta")
    data = write_mrpc(tmp_path / "data", train=400, dev=10)
    flags = ["--pretrained_bert_parameters", model, "--data_dir", data, "--max_len", "32"]
    flags += ["--epochs", "4", "--batch_size", "8", "--checkpoint_steps", "7"]
    folders = resumed_after_kill(flags, tmp_path)
    for name in ("model.params", "tokenizer.json", "dev_predictions.tsv"):
        first, second = (folder / name for folder in folders)
        assert first.read_bytes() == second.read_bytes(), name

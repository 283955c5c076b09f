"""Weights from and to Hugging Face's files and gluonnlp's, against NumPy and the real peers."""

from __future__ import annotations

import json
import os
import subprocess

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, gluonnlp_bert, run_script
from numpy_bert import NumpyBERT
from safetensors.numpy import load_file, save_file

from bert import convert, export, huggingface, pretrained, zoo
from bert.classifier import load_classifier
from bert.errors import UserError
from bert.modeling import BERTModel
from bert.parameters import parameters_of
from bert.tokenizer import SPECIAL_TOKENS

OTHER_PYTHON = ROOT / ".venv-bench/bin/python"  # has torch and transformers
QUICK = ("book_corpus_wiki_en_uncased", "wiki_cn_cased")  # the others take as long or longer
SEVEN = [
    pytest.param(*key, marks=() if "_12_" in key[0] and key[1] in QUICK else pytest.mark.slow)
    for key in zoo.ZOO
    if key[0] in ("bert_12_768_12", "bert_24_1024_16")
]


def canonical(tensors: dict) -> dict:
    """Drop heads and prefix, and give LayerNorm's parameters today's names."""
    names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    kept = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if not name.startswith(("cls.", "classifier.")):
            kept[name.removeprefix("bert.")] = tensor
    return kept


def same_bits(first: dict, second: dict) -> None:
    assert set(first) == set(second)
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name


def write_as_google(folder, config, vocabulary=None, seed=0):
    """Write random weights as google-bert's repositories have them: old names, with heads."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(huggingface.config_to_huggingface(config)))
    words = vocabulary or [f"##{n}" for n in range(config.vocab_size - len(SPECIAL_TOKENS))]
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in [*SPECIAL_TOKENS, *words]))
    random = np.random.default_rng(seed)
    shapes = {name: p.shape for name, p in parameters_of(BERTModel(config)).items()}
    tensors = {
        "cls.predictions.bias": np.zeros(config.vocab_size, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, config.units), np.float32),
    }
    for ours, theirs in huggingface.gluon_to_huggingface(config).items():
        values = random.standard_normal(shapes[ours], np.float32) * np.float32(0.05)
        if "LayerNorm" in theirs:
            theirs = theirs.replace("LayerNorm.weight", "LayerNorm.gamma")
            theirs = theirs.replace("LayerNorm.bias", "LayerNorm.beta")
        tensors[f"bert.{theirs}"] = values + np.float32(ours.endswith("gamma"))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def outputs(net, input_ids, token_types) -> tuple[np.ndarray, np.ndarray]:
    batch = [mx.nd.array(values[None], dtype="int32") for values in (input_ids, token_types)]
    hidden, pooled = net(*batch, mx.nd.array([len(input_ids)], dtype="int32"))
    return hidden.asnumpy()[0], pooled.asnumpy()[0]


def a_pair(vocab_size: int, length: int = 12) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(1).integers(0, vocab_size, length)
    return ids, (np.arange(length) >= 7).astype(int)


@pytest.mark.parametrize("name, dataset_name", SEVEN)
def test_each_of_the_seven_computes_what_the_paper_says_and_goes_back_bit_by_bit(
    name, dataset_name, tmp_path
):
    config = zoo.ZOO[name, dataset_name].config
    tensors = canonical(write_as_google(tmp_path / "bert", config))
    net, _ = pretrained.get_model(str(tmp_path / "bert"))
    reference = NumpyBERT(tensors, config.num_layers, config.num_heads, config.layer_norm_eps)
    pair = a_pair(config.vocab_size)
    for ours, theirs in zip(outputs(net, *pair), reference(*pair), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (
        convert.main([str(tmp_path / "bert"), str(tmp_path / "back"), "--to", "huggingface"]) == 0
    )
    same_bits(load_file(tmp_path / "back/model.safetensors"), tensors)


def rewrite(folder, change) -> dict:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def write_bfloat16(folder) -> None:
    """Cut the tensors to bfloat16, which NumPy has not: its upper halves under a new header."""
    tensors, header, body = load_file(folder / "model.safetensors"), {}, b""
    for name, tensor in tensors.items():
        data = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": tensor.shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + body
    (folder / "model.safetensors").write_bytes(content)


VARIANTS = {
    "without the prefix": lambda t: {n.removeprefix("bert."): v for n, v in t.items()},
    "with the prefix": lambda t: {"bert." + n.removeprefix("bert."): v for n, v in t.items()},
    "in float16": lambda t: {n: v.astype(np.float16) for n, v in t.items()},
    "with a buffer of positions": lambda t: (
        t | {"bert.embeddings.position_ids": np.arange(48)[None]}
    ),
    "with another task's head": lambda t: t | {"classifier.weight": np.ones((9, 32), np.float32)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_is_read_that_is(variant, tiny_config, tmp_path):
    expected = canonical(write_as_google(tmp_path / "bert", tiny_config))
    rewrite(tmp_path / "bert", VARIANTS[variant])
    net, _ = pretrained.get_model(str(tmp_path / "bert"))
    if variant == "in float16":
        expected = {name: t.astype(np.float16).astype(np.float32) for name, t in expected.items()}
    found = {name: p.data().asnumpy() for name, p in parameters_of(net).items()}
    same_bits(huggingface.huggingface_names(found, tiny_config), expected)


def test_a_file_in_bfloat16_is_read(tiny_config, tmp_path):
    expected = canonical(write_as_google(tmp_path / "bert", tiny_config))
    write_bfloat16(tmp_path / "bert")
    found = canonical(huggingface.read_safetensors(tmp_path / "bert/model.safetensors"))
    same_bits(found, {n: (t.view("u4") >> 16 << 16).view("f4") for n, t in expected.items()})


def test_a_missing_pooler_is_made_anew_and_it_is_said(tiny_config, tmp_path, caplog):
    write_as_google(tmp_path / "bert", tiny_config)
    rewrite(tmp_path / "bert", lambda t: {n: v for n, v in t.items() if "pooler" not in n})
    nets = [pretrained.get_model(str(tmp_path / "bert"))[0] for _ in range(2)]
    weights = [net.pooler.weight.data().asnumpy() for net in nets]
    np.testing.assert_array_equal(*weights)
    assert 0.01 < weights[0].std() < 0.03
    assert "has no pooler" in caplog.text


def test_a_bert_that_knows_one_segment_reads_pairs(tiny_config, tmp_path, caplog):
    write_as_google(tmp_path / "bert", tiny_config)
    config = json.loads((tmp_path / "bert/config.json").read_text())
    (tmp_path / "bert/config.json").write_text(json.dumps({**config, "type_vocab_size": 1}))
    name = "bert.embeddings.token_type_embeddings.weight"
    rewrite(tmp_path / "bert", lambda t: t | {name: t[name][:1].copy()})
    net, _ = pretrained.get_model(str(tmp_path / "bert"))
    ids, types = a_pair(tiny_config.vocab_size)
    pairs = [outputs(net, ids, types)[1], outputs(net, ids, 0 * types)[1]]
    np.testing.assert_array_equal(*pairs)
    assert "one segment" in caplog.text


def test_a_classifier_of_another_task_gives_its_encoder_and_it_is_said(
    tiny_config, tmp_path, caplog
):
    write_as_google(tmp_path / "bert", tiny_config)
    config = json.loads((tmp_path / "bert/config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "bert/config.json").write_text(json.dumps(config))
    pretrained.get_model(str(tmp_path / "bert"))
    assert "under a new head" in caplog.text


def test_what_does_not_fit_is_listed(tiny_config, tmp_path):
    write_as_google(tmp_path / "bert", tiny_config)

    def change(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        del tensors["bert.encoder.layer.0.attention.self.key.weight"]
        tensors["bert.encoder.layer.2.output.dense.bias"] = np.zeros(32, np.float32)
        tensors["bert.pooler.dense.bias"] = np.zeros(31, np.float32)
        return tensors

    rewrite(tmp_path / "bert", change)
    with pytest.raises(UserError) as error:
        pretrained.get_model(str(tmp_path / "bert"))
    _, missing, left_over, misshapen = str(error.value).split("; ")
    assert "encoder.layer.1.output.dense.bias" in missing
    assert "encoder.layer.0.attention.self.key.weight" in missing
    assert "unexpected: encoder.layer.2.output.dense.bias" in left_over
    assert "pooler.dense.bias (31,) (not (32,))" in misshapen


def test_minilms_real_weights_go_round_bit_by_bit(minilm, tmp_path):
    flags = ("--bert_dataset", "minilm_en_uncased", "--to")
    there, back, again = (tmp_path / name for name in ("gluon", "huggingface", "once_more"))
    source = pretrained.find("bert_6_384_12", "minilm_en_uncased")
    for src, dst, *to in (
        ("bert_6_384_12", back, *flags, "huggingface"),
        (back, there, "--to", "gluon"),
        (there, again, "--to", "huggingface"),
    ):
        run = run_script("-m", "bert.convert", src, dst, *to)
        assert run.returncode == 0, run.stderr
    expected = canonical(load_file(source.weights))
    expected.pop("embeddings.position_ids", None)
    same_bits(load_file(back / "model.safetensors"), expected)
    same_bits(load_file(again / "model.safetensors"), expected)
    assert (again / "vocab.txt").read_bytes() == source.tokenizer.vocab_file.read_bytes()


def check_against_gluonnlp(ours, theirs, vocab_size):
    ids, types = a_pair(vocab_size)
    batch = [mx.nd.array(values[None], dtype="int32") for values in (ids, types)]
    hidden, pooled = theirs(*batch, mx.nd.array([len(ids)]))
    for mine, other in zip(outputs(ours, ids, types), (hidden, pooled), strict=True):
        np.testing.assert_allclose(mine, other.asnumpy()[0], atol=1e-6)


def test_gluonnlps_own_bert_is_read_with_its_vocabulary(
    gluonnlp, tiny_config, tmp_path, monkeypatch
):
    theirs = gluonnlp_bert(tiny_config)
    theirs.initialize(mx.init.Normal(0.05))
    theirs(mx.nd.ones((1, 3)), mx.nd.ones((1, 3)), mx.nd.array([3]))  # it then knows its shapes
    theirs.save_parameters(str(tmp_path / "bert_12_768_12_mine-0123abcd.params"))
    words = [f"w{n}" for n in range(tiny_config.vocab_size - len(SPECIAL_TOKENS))]
    counter = gluonnlp.data.count_tokens(words)
    vocab = gluonnlp.vocab.BERTVocab(counter, token_to_idx={"[UNK]": 0, "w7": 1})
    (tmp_path / "mine-4567cdef.vocab").write_text(vocab.to_json())
    checkpoint = zoo.Checkpoint("", tiny_config, do_lower_case=True)
    monkeypatch.setitem(zoo.ZOO, ("bert_12_768_12", "mine"), checkpoint)
    path = tmp_path / "bert_12_768_12_mine-0123abcd.params"
    ours, tokenizer = pretrained.load(pretrained.find_params(path, "bert_12_768_12", "mine"))
    check_against_gluonnlp(ours, theirs, tiny_config.vocab_size)
    assert list(tokenizer.vocab) == vocab.idx_to_token
    # The special tokens stand in other rows than a vocab.txt has them.
    (tmp_path / "mine-4567cdef.vocab").rename(tmp_path / "vocab.txt")
    needed = r"vocabulary in the same folder: bert_12_768_12_mine-0123abcd\.vocab"
    with pytest.raises(UserError, match=needed):
        pretrained.find_params(path, "bert_12_768_12", "mine")


def test_gluonnlp_reads_what_is_written_for_it(gluonnlp, tiny_bert, tiny_config, tmp_path):
    dst = tmp_path / "new/gluon"
    assert convert.main([str(tiny_bert), str(dst), "--to", "gluon"]) == 0
    theirs = gluonnlp_bert(tiny_config)
    theirs.load_parameters(str(dst / "model.params"))
    ours, tokenizer = pretrained.get_model(str(dst))
    check_against_gluonnlp(ours, theirs, tiny_config.vocab_size)
    vocab = gluonnlp.vocab.BERTVocab.from_json((dst / "model.vocab").read_text())
    assert vocab.idx_to_token == list(tokenizer.vocab)
    assert (vocab.padding_token, vocab.mask_token) == ("[PAD]", "[MASK]")
    with pytest.raises(UserError, match="the old zoo"):
        (dst / "model.vocab").unlink()
        (dst / "vocab.txt").unlink()
        pretrained.find_params(dst / "model.params", "bert_12_768_12")


@pytest.fixture
def run(finetune_here, glue_dir):
    """The folder of a finished run of the tiny BERT, on MRPC's layout."""
    code, out = finetune_here("--data_dir", glue_dir, "--training_steps", "4", "--lr", "1e-3")
    assert code == 0
    return out


def test_a_run_leaves_as_gluon_whole_and_begins_another(run, glue_dir, finetune_here, tmp_path):
    assert convert.main([str(run), str(tmp_path / "copy"), "--to", "gluon"]) == 0
    first, again = load_classifier(run).net, load_classifier(tmp_path / "copy").net
    arrays = [{n: p.data().asnumpy() for n, p in parameters_of(x).items()} for x in (first, again)]
    same_bits(*arrays)
    flags = ("--data_dir", glue_dir, "--bert_model", tmp_path / "copy", "--training_steps", "1")
    code, _ = finetune_here(*flags, "--max_len", "32", out="next", bert=False)
    assert code == 0


def test_a_folder_is_not_written_over_and_a_half_written_one_is_removed(
    tiny_bert, tmp_path, monkeypatch, capsys
):
    assert convert.main([str(tiny_bert), str(tmp_path), "--to", "gluon"]) == 2
    assert "already exists" in capsys.readouterr().err

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_params", fail)
    assert convert.main([str(tiny_bert), str(tmp_path / "new"), "--to", "gluon"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_tells_the_two_gluon_formats_apart():
    for command in (["-m", "bert.convert"], ["export_classifier.py"]):
        shown = run_script(*command, "--help", env=os.environ | {"COLUMNS": "80"})
        assert shown.returncode == 0
        text = " ".join(shown.stdout.split())
        assert "parameters and config" in text and "symbol file" in text
        assert max(map(len, shown.stdout.splitlines())) <= 80


def test_an_unknown_flag_of_convert_is_refused(tmp_path):
    with pytest.raises(SystemExit) as exit:
        convert.main([str(tmp_path), str(tmp_path / "new"), "--to", "gluon", "--nonsense"])
    assert exit.value.code == 2


CLASSIFY = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, pairs = sys.argv[1], json.load(sys.stdin)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    logits = [model(**tokenizer(a, b, return_tensors="pt")).logits[0].tolist() for a, b in pairs]
print(json.dumps([logits, model.config.id2label]))
"""
EMBED = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
folder, pairs = sys.argv[1], json.load(sys.stdin)
model = AutoModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    pooled = [model(**tokenizer(*p, return_tensors="pt")).pooler_output[0].tolist() for p in pairs]
print(json.dumps(pooled))
"""


def transformers(script: str, folder, pairs: list):
    if not OTHER_PYTHON.is_file():
        pytest.skip("no transformers: make bench installs it into .venv-bench")
    result = subprocess.run(
        [OTHER_PYTHON, "-c", script, folder],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


PAIRS = [["the cat sat.", "a dog ran slowly."], ["It is not small", "it was BIG , never no more"]]


def test_transformers_opens_an_exported_run_with_the_same_logits(run, tmp_path):
    assert convert.main([str(run), str(tmp_path / "hf"), "--to", "huggingface"]) == 0
    logits, labels = transformers(CLASSIFY, tmp_path / "hf", PAIRS)
    assert labels == {"0": "0", "1": "1"}
    net, tokenizer, _ = load_classifier(run)
    for pair, expected in zip(PAIRS, logits, strict=True):
        ids, _, first, *_ = tokenizer.encode([pair[0]], [pair[1]], 32)
        types = (np.arange(len(ids)) >= first[0]).astype(np.int32)
        batch = [mx.nd.array(values[None], dtype="int32") for values in (ids, types)]
        found = net(*batch, mx.nd.array([len(ids)], dtype="int32")).asnumpy()[0]
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_transformers_opens_exported_minilm_with_the_same_outputs(minilm, tmp_path):
    flags = ["--bert_dataset", "minilm_en_uncased", "--to", "huggingface"]
    assert convert.main(["bert_6_384_12", str(tmp_path / "hf"), *flags]) == 0
    net, tokenizer = minilm
    for pair, expected in zip(PAIRS, transformers(EMBED, tmp_path / "hf", PAIRS), strict=True):
        ids, _, first, *_ = tokenizer.encode([pair[0]], [pair[1]], 32)
        types = (np.arange(len(ids)) >= first[0]).astype(int)
        np.testing.assert_allclose(outputs(net, ids, types)[1], expected, atol=2e-5)

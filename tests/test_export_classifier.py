"""Exports of a fine-tuned model: each computes the same in its own program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT, run_script, write_mrpc
from helpers import FLAGS, write_sentences

import export_classifier
from bert import get_model, onnx_graph
from bert.classifier import load_classifier
from bert.config import BERTConfig
from bert.errors import UserError
from bert.modeling import BERTClassifier
from bert.parameters import arrays_of, parameters_of, read_params, write_params
from dataset import DEV_EXAMPLES, TokenizedExamples, padded_batch
from finetuning.results.export_formats import FORMATS


@pytest.fixture
def run_folder(finetune_here, glue_dir):
    code, out = finetune_here("--data_dir", glue_dir, "--epochs", "1", "--lr", "1e-3")
    assert code == 0
    return out


def export(run_folder, out, *flags) -> int:
    argv = ["--model_dir", run_folder, "--output_dir", out, *flags]
    return export_classifier.main([str(flag) for flag in argv])


def expected_logits(run_folder, batch) -> np.ndarray:
    net, _, _ = load_classifier(run_folder)
    return net(*(mx.nd.array(array, dtype="int32") for array in batch)).asnumpy()


def dev_batches(run_folder):
    """Batches of other sizes and lengths than the export was tried on, one of a single token."""
    examples = TokenizedExamples.from_arrays(read_params(run_folder / DEV_EXAMPLES))
    for indices in ([3], [1, 5, 7], list(range(13))):
        yield padded_batch(examples, np.array(indices))
    yield np.array([[2]], np.int32), np.zeros((1, 1), np.int32), np.array([1], np.int32)


def test_mxnet_alone_loads_what_gluon_is_given(run_folder, tmp_path):
    assert export(run_folder, tmp_path / "gluon", "--format", "gluon") == 0
    program = """if True:
        import sys, numpy as np
        from bert import runtime
        runtime.restore_numpy_names()
        import mxnet as mx
        folder, batch = sys.argv[1], np.load(sys.argv[2])
        names = ["input_ids", "token_types", "valid_length"]
        net = mx.gluon.SymbolBlock.imports(
            f"{folder}/classifier-symbol.json", names, f"{folder}/classifier-0000.params")
        inputs = [mx.nd.array(batch[name], dtype="int32") for name in names]
        np.save(sys.argv[3], net(*inputs).asnumpy())
    """
    for number, batch in enumerate(dev_batches(run_folder)):
        names = ("input_ids", "token_types", "valid_length")
        np.savez(tmp_path / f"{number}.npz", **dict(zip(names, batch, strict=True)))
        if number == 2:  # a process of its own, without this project's network, for one of them
            arguments = (tmp_path / "gluon", tmp_path / "2.npz", tmp_path / "logits.npy")
            run = run_script("-c", program, *arguments)
            assert run.returncode == 0, run.stderr
            logits = np.load(tmp_path / "logits.npy")
            np.testing.assert_allclose(logits, expected_logits(run_folder, batch), atol=1e-5)
        block = mx.gluon.SymbolBlock.imports(
            str(tmp_path / "gluon/classifier-symbol.json"),
            list(names),
            str(tmp_path / "gluon/classifier-0000.params"),
        )
        logits = block(*(mx.nd.array(array, dtype="int32") for array in batch)).asnumpy()
        np.testing.assert_allclose(logits, expected_logits(run_folder, batch), atol=1e-5)
    text = (tmp_path / "gluon/classifier-symbol.json").read_text()
    assert "bert_attention" not in text and "encoder.transformer_cells.1.proj.weight" in text


def test_onnx_runtime_computes_any_batch_and_length(run_folder, tmp_path):
    assert export(run_folder, tmp_path / "onnx", "--format", "onnx") == 0
    model = onnx.load(tmp_path / "onnx/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (opset,) = model.opset_import
    assert opset.domain == "" and opset.version >= 13
    inputs = {tensor.name: tensor.type.tensor_type.elem_type for tensor in model.graph.input}
    assert inputs == dict.fromkeys(onnx_graph.INPUTS, onnx.TensorProto.INT64)
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    for input_ids, token_types, valid_length in dev_batches(run_folder):
        mask = np.arange(input_ids.shape[1]) < valid_length[:, None]
        arrays = (input_ids, mask, token_types)
        batch = {n: a.astype(np.int64) for n, a in zip(onnx_graph.INPUTS, arrays, strict=True)}
        (logits,) = session.run(["logits"], batch)
        expected = expected_logits(run_folder, (input_ids, token_types, valid_length))
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_int8_is_smaller_and_nearly_the_same(run_folder, tmp_path, capsys):
    flags = ("--format", "onnx", "--quantize", "dynamic")
    assert export(run_folder, tmp_path / "int8", *flags) == 0
    model = onnx.load(tmp_path / "int8/model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert "MatMulInteger" in kinds and not (tmp_path / "int8/float32.onnx").exists()
    table = capsys.readouterr().out
    assert "onnx, int8" in table and "95 % interval" in table and "labels changed" in table
    assert max(map(len, table[: table.index("written to")].splitlines())) <= 80
    int8 = (tmp_path / "int8/model.onnx").stat().st_size
    assert export(run_folder, tmp_path / "float32", "--format", "onnx") == 0
    assert int8 < (tmp_path / "float32/model.onnx").stat().st_size


@pytest.mark.parametrize("format", FORMATS)
def test_every_export_carries_tokenizer_labels_and_card(format, run_folder, tmp_path, capsys):
    assert export(run_folder, tmp_path / "exported", "--format", format) == 0
    names = {path.name for path in (tmp_path / "exported").iterdir()}
    assert names >= {"config.json", "vocab.txt", "tokenizer.json", "README.md"}
    config = json.loads((tmp_path / "exported/config.json").read_text())
    assert config["id2label"] == {"0": "0", "1": "1"}
    assert "max difference" in capsys.readouterr().out
    card = (tmp_path / "exported/README.md").read_text()
    assert f"library_name: {FORMATS[format].library}\n" in card and FORMATS[format].reader in card
    assert f"| {format} | " in card and "predict.py --model_dir" not in card
    modes = {path.stat().st_mode for path in (tmp_path / "exported").iterdir()}
    assert len(modes) == 1  # what safetensors writes, others may read too


def test_a_folder_is_replaced_only_if_it_is_an_export(run_folder, tmp_path, capsys):
    out, flags = tmp_path / "exported", ("--format", "gluon")
    out.mkdir()  # empty
    assert export(run_folder, out, *flags) == 0
    assert export(run_folder, out, *flags) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(out)
    assert export(run_folder, tmp_path / "link", "--format", "onnx", "--overwrite") == 0
    assert (tmp_path / "link").is_symlink() and (out / "model.onnx").exists()
    assert not (out / "classifier-symbol.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    (out / "notes").write_text("mine")
    for folder, says in ((out, "other files"), (run_folder, "is an input"), (tmp_path, "other")):
        before = sorted(folder.rglob("*"))
        assert export(run_folder, folder, *flags, "--overwrite") == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1 and sorted(folder.rglob("*")) == before


def test_a_card_that_links_to_another_file_is_not_followed(run_folder, tmp_path):
    (tmp_path / "key").write_text("SECRET")
    (run_folder / "README.md").unlink(missing_ok=True)
    (run_folder / "README.md").symlink_to(tmp_path / "key")
    assert export(run_folder, tmp_path / "exported", "--format", "gluon") == 0
    assert "SECRET" not in (tmp_path / "exported/README.md").read_text()


@pytest.mark.parametrize("labels", [[2.0], [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0]])
def test_a_correlation_that_is_undefined_is_exported_as_training_says(
    labels, finetune_here, tmp_path, capsys
):
    train = write_sentences(tmp_path / "train.csv", 30, 0, regression=True)
    dev = tmp_path / "dev.csv"
    dev.write_text("text,label\n" + "".join(f"the dog {i},{y}\n" for i, y in enumerate(labels)))
    files = ("--train_file", train, "--dev_file", dev, "--regression")
    code, out = finetune_here(*FLAGS, *files, "--epochs", "1")
    assert code == 0
    trained = json.loads((out / "metrics.json").read_text())["best"]["dev"]["pearson"]
    capsys.readouterr()
    assert export(out, tmp_path / "exported", "--format", "gluon") == 0
    shown = capsys.readouterr()
    assert f"{trained:.4f}  " in shown.out and "unknown" in shown.out and not shown.err


@pytest.mark.parametrize("format", FORMATS)
def test_a_regression_is_exported_too(format, finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 30, 0)
    train.write_text(train.read_text().replace(",cat", ",1.5").replace(",dog", ",-2"))
    files = ("--train_file", train, "--dev_fraction", "0.3", "--regression")
    code, out = finetune_here(*FLAGS, *files, "--epochs", "1")
    assert code == 0
    assert export(out, tmp_path / "exported", "--format", format) == 0


def break_parameters(folder):
    arrays = read_params(folder / "model.params")
    arrays["classifier.1.bias"] = arrays["classifier.1.bias"] + np.float32(1)
    write_params(folder / "model.params", arrays)


def other_task(folder):
    arrays = read_params(folder / DEV_EXAMPLES)
    arrays["label"] = arrays["label"] + 1
    write_params(folder / DEV_EXAMPLES, arrays)


def other_vocabulary(folder):
    arrays = read_params(folder / DEV_EXAMPLES)
    arrays["input_ids"] = arrays["input_ids"] + 10_000
    write_params(folder / DEV_EXAMPLES, arrays)


def more_labels(folder):
    arrays = read_params(folder / "model.params")
    for name in ("classifier.1.weight", "classifier.1.bias"):
        arrays[name] = np.concatenate([arrays[name], arrays[name][:1]])
    write_params(folder / "model.params", arrays)


def cut(name):
    def damage(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-20])

    return damage


def remove(name):
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "no folder": (shutil.rmtree, "no such model"),
    "no run": (lambda f: [p.unlink() for p in f.iterdir()], "no such model"),
    "no parameters": (remove("model.params"), "no such model"),
    "no dev examples": (remove(DEV_EXAMPLES), "cannot read"),
    "no predictions": (remove("dev_predictions.tsv"), "cannot read"),
    "half the parameters": (cut("model.params"), "damaged"),
    "half the dev examples": (cut(DEV_EXAMPLES), "damaged"),
    "half the predictions": (cut("dev_predictions.tsv"), "dev_predictions.tsv"),
    "half the config": (cut("config.json"), "config.json"),
    "parameters of another epoch": (break_parameters, "still writing"),
    "labels of another task": (other_task, "another task"),
    "tokens of another model": (other_vocabulary, "another model"),
    "parameters of another task": (more_labels, "classifier.1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_cannot_be_exported_is_one_sentence(damage, run_folder, tmp_path, capsys):
    change, says = DAMAGES[damage]
    change(run_folder)
    capsys.readouterr()
    assert export(run_folder, tmp_path / "exported", "--format", "onnx") == 2
    sentence = capsys.readouterr().err
    assert says in sentence and sentence.count("\n") == 1
    assert not list(tmp_path.glob("*exported*"))


def test_an_export_that_computes_something_else_is_not_kept(run_folder, tmp_path, monkeypatch):
    # Another bias in the graph: what a wrong table of names would do.
    write = onnx_graph.write
    monkeypatch.setattr(
        onnx_graph,
        "write",
        lambda path, arrays, config: write(
            path, {**arrays, "bert.pooler.bias": arrays["bert.pooler.bias"] + 1}, config
        ),
    )
    assert export(run_folder, tmp_path / "exported", "--format", "onnx") == 1
    assert not list(tmp_path.glob("*exported*"))


def test_flags_that_do_not_go_together(run_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        export(run_folder, tmp_path / "x", "--format", "gluon", "--quantize", "dynamic")
    assert exit.value.code == 2
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine").touch()
    assert export(run_folder, tmp_path / "there", "--format", "gluon") == 2
    assert "already exists" in capsys.readouterr().err


def small_network(tiny_bert):
    net = BERTClassifier(get_model(str(tiny_bert), cls_only=True)[0], 3)
    net.classifier.initialize(mx.init.Normal(0.5))
    return net


@pytest.mark.parametrize("length", [1, 2, 7, 48])
def test_the_onnx_graph_is_the_network_at_every_length(tiny_bert, tiny_config, tmp_path, length):
    net = small_network(tiny_bert)
    arrays = {name: p.data().asnumpy() for name, p in parameters_of(net).items()}
    onnx_graph.write(tmp_path / "model.onnx", arrays, tiny_config)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    random = np.random.default_rng(length)
    ids = random.integers(0, tiny_config.vocab_size, (5, length))
    types = random.integers(0, 2, (5, length))
    valid = np.array([length, 1, (length + 1) // 2, length, 1])
    mask = (np.arange(length) < valid[:, None]).astype(np.int64)
    (logits,) = session.run(
        None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    )
    expected = net(*(mx.nd.array(array, dtype="int32") for array in (ids, types, valid)))
    np.testing.assert_allclose(logits, expected.asnumpy(), atol=2e-5)


@pytest.mark.parametrize("half_embeddings", [False, True])
def test_an_onnx_file_has_the_bytes_that_onnx_itself_writes(
    tiny_bert, tiny_config, tmp_path, half_embeddings
):
    net = small_network(tiny_bert)
    onnx_graph.write(tmp_path / "ours.onnx", arrays_of(net), tiny_config, half_embeddings)
    onnx.save(onnx.load(tmp_path / "ours.onnx"), tmp_path / "theirs.onnx")
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()


def test_an_onnx_file_is_written_in_little_memory_besides_the_weights(tmp_path):
    config = BERTConfig(60_000, num_layers=1, units=512, hidden_size=512, num_heads=8)
    script = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from pathlib import Path
from bert import onnx_graph
from bert.config import BERTConfig, parameter_shapes
config = {config!r}
arrays = {{"bert." + n: np.ones(s, "f4") for n, s in parameter_shapes(config).items()}}
arrays |= {{"classifier.1.weight": np.ones((2, 512), "f4"), "classifier.1.bias": np.ones(2, "f4")}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
onnx_graph.write(Path({str(tmp_path / "model.onnx")!r}), arrays, config)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    size = (tmp_path / "model.onnx").stat().st_size
    assert size > 120e6 and int(run.stdout) * 1024 < 0.2 * size


def test_weights_beyond_what_an_onnx_file_holds_are_refused(tiny_bert, tiny_config, tmp_path):
    shape = (2**31 // (4 * tiny_config.units) + 1, tiny_config.units)
    table = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), shape, (0, 0))
    net = small_network(tiny_bert)
    arrays = {**arrays_of(net), "bert.word_embed.0.weight": table}
    with pytest.raises(UserError, match="at most 2,147,483,647 bytes"):
        onnx_graph.write(tmp_path / "model.onnx", arrays, tiny_config)
    assert not (tmp_path / "model.onnx").exists()


def test_the_script_runs_from_the_shell(finetune_here, tmp_path):
    glue_dir = write_mrpc(tmp_path / "glue", train=8, dev=4)
    code, out = finetune_here("--data_dir", glue_dir, "--epochs", "1")
    assert code == 0
    flags = ("--model_dir", out, "--format", "onnx", "--quantize", "dynamic")
    run = run_script("export_classifier.py", *flags, "--out", tmp_path / "a/b")
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert "onnx, int8" in run.stdout and (tmp_path / "a/b/model.onnx").is_file()

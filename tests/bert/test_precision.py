"""bfloat16 products on CPUs; the scaled loss of float16, in float32, where it can be seen."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from conftest import cpus, new_net
from helpers import make_updates, options, same
from mxnet import autograd
from mxnet.gluon.loss import SoftmaxCrossEntropyLoss

from bert import native, runtime
from bert.parameters import parameters_of
from dataset import packed_batch, padded_batch
from finetuning.training.trainer import Trainer


def outputs_and_gradients(net, batch, label):
    arrays = [mx.nd.array(array, dtype=array.dtype) for array in batch]
    with autograd.record():
        logits = net(*arrays)
        loss = SoftmaxCrossEntropyLoss()(logits, mx.nd.array(label)).sum()
    loss.backward()
    return logits.asnumpy(), {n: p.grad().asnumpy() for n, p in parameters_of(net).items()}


@pytest.mark.parametrize("fused", [False, True])
def test_bfloat16_is_float32_to_three_digits(fused, tiny_config, start, examples):
    if fused:
        native.load()
    found = []
    for bfloat16 in (False, True):
        net = new_net(tiny_config, start, cpus(1))
        if bfloat16:
            net.bert.use_bfloat16()
        indices = np.arange(len(examples))
        if fused:
            net.bert.fuse()
            batch = (*packed_batch(examples, indices), np.zeros(2, np.int32))
        else:
            batch = padded_batch(examples, indices)
        found.append(outputs_and_gradients(net, batch, examples.label))
        assert all(np.dtype(p.dtype) == np.float32 for p in parameters_of(net).values())
    (logits, gradients), (low_logits, low_gradients) = found
    assert not np.array_equal(logits, low_logits)
    np.testing.assert_allclose(logits, low_logits, atol=2e-2)
    for name, gradient in gradients.items():
        assert low_gradients[name].dtype == np.float32
        scale = np.abs(gradient).max()
        if scale > 1e-5:  # the bias of the keys has a gradient of 0, but for rounding
            np.testing.assert_allclose(
                low_gradients[name] / scale, gradient / scale, atol=5e-2, err_msg=name
            )


def test_a_run_in_bfloat16_says_so_and_is_not_resumed_in_float32(finetune_here, glue_dir, capsys):
    flags = ("--data_dir", glue_dir, "--epochs", "2", "--lr", "1e-3")
    code, out = finetune_here(*flags, "--dtype", "bfloat16", "--training_steps", "4")
    assert code == 0
    assert "bfloat16 products" in capsys.readouterr().out
    assert json.loads((out / "metrics.json").read_text())["arguments"]["dtype"] == "bfloat16"
    assert finetune_here(*flags, "--training_steps", "4", "--resume", "--dtype", "float32")[0] == 2
    assert "--dtype was bfloat16, now float32" in capsys.readouterr().err


def test_a_run_in_auto_records_the_type_it_took_and_keeps_it(
    finetune_here, glue_dir, capsys, monkeypatch
):
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: "AVX-512")
    flags = ("--data_dir", glue_dir, "--training_steps", "2", "--lr", "1e-3", "--dtype", "auto")
    code, out = finetune_here(*flags)
    assert code == 0
    assert "bfloat16 products by AVX-512" in capsys.readouterr().out
    assert json.loads((out / "metrics.json").read_text())["arguments"]["dtype"] == "bfloat16"
    # Resumed on another machine, with the flags that the run recorded.
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: None)
    assert finetune_here("--resume", bert=False)[0] == 2
    assert "--dtype was bfloat16, now float32" in capsys.readouterr().err
    assert finetune_here("--resume", "--dtype", "bfloat16", bert=False)[0] == 0


def test_a_trained_model_is_evaluated_in_the_type_that_is_asked_for(finetune_here, glue_dir):
    flags = ("--data_dir", glue_dir)
    code, trained = finetune_here(*flags, "--training_steps", "2", "--lr", "1e-3")
    assert code == 0
    found = []
    for dtype in ("float32", "bfloat16"):
        inference = ("--only_inference", "--model_parameters", trained, "--dtype", dtype)
        code, out = finetune_here(*flags, *inference, out=dtype, bert=False)
        assert code == 0
        results = json.loads((out / "eval_metrics.json").read_text())
        assert results["dtype"] == dtype
        found.append(results["dev"]["loss"])
    assert found[0] != found[1] and found[0] == pytest.approx(found[1], abs=1e-3)


def test_a_processor_without_such_units_is_said_to_be_slower(
    finetune_here, glue_dir, capsys, monkeypatch
):
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: None)
    flags = ("--data_dir", glue_dir, "--training_steps", "1", "--dtype", "bfloat16")
    assert finetune_here(*flags)[0] == 0
    assert "warning   this processor emulates bfloat16" in capsys.readouterr().out


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize(
    "units, flags, named",
    [("AVX-512", (), True), ("AMX", (), True), (None, (), False), ("AMX", ("--no_native",), False)],
)
def test_float32_on_a_processor_with_such_units_names_the_faster_type(
    units, flags, named, finetune_here, glue_dir, capsys, monkeypatch
):
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: units)
    assert finetune_here("--data_dir", glue_dir, "--training_steps", "1", *flags)[0] == 0
    assert ("--dtype bfloat16 is faster here" in capsys.readouterr().out) == named


def new_trainer(net, tokens, loss, dtype="float16"):
    chosen = options(batch_size=8, epochs=20, lr=1e-3, seed=3, dtype=dtype)
    return Trainer(net, tokens, loss, cpus(1), chosen)


def test_a_scaled_loss_gives_the_same_parameters(tiny_config, start, examples):
    found = []
    for dtype in ("float32", "float16"):
        net = new_net(tiny_config, start, cpus(1))
        trainer = new_trainer(net, examples, SoftmaxCrossEntropyLoss(), dtype)
        make_updates(trainer, 10)
        found.append(trainer.parameter_arrays())
    same(*found, tolerance=1e-6)


class Large:
    """Cross-entropy with gradients whose squares are finite only where the scale is small."""

    def __init__(self):
        self._loss = SoftmaxCrossEntropyLoss()

    def __call__(self, logits, label):
        return self._loss(logits, label) * 1e17


def test_the_scale_falls_until_gradients_are_finite_and_nothing_is_lost(
    tiny_config,
    start,
    examples,
):
    net = new_net(tiny_config, start, cpus(1))
    trainer = new_trainer(net, examples, Large())
    seen = []
    seen += make_updates(trainer, 40)
    passed_over = [progress.problem is not None for progress in seen]
    falls = sum(passed_over)
    assert 2 < falls < 35 and not any(passed_over[-5:])
    assert "too large for float16" in seen[0].problem
    assert 1 <= trainer.loss_scale < 2.0**16 and trainer.skipped == 0
    assert all(np.isfinite(array).all() for array in trainer.parameter_arrays().values())
    assert trainer.position()["loss_scale"] == trainer.loss_scale


def test_the_scale_rises_after_many_good_updates(tiny_config, start, examples):
    net = new_net(tiny_config, start, cpus(1))
    trainer = new_trainer(net, examples, SoftmaxCrossEntropyLoss())
    trainer.good_updates = 1998
    make_updates(trainer, 3)
    assert trainer.loss_scale == 2.0**17 and trainer.good_updates == 1

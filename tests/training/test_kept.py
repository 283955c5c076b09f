"""Frozen layers are computed once and not updated; the rest trains as if they were computed."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import cpus, new_net, write_mrpc
from helpers import make_updates, options, same

from bert import runtime
from bert.classifier import Classifier
from bert.parameters import arrays_of, read_params
from finetuning.data.splits import Dataset
from finetuning.data.tasks import find_task
from finetuning.training import kept
from finetuning.training.evaluation import predict
from finetuning.training.kept import keep_outputs
from finetuning.training.losses import CrossEntropy
from finetuning.training.run import Run
from finetuning.training.start import freeze
from finetuning.training.trainer import Trainer

# Of the tiny BERT, which has two layers.
PARTS = pytest.mark.parametrize("part", ["embeddings", 1, 2, "all"])


def is_frozen(name: str, part: int | str) -> bool:
    if name.startswith("classifier."):
        return False
    if name.startswith("bert.pooler."):
        return part == "all"
    if not name.startswith("bert.encoder.transformer_cells."):
        return True
    layers = {"embeddings": 0, "all": 2}.get(part, part)
    return int(name.split(".")[3]) < layers


def frozen_run(config, start, examples, part, workers=None, dropout=0.0, fused=True):
    """Return a run whose network is frozen so, with examples of its own."""
    workers = workers or cpus(1)
    net = new_net(config, start, workers, dropout)
    freeze(net, part)
    if fused:
        net.bert.fuse()
    own = examples.take(np.arange(len(examples)))
    dev = {"": examples.take(np.arange(9))}
    data = Dataset(find_task("MRPC"), own, dev)
    changes = {"optimizer": "adamw", "batch_size": 8, "epochs": 2, "lr": 1e-3, "seed": 3}
    classifier = Classifier(net, None, {})
    return Run(options(**changes), classifier, data, Path(), workers, saves=False)


def trained(run) -> dict[str, np.ndarray]:
    """Train a run for its two epochs; returns all parameters."""
    net = run.classifier.net
    trainer = Trainer(net, run.train, CrossEntropy(), run.workers, run.options)
    make_updates(trainer, trainer.total_updates)
    return arrays_of(net)


@PARTS
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_two_epochs_with_kept_outputs_equal_two_that_compute_them_each_time(
    part, dropout, fused_operators, tiny_config, start, examples
):
    keeping, computing = (
        frozen_run(tiny_config, start, examples, part, dropout=dropout) for _ in range(2)
    )
    keep_outputs(keeping)
    assert keeping.train.kept and not computing.train.kept
    found, expected = trained(keeping), trained(computing)
    same(found, expected, 1e-6)
    for name, array in found.items():
        assert np.array_equal(array, start[name]) == is_frozen(name, part), name
    logits = [
        predict(run.classifier.net, run.data.dev[""], 4, run.workers)
        for run in (keeping, computing)
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-6)


@pytest.mark.parametrize("part", [1, "all"])
def test_outputs_are_kept_for_both_orders_of_pairs(
    part, fused_operators, tiny_config, start, examples
):
    backwards = examples.take(np.arange(len(examples))[::-1])
    both = replace(examples, turns=(replace(backwards, label=examples.label), examples))
    keeping, computing, one_order = (
        frozen_run(tiny_config, start, pairs, part) for pairs in (both, both, examples)
    )
    keep_outputs(keeping)
    expected = trained(computing)
    same(trained(keeping), expected, 1e-6)
    with pytest.raises(AssertionError):
        same(trained(one_order), expected, 1e-6)


@PARTS
@pytest.mark.parametrize("devices", [1, 2])
def test_the_stock_operators_freeze_too(
    part, devices, fused_operators, tiny_config, start, examples
):
    fused = frozen_run(tiny_config, start, examples, part)
    keep_outputs(fused)
    stock = frozen_run(tiny_config, start, examples, part, cpus(devices), fused=False)
    keep_outputs(stock)
    assert stock.train.kept is None
    expected = trained(fused)
    same(trained(stock), expected)
    for name, array in arrays_of(stock.classifier.net).items():
        assert np.array_equal(array, start[name]) == is_frozen(name, part), name


def test_outputs_that_are_large_are_kept_in_a_file_without_a_name(
    fused_operators, tiny_config, start, examples, tmp_path, monkeypatch
):
    in_memory = frozen_run(tiny_config, start, examples, 1)
    keep_outputs(in_memory)
    monkeypatch.setattr(runtime, "available_memory", lambda: 1000)
    folder = tmp_path / "out"
    folder.mkdir()
    in_file = replace(frozen_run(tiny_config, start, examples, 1), folder=folder, saves=True)
    keep_outputs(in_file)
    assert isinstance(in_file.train.kept.rows, np.memmap)
    assert not isinstance(in_memory.train.kept.rows, np.memmap)
    assert not list(folder.iterdir())
    same(trained(in_file), trained(in_memory), 0)


DATA = ("--lr", "1e-3", "--batch_size", "8", "--optimizer", "adamw")


@pytest.fixture
def data(tmp_path):
    return write_mrpc(tmp_path / "glue", train=40, dev=20)


def test_a_disk_without_room_for_the_outputs_is_said_in_a_sentence(
    fused_operators, finetune_here, data, monkeypatch, capsys
):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runtime, "available_memory", lambda: 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    code, out = finetune_here("--data_dir", data, *DATA, "--freeze", "1")
    assert code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No space left" in err and str(out) in err


def test_seeds_share_the_outputs_and_each_has_the_bytes_of_a_run_alone(
    fused_operators, finetune_here, data, monkeypatch
):
    calls, compute = [], kept.compute
    monkeypatch.setattr(kept, "compute", lambda *a: calls.append(a) or compute(*a))
    flags = ("--data_dir", data, *DATA, "--epochs", "2", "--freeze", "1")
    assert finetune_here(*flags, "--seeds", "1,2", out="both")[0] == 0
    assert len(calls) == 2  # the training and the dev examples
    code, alone = finetune_here(*flags, "--seed", "2", out="alone")
    assert code == 0
    for name in ("model.params", "dev_predictions.tsv"):
        both = alone.parent / "both" / "seed-2" / name
        assert both.read_bytes() == (alone / name).read_bytes()


def test_a_checkpoint_holds_the_trained_parameters_only_and_the_model_all(finetune_here, data):
    code, out = finetune_here(
        *("--data_dir", data, *DATA, "--epochs", "2", "--training_steps", "7"),
        *("--freeze", "1", "--checkpoint_steps", "6", "--keep_checkpoints", "9"),
    )
    assert code == 0
    model = read_params(out / "model.params")
    held = read_params(out / "checkpoint-000006.params")
    for prefix in ("parameter:", "optimizer:0:", "optimizer:1:"):
        names = {n.removeprefix(prefix) for n in held if n.startswith(prefix)}
        assert names == {name for name in model if not is_frozen(name, 1)}
    assert not [n for n in held if n.startswith("best:") and is_frozen(n[5:], 1)]
    results = json.loads((out / "metrics.json").read_text())
    assert results["arguments"]["freeze"] == 1


@pytest.mark.parametrize(
    "value, complaint",
    [
        ("0", "must be a number of layers from 1 on, 'embeddings' or 'all', not '0'"),
        ("-1", "must be a number of layers"),
        ("some", "must be a number of layers"),
        ("3", "--freeze 3: this BERT has 2 layers"),
    ],
)
def test_what_cannot_be_frozen_is_refused(value, complaint, finetune_here, data, capsys):
    try:
        code, _ = finetune_here("--data_dir", data, f"--freeze={value}")
    except SystemExit as exit:
        code = exit.code
    assert code == 2 and complaint in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("part", ["1", "all"])
def test_check_estimates_a_run_with_a_frozen_part(
    part, fused_operators, finetune_here, data, capsys
):
    code, _ = finetune_here("--data_dir", data, *DATA, "--freeze", part, "--check")
    assert code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the frozen part computes the training and dev examples once" in printed
    assert "estimated time" in printed

"""Several devices, processes or batches an update: all as one device and one batch."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, cpus, new_net, run_script, write_mrpc
from helpers import make_updates, options, same
from mxnet.gluon.loss import SoftmaxCrossEntropyLoss

from bert.parameters import read_params
from finetuning.training.evaluation import predict
from finetuning.training.trainer import Trainer
from finetuning.training.workers import Workers

UPDATES = 20
horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not installed"
)


def trained(config, start, examples, workers, name="adamw", batch_size=8, accumulate=1):
    net = new_net(config, start, workers)
    trainer = Trainer(
        net,
        examples,
        SoftmaxCrossEntropyLoss(),
        workers,
        options(
            optimizer=name,
            batch_size=batch_size,
            accumulate=accumulate,
            epochs=100,
            training_steps=UPDATES,
            lr=1e-3,
            seed=3,
        ),
    )
    losses = [progress.loss for progress in make_updates(trainer, UPDATES)]
    return trainer.parameter_arrays(), losses, net


@pytest.mark.parametrize("name", ["bertadam", "adamw", "sgd"])
@pytest.mark.parametrize("devices", [2, 3])
def test_several_devices_give_what_one_gives(name, devices, tiny_config, start, examples):
    one, losses, _ = trained(tiny_config, start, examples, cpus(1), name)
    several, other_losses, net = trained(tiny_config, start, examples, cpus(devices), name)
    same(one, several)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-4)
    for parameter in net._collect_params_with_prefix().values():
        first, *rest = (array.asnumpy() for array in parameter.list_data())
        assert all(np.array_equal(first, array) for array in rest)


def test_a_batch_smaller_than_the_number_of_devices(tiny_config, start, examples):
    few = examples.take(np.arange(4))
    one, _, _ = trained(tiny_config, start, few, cpus(1), batch_size=3)
    several, _, _ = trained(tiny_config, start, few, cpus(3), batch_size=3)
    same(one, several)


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulated_batches_are_one_large_batch(devices, tiny_config, start, examples):
    large, losses, _ = trained(tiny_config, start, examples, cpus(1), batch_size=32)
    small, other_losses, _ = trained(
        tiny_config, start, examples, cpus(devices), batch_size=8, accumulate=4
    )
    same(large, small)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-4)


def test_devices_drop_different_units(tiny_config, start, examples):
    """The same example on two devices in one update: its outputs differ, because their masks do."""
    workers = cpus(2)
    net = new_net(tiny_config, start, workers, dropout=0.5)
    twice = examples.take(np.array([0, 0]))
    trainer = Trainer(
        *(net, twice, SoftmaxCrossEntropyLoss(), workers),
        options(optimizer="sgd", batch_size=2, epochs=1, training_steps=1, lr=0.0, seed=3),
    )
    trainer.updates = 1
    losses = []
    for device, ctx in enumerate(workers.ctx):
        seed = trainer._dropout_seed(device)
        mx.random.seed(seed, ctx)
        losses.append(trainer._backward(np.array([0]), ctx, seed).asscalar())
    assert losses[0] != losses[1]


@pytest.mark.parametrize("devices", [2, 3])
def test_an_evaluation_is_shared_and_the_same(devices, tiny_config, start, examples):
    alone = predict(new_net(tiny_config, start, cpus(1)), examples, 8, cpus(1))
    workers = cpus(devices)
    shared = predict(new_net(tiny_config, start, workers), examples, 8, workers)
    np.testing.assert_array_equal(alone, shared)


@pytest.mark.parametrize("size", [1, 2, 5, 32, 33])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_example_of_a_batch_is_in_one_share(size, ranks):
    class Rank:  # what Workers asks of Horovod to number its devices
        def __init__(self, rank):
            self.rank, self.size = lambda: rank, lambda: ranks

    indices = np.random.default_rng(size).permutation(size)
    workers = [Workers([mx.cpu(0), mx.cpu(1)], Rank(rank)) for rank in range(ranks)]
    shares = [share for one in workers for share in one.shares(indices)]
    assert len(shares) == 2 * ranks
    assert sorted(np.concatenate(shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# With Horovod: real processes, started by horovodrun.py.


def job(*flags, ranks: int) -> list[str]:
    return [
        *(sys.executable, "horovodrun.py", "-np", str(ranks), "-H", f"localhost:{ranks}"),
        *(sys.executable, *map(str, flags)),
    ]


def run_job(*flags, ranks=2, timeout=300, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        job(*flags, ranks=ranks),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


@pytest.fixture
def training_flags(tiny_bert, tmp_path):
    glue_dir = write_mrpc(tmp_path / "glue", train=70, dev=31)
    return (
        *("finetune_classifier.py", "--pretrained_bert_parameters", tiny_bert, "--max_len", "32"),
        *("--data_dir", glue_dir, "--lr", "1e-3", "--optimizer", "adamw", "--num_threads", "2"),
    )


def alone(flags, *more) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, (*flags, *more))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@horovod
@pytest.mark.parametrize("operators", [(), ("--no_native",)])
def test_two_ranks_give_what_one_process_gives(operators, training_flags, tmp_path):
    # 16 of 70: the last batch has 6; 20 updates are four epochs.
    flags = (*training_flags, "--batch_size", "16", "--dropout", "0", "--training_steps", "20")
    flags = (*flags, "--epochs", "4", *operators)
    one = alone(flags, "--output_dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = run_job(*flags, "--comm_backend", "horovod", "--output_dir", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    arrays = [read_params(tmp_path / name / "model.params") for name in ("one", "two")]
    results = [
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")
    ]
    assert results[0]["best"]["update"] == results[1]["best"]["update"]
    same(*arrays)
    for one, two in zip(*(result["epochs"] for result in results), strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-4)
        assert one["dev"]["loss"] == pytest.approx(two["dev"]["loss"], rel=1e-4)
    assert "on each of 2 ranks, 1 threads" in (tmp_path / "two/train.log").read_text()


COUNTING = """
import os, sys
sys.path.insert(0, os.getcwd())
import numpy as np
from bert import runtime
runtime.prepare()
import finetune_classifier
from finetuning.training.trainer import Trainer
seen, backward = [], Trainer._backward
def counting(self, indices, *rest):
    seen.extend(indices.tolist())
    return backward(self, indices, *rest)
Trainer._backward = counting
code = finetune_classifier.main(sys.argv[2:])
np.save(f"{sys.argv[1]}/seen-{os.environ['HOROVOD_RANK']}.npy", seen)
sys.exit(code)
"""


@horovod
def test_two_ranks_see_every_pair_of_mrpc_once_an_epoch(mrpc_raw, tiny_bert, tmp_path):
    glue_dir = tmp_path / "glue"
    fetch = ("--tasks", "MRPC", "--path_to_mrpc", mrpc_raw, "--data_dir", glue_dir)
    assert run_script("download_glue_data.py", *fetch).returncode == 0
    flags = ("--pretrained_bert_parameters", tiny_bert, "--max_len", "32", "--epochs", "2")
    flags = (*flags, "--data_dir", glue_dir, "--output_dir", tmp_path / "two")
    done = run_job("-c", COUNTING, tmp_path, *flags, "--comm_backend", "horovod")
    assert done.returncode == 0, done.stderr
    seen = [np.load(tmp_path / f"seen-{rank}.npy") for rank in (0, 1)]
    assert np.bincount(np.concatenate(seen)).tolist() == [2] * 3668
    assert abs(len(seen[0]) - len(seen[1])) <= 2 * 115  # a batch of odd size is one apart
    results = json.loads((tmp_path / "two/metrics.json").read_text())
    assert results["data"]["train"]["examples"] == 3668


@horovod
def test_a_shared_evaluation_is_that_of_one_process(training_flags, tmp_path):
    flags = (*training_flags, "--epochs", "2", "--comm_backend", "horovod")
    done = run_job(*flags, "--output_dir", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "two/metrics.json").read_text())
    glue_dir = training_flags[training_flags.index("--data_dir") + 1]
    check = alone(
        *[("finetune_classifier.py", "--model_parameters", tmp_path / "two", "--only_inference")],
        *("--data_dir", glue_dir, "--output_dir", tmp_path / "check", "--num_threads", "1"),
    )
    assert check.returncode == 0, check.stderr
    evaluated = json.loads((tmp_path / "check/eval_metrics.json").read_text())
    assert evaluated["dev"] == results["best"]["dev"]


@horovod
def test_a_rank_that_is_killed_ends_the_job_and_resuming_ends_as_if_nothing_was(
    training_flags, tmp_path
):
    flags = (*training_flags, "--batch_size", "8", "--epochs", "40", "--checkpoint_steps", "5")
    flags = (*flags, "--comm_backend", "horovod", "--output_dir")
    whole = run_job(*flags, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    process = subprocess.Popen(
        job(*flags, tmp_path / "killed", ranks=2),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # until some checkpoint, but the first, is there
        if any(int(p.stem[-6:]) for p in (tmp_path / "killed").glob("checkpoint-*")):
            break
        time.sleep(0.02)
    (second,) = ranks_of(tmp_path / "killed", rank=1)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60 and process.returncode not in (0, None)
    assert "Process" in output or "rank" in output.lower(), output
    assert not ranks_of(tmp_path / "killed", rank=0)

    resumed = run_job(*flags, tmp_path / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed   after update" in (tmp_path / "killed/train.log").read_text()
    models = [(tmp_path / name / "model.params").read_bytes() for name in ("whole", "killed")]
    assert models[0] == models[1]


def ranks_of(output_dir: Path, rank: int) -> list[int]:
    """Return the processes that are this rank of the job that writes there."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        is_rank = f"HOROVOD_RANK={rank}".encode() in environment
        if is_rank and command[0].endswith(b"python") and str(output_dir).encode() in command:
            found.append(int(folder.name))
    return found


def test_without_horovod_it_is_one_sentence(training_flags):
    if importlib.util.find_spec("horovod") is not None:
        pytest.skip("Horovod is installed")
    run = alone(training_flags, "--comm_backend", "horovod")
    assert run.returncode == 2 and "make setup-distributed" in run.stderr
    run = alone(("horovodrun.py", "-np", "2", sys.executable, "finetune_classifier.py"))
    assert run.returncode == 2 and "make setup-distributed" in run.stderr

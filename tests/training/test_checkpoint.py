"""The files: exact, whole or not there, and nothing that is not finite among them."""

from __future__ import annotations

import errno
import math
import os
import stat
import threading
import time

import mxnet as mx
import numpy as np
import pytest
from conftest import WORDS, sentence_pairs
from helpers import make_updates, options
from mxnet.gluon.loss import SoftmaxCrossEntropyLoss

import dataset
from bert.classifier import Classifier
from bert.errors import UserError
from bert.files import SaveError, write_text
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import parameters_of, read_params, write_params
from bert.tokenizer import SPECIAL_TOKENS, BERTTokenizer
from finetuning.data.splits import Dataset
from finetuning.data.tasks import find_task
from finetuning.training import checkpoint, folder
from finetuning.training.inputs import NotFiniteError
from finetuning.training.run import Run
from finetuning.training.state import RunState
from finetuning.training.trainer import Trainer
from finetuning.training.workers import Workers

OPTIMIZERS = pytest.mark.parametrize("name", ["bertadam", "adamw", "adam", "sgd"])
ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "counts": np.arange(3, dtype=np.int64),
    "text": np.frombuffer(b"text", np.uint8),
}


def test_mxnet_reads_what_is_written_and_writes_the_same_but_for_the_checksum(tmp_path):
    ours, theirs = tmp_path / "ours.params", tmp_path / "theirs.params"
    write_params(ours, ARRAYS)
    mx.nd.save(str(theirs), {name: mx.nd.array(a, dtype=a.dtype) for name, a in ARRAYS.items()})
    assert ours.read_bytes()[:8] == theirs.read_bytes()[:8]
    assert ours.read_bytes()[16:] == theirs.read_bytes()[16:]
    assert any(ours.read_bytes()[8:16]) and not any(theirs.read_bytes()[8:16])
    for path in (ours, theirs):
        for read in (read_params(path), {k: v.asnumpy() for k, v in mx.nd.load(str(path)).items()}):
            assert list(read) == list(ARRAYS)
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(read[name], array)
                assert read[name].dtype == array.dtype


def test_every_bit_and_every_byte_of_a_file_counts(tmp_path):
    path = tmp_path / "x.params"
    write_params(path, ARRAYS)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.params is damaged"):
            read_params(path)
    for content in (*(whole[:size] for size in range(len(whole))), whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.params is damaged"):
            read_params(path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_text(path, "first")
    with (
        pytest.raises(SaveError, match="No space left"),
        checkpoint.replacing(path) as temporary,
    ):
        temporary.write_text("sec")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    path.unlink()
    tmp_path.rmdir()
    with pytest.raises(SaveError, match="No such file"):
        write_text(path, "third")


def test_the_newest_whole_checkpoint_counts_and_the_newest_are_kept(tmp_path):
    warnings = []
    assert checkpoint.load_newest(tmp_path, warnings.append) is None
    for updates in (5, 20, 100):
        checkpoint.save(tmp_path, updates, f'{{"updates": {updates}}}', ARRAYS, keep=2)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["checkpoint-000020.params", "checkpoint-000100.params"]
    state, arrays = checkpoint.load_newest(tmp_path, warnings.append)
    assert state == {"updates": 100} and list(arrays) == list(ARRAYS) and not warnings

    (tmp_path / names[1]).write_bytes(b"damage")
    state, _ = checkpoint.load_newest(tmp_path, warnings.append)
    assert state == {"updates": 20} and names[1] in warnings[0]
    # The run now comes past update 30 again; what was damaged is of no use.
    checkpoint.save(tmp_path, 30, "{}", ARRAYS, keep=2)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["checkpoint-000020.params", "checkpoint-000030.params"]


def test_of_the_version_before_only_a_checkpoint_within_the_training_is_refused(tmp_path):
    path, state = tmp_path / "checkpoint-000001.params", np.frombuffer(b'{"a": 1}', np.uint8)
    write_params(path, {"state 2": state})
    assert checkpoint.load_newest(tmp_path, print) == ({"a": 1}, {})
    write_params(path, {"state 2": state, "parameter:w": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match="another version"):
        checkpoint.load_newest(tmp_path, print)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    write_params(tmp_path / "checkpoint-000001.params", {"state 0": np.zeros(2, np.uint8)})
    with pytest.raises(UserError, match=r"another version .*: continue .*--overwrite"):
        checkpoint.load_newest(tmp_path, print)


def test_a_background_writer_keeps_order_and_hands_errors_on():
    writer, done = checkpoint.BackgroundWriter(), []
    for i in range(5):
        writer.submit(lambda i=i: done.append(i))
    writer.wait()
    assert done == [0, 1, 2, 3, 4]
    writer.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.submit(lambda: done.append(5))
    writer.wait()


class BadAt:
    """Cross-entropy, but at one call not finite; with gradients that are."""

    def __init__(self, call, value=math.inf):
        self.call, self.value, self.calls = call, value, 0
        self._loss = SoftmaxCrossEntropyLoss()

    def __call__(self, logits, label):
        self.calls += 1
        loss = self._loss(logits, label)
        return loss + self.value if self.calls == self.call else loss


@pytest.fixture
def make_trainer(tiny_config, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("".join(f"{token}\n" for token in [*SPECIAL_TOKENS, *WORDS]))
    a, b, label = zip(*sentence_pairs(40, 0), strict=True)
    examples = dataset.Examples(list(a), list(b), np.array(label, np.int32))
    tokens = dataset.tokenize(examples, BERTTokenizer(vocab), 32)

    def make(name, loss, skip=0, seed=1):
        mx.random.seed(seed)
        net = BERTClassifier(BERTModel(tiny_config, dropout=0.1, cls_only=True))
        net.initialize(ctx=mx.cpu())
        net.hybridize(static_alloc=True)
        rates = {"optimizer": name, "lr": 1e-2, "warmup_ratio": 0.0, "seed": 1}
        sizes = {"batch_size": 4, "accumulate": 2, "epochs": 2}  # 10 updates
        chosen = options(**rates, **sizes, skip_nonfinite=skip)
        return Trainer(net, tokens, loss, Workers([mx.cpu()]), chosen)

    return make


def weights_and_states(trainer) -> dict:
    states = {f"state {name}": a for name, a in trainer.optimizer_arrays().items()}
    return {**trainer.parameter_arrays(), **states}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@OPTIMIZERS
def test_a_trainer_continues_where_another_stood(name, make_trainer):
    whole = make_trainer(name, SoftmaxCrossEntropyLoss())
    make_updates(whole, 10)
    first = make_trainer(name, SoftmaxCrossEntropyLoss())
    make_updates(first, 3)
    second = make_trainer(name, SoftmaxCrossEntropyLoss(), seed=2)
    assert not equal(second.parameter_arrays(), first.parameter_arrays())
    second.restore(first.position(), first.parameter_arrays(), first.optimizer_arrays())
    assert equal(weights_and_states(second), weights_and_states(first))
    make_updates(second, 10)
    assert equal(weights_and_states(second), weights_and_states(whole))


def test_the_speed_is_of_all_training_so_far_from_the_first_update_on(make_trainer):
    trainer, speeds = make_trainer("adamw", SoftmaxCrossEntropyLoss()), []

    for stop in (3, 6):
        for progress in trainer.updates_until(stop):
            speeds.append((progress.samples_per_second, trainer.samples / trainer.seconds))
    assert len(speeds) == 6 and all(told == true for told, true in speeds)


@OPTIMIZERS
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_never_reaches_the_parameters(name, value, make_trainer):
    # Batch 6 is the second of update 3.
    trainer = make_trainer(name, BadAt(6, value), skip=1)
    make_updates(trainer, 2)
    before, seen = weights_and_states(trainer), []
    seen += make_updates(trainer, 3)
    after = weights_and_states(trainer)
    assert seen[0].problem and trainer.skipped == 1
    before.pop("state count"), after.pop("state count")
    assert equal(before, after)
    seen += make_updates(trainer, 10)
    assert [progress.problem is None for progress in seen] == [False] + [True] * 7


def test_a_run_stops_at_a_number_that_is_not_finite_and_says_where(make_trainer):
    trainer = make_trainer("bertadam", BadAt(6))
    with pytest.raises(NotFiniteError) as error:
        make_updates(trainer, 10)
    rows = dataset.training_batches(len(trainer._examples), 8, 1, 1)[2]
    rows = ", ".join(str(row + 1) for row in sorted(rows))
    message = str(error.value)
    assert "update 3 (epoch 1, learning rate 0.008)" in message and "loss inf" in message
    assert f"training examples {rows};" in message and "--skip_nonfinite" in message
    assert all(np.isfinite(array).all() for array in trainer.parameter_arrays().values())


def test_no_checkpoint_holds_a_value_that_is_not_finite(make_trainer, tmp_path):
    trainer = make_trainer("adamw", SoftmaxCrossEntropyLoss())
    classifier = Classifier(trainer._net, None, {})
    data = Dataset(find_task("MRPC"), trainer._examples, {"": trainer._examples})
    run = Run(trainer._options, classifier, data, tmp_path / "out", Workers([mx.cpu()]))
    state = RunState(run, trainer)
    (tmp_path / "out").mkdir()
    make_updates(trainer, 2)
    state.save(with_checkpoint=True)
    state.wait()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    # A finite gradient at too high a rate: no loss shows it before the next update.
    parameters_of(trainer._net)["classifier.1.weight"].data()[0, 3] = math.inf
    state.save(with_checkpoint=True)
    with pytest.raises(NotFiniteError, match=r"classifier\.1\.weight"):
        state.wait()
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_closing_the_writer_waits_for_a_job_even_for_one_that_fails():
    writer, ended = checkpoint.BackgroundWriter(), threading.Event()

    def job():
        time.sleep(0.2)
        ended.set()
        raise OSError

    writer.submit(job)
    writer.close()
    assert ended.is_set()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_costs_a_warning_only(number, tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.fcntl, "flock", flock)
    with folder.locked(tmp_path / "out"):
        write_text(tmp_path / "out/x.txt", "x")
    assert "cannot lock" in caplog.text


def test_a_folder_that_cannot_be_flushed_is_written_to_all_the_same(tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "x.txt", "x")
    assert (tmp_path / "x.txt").read_text() == "x"


def test_only_a_runs_own_half_written_files_are_removed(tmp_path):
    for name in (".model.params.123.tmp", ".notes.docx.tmp", ".mine.tmp"):
        (tmp_path / name).write_text("")
    with folder.locked(tmp_path):
        assert {path.name for path in tmp_path.glob(".*.tmp")} == {".notes.docx.tmp", ".mine.tmp"}

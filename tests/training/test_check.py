"""The estimate of a run's time and memory, which its log and --check print."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import FLAGS, options, write_sentences
from hypothesis import given
from hypothesis import strategies as st

from dataset import TokenizedExamples
from finetuning.training import check
from finetuning.training.check import duration, tokens_left

LINE = re.compile(
    r"^estimate  about \d+ s, until ([A-Z]\w\w )?\d\d:\d\d; peak memory so far .* GiB$"
)


@pytest.fixture
def flags(tmp_path):
    train = write_sentences(tmp_path / "train.csv", 160, 0)
    return (*FLAGS[:4], "--train_file", train, "--dev_fraction", "0.2", "--log_interval", "1")


def estimates(printed):
    return [(i, x) for i, x in enumerate(printed.splitlines()) if x.startswith("estimate")]


def test_a_run_prints_its_estimate_once_after_its_first_updates(
    flags, finetune_here, monkeypatch, capsys
):
    monkeypatch.setattr(check, "_SECONDS", 0.0)
    code, out = finetune_here(*flags, "--epochs", "2")
    printed = capsys.readouterr().out
    ((number, line),) = estimates(printed)
    assert code == 0 and LINE.fullmatch(line)
    assert printed.splitlines()[number - 1].startswith("epoch 1, update 4/16")
    assert line in (out / "train.log").read_text()
    code, _ = finetune_here(*flags, "--seeds", "1,2", "--epochs", "2", out="seeds")
    assert code == 0 and len(estimates(capsys.readouterr().out)) == 2


def test_a_run_of_a_moment_needs_no_estimate(flags, finetune_here, capsys):
    code, _ = finetune_here(*flags, "--training_steps", "5")
    assert code == 0 and not estimates(capsys.readouterr().out)


def examples_of(tokens):
    offsets = np.linspace(0, tokens, 101).astype(np.int64)
    arrays = np.zeros(tokens, np.int32), offsets, *np.zeros((2, 100), np.int32)
    return TokenizedExamples(*arrays, 128, np.zeros(100, bool))


def test_the_estimate_is_of_the_tokens_that_are_left(monkeypatch):
    """Batches differ in their tokens, and so in their time."""
    train, dev, test = (examples_of(tokens) for tokens in (3000, 300, 90))
    data = SimpleNamespace(dev={"": dev}, test={"test": test})
    run = SimpleNamespace(options=options(batch_size=10, epochs=4), data=data, train=train)
    assert tokens_left(run, 0) == pytest.approx(4 * 3000 + 4 * 100 + 30)
    assert tokens_left(run, 30) == pytest.approx(3000 + 100 + 30)
    run.options = options(batch_size=10, training_steps=15, eval_steps=5)
    assert tokens_left(run, 0) == pytest.approx(4500 + (2 + 3) * 100 + 30)
    run.options = options(batch_size=10, epochs=4)
    said = []
    monkeypatch.setattr(check, "log_header", lambda *line: said.append(line))
    trainer = SimpleNamespace(seconds=0.0)
    estimate = check.Estimate(run, trainer)
    for update, (tokens, seconds) in enumerate([(1, 50), (100, 1), (300, 3), (200, 2)], start=1):
        assert not said
        trainer.seconds += seconds
        estimate(SimpleNamespace(update=update, tokens=tokens))
    (seconds,) = [line for _, line in said]
    assert seconds.startswith("about 1 min 52 s, until ")  # 100 tokens a second


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.2, "1 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3720.4, "1 h 2 min"),
        (90061, "1 d 1 h"),
        (86461, "1 d"),
    ],
)
def test_a_time_is_said_in_words(seconds, text):
    assert duration(seconds) == text


@given(st.floats(0.5, 1e8))
def test_a_time_in_words_is_that_time(seconds):
    sizes = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    words = duration(seconds).split()
    units = [sizes[unit] for unit in words[1::2]]
    said = sum(int(count) * size for count, size in zip(words[::2], units, strict=True))
    assert abs(said - seconds) <= max(1, 0.04 * seconds) and 1 <= len(units) <= 2


def test_check_estimates_the_same_run(flags, finetune_here, capsys):
    code, _ = finetune_here(*flags, "--check", "--epochs", "2")
    assert code == 0
    assert re.search(r"estimated time \d+ s for 2 epochs; peak memory", capsys.readouterr().out)

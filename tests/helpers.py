"""What tests of several modules share beside conftest.py's fixtures."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
from conftest import ROOT

import predict
from finetuning.data.reading import read_own, read_own_training_file
from finetuning.data.rows import BadRows
from finetuning.data.tasks import own_task
from finetuning.options import Options, parse
from finetuning.results import inference

# A short training on what write_sentences has written.
FLAGS = ("--text_a_column", "text", "--batch_size", "16", "--epochs", "5", "--lr", "3e-3")


def write_sentences(path, count, seed, regression=False):
    """Sentences that say "dog" or "cat"; the score is how often they say "dog"."""
    random = np.random.default_rng(seed)
    rows = ["text,label"]
    for _ in range(count):
        words = list(random.choice("the a of red green house ran sat".split(), 6))
        if regression:
            dogs = int(random.integers(0, 6))
            words[:dogs] = ["dog"] * dogs
            label = dogs
        else:
            label = str(random.choice(["cat", "dog"], p=[0.7, 0.3]))
            words.append(label)
        random.shuffle(words)
        rows.append(f"{' '.join(words)},{label}")
    path.write_text("\n".join(rows) + "\n")
    return path


SINGLE = own_task("text", None, "label", regression=False)
PAIR = own_task("a", "b", "label", regression=False)
SCORES = own_task("text", None, "label", regression=True)


def read(path, content, task=SINGLE, bad=None):
    """Write a user's own file and read it; returns the task with its labels, and the examples."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if task.labels or task.regression:
        return task, read_own(path, task, bad or BadRows())
    return read_own_training_file(path, task, bad or BadRows())


def same(one, other, tolerance=1e-5):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=tolerance, err_msg=name)


def options(**changes) -> Options:
    """Return the default options of a training, with some changed."""
    return replace(parse("", []), **{"data_dir": None, **changes})


def make_updates(trainer, stop: int) -> list:
    """Train until ``stop`` updates have been made; returns the progress of each."""
    return list(trainer.updates_until(stop))


def resumed_after_kill(flags, tmp_path):
    """Train twice, once killed at update 20 and resumed; returns both output folders."""

    def start(out) -> subprocess.Popen:
        argv = [sys.executable, "finetune_classifier.py", *map(str, flags)]
        argv += ["--log_interval", "1", "--num_threads", "1", "--resume"]
        argv += ["--output_dir", str(tmp_path / out)]
        return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    undisturbed = start("undisturbed")
    undisturbed.communicate(timeout=120)
    killed = start("killed")
    for line in killed.stdout:
        if "update 20" in line:
            killed.send_signal(signal.SIGKILL)
            break
    assert killed.wait(120) == -signal.SIGKILL and undisturbed.returncode == 0
    resumed = start("killed")
    assert "resumed   after update" in resumed.communicate(timeout=120)[0]
    assert resumed.returncode == 0
    return tmp_path / "undisturbed", tmp_path / "killed"


def predict_here(*flags):
    """Run predict.py in this process; returns its exit code."""
    return predict.main([str(flag) for flag in flags])


def interrupt(monkeypatch, flags, after):
    """Predict, but fail after so many chunks, as if killed."""
    chunks = inference._chunks

    def cut(rows, size):
        yield from islice(chunks(rows, size), after)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inference, "_chunks", cut)
        assert predict_here(*flags) == 130

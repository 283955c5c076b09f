"""Temperature and threshold, against what they are defined to be, and their way to predict.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run_script
from scipy.special import softmax
from sklearn.metrics import f1_score

from finetuning.results import calibration
from finetuning.results.metrics import mean_loss


def overconfident(examples=4000, classes=3, factor=2.5, seed=0):
    """Logits whose softmax is right when they are divided by ``factor``, and labels drawn so."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (examples, classes))
    probability = softmax(logits, axis=1)
    label = (probability.cumsum(axis=1) > random.random((examples, 1))).argmax(axis=1)
    return factor * logits, label


def test_the_temperature_is_the_one_that_the_logits_were_multiplied_by():
    logits, label = overconfident()
    found = calibration.fit_temperature(logits, label)
    assert found["temperature"] == pytest.approx(2.5, rel=0.08)
    assert found["ece_after"] < 0.03 < 0.1 < found["ece_before"]
    assert "threshold" not in found
    assert calibration.why_no_optimum(logits, label, found["temperature"]) is None
    for near in (0.95, 1.05):
        assert found["loss_after"] <= mean_loss(logits / (found["temperature"] * near), label)


@pytest.mark.parametrize(
    "label, says", [([0, 1, 0, 1], "too few mistakes"), ([1, 0, 1, 0], "no better than chance")]
)
def test_a_temperature_that_is_no_optimum_is_said_to_be_none(label, says):
    logits = np.array([[1.0, -1.0], [-1.0, 1.0]] * 2)
    label = np.array(label)
    found = calibration.fit_temperature(logits, label)
    assert says in calibration.why_no_optimum(logits, label, found["temperature"])


def test_the_calibration_error_is_the_papers():
    # Two bins: 4 examples at 0.9 of which half are right, 6 at 0.6 of which all are.
    probability = np.array([[0.1, 0.9]] * 4 + [[0.6, 0.4]] * 6)
    label = np.array([1, 1, 0, 0] + [0] * 6)
    expected = 0.4 * abs(0.5 - 0.9) + 0.6 * abs(1.0 - 0.6)
    assert calibration.expected_calibration_error(probability, label) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1(seed):
    random = np.random.default_rng(seed)
    label = (random.random(200) < 0.3).astype(int)
    positive = np.clip(0.3 * label + random.random(200) * 0.7, 0, 1)
    best = f1_score(label, positive >= calibration.best_threshold(positive, label))
    for threshold in positive:
        assert f1_score(label, positive >= threshold) <= best + 1e-12


def test_a_split_without_a_mistake_has_a_finite_temperature():
    found = calibration.fit_temperature(np.array([[5.0, -5.0], [-5.0, 5.0]]), np.array([0, 1]))
    assert found["temperature"] > 0 and np.isfinite(list(found.values())).all()
    assert found["f1_after"] == 1.0


def test_predict_uses_what_the_run_has_kept(finetune_here, glue_dir, tmp_path, capsys):
    flags = ("--data_dir", glue_dir, "--epochs", "2", "--lr", "1e-3")
    code, out = finetune_here(*flags)
    assert code == 0
    dev = glue_dir / "MRPC/dev.tsv"

    def probabilities():
        run = run_script("predict.py", "--model_dir", out, "--input", dev, "--num_threads", "1")
        assert run.returncode == 0, run.stderr
        return [json.loads(line) for line in run.stdout.splitlines()]

    plain = probabilities()
    model = (out / "model.params").read_bytes()
    # A run that is finished can be calibrated afterwards.
    assert finetune_here(*flags, "--resume", "--calibrate")[0] == 0
    assert "expected calibration error" in capsys.readouterr().out
    assert (out / "model.params").read_bytes() == model
    found = json.loads((out / "config.json").read_text())["calibration"]
    assert found["ece_before"] >= 0 and found["f1_after"] >= found["f1_before"]
    for before, after in zip(plain, probabilities(), strict=True):
        odds = np.log(before["probabilities"]["1"] / before["probabilities"]["0"])
        expected = 1 / (1 + np.exp(-odds / found["temperature"]))
        assert after["probabilities"]["1"] == pytest.approx(expected, abs=1e-4)
        if abs(expected - found["threshold"]) > 1e-4:
            assert after["label"] == str(int(expected >= found["threshold"]))
    assert "| temperature |" in (out / "README.md").read_text()
    # A model trained on from it is another model: it is not calibrated.
    code, further = finetune_here(
        *("--model_parameters", out, "--data_dir", glue_dir, "--epochs", "1"),
        out="further",
        bert=False,
    )
    assert code == 0
    assert "calibration" not in json.loads((further / "config.json").read_text())

"""load_classifier: a fine-tuned model in Python, and that it answers what predict.py does."""

from __future__ import annotations

import io
import json
import shutil

import mxnet as mx
import numpy as np
import pytest
from conftest import run_script

from bert import load_classifier, native
from bert.errors import UserError
from bert.run_config import config_text

QUERIES = {
    "single": (["a dog ran", "the red cat", "a house of the"],),
    "pairs": (["the cat", "a dog"], ["the cat", "the house"]),
    "scores": (["a dog ran", "dog dog dog"],),
}


def answers_of_predict(model, texts, texts_b=None):
    """Return what predict.py writes for these texts, without the index."""
    run = io.BytesIO()
    for text_a, text_b in zip(texts, texts_b or [None] * len(texts), strict=True):
        run.write((text_a if text_b is None else f"{text_a}\t{text_b}").encode() + b"\n")
    done = run_script("predict.py", "--model_dir", model, input=run.getvalue().decode())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [{name: value for name, value in row.items() if name != "index"} for row in rows]


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("name", QUERIES)
def test_python_gets_the_answers_of_predict(name, runs):
    classifier = load_classifier(runs / name)
    expected = answers_of_predict(runs / name, *QUERIES[name])
    assert classifier(*QUERIES[name]) == expected and len(expected) > 1
    assert classifier(*[[] for _ in QUERIES[name]]) == []
    many = [[*column] * 30 for column in QUERIES[name]]  # more than one batch
    assert classifier(*many) == expected * 30


def calibrated(run, folder, **found):
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text()) | {"calibration": found}
    (folder / "config.json").write_text(config_text(config, (folder / "vocab.txt").read_text()))
    return folder


@pytest.mark.usefixtures("native_library")
def test_python_applies_temperature_and_threshold(runs, tmp_path):
    texts = QUERIES["single"][0]
    plain = load_classifier(runs / "single")(texts)
    model = calibrated(runs / "single", tmp_path / "run", temperature=2.0, threshold=1e-6)
    assert load_classifier(model)(texts) == answers_of_predict(model, texts)
    for row, before in zip(load_classifier(model)(texts), plain, strict=True):
        assert row["label"] == "dog"  # its probability is above the threshold
        odds = [row["probabilities"]["dog"] / row["probabilities"]["cat"] for row in (row, before)]
        assert odds[0] == pytest.approx(odds[1] ** 0.5, rel=1e-3)


@pytest.mark.parametrize("network", [False, True])
def test_python_multiplies_in_the_type_that_is_asked_for(network, runs):
    found = []
    for dtype in ("float32", "bfloat16"):
        classifier = load_classifier(runs / "single", dtype=dtype)
        if network:
            assert classifier.net.bert.bfloat16 == (dtype == "bfloat16")
        answers = classifier(QUERIES["single"][0])
        found.append([list(answer["probabilities"].values()) for answer in answers])
    assert found[0] != found[1]
    np.testing.assert_allclose(*found, atol=5e-3)


@pytest.mark.parametrize("dtype", ["float16", "bf16", ""])
def test_python_refuses_another_type(dtype, runs):
    with pytest.raises(UserError, match="dtype must be float32, bfloat16"):
        load_classifier(runs / "single", dtype=dtype)
    with pytest.raises(UserError, match="dtype must be float32, bfloat16"):
        load_classifier(runs / "single", ctx=mx.gpu(0), dtype="bfloat16")


@pytest.mark.parametrize("compiler", [True, False])
def test_texts_are_predicted_with_the_network_as_it_is(compiler, runs, monkeypatch):
    classifier, texts = load_classifier(runs / "single"), QUERIES["single"][0]
    expected = classifier(texts)
    if not compiler:
        monkeypatch.setattr(native, "library", unavailable)
    net, _, _ = classifier
    for row, before in zip(classifier(texts), expected, strict=True):
        assert row["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
    net.classifier[1].bias.set_data(mx.nd.array([0, 50]))
    assert [row["label"] for row in classifier(texts)] == ["dog"] * 3


def unavailable():
    raise native.NativeUnavailable("there is no compiler")


@pytest.mark.parametrize(
    "name, texts, complaint",
    [
        ("single", ("a dog",), "pass a list of texts, not one text"),
        ("single", (["a dog"], ["a cat"]), "takes single texts: leave out texts_b"),
        ("pairs", (["a dog"],), "takes pairs of texts: pass texts_b"),
        ("pairs", (["a dog"], ["a", "b"]), "there are 1 texts, but 2 in texts_b"),
    ],
)
def test_texts_that_do_not_fit_the_model_are_refused(name, texts, complaint, runs):
    with pytest.raises(UserError, match=complaint):
        load_classifier(runs / name)(*texts)


@pytest.mark.usefixtures("native_library")
def test_loading_a_classifier_and_predicting_loads_no_mxnet(runs):
    code = f"""
import sys
from bert import load_classifier
print(load_classifier({str(runs / "single")!r})(["a dog"]))
sys.exit("mxnet" in sys.modules)
"""
    run = run_script("-c", code)
    assert run.returncode == 0 and "probabilities" in run.stdout, run.stderr

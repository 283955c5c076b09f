"""The model card: the same run gives the same card, and a user's README is kept."""

from __future__ import annotations

import re

import pytest

from bert.huggingface import config_to_huggingface
from bert.run_config import config_text
from finetuning.results import model_card
from finetuning.results.export_formats import FORMATS

CONFIG = {
    **{"task_name": "MRPC", "text_a_column": "one", "text_b_column": "two", "label_column": "y"},
    **{"problem_type": "single_label_classification", "label2id": {"no": 0, "a|b{}": 1}},
    **{"bert_model": "bert_12_768_12", "bert_dataset": "", "bert_revision": "abc"},
    **{"num_hidden_layers": 12, "hidden_size": 768, "do_lower_case": True, "max_len": 128},
}
_SCORES = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 7}
RESULTS = {
    "num_parameters": 1234567,
    "data": {"train": {"examples": 70, "tokens": 900, "truncated": 1}},
    "best": {
        "epoch": 2,
        "dev": {"accuracy": 0.875},
        "per_class": {"no": _SCORES, "a|b{}": _SCORES},
    },
    "arguments": {"epochs": 3, "lr": 0.001, "folds": None, "skip_bad_rows": False},
    "environment": {"MXNet": "1.9.1"},
}


def test_a_classifiers_card():
    card = model_card.text(CONFIG, RESULTS)
    assert card.startswith("---\nlibrary_name: mxnet\n")
    for expected in (
        "From `one` and `two` it predicts one of 2 labels (`y`)",
        "The pretrained BERT was bert_12_768_12, revision abc (12 layers, 768 units, lower-cased",
        "1,234,567 parameters",
        "| train | 70 | 900 | 1 |",
        "From the best epoch (2 of 3)",
        "| accuracy | 0.8750 |",
        "| 1 | `a\\|b{}` | 0.5000 | 0.2500 | 0.3333 | 7 |",
        "| `--lr` | 0.001 |",
        "| MXNet | 1.9.1 |",
    ):
        assert expected in card
    for absent in ("--folds", "--skip_bad_rows", "## Calibration", "labelled test file", "\n\n\n"):
        assert absent not in card
    assert card == model_card.text(CONFIG, RESULTS)


def test_arguments_that_are_0_are_in_the_card():
    arguments = {"epochs": 3, "seed": 0, "dropout": 0.0, "gpu": False, "name": "", "folds": None}
    card = model_card.text(CONFIG, {**RESULTS, "arguments": arguments})
    assert "| `--seed` | 0 |\n| `--dropout` | 0.0 |\n\n" in card


def test_the_card_of_an_export_says_how_to_apply_the_calibration():
    config = {**CONFIG, "calibration": {"temperature": 1.5, "threshold": 0.25}}
    measured = [["", "accuracy"], ["this project", 0.75], ["onnx", 0.5]]
    card = model_card.export_text(config, {"seed": 0}, FORMATS["onnx"], "30 examples", measured)
    assert card.startswith("---\nlibrary_name: onnx\n")
    for expected in (
        "max_length=128",
        "| onnx | 0.5000 |",
        "divide them by the temperature",
        "| threshold | 0.2500 |",
        "| `--seed` | 0 |",
    ):
        assert expected in card


def test_every_export_format_is_listed_with_the_program_that_reads_it():
    card = model_card.text(CONFIG, RESULTS)
    assert all(f"| `{name}` | {format.reader} |" in card for name, format in FORMATS.items())


def test_a_regressions_card_with_test_metrics():
    config = {**CONFIG, "problem_type": "regression", "bert_model": "", "bert_revision": None}
    best = {"epoch": 1, "dev": {"pearson": 0.5}}
    card = model_card.text(config, {**RESULTS, "best": best, "test": {"pearson": 0.25}})
    assert "a number (`y`)" in card and "BERT was a local folder (" in card
    assert (
        "On the labelled test file:\n\n| metric | value |\n| --- | --- |\n| pearson | 0.2500 |"
        in card
    )
    assert "## Labels" not in card


def test_a_calibrated_models_card():
    card = model_card.text({**CONFIG, "calibration": {"temperature": 1.5}}, RESULTS)
    assert "| temperature | 1.5000 |" in card and "predict.py applies it" in card


def test_only_a_card_is_written_over(tiny_config, tmp_path):
    sizes = config_to_huggingface(tiny_config)
    config = {**sizes, **CONFIG, "id2label": {"0": "no", "1": "a|b{}"}}
    (tmp_path / "config.json").write_text(config_text(config, "vocabulary"))
    (tmp_path / "vocab.txt").write_text("vocabulary")
    warnings = []
    for _ in range(2):
        assert model_card.write(tmp_path, RESULTS, warnings.append)
    assert (tmp_path / "README.md").exists() and not warnings
    (tmp_path / "README.md").write_text("# My project\n")
    assert not model_card.write(tmp_path, RESULTS, warnings.append)
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    (sentence,) = warnings
    assert sentence.startswith("warning") and "left as it is" in sentence


@pytest.mark.parametrize(
    "name",
    [
        "`![x](https://a.b/c.png)`",
        "a``b",
        "<script>x</script>",
        "a\\|b",
        "a|b",
        "\x1b[2J",
        "_x_",
        "",
    ],
)
def test_no_name_can_break_out_of_the_card(name):
    """Wherever it comes from, it is code, and a table's rows have as many cells as its header."""
    config = {
        **{**CONFIG, "task_name": name, "text_a_column": name, "text_b_column": name},
        **{"label_column": name, "label2id": {name: 0, "no": 1}, "bert_model": name},
    }
    best = {**RESULTS["best"], "per_class": {name: _SCORES, "no": _SCORES}}
    arguments = {"epochs": 3, name or "x": name}
    card = model_card.text(
        config, {**RESULTS, "best": best, "arguments": arguments, "environment": {name: name}}
    )
    for format in FORMATS.values():
        card += model_card.export_text(config, arguments, format, "x", [["", "x"], ["run", 1.0]])
    usage = "|".join(re.escape(f.usage.format(max_len=128)) for f in FORMATS.values())
    ours = rf"{usage}|<!--.*-->|```python\n(.*\n)*?```|\[examples, labels\]"
    code = r"<code>[\w ]*(&#\d+;[\w ]*)*</code>|`[^`\n]*`"
    outside = re.sub(code, "", re.sub(ours, "", card))
    for markup in ("![", "](", "<", "https:", "\x1b"):
        assert markup not in outside
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_arguments_that_are_0_are_listed():
    card = model_card.text(
        CONFIG, {**RESULTS, "arguments": {"epochs": 1, "seed": 0, "dropout": 0.0}}
    )
    assert "| `--seed` | 0 |" in card and "| `--dropout` | 0.0 |" in card

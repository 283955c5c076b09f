"""README.md of a run or an export: what the model does, how well, from what, how to load it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bert import __version__
from bert.files import contains, write_text
from bert.run_config import HEAD, HEAD_TAIL, WINDOWS, read_config
from bert.terminal import shown
from finetuning.data.tasks import MULTI_LABEL
from finetuning.results.export_formats import FORMATS, Format
from finetuning.results.metrics import MOST_LABELS, to_show

# Tells a card from a README of the user's own, which is never written over.
_LONGEST = 200  # characters of a label, a path and the like
_MARK = "<!-- Written by finetune_classifier.py, and written again with each run. -->"
_EXPORT_MARK = "<!-- Written by export_classifier.py, which may replace this folder. -->"


def write(output_dir: Path, results: dict, warn: Callable[[str], None]) -> bool:
    """Write ``README.md`` into a finished run's folder, except over a user's own README.

    Parameters
    ----------
    output_dir : Path
        With config.json in it.
    results : dict
        The content of metrics.json.
    warn : function of str

    Returns
    -------
    bool
        Whether it was written.
    """
    path = output_dir / "README.md"
    if path.exists() and not contains(path, _MARK):
        warn(f"warning: {path} is not a model card and is left as it is: no model card is written")
        return False
    write_text(path, text(read_config(output_dir), results))
    return True


def text(config: dict, results: dict) -> str:
    """Return a model card, in Markdown with the metadata that the Hugging Face Hub reads."""
    best, arguments = results["best"], results["arguments"]
    columns = [config["text_a_column"], config["text_b_column"]]
    splits = [
        [_inline(name), part["examples"], part["tokens"], part["truncated"]]
        for name, part in results["data"].items()
    ]
    formats = [[f"`{name}`", format.reader] for name, format in FORMATS.items()]
    texts = '["…"], ["…"]' if config["text_b_column"] is not None else '["…"]'
    return f"""\
---
library_name: mxnet
pipeline_tag: text-classification
tags: [bert, gluon]
---

{_MARK}

# BERT fine-tuned on {_inline(config["task_name"])}

From {" and ".join(_code(column) for column in columns if column is not None)} it predicts \
{_prediction(config)}. The pretrained BERT was {_pretrained(config)} \
({config["num_hidden_layers"]} layers, {config["hidden_size"]} units, \
{"lower-cased" if config["do_lower_case"] else "cased"} text, \
{results["num_parameters"]:,} parameters with the new layer).

## Data

{_table(["split", "examples", "tokens", f"truncated at {config['max_len']} tokens"], splits)}

{_LONG_TEXT[config.get("long_text", HEAD)]}\
## Dev metrics

From the best epoch ({best["epoch"]} of {arguments["epochs"]}). The epoch was selected on this \
split, so these scores are slightly optimistic:

{_numbers("metric", best["dev"])}

{_section("On the labelled test file:", _numbers("metric", results.get("test", {})))}\
{_section("## Labels", _per_class(best))}\
{_section(_CALIBRATION, _calibration(config))}\
## Trained with

{_table(["argument", "value"], _given(arguments))}

{_table(["version", ""], [["this program", __version__], *_versions(results)])}

## How to load it

On the command line:

    python3 predict.py --model_dir THIS_FOLDER --input new.tsv --output predictions.jsonl

In Python, with this program:

```python
from bert import load_classifier

classifier = load_classifier("THIS_FOLDER")
answers = classifier({texts})
```

In other programs: export it first, with one of the formats below.

    python3 export_classifier.py --model_dir THIS_FOLDER --format huggingface --output_dir exported

{_table(["`--format`", "opens with"], formats)}
"""


_LONG_TEXT = {
    HEAD: "",
    HEAD_TAIL: """\
Of a longer text the model sees the beginning (a quarter of these tokens) and the end (the rest).

""",
    WINDOWS: """\
A longer text is divided into overlapping windows of so many tokens, and its logits are the means \
of its windows' logits. The tokens of all windows are counted.

""",
}
_CALIBRATION = """\
## Calibration

Fitted to the dev split. predict.py applies it; exports return the logits unchanged."""


def _section(heading: str, table: str) -> str:
    return f"{heading}\n\n{table}\n\n" if table else ""


def _given(arguments: dict) -> list[list]:
    return [
        [_code(f"--{name}"), _inline(value)]
        for name, value in arguments.items()
        if not (value is None or value is False or value == "")  # but 0, which equals False
    ]


def _versions(results: dict) -> list[list]:
    return [[_inline(name), _inline(value)] for name, value in results["environment"].items()]


def _prediction(config: dict) -> str:
    regression = config["problem_type"] == "regression"
    which = "any" if config["problem_type"] == MULTI_LABEL else "one"
    what = "a number" if regression else f"{which} of {len(config['label2id'])} labels"
    return f"{what} ({_code(config['label_column'])})"


def _pretrained(config: dict) -> str:
    revision = config.get("bert_revision")
    names = (config["bert_model"], config["bert_dataset"], revision and f"revision {revision}")
    return ", ".join(_inline(name) for name in names if name) or "a local folder"


def _per_class(best: dict) -> str:
    rows = []
    classes = best.get("per_class", {})
    shown_classes = to_show(classes)
    for output, (name, scores) in enumerate(classes.items()):
        if name in shown_classes:
            numbers = [f"{scores[kind]:.4f}" for kind in ("precision", "recall", "f1")]
            rows.append([output, _code(name), *numbers, scores["support"]])
    text = _table(["output", "label", "precision", "recall", "F1", "dev examples"], rows)
    if len(rows) < len(classes):
        text += f"\n\nThese have the lowest F1 of {len(classes)} labels; metrics.json has all."
    return text


def _calibration(config: dict) -> str:
    """Return a table of what --calibrate has fitted; thresholds of many labels are left out."""
    values = dict(config.get("calibration", {}))
    thresholds = values.pop("thresholds", {})
    if len(thresholds) > MOST_LABELS:
        thresholds = {}
    rows = [[f"threshold of {_code(name)}", f"{value:.4f}"] for name, value in thresholds.items()]
    return "\n".join(filter(None, [_numbers("", values), *_table_rows(rows)]))


def _numbers(header: str, values: dict[str, float]) -> str:
    return _table(
        [header, "value"], [[_inline(name), f"{value:.4f}"] for name, value in values.items()]
    )


# Punctuation by which text could become a link, a picture, HTML, or the end of a code span.
_MARKUP = re.compile(r"[!-/:-@\[-`{-~]")
_HARMLESS = re.compile(r"(?!www)[A-Za-z0-9][A-Za-z0-9_ .,()%+-]*")


def _code(value: object) -> str:
    """Return other people's text as Markdown code, which it cannot end."""
    text = shown(value, _LONGEST)
    if text.strip() == text != "" and not set(text) & set("`\\"):
        return f"`{text}`"
    return f"<code>{_MARKUP.sub(lambda found: f'&#{ord(found[0])};', text)}</code>"


def _inline(value: object) -> str:
    """Return words and numbers as they are, other text as code."""
    text = str(value)
    return text if len(text) <= _LONGEST and _HARMLESS.fullmatch(text) else _code(text)


def _table(header: list[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, or nothing if there are no rows."""
    return "\n".join(_table_rows([header, ["---"] * len(header), *rows] if rows else []))


def _table_rows(rows: Sequence[Sequence[object]]) -> list[str]:
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def is_export(folder: Path) -> bool:
    """Tell whether a folder has the card of an export."""
    return contains(folder / "README.md", _EXPORT_MARK)


def export_text(
    config: dict, arguments: dict, format: Format, examples: str, measured: list[list]
) -> str:
    """Return the model card of an export.

    Parameters
    ----------
    config : dict
        The run's config.json.
    arguments : dict
        The arguments in the run's metrics.json, or none.
    format : Format
    examples : str
        What the measurements are of.
    measured : list of rows
        A header, and a row for the run and for each file of weights that was compared with it.
    """
    columns = [config["text_a_column"], config["text_b_column"]]
    labels = [[output, _code(name)] for name, output in config["label2id"].items()]
    regression = config["problem_type"] == "regression"
    multi_label = config["problem_type"] == MULTI_LABEL
    names = _table(["output", "label"], [] if regression else labels)
    if len(labels) > MOST_LABELS:
        names = f"There are {len(labels)}; config.json names them in `id2label`."
    rows = [[f"{x:.4f}" if isinstance(x, float) else x for x in row] for row in measured]
    return f"""\
---
library_name: {format.library}
pipeline_tag: text-classification
tags: [bert]
---

{_EXPORT_MARK}

# BERT fine-tuned on {_inline(config["task_name"])}, for {format.reader}

From {" and ".join(_code(column) for column in columns if column is not None)} it predicts \
{_prediction(config)}. The pretrained BERT was {_pretrained(config)} \
({config["num_hidden_layers"]} layers, {config["hidden_size"]} units, \
{"lower-cased" if config["do_lower_case"] else "cased"} text).

## How to load it

{format.usage.format(max_len=config["max_len"])}

The logits are [examples, {_LOGITS[config["problem_type"]]}. The model \
was trained on at most {config["max_len"]} tokens per example: {_advice(config)}.

## Results on {examples}

{_table(rows[0], rows[1:])}

{_section("## Labels", names)}\
{_section(_EXPORT_SETS if multi_label else _EXPORT_CALIBRATION, _calibration(config))}\
{_section("## Trained with", _table(["argument", "value"], _given(arguments)))}"""


def long_text_note(config: dict) -> str:
    """Say what an export cannot do by itself; nothing where truncation is all."""
    if config.get("long_text", HEAD) == HEAD:
        return ""
    return f"for the results of --long_text {config['long_text']}, {_advice(config)}"


def _advice(config: dict) -> str:
    """Say what whoever calls an export must do with long texts."""
    longer = {
        HEAD: "truncate longer texts",
        HEAD_TAIL: "of a longer text, pass the first quarter of the tokens that there is room for "
        "and the rest from its end (truncation by the tokenizer keeps the beginning only)",
        WINDOWS: f"divide a longer text into windows of {config['max_len']} tokens, special tokens "
        "included, that overlap by a quarter, and average the windows' logits (in transformers "
        "with return_overflowing_tokens and stride)",
    }
    return longer[config.get("long_text", HEAD)]


_LOGITS = {
    "regression": "1], the number itself",
    MULTI_LABEL: "labels]; the sigmoid of each is its label's probability",
    "single_label_classification": "labels]",
}
_EXPORT_SETS = """\
## Calibration

Fitted to the dev split. The model returns the logits unchanged. For calibrated probabilities \
divide them by the temperature before the sigmoid. Predict each label whose calibrated probability \
is at least its threshold, which config.json has in `calibration`."""
_EXPORT_CALIBRATION = """\
## Calibration

Fitted to the dev split. The model returns the logits unchanged. For calibrated probabilities \
divide them by the temperature before the softmax. Of two labels, predict output 1 where its \
calibrated probability is at least the threshold."""

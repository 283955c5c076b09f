"""A run's README.md: what the model does, how well, from what, and how to load it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bert import __version__
from bert.files import read_json, write_text
from finetuning.results.export_formats import FORMATS

# Tells a card from a README of the user's own, which is never written over.
_MARK = "<!-- Written by finetune_classifier.py, and written again with each run. -->"


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
    if path.exists() and not _is_card(path):
        warn(f"warning: {path} is not a model card and is left as it is: no model card is written")
        return False
    write_text(path, text(read_json(output_dir / "config.json"), results))
    return True


def _is_card(path: Path) -> bool:
    return _MARK in path.read_text(encoding="utf-8", errors="replace")


def text(config: dict, results: dict) -> str:
    """Return a model card, in Markdown with the metadata that the Hugging Face Hub reads."""
    best, arguments = results["best"], results["arguments"]
    columns = [config["text_a_column"], config["text_b_column"]]
    splits = [
        [name, part["examples"], part["tokens"], part["truncated"]]
        for name, part in results["data"].items()
    ]
    given = [[f"`--{name}`", v] for name, v in arguments.items() if v not in (None, False, "")]
    formats = [[f"`{name}`", format.reader] for name, format in FORMATS.items()]
    return f"""\
---
library_name: mxnet
pipeline_tag: text-classification
tags: [bert, gluon]
---

{_MARK}

# BERT fine-tuned on {config["task_name"]}

From {" and ".join(f"`{column}`" for column in columns if column is not None)} it predicts \
{_prediction(config)}. The pretrained BERT was {_pretrained(config)} \
({config["num_hidden_layers"]} layers, {config["hidden_size"]} units, \
{"lower-cased" if config["do_lower_case"] else "cased"} text, \
{results["num_parameters"]:,} parameters with the new layer).

## Data

{_table(["split", "examples", "tokens", f"truncated at {config['max_len']} tokens"], splits)}

## Dev metrics

From the best epoch ({best["epoch"]} of {arguments["epochs"]}). The epoch was selected on this \
split, so these scores are slightly optimistic:

{_numbers("metric", best["dev"])}

{_section("On the labelled test file:", _numbers("metric", results.get("test", {})))}\
{_section("## Labels", _per_class(config, best))}\
{_section(_CALIBRATION, _numbers("", config.get("calibration", {})))}\
## Trained with

{_table(["argument", "value"], given)}

{_table(["version", ""], [["this program", __version__], *results["environment"].items()])}

## How to load it

On the command line:

    python3 predict.py --model_dir THIS_FOLDER --input new.tsv --output predictions.jsonl

In Python, on MXNet:

```python
from bert import load_classifier

net, tokenizer, config = load_classifier("THIS_FOLDER")
```

In other programs: export it first, with one of the formats below.

    python3 export_classifier.py --model_dir THIS_FOLDER --format huggingface --output_dir exported

{_table(["`--format`", "opens with"], formats)}
"""


_CALIBRATION = """\
## Calibration

Fitted to the dev split. predict.py applies it; exports return the logits unchanged."""


def _section(heading: str, table: str) -> str:
    return f"{heading}\n\n{table}\n\n" if table else ""


def _prediction(config: dict) -> str:
    regression = config["problem_type"] == "regression"
    what = "a number" if regression else f"one of {len(config['label2id'])} labels"
    return f"{what} (`{config['label_column']}`)"


def _pretrained(config: dict) -> str:
    revision = config.get("bert_revision")
    names = (config["bert_model"], config["bert_dataset"], revision and f"revision {revision}")
    return ", ".join(filter(None, names)) or "a local folder"


def _per_class(config: dict, best: dict) -> str:
    rows = []
    for name, scores in best.get("per_class", {}).items():
        shown = [f"{scores[kind]:.4f}" for kind in ("precision", "recall", "f1")]
        rows.append([config["label2id"][name], f"`{name}`", *shown, scores["support"]])
    return _table(["output", "label", "precision", "recall", "F1", "dev examples"], rows)


def _numbers(header: str, values: dict[str, float]) -> str:
    return _table([header, "value"], [[name, f"{value:.4f}"] for name, value in values.items()])


def _table(header: list[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, or nothing if there are no rows."""
    lines = [header, ["---"] * len(header), *rows] if rows else []
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )

"""A run's README.md: what the model does, how well, from what, and how to load it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bert import __version__
from bert.files import read_json, write_text
from finetuning.results.export_formats import FORMATS

# Tells a card from a README of the user's own, which is never written over.
_MARK = "<!-- Written by finetune_classifier.py, and written again with each run. -->"

# Text in braces comes from `text`; a section that does not apply is empty.
_CARD = """\
---
library_name: mxnet
pipeline_tag: text-classification
tags: [bert, gluon]
---

{mark}

# BERT fine-tuned on {task}

From {texts} it predicts {prediction}. The pretrained BERT was {pretrained} ({layers} layers, \
{units} units, {case} text, {parameters:,} parameters with the new layer).

## Data

{data}

## Dev metrics

From the best epoch ({epoch} of {epochs}). The epoch was selected on this split, so these scores \
are slightly optimistic:

{dev}

{test}{labels}{calibration}\
## Trained with

{arguments}

{versions}

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

{formats}
"""
_TEST = """\
On the labelled test file:

{table}

"""
_LABELS = """\
## Labels

{table}

"""
_CALIBRATION = """\
## Calibration

Fitted to the dev split. predict.py applies it; exports return the logits unchanged.

{table}

"""


def write(output_dir: Path, results: dict, warn: Callable[[str], None]) -> None:
    """Write ``README.md`` into a finished run's folder, except over a user's own README.

    Parameters
    ----------
    output_dir : Path
        With config.json in it.
    results : dict
        The content of metrics.json.
    warn : function of str
    """
    path = output_dir / "README.md"
    if path.exists() and not _is_card(path):
        warn(f"warning: {path} is not a model card and is left as it is: no model card is written")
        return
    write_text(path, text(read_json(output_dir / "config.json"), results))


def remove(output_dir: Path) -> None:
    """Delete a run's card."""
    path = output_dir / "README.md"
    if path.exists() and _is_card(path):
        path.unlink()


def _is_card(path: Path) -> bool:
    return _MARK in path.read_text(encoding="utf-8", errors="replace")


def text(config: dict, results: dict) -> str:
    """Return a model card, in Markdown with the metadata that the Hugging Face Hub reads."""
    best, arguments = results["best"], results["arguments"]
    columns = (config["text_a_column"], config["text_b_column"])
    return _CARD.format(
        mark=_MARK,
        task=config["task_name"],
        texts=" and ".join(f"`{column}`" for column in columns if column is not None),
        prediction=_prediction(config),
        pretrained=_pretrained(config),
        layers=config["num_hidden_layers"],
        units=config["hidden_size"],
        case="lower-cased" if config["do_lower_case"] else "cased",
        parameters=results["num_parameters"],
        data=_table(
            ["split", "examples", "tokens", f"truncated at {config['max_len']} tokens"],
            (
                [name, part["examples"], part["tokens"], part["truncated"]]
                for name, part in results["data"].items()
            ),
        ),
        epoch=best["epoch"],
        epochs=arguments["epochs"],
        dev=_numbers("metric", best["dev"]),
        test=_TEST.format(table=_numbers("metric", results["test"])) if "test" in results else "",
        labels=_LABELS.format(table=_per_class(config, best)) if "per_class" in best else "",
        calibration=_CALIBRATION.format(table=_numbers("", config["calibration"]))
        if "calibration" in config
        else "",
        arguments=_table(
            ["argument", "value"],
            ([f"`--{k}`", v] for k, v in arguments.items() if v not in (None, False, "")),
        ),
        versions=_table(
            ["version", ""], [["this program", __version__], *results["environment"].items()]
        ),
        formats=_table(
            ["`--format`", "opens with"],
            ([f"`{name}`", format.reader] for name, format in FORMATS.items()),
        ),
    )


def _prediction(config: dict) -> str:
    column = f"`{config['label_column']}`"
    if config["problem_type"] == "regression":
        return f"a number ({column})"
    return f"one of {len(config['label2id'])} labels ({column})"


def _pretrained(config: dict) -> str:
    names = [config["bert_model"], config["bert_dataset"]]
    if config.get("bert_revision"):
        names.append(f"revision {config['bert_revision']}")
    return ", ".join(filter(None, names)) or "a local folder"


def _per_class(config: dict, best: dict) -> str:
    rows = []
    for name, output in config["label2id"].items():
        scores = best["per_class"][name]
        shown = [f"{scores[kind]:.4f}" for kind in ("precision", "recall", "f1")]
        rows.append([output, f"`{name}`", *shown, scores["support"]])
    return _table(["output", "label", "precision", "recall", "F1", "dev examples"], rows)


def _numbers(header: str, values: Mapping[str, float]) -> str:
    return _table([header, "value"], ([name, f"{value:.4f}"] for name, value in values.items()))


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )

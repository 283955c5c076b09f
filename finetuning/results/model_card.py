"""A run's README.md: what the model does, how well, from what, and how to load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bert import __version__
from bert.files import read_json, write_text

# By this a card is known, and nothing else is ever written over.
_MARK = "<!-- Written by finetune_classifier.py, and written again with each run. -->"


def write(output_dir: Path, results: dict, warn: Callable[[str], None]) -> None:
    """Write ``README.md`` into a finished run's folder, unless one that is no card is there.

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
        warn(f"warning: {path} is not of a run and is left as it is: there is no model card")
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
    """Return a model card, in Markdown with the head that the Hugging Face Hub reads."""
    task, best, labels = config["task_name"], results["best"], list(config["label2id"])
    regression = config["problem_type"] == "regression"
    columns = [config["text_a_column"], config["text_b_column"]]
    texts = " and ".join(f"`{column}`" for column in columns if column is not None)
    arguments = results["arguments"]
    pretrained = ", ".join(filter(None, (config["bert_model"], config["bert_dataset"])))
    if config.get("bert_revision"):
        pretrained += f", revision {config['bert_revision']}"
    what = (
        f"a number (`{config['label_column']}`)"
        if regression
        else f"one of {len(labels)} labels (`{config['label_column']}`)"
    )
    parts = [
        "---\nlibrary_name: mxnet\npipeline_tag: text-classification\ntags: [bert, gluon]\n---",
        _MARK,
        f"# BERT fine-tuned on {task}",
        f"From {texts} it predicts {what}. The pretrained BERT was {pretrained or 'a local folder'}"
        f" ({config['num_hidden_layers']} layers, {config['hidden_size']} units, "
        f"{'lower-cased' if config['do_lower_case'] else 'cased'} text, "
        f"{results['num_parameters']:,} parameters with the new layer).",
        "## Data",
        _table(
            ["split", "examples", "tokens", f"cut at {config['max_len']} tokens"],
            [
                [name, part["examples"], part["tokens"], part["truncated"]]
                for name, part in results["data"].items()
            ],
        ),
        "## Dev metrics",
        f"Of the best epoch ({best['epoch']} of {arguments['epochs']}), chosen on this same split, "
        "so a little too good:",
        _table(["metric", "value"], [[k, f"{v:.4f}"] for k, v in best["dev"].items()]),
    ]
    if "test" in results:
        parts += [
            "On the labelled test file:",
            _table(["metric", "value"], [[k, f"{v:.4f}"] for k, v in results["test"].items()]),
        ]
    if not regression:
        scores = [
            [config["label2id"][name], f"`{name}`", *_scores(best["per_class"][name])]
            for name in labels
        ]
        header = ["output", "label", "precision", "recall", "F1", "dev examples"]
        parts += ["## Labels", _table(header, scores)]
    if "calibration" in config:
        found = config["calibration"]
        parts += [
            "## Calibration",
            "Fitted to the dev split; predict.py applies it, exports give the logits as they are.",
            _table(["", "value"], [[k, f"{v:.4f}"] for k, v in found.items()]),
        ]
    parts += [
        "## Trained with",
        _table(
            ["argument", "value"],
            [[f"`--{k}`", v] for k, v in arguments.items() if v not in (None, False, "")],
        ),
        _table(
            ["version", ""],
            [["this program", __version__], *results["environment"].items()],
        ),
        "## How to load it",
        _LOADING,
    ]
    return "\n\n".join(parts) + "\n"


_LOADING = """\
On the command line:

    python3 predict.py --model_dir THIS_FOLDER --input new.tsv --output predictions.jsonl

In Python, on MXNet:

```python
from bert import runtime

runtime.prepare()  # before MXNet is loaded

from bert.classifier import load_classifier

net, tokenizer, config = load_classifier("THIS_FOLDER")
```

Elsewhere (`--format gluon`, `huggingface` or `onnx`: MXNet's SymbolBlock, transformers'
AutoModelForSequenceClassification, or ONNX Runtime):

    python3 export_classifier.py --model_dir THIS_FOLDER --format huggingface --out exported"""


def _scores(scores: dict) -> list[str]:
    return [
        *(f"{scores[kind]:.4f}" for kind in ("precision", "recall", "f1")),
        str(scores["support"]),
    ]


def _table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )

"""A run's config.json: its checksums, and what its entries must be. Loads no MXNet."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bert import schema
from bert.errors import UserError
from bert.files import json_text, parse_json, read_bytes, read_json

# What a model sees of a text that is too long for it: see :func:`bert.encoding.cut`.
LONG_TEXT = HEAD, HEAD_TAIL, WINDOWS = ("head", "head_tail", "windows")
_NO_CHECKSUM = "0" * 64
_SIZE, _SHARE = schema.whole(1), schema.number(0, 1)
# What a run's config.json must have, and may have. Other entries are kept and not used.
_NEEDED = {
    "task_name": schema.text,
    "max_len": schema.whole(5),
    "id2label": schema.entries(schema.text),
    "label2id": schema.entries(schema.whole()),
    "do_lower_case": schema.flag,
    "text_a_column": schema.text,
    "text_b_column": schema.optional(schema.text),
    "label_column": schema.text,
    "problem_type": schema.one_of(
        "single_label_classification", "multi_label_classification", "regression"
    ),
    "bert_model": schema.text,
    "bert_dataset": schema.text,
    "vocab_sha256": schema.text,
    "sha256": schema.text,
    "vocab_size": _SIZE,
    "num_hidden_layers": _SIZE,
    "hidden_size": _SIZE,
    "intermediate_size": _SIZE,
    "num_attention_heads": _SIZE,
    "max_position_embeddings": _SIZE,
    "type_vocab_size": schema.whole(),  # 0: DistilBERT has none
    "layer_norm_eps": schema.number(0),
}
_CALIBRATION = {
    "ece_before": _SHARE,
    "ece_after": _SHARE,
    "loss_before": schema.number(0),
    "loss_after": schema.number(0),
    "threshold": _SHARE,
    "f1_before": _SHARE,
    "f1_after": _SHARE,
    "thresholds": schema.entries(_SHARE),
    "micro_f1_before": _SHARE,
    "micro_f1_after": _SHARE,
    "macro_f1_before": _SHARE,
    "macro_f1_after": _SHARE,
}
_POSSIBLE = {
    "bert_revision": schema.optional(schema.text),
    "quoted_tsv": schema.flag,
    "language": schema.text,
    "label_separator": schema.text,
    "long_text": schema.one_of(*LONG_TEXT),  # without it: head
    # The logits are divided by the temperature: one of almost 0 would make them infinite.
    "calibration": schema.fields({"temperature": schema.number(1e-3, 1e3)}, _CALIBRATION),
}
_CONFIG = schema.fields(_NEEDED, _POSSIBLE)


def config_text(config: dict, vocabulary: str) -> str:
    """Return the text of a run's ``config.json``.

    It contains the checksum of ``vocab.txt``, whose text is given, and its own checksum, computed
    with zeros in the checksum's place.
    """
    content = {**config, "vocab_sha256": _sha256(vocabulary), "sha256": _NO_CHECKSUM}
    text = json_text(content)
    return text.replace(f'"sha256": "{_NO_CHECKSUM}"', f'"sha256": "{_sha256(text)}"')


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_config(folder: Path) -> dict:
    """Read a run's ``config.json``, in which every entry that is used has been checked.

    Raises
    ------
    UserError
        It is not from a run, it or vocab.txt has changed since it was written, or an entry is not
        what a run writes.
    """
    path, vocab = folder / "config.json", folder / "vocab.txt"
    if not path.exists():
        raise UserError(
            f"{folder} has no config.json: finetune_classifier.py --resume writes that of a "
            "finished run again; of a file that gluonnlp's script has fine-tuned, python3 -m "
            "finetuning.convert_gluonnlp FILE DIR --task_name TASK makes a run folder "
            "(--pretrained_bert_parameters takes its encoder only)"
        )
    content = read_bytes(path)
    config = parse_json(content, path)
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise UserError(f"{path} is not from a fine-tuning run: missing keys {', '.join(missing)}")
    text = content.decode()
    text = text.replace(f'"sha256": "{config["sha256"]}"', f'"sha256": "{_NO_CHECKSUM}"')
    if _sha256(text) != config["sha256"]:
        raise UserError(
            f"{path} is damaged or was edited: its checksum differs; copy it from the run again, "
            "or delete it and let finetune_classifier.py --resume write it"
        )
    if hashlib.sha256(read_bytes(vocab)).hexdigest() != config["vocab_sha256"]:
        raise UserError(f"{vocab} is damaged or was edited: its checksum in config.json differs")
    schema.check(_CONFIG, config, path)
    ids = {name: number for number, name in enumerate(config["id2label"].values())}
    if config["label2id"] != ids or list(config["id2label"]) != list(map(str, ids.values())):
        raise UserError(f"{path}: id2label and label2id do not number the same labels from 0 on")
    thresholds = config.get("calibration", {}).get("thresholds", ids)
    if thresholds.keys() != ids.keys():
        raise UserError(f"{path}: the thresholds are not those of the labels")
    return config


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a training run's, by its ``config.json``."""
    path = folder / "config.json"
    return path.is_file() and {"task_name", "sha256"} <= set(read_json(path))

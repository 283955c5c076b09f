"""Print what the data are before training begins; with --check, also examples."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator

import numpy as np

from bert.tokenizer import BERTTokenizer
from dataset import TokenizedExamples
from finetuning.console import log, log_header
from finetuning.data.labels import label_text
from finetuning.data.rows import BadRows, InputFile
from finetuning.data.splits import Dataset
from finetuning.data.tasks import Task

_PERCENTILES = (50, 90, 99)
_SEPARATORS = ("|", ";", ",", "/")
_MANY_UNKNOWN = 0.1  # share of tokens; of English text and an English BERT nearly none


def log_files(bad: BadRows) -> None:
    """Print what the lines of each file are, and the first of the bad rows."""
    for file in bad.files:
        log_header("file", f"{file.path}: {file.counts()}")
        for warning in _warnings(file):
            log_header("warning", warning)
    if bad.first:
        kept = f", {bad.kept} kept to be predicted, with missing texts empty" if bad.kept else ""
        log_header("bad rows", f"{bad.skipped} skipped{kept}")
    for file, line, problem in bad.first:
        log_header("", f"{file.place(line)}: {problem}")


def _warnings(file: InputFile) -> Iterator[str]:
    if file.looks_quoted and file.quoted_advice:
        yield (
            f"{file.path}, line {file.looks_quoted}: this text is quoted as in CSV, and the quotes "
            f"are read as text{file.quoted_advice}"
        )
    if file.first_unlabelled or 0 < file.unlabelled < file.rows:
        first = f" (the first: {file.first_unlabelled})" if file.first_unlabelled else ""
        yield (
            f"{file.path}: {file.unlabelled} of {file.rows} rows have no label that the model "
            f"knows{first}: they are predicted, but the file is not scored"
        )


def log_data(data: Dataset, unknown: int) -> None:
    """Print sizes, columns, label distribution, lengths and duplicates of the splits.

    ``unknown`` is the id of [UNK].
    """
    task, parts = data.task, data.parts()
    labelled = {name: part for name, part in parts.items() if name not in data.test}
    sizes = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    log_header("task", f"{task.name}: {sizes}")
    texts = [repr(name) for name in (task.text_a_column, task.text_b_column) if name is not None]
    quoted = "; TSV has CSV's quotes" if task.quoted_tsv else ""
    log_header("columns", f"text {' and '.join(texts)}; label {task.label_column!r}{quoted}")
    for name, part in labelled.items():
        log_header("labels", f"{name}: {_distribution(task, part.label)}")
    for name, part in parts.items():
        log_header("tokens", f"{name}: {_lengths(part)}")
    unseparated = _unseparated(task, data.train)
    for warning in [*_similar_labels(task), *unseparated, *_unknown_texts(parts, unknown)]:
        log_header("warning", warning)
    _log_repeated(data)
    if data.class_weights is not None:
        weights = zip(task.labels, data.class_weights, strict=True)
        log_header("weights", ", ".join(f"{label}: {weight:.4g}" for label, weight in weights))


def _distribution(task: Task, label: np.ndarray) -> str:
    if task.regression:
        return (
            f"from {label.min():g} to {label.max():g}, mean {label.mean():.3f}, "
            f"standard deviation {label.std():.3f}"
        )
    if task.multi_label:
        counts, without = label.sum(axis=0, dtype=np.int64), int((~label.any(axis=1)).sum())
    else:
        counts, without = np.bincount(label, minlength=len(task.labels)), 0
    parts = [
        f"{name if name == name.strip() else repr(name)}: {count} ({count / len(label):.1%})"
        for name, count in zip(task.labels, counts, strict=True)
    ]
    if task.multi_label:
        parts.append(f"no label: {without} ({without / len(label):.1%})")
    return ", ".join(parts)


def _similar_labels(task: Task) -> Iterator[str]:
    """Yield a sentence for each two labels that are probably meant to be one."""
    seen: dict[str, str] = {}
    for label in task.labels:
        plain = unicodedata.normalize("NFKC", label).strip().casefold()
        with contextlib.suppress(ValueError):
            plain = f"{float(plain):g}"
        other = seen.setdefault(plain, label)
        if other != label:
            yield f"the labels {other!r} and {label!r} are two classes: are they meant to be one?"


def _unseparated(task: Task, train: TokenizedExamples | None) -> Iterator[str]:
    """Yield a sentence if the labels of a text are probably separated by something else."""
    if train is None or not task.multi_label or task.label_columns[1:]:
        return
    if train.label.sum(axis=1, dtype=np.int64).max() < 2:
        found = [mark for mark in _SEPARATORS if any(mark in label for label in task.labels)]
        advice = f": should --multi_label be {found[0]!r}?" if found else ""
        yield f"no training row has several labels separated by {task.separator!r}{advice}"


def _unknown_texts(parts: dict[str, TokenizedExamples], unknown: int) -> Iterator[str]:
    """Yield a sentence for each split with many unknown tokens, or with texts of no token."""
    for name, part in parts.items():
        share = (part.input_ids == unknown).mean()
        if share > _MANY_UNKNOWN:
            yield (
                f"{share:.0%} of the tokens of {name} are [UNK]: the model does not know them; was "
                "it pretrained on this language?"
            )
        # [CLS] [SEP], and of a pair [SEP] once more.
        empty = (part.first_segment == 2) | (part.lengths - part.first_segment == 1)
        if empty.any():
            yield f"{empty.sum()} examples of {name} have a text without any token"


def _lengths(examples: TokenizedExamples) -> str:
    lengths = examples.lengths
    shares = ", ".join(
        f"{p} % up to {np.percentile(lengths, p, method='higher')}" for p in _PERCENTILES
    )
    text = f"mean {lengths.mean():.1f}, {shares}, max {lengths.max()}; "
    if examples.windows is None:
        text += f"{examples.truncated.sum()} truncated at --max_len {examples.max_len}"
    else:
        counts = np.diff(examples.windows)
        long = counts[counts > 1]
        text += f"{len(long)} longer than --max_len {examples.max_len}, in {long.sum()} windows"
    if examples.seen is not None and examples.seen[:, 1].max() > examples.max_len:
        seen, all_of_them = examples.seen.sum(axis=0)
        text += f"; the model sees {seen / all_of_them:.1%} of the tokens"
    return text


def _log_repeated(data: Dataset) -> None:
    """Print how many examples are repeated in a split, and warn if some are in train too."""
    parts = data.parts()
    hashes = {name: _hashes(part) for name, part in parts.items()}
    labelled = parts.keys() - data.test.keys()
    repeated = [_repeated(name, parts[name], hashes[name]) for name in parts if name in labelled]
    warnings = []
    for i, name in enumerate(parts):
        for other in list(parts)[:i]:
            shared = np.isin(hashes[name], hashes[other]).sum()
            sentence = f"{shared} rows of {name} are also in {other}" if shared else ""
            if sentence and other == "train":
                warnings.append(f"{sentence}: {name} scores will be optimistic")
            else:
                repeated.append(sentence)
    if any(repeated) or not warnings:
        log_header("repeated", "; ".join(filter(None, repeated)) or "none")
    for warning in warnings:
        log_header("warning", warning)


def _repeated(name: str, examples: TokenizedExamples, hashes: np.ndarray) -> str:
    different = len(np.unique(hashes))
    if different == len(examples):
        return ""
    label = examples.label
    if label.ndim == 2:
        keys = np.fromiter((hash(row.tobytes()) for row in label), np.int64, len(label))
    else:
        keys = label.astype(np.float64).view(np.int64)
    with_label = np.stack([hashes, keys])
    conflicting = len(np.unique(with_label, axis=1).T) - different
    return f"{len(examples) - different} rows in {name}, {conflicting} with conflicting labels"


def _hashes(examples: TokenizedExamples) -> np.ndarray:
    """Return a hash of each example as the model sees it, int64 ``[examples]``."""
    ids, offsets, segments = examples.input_ids, examples.offsets, examples.first_segment
    if examples.windows is not None:
        offsets, segments = offsets[examples.windows], segments[examples.windows[:-1]]
    hashes = (
        hash((ids[start:end].tobytes(), segment))
        for start, end, segment in zip(offsets[:-1], offsets[1:], segments.tolist(), strict=True)
    )
    return np.fromiter(hashes, np.int64, len(examples))


def log_examples(task: Task, examples: TokenizedExamples, tokenizer: BERTTokenizer) -> None:
    """Print the first two examples as the model sees them."""
    tokens = list(tokenizer.vocab)  # in the order of their ids
    for i in range(min(2, len(examples))):
        part = examples.take(np.array([i]))
        ids, first = part.input_ids[: part.offsets[1]], part.first_segment[0]
        several = f", the first of {len(part.lengths)} windows" if len(part.lengths) > 1 else ""
        label = label_text(task, examples.label[i])
        number = i if examples.origin is None else examples.origin["row"][i]
        log.info(f"\nexample {number}: label {label if task.regression else repr(label)}{several}")
        log.info(f"  segment 0: {' '.join(tokens[id_] for id_ in ids[:first])}")
        if first < len(ids):
            log.info(f"  segment 1: {' '.join(tokens[id_] for id_ in ids[first:])}")

"""What is known of the data before training begins, said briefly; with --check, in full."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bert.files import write_text
from bert.tokenizer import BERTTokenizer
from dataset import TokenizedExamples
from finetuning.console import log
from finetuning.data.splits import Data
from finetuning.data.tasks import Task

_PERCENTILES = (50, 90, 99)
_BAD_ROWS_SHOWN = 5


def log_bad_rows(rows: list[tuple[Path, int, str]], output_dir: Path | None) -> None:
    """Say how many rows were skipped or mended, show the first, and list all in a file."""
    if not rows:
        return
    log.info(f"bad rows  {len(rows)} skipped (or, in a test split, empty fields put in)")
    for path, line, problem in rows[:_BAD_ROWS_SHOWN]:
        log.info(f"          {path}, line {line}: {problem}")
    if output_dir:
        lines = ["file\tline\tproblem", *(f"{path}\t{line}\t{why!s}" for path, line, why in rows)]
        write_text(output_dir / "skipped_rows.tsv", "\n".join(lines) + "\n")


def log_data(data: Data) -> None:
    """Print sizes, columns, label distribution, lengths and duplicates of the splits."""
    task = data.task
    labelled = {"train": data.train} if data.train else {}
    labelled |= {f"dev{suffix}": examples for suffix, examples in data.dev.items()}
    parts = labelled | data.test
    sizes = ", ".join(f"{len(examples)} {name}" for name, examples in parts.items())
    log.info(f"task      {task.name}: {sizes}")
    texts = [name for name in (task.text_a_column, task.text_b_column) if name is not None]
    log.info(f"columns   text {' and '.join(map(repr, texts))}, label {task.label_column!r}")
    for name, examples in labelled.items():
        log.info(f"labels    {name} {_distribution(task, examples.label)}")
    for name, examples in parts.items():
        lengths = examples.lengths
        shares = ", ".join(
            f"{p} % up to {np.percentile(lengths, p, method='higher')}" for p in _PERCENTILES
        )
        log.info(
            f"tokens    {name} mean {lengths.mean():.1f}, {shares}, longest {lengths.max()}; "
            f"--max_len {examples.max_len} truncates {examples.truncated.sum()}"
        )
    prints = {name: _fingerprints(examples) for name, examples in parts.items()}
    found = [text for name in labelled if (text := _repeated(name, labelled[name], prints[name]))]
    names = list(parts)
    for i, name in enumerate(names):
        for other in names[:i]:
            shared = np.isin(prints[name], prints[other]).sum()
            if shared:
                found.append(f"{shared} of {name} are in {other} too")
    log.info(f"repeated  {'; '.join(found) or 'none'}")
    if data.class_weights is not None:
        shown = zip(task.labels, data.class_weights, strict=True)
        log.info(f"weights   {', '.join(f'{label}: {weight:.4g}' for label, weight in shown)}")


def _distribution(task: Task, label: np.ndarray) -> str:
    if task.regression:
        return (
            f"from {label.min():g} to {label.max():g}, mean {label.mean():.3f}, "
            f"standard deviation {label.std():.3f}"
        )
    counts = np.bincount(label, minlength=len(task.labels))
    return ", ".join(
        f"{name}: {count} ({count / len(label):.1%})"
        for name, count in zip(task.labels, counts, strict=True)
    )


def _fingerprints(examples: TokenizedExamples) -> np.ndarray:
    """Return a hash of each example as the model sees it, int64 ``[examples]``."""
    ids, offsets = examples.input_ids, examples.offsets
    hashes = (
        hash((ids[start:end].tobytes(), segment))
        for start, end, segment in zip(
            offsets[:-1], offsets[1:], examples.first_segment.tolist(), strict=True
        )
    )
    return np.fromiter(hashes, np.int64, len(examples))


def _repeated(name: str, examples: TokenizedExamples, prints: np.ndarray) -> str | None:
    different = len(np.unique(prints))
    if different == len(examples):
        return None
    with_label = np.stack([prints, examples.label.astype(np.float64).view(np.int64)])
    contradicting = len(np.unique(with_label, axis=1).T) - different
    return f"{len(examples) - different} rows in {name}, {contradicting} with another label"


def log_examples(task: Task, examples: TokenizedExamples, tokenizer: BERTTokenizer) -> None:
    """Print the first two examples as the model sees them."""
    tokens = list(tokenizer.vocab)  # in the order of their ids
    for i in range(min(2, len(examples))):
        ids = examples.input_ids[examples.offsets[i] : examples.offsets[i + 1]]
        first = examples.first_segment[i]
        label = examples.label[i]
        log.info(f"\nexample {i}: label {label if task.regression else task.labels[label]!r}")
        log.info(f"  segment 0: {' '.join(tokens[id_] for id_ in ids[:first])}")
        if first < len(ids):
            log.info(f"  segment 1: {' '.join(tokens[id_] for id_ in ids[first:])}")

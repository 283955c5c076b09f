"""Which examples a run trains on, develops on and predicts: GLUE's splits, or the user's files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import numpy as np

from bert.errors import UserError
from bert.tokenizer import BERTTokenizer
from dataset import TokenizedExamples, tokenize
from finetuning.data.reading import Examples, read_glue, read_own, read_own_training_file
from finetuning.data.tables import BadRows
from finetuning.data.tasks import OWN_DATA, Task, find_task, own_task, task_folder, test_files


@dataclass
class Splits:
    """What a run reads."""

    task: Task
    train: Examples | None = None
    dev: dict[str, Examples] = field(default_factory=dict)  # suffix of its metrics -> examples
    test: dict[str, Examples] = field(default_factory=dict)  # name of its predictions -> examples
    # Rows that were left out or mended: file, line, what is wrong.
    bad_rows: list[tuple[Path, int, str]] = field(default_factory=list)


@dataclass
class Data:
    """What a run computes on: its splits as token ids."""

    task: Task
    train: TokenizedExamples | None
    dev: dict[str, TokenizedExamples]
    test: dict[str, TokenizedExamples] = field(default_factory=dict)
    labelled_tests: frozenset[str] = frozenset()  # those of ``test`` whose labels are known
    dev_texts: Examples | None = None  # of the dev split whose suffix is ""
    class_weights: np.ndarray | None = None  # [classes] float32


def tokenize_splits(
    splits: Splits, tokenizer: BERTTokenizer, max_len: int, class_weights: str | None
) -> Data:
    """Turn splits into token ids, and give up the training texts (they may take as much memory)."""
    dev = {suffix: tokenize(part, tokenizer, max_len) for suffix, part in splits.dev.items()}
    test = {name: tokenize(part, tokenizer, max_len) for name, part in splits.test.items()}
    train, weights = None, None
    if splits.train:
        train = tokenize(splits.train, tokenizer, max_len)
        splits.train = None
        if class_weights:
            weights = parse_class_weights(class_weights, splits.task, train.label)
    labelled = frozenset(name for name, part in splits.test.items() if part.labelled)
    return Data(splits.task, train, dev, test, labelled, splits.dev.get(""), weights)


def parse_class_weights(text: str, task: Task, label: np.ndarray) -> np.ndarray:
    """Return a weight for each label.

    Parameters
    ----------
    text : str
        ``balanced``: examples / (classes × examples of the label), so that every label counts
        the same and the mean weight of an example is 1; or ``label=weight,…``, where a label not
        named weighs 1.
    task : Task
    label : int array ``[examples]``
        Of the training examples.

    Raises
    ------
    UserError
        A label that the task does not have, or a weight that is not a positive number.
    """
    if text == "balanced":
        counts = np.bincount(label, minlength=len(task.labels))
        # A label without examples is never weighed.
        return (len(label) / (len(task.labels) * np.maximum(counts, 1))).astype(np.float32)
    weights = np.ones(len(task.labels), np.float32)
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        if name not in task.labels:
            raise UserError(
                f"--class_weights {text}: {name or part!r} is none of the labels "
                f"({', '.join(task.labels)}); write balanced or label=weight,…"
            )
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise UserError(f"--class_weights {text}: {number!r} is not a positive number")
        weights[task.labels.index(name)] = weight
    return weights


def read_splits(args: argparse.Namespace, trained: Task | None) -> Splits:
    """Read the files that the flags name; ``trained`` is the task of --model_parameters."""
    own = args.train_file or args.dev_file or args.test_file
    if args.task_name == OWN_DATA and not own:
        raise UserError(
            "the model was trained on files of its own: pass --dev_file or --test_file (or "
            "--train_file, to train on)"
        )
    splits = _read_own(args, trained) if own else _read_glue(args, trained)
    if args.max_train_samples and splits.train:
        splits.train = splits.train.sample(args.max_train_samples, args.seed)
    return splits


def _read_glue(args: argparse.Namespace, trained: Task | None) -> Splits:
    task = trained or find_task(args.task_name)
    folder = task_folder(args.data_dir, task)
    bad = BadRows(inf if args.skip_bad_rows else 0)
    splits = Splits(task, bad_rows=bad.rows)
    for suffix, file in task.dev_files:
        splits.dev[suffix] = read_glue(folder / file, task, bad)
    if not args.only_inference:
        splits.train = read_glue(folder / "train.tsv", task, bad)
    if args.predict_test:
        # Every row of a test file needs a prediction, so none is skipped.
        mended = BadRows()
        for name, path in test_files(args.data_dir, task).items():
            splits.test[name] = read_glue(path, task, mended, labelled=False)
        splits.bad_rows = bad.rows + mended.rows
    return splits


def _read_own(args: argparse.Namespace, trained: Task | None) -> Splits:
    if trained and args.text_b_column and trained.text_b_column is None:
        raise UserError("--text_b_column: --model_parameters was trained on single texts")
    if trained and args.regression and not trained.regression:
        raise UserError("--regression: --model_parameters was trained to classify")
    task = own_task(
        args.text_a_column or trained.text_a_column,
        args.text_b_column or (trained.text_b_column if trained else None),
        args.label_column or trained.label_column,
        trained.regression if trained else args.regression,
        trained.labels if trained else (),
    )
    bad = BadRows(inf if args.skip_bad_rows else 0)
    splits = Splits(task, bad_rows=bad.rows)
    if args.train_file:
        if task.labels or task.regression:
            splits.train = read_own(Path(args.train_file), task, bad)
        else:
            splits.task, splits.train = read_own_training_file(Path(args.train_file), task, bad)
    if args.dev_file:
        splits.dev[""] = read_own(Path(args.dev_file), splits.task, bad)
    elif args.dev_fraction:
        train, dev = split_off(splits.train.label, args.dev_fraction, args.seed, task.regression)
        splits.train, splits.dev[""] = splits.train.take(train), splits.train.take(dev)
    if args.test_file:
        splits.test["test"] = read_own(Path(args.test_file), splits.task, bad, labelled=False)
    return splits


def split_off(
    label: np.ndarray, fraction: float, seed: int, regression: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a fraction of the examples, stratified by label except for regression.

    Returns
    -------
    rest, chosen : int arrays
        Indices in ascending order.
    """
    from sklearn.model_selection import train_test_split

    try:
        rest, chosen = train_test_split(
            np.arange(len(label)),
            test_size=fraction,
            random_state=seed,
            stratify=None if regression else label,
        )
    except ValueError as error:  # a class with one example, or a split without any
        raise UserError(f"--dev_fraction {fraction:g} cannot split these rows: {error}") from None
    return np.sort(rest), np.sort(chosen)


def folds(
    label: np.ndarray, count: int, seed: int, regression: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (train, dev) indices ``count`` times; every example is in one dev part.

    Stratified by label except for regression; UserError where a label has fewer rows than folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    rarest = len(label) if regression else int(np.unique(label, return_counts=True)[1].min())
    if rarest < count:
        who = "there are" if regression else "the rarest label has"
        raise UserError(f"--folds {count}: {who} {rarest} rows, fewer than folds")
    splitter = (KFold if regression else StratifiedKFold)(count, shuffle=True, random_state=seed)
    return splitter.split(np.zeros(len(label)), label)

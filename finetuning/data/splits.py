"""The examples of a run: those it trains on, evaluates on and predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

import dataset
from bert.errors import UserError
from bert.tokenizer import BERTTokenizer
from dataset import Examples, TokenizedExamples
from finetuning.data.reading import read_glue, read_own, read_own_training_file
from finetuning.data.rows import BadRows
from finetuning.data.tables import listed
from finetuning.data.tasks import (
    OWN_DATA,
    Task,
    files_to_predict,
    find_task,
    own_task,
    task_file,
    task_folder,
)
from finetuning.options import Options

# The normal numbers of float32, as floats of Python: a comparison must not overflow.
_LEAST_WEIGHT, _MOST_WEIGHT = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Splits:
    """The texts and labels that a run reads; see :func:`read_splits`."""

    task: Task
    train: Examples | None = None
    dev: dict[str, Examples] = field(default_factory=dict)  # suffix of its metrics -> examples
    test: dict[str, Examples] = field(default_factory=dict)  # name of its predictions -> examples
    bad: BadRows = field(default_factory=BadRows)


@dataclass(frozen=True)
class Dataset:
    """The token ids and labels that a run computes on; see :func:`tokenize_splits`."""

    task: Task
    train: TokenizedExamples | None = None
    dev: dict[str, TokenizedExamples] = field(default_factory=dict)
    test: dict[str, TokenizedExamples] = field(default_factory=dict)
    labelled_tests: frozenset[str] = frozenset()  # those of ``test`` with labels
    dev_texts: Examples | None = None  # of the dev split with the suffix ""
    class_weights: np.ndarray | None = None  # [classes] float32

    def parts(self) -> dict[str, TokenizedExamples]:
        """Return {name: examples} of all splits; the dev splits are named dev and their suffix."""
        train = {"train": self.train} if self.train else {}
        return train | {f"dev{suffix}": part for suffix, part in self.dev.items()} | self.test

    def fold(self, train: np.ndarray, dev: np.ndarray) -> Dataset:
        """Return the dataset that trains and evaluates on these of the training examples."""
        assert self.train is not None
        dev_part = {"": self.train.take(dev)}
        return replace(self, train=self.train.take(train), dev=dev_part, dev_texts=None)


def tokenize_splits(splits: Splits, tokenizer: BERTTokenizer, options: Options) -> Dataset:
    """Turn texts into token ids, as ``max_len``, ``long_text`` and ``class_weights`` say.

    The training texts, which may need as much memory as the token ids, are not part of the result:
    the caller can now drop ``splits``.
    """

    def tokenized(part: Examples, swap_pairs: bool = False) -> TokenizedExamples:
        return dataset.tokenize(part, tokenizer, options.max_len, options.long_text, swap_pairs)

    train, weights = None, None
    if splits.train:
        train = tokenized(splits.train, options.swap_pairs)
        if options.class_weights:
            weights = parse_class_weights(options.class_weights, splits.task, train.apart.label)
    return Dataset(
        splits.task,
        train,
        {name: tokenized(part) for name, part in splits.dev.items()},
        {name: tokenized(part) for name, part in splits.test.items()},
        frozenset(name for name, part in splits.test.items() if part.labelled),
        splits.dev.get(""),
        weights,
    )


def parse_class_weights(text: str, task: Task, label: np.ndarray) -> np.ndarray:
    """Return a weight for each label.

    Parameters
    ----------
    text : str
        ``balanced``: examples / (classes × examples of the label), so that every label has the
        same influence and the mean weight of an example is 1; or ``label=weight,…``, with the
        weight 1 for other labels.
    task : Task
    label : int array ``[examples]``
        Of the training examples.

    Raises
    ------
    UserError
        An unknown label, a weight that is not a positive number, or a task of another kind.
    """
    if task.regression or task.multi_label:
        raise UserError("--class_weights is for a model that gives each text one of its labels")
    if text == "balanced":
        counts = np.bincount(label, minlength=len(task.labels))
        # The weight of a label without examples is never used.
        return (len(label) / (len(task.labels) * np.maximum(counts, 1))).astype(np.float32)
    weights = np.ones(len(task.labels), np.float32)
    given: set[str] = set()
    rest = ""
    for part in text.split(","):
        rest += ("," if rest else "") + part  # a label may contain commas
        name, _, number = rest.rpartition("=")
        name = name if name in task.labels else name.strip()
        if name not in task.labels:
            continue
        rest = ""
        if name in given:
            raise UserError(f"--class_weights {text}: {name!r} is there twice")
        given.add(name)
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
            raise UserError(
                f"--class_weights {text}: {number!r} is not a positive number of float32"
            )
        weights[task.labels.index(name)] = weight
    if rest:
        raise UserError(
            f"--class_weights {text}: {rest.rpartition('=')[0] or rest!r} is not one of the labels "
            f"({listed(task.labels)}); use 'balanced' or label=weight,…"
        )
    return weights


def read_splits(options: Options, trained: Task | None) -> Splits:
    """Read the files that the flags name; ``trained`` is the task of --model_parameters.

    Raises UserError if a file cannot be read, or does not fit the flags or the trained model.
    """
    if options.task_name == OWN_DATA and not options.own_files:
        raise UserError(
            "the model was trained on your own files: pass --dev_file or --test_file (or "
            "--train_file, to train on)"
        )
    drawn_again = options.seeds and (options.dev_fraction or options.max_train_samples)
    if drawn_again and options.train_file and not options.train_file.is_file():
        raise UserError(
            f"{options.train_file} is no regular file: --seeds reads it again for each seed"
        )
    splits = _read_own(options, trained) if options.own_files else _read_glue(options, trained)
    if options.max_train_samples and splits.train:
        sample = splits.train.sample(options.max_train_samples, options.seed)
        splits = replace(splits, train=sample)
    return splits


def _read_glue(options: Options, trained: Task | None) -> Splits:
    task = trained or find_task(options.task_name)
    if options.language:
        if task.language is None:
            raise UserError(f"--language is for XNLI: {task.name} has one language")
        task = replace(task, language=options.language)
    folder = task_folder(options.data_dir, task)
    bad = BadRows(options.skip_bad_rows)

    def read(file: str) -> Examples:
        return read_glue(task_file(folder, task, file), task, bad)

    dev = {suffix: read(file) for suffix, file in task.dev_files.items()}
    train = None if options.only_inference else read(task.train_file)
    test = files_to_predict(folder, task) if options.predict_test else {}
    return Splits(
        task,
        train,
        dev,
        {name: read_glue(path, task, bad, labelled=False) for name, path in test.items()},
        bad,
    )


def _read_own(options: Options, trained: Task | None) -> Splits:
    if trained and options.text_b_column and trained.text_b_column is None:
        raise UserError("--text_b_column: --model_parameters was trained on single texts")
    if trained and options.regression and not trained.regression:
        raise UserError("--regression: --model_parameters was trained to classify")
    if trained and options.multi_label and not trained.multi_label:
        raise UserError("--multi_label: --model_parameters was trained to predict one label")
    task = own_task(
        options.text_a_column,
        options.text_b_column or (trained.text_b_column if trained else None),
        options.label_column,
        trained.regression if trained else options.regression,
        trained.labels if trained else (),
        options.quoted_tsv or bool(trained and trained.quoted_tsv),
        options.multi_label or (trained.separator if trained else None),
    )
    bad = BadRows(options.skip_bad_rows)
    train, dev, test = None, {}, {}
    if options.train_file:
        if trained or task.regression:
            train = read_own(options.train_file, task, bad)
        else:
            task, train = read_own_training_file(options.train_file, task, bad)
    if options.dev_file:
        dev[""] = read_own(options.dev_file, task, bad)
    elif options.dev_fraction and train:
        rest, chosen = split_off(train.label, options.dev_fraction, options.seed, task.regression)
        train, dev[""] = train.take(rest), train.take(chosen)
    if options.test_file:
        test["test"] = read_own(options.test_file, task, bad, labelled=False)
    return Splits(task, train, dev, test, bad)


def split_off(
    label: np.ndarray, fraction: float, seed: int, regression: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a fraction of the examples, stratified by label except for regression.

    Of examples with any number of labels ``[examples, labels]``, each label's share is kept as far
    as possible: they are drawn at equal distances from :func:`_by_rarest_label`.

    Returns
    -------
    rest, chosen : int arrays
        Indices in ascending order.
    """
    from sklearn.model_selection import train_test_split

    if label.ndim == 2:
        order, count = _by_rarest_label(label, seed), math.ceil(fraction * len(label))
        drawn = np.zeros(len(label), bool)
        drawn[order[np.arange(count) * len(label) // count]] = True
        if drawn.all():
            raise UserError(f"--dev_fraction {fraction:g} leaves no row to train on")
        return np.flatnonzero(~drawn), np.flatnonzero(drawn)
    if not regression and 1 in (counts := np.bincount(label)):
        raise UserError(
            f"--dev_fraction {fraction:g} draws within each label, but {(counts == 1).sum()} of "
            f"{(counts > 0).sum()} labels have only one row: add rows or pass --dev_file"
        )
    try:
        rest, chosen = train_test_split(
            np.arange(len(label)),
            test_size=fraction,
            random_state=seed,
            stratify=None if regression else label,
        )
    except ValueError as error:  # a class with one example, or an empty split
        raise UserError(f"--dev_fraction {fraction:g} cannot split these rows: {error}") from None
    return np.sort(rest), np.sort(chosen)


def folds(
    label: np.ndarray, count: int, seed: int, regression: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (train, dev) indices ``count`` times; every example is in one dev part.

    Stratified as by :func:`split_off`; raises UserError if a label has fewer rows than there are
    folds (of examples with any number of labels: if there are fewer examples).
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    several = label.ndim == 2
    rarest = (
        len(label) if regression or several else int(np.unique(label, return_counts=True)[1].min())
    )
    if rarest < count:
        who = "there are" if regression or several else "the rarest label has"
        raise UserError(f"--folds {count}: {who} only {rarest} rows")
    if several:
        fold = np.empty(len(label), int)
        fold[_by_rarest_label(label, seed)] = np.arange(len(label)) % count
        return ((np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(count))
    splitter = (KFold if regression else StratifiedKFold)(count, shuffle=True, random_state=seed)
    return splitter.split(np.zeros(len(label)), label)


def _by_rarest_label(label: np.ndarray, seed: int) -> np.ndarray:
    """Return shuffled indices in which examples of the same rarest label stand together.

    ``label`` has 0 or 1 for each ``[examples, labels]``.
    """
    rarest_first = np.argsort(label.sum(axis=0, dtype=np.int64), kind="stable")
    rank = np.where(label.any(axis=1), label[:, rarest_first].argmax(axis=1), label.shape[1])
    shuffled = np.random.default_rng(seed).permutation(len(label))
    return shuffled[np.argsort(rank[shuffled], kind="stable")]

"""The tasks of GLUE and others with a name, one declaration each, and a user's own files' task.

A new task is a declaration in ``TASKS``: the flags, reading, training, test predictions and
download_glue_data.py follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bert.errors import UserError

# What config.json calls the task of a run on the user's own files.
OWN_DATA = "own data"
# What it calls tasks whose texts have any number of labels, and what separates those by default.
MULTI_LABEL = "multi_label_classification"
SEPARATOR = ","
# More labels than any benchmark of intents has; more are ids, texts or numbers.
_MOST_LABELS = 10_000
# From so many labels on, they must be fewer than half of the rows.
_MANY_LABELS = 50


@dataclass(frozen=True)
class Download:
    """A published file, with those checksums that are known."""

    url: str
    md5: str | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Task:
    """The columns, labels and metrics of a task, and for GLUE its files.

    The labels are in the order of the network's outputs: for GLUE that of transformers' GLUE
    processors, which for MNLI is that of the original BERT (run_classifier.py).
    """

    name: str
    text_a_column: str
    text_b_column: str | None  # None: single texts
    label_column: str
    labels: tuple[str, ...]  # empty for regression
    metrics: tuple[str, ...]  # the first selects the best epoch
    regression: bool = False
    symmetric: bool = True  # a pair has the same label in the other order (own data: it may have)
    score_range: tuple[float, float] | None = None  # of a regression's test predictions
    quoted_tsv: bool = False  # of own data: TSV has CSV's quotes
    # Of own data: a text may have any number of labels, with this between them. None: it has one.
    separator: str | None = None
    # The rest is for the tasks with a name.
    train_file: str = "train.tsv"  # {language} in it is the language
    # Suffix of its metrics -> dev file; the one with the suffix "" selects the best epoch.
    dev_files: dict[str, str] = field(default_factory=lambda: {"": "dev.tsv"})
    test_files: dict[str, str] = field(default_factory=dict)  # name at gluebenchmark.com -> file
    rows: dict[str, int] = field(default_factory=dict)  # file -> rows below its header
    train_header: tuple[str, ...] | None = None  # if the train and dev files have none
    malformed_rows: int = 0  # at most so many rows of a file lack fields
    # One .zip or .tsv file, or MRPC's raw .txt files.
    downloads: tuple[Download, ...] = ()
    spellings: tuple[str, ...] = ()  # other names; case, "-" and "_" do not matter
    # The rest is for tasks that are not GLUE's.
    where: str = ""  # how to get the files, which download_glue_data.py does not fetch
    labelled_tests: bool = False  # the test files are like the dev files, labels included
    other_names: dict[str, str] = field(default_factory=dict)  # column -> its name in other files
    label_aliases: dict[str, str] = field(default_factory=dict)  # another spelling -> label
    language: str | None = None  # read only these rows of files with a column "language"

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.separator is not None

    @property
    def problem_type(self) -> str:
        """The kind of the task, in Hugging Face's terms."""
        if self.regression:
            return "regression"
        return MULTI_LABEL if self.multi_label else "single_label_classification"

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of labels: of several, each holds 0 or 1 for the label of its name."""
        names = self.label_column.split(",") if self.multi_label else [self.label_column]
        return tuple(name.strip() for name in names) if len(names) > 1 else (self.label_column,)

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for an example."""
        return 1 if self.regression else len(self.labels)

    def has_header(self, file: str) -> bool:
        """Tell whether the first line of one of the task's files names its columns."""
        return self.train_header is None or file in self.test_files.values()

    def names_of(self, column: str | None) -> tuple[str | None, ...]:
        """Return the names that a column has in the task's files."""
        other = self.other_names.get(column or "")
        return (column, other) if other else (column,)


_GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
_MRPC = "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase_"
_NO_YES = ("0", "1")
_MNLI = ("contradiction", "entailment", "neutral")
_NLI = ("entailment", "not_entailment")
_TEST = "test.tsv"


# The MD5 sums are published ones. The SHA-256 sums of the zip files are unknown, because their
# content was not available during development; those of MRPC's raw files are of their content.
def _zip(name: str, md5: str | None = None) -> tuple[Download, ...]:
    return (Download(_GLUE + name, md5),)


def _rows(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train.tsv": train, "dev.tsv": dev, _TEST: test}


# A table: name; columns of text_a, text_b and label; labels; metrics; the rest by name.
# fmt: off
_TASKS = (
    Task("CoLA", "sentence", None, "label", _NO_YES, ("matthews",),
        train_header=("source", "label", "star", "sentence"),
        test_files={"CoLA": _TEST}, rows=_rows(8551, 1043, 1063), downloads=_zip("CoLA.zip")),
    Task("SST-2", "sentence", None, "label", _NO_YES, ("accuracy",), spellings=("SST",),
        test_files={"SST-2": _TEST}, rows=_rows(67349, 872, 1821),
        downloads=_zip("SST-2.zip", "9f81648d4199384278b86e315dac217c")),
    Task("MRPC", "#1 String", "#2 String", "Quality", _NO_YES, ("accuracy", "f1"),
        test_files={"MRPC": _TEST}, rows=_rows(3668, 408, 1725),
        downloads=(
            Download(_MRPC + "train.txt", "793daf7b6224281e75fe61c1f80afe35",
                "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
            Download(_MRPC + "test.txt", "e437fdddb92535b820fe8852e2df8a49",
                "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"))),
    Task("STS-B", "sentence1", "sentence2", "score", (), ("pearson", "spearman"),
        regression=True, score_range=(0.0, 5.0), spellings=("STS",),
        test_files={"STS-B": _TEST}, rows=_rows(5749, 1500, 1379), downloads=_zip("STS-B.zip")),
    # The published numbers of rows are of questions. A few dozen contain a line break and so are
    # two malformed rows; many more mean a damaged file.
    Task("QQP", "question1", "question2", "is_duplicate", _NO_YES, ("accuracy", "f1"),
        malformed_rows=100, test_files={"QQP": _TEST}, rows=_rows(363846, 40430, 390965),
        downloads=_zip("QQP-clean.zip")),
    Task("MNLI", "sentence1", "sentence2", "gold_label", _MNLI, ("accuracy",), symmetric=False,
        spellings=("MNLI-m", "MNLI-mm", "MNLI-matched", "MNLI-mismatched"),
        dev_files={"": "dev_matched.tsv", "_mm": "dev_mismatched.tsv"},
        test_files={"MNLI-m": "test_matched.tsv", "MNLI-mm": "test_mismatched.tsv"},
        rows={"train.tsv": 392702, "dev_matched.tsv": 9815, "dev_mismatched.tsv": 9832,
            "test_matched.tsv": 9796, "test_mismatched.tsv": 9847},
        downloads=_zip("MNLI.zip")),
    Task("QNLI", "question", "sentence", "label", _NLI, ("accuracy",), symmetric=False,
        test_files={"QNLI": _TEST}, rows=_rows(104743, 5463, 5463),
        downloads=_zip("QNLIv2.zip", "b4efd6554440de1712e9b54e14760e82")),
    Task("RTE", "sentence1", "sentence2", "label", _NLI, ("accuracy",), symmetric=False,
        test_files={"RTE": _TEST}, rows=_rows(2490, 277, 3000),
        downloads=_zip("RTE.zip", "bef554d0cafd4ab6743488101c638539")),
    Task("WNLI", "sentence1", "sentence2", "label", _NO_YES, ("accuracy",), symmetric=False,
        test_files={"WNLI": _TEST}, rows=_rows(635, 71, 146),
        downloads=_zip("WNLI.zip", "a1b4bd2861017d302d29e42139657a42")),
    # Those of gluonnlp's script that are not GLUE's, in their publishers' layouts. The training
    # files of XNLI were translated by machine, and have other names of columns.
    Task("XNLI", "sentence1", "sentence2", "gold_label", _MNLI, ("accuracy",), symmetric=False,
        train_file="multinli.train.{language}.tsv", dev_files={"": "xnli.dev.tsv"},
        test_files={"test": "xnli.test.tsv"}, labelled_tests=True, language="zh",
        other_names={"sentence1": "premise", "sentence2": "hypo", "gold_label": "label"},
        label_aliases={"contradictory": "contradiction"},
        where="unpack XNLI-1.0.zip and XNLI-MT-1.0.zip of https://dl.fbaipublicfiles.com/XNLI/ "
        "(CC BY-NC 4.0) into the folder XNLI"),
    Task("LCQMC", "text_a", "text_b", "label", _NO_YES, ("accuracy",),
        train_file="train.txt", dev_files={"": "dev.txt"}, test_files={"test": "test.txt"},
        train_header=("text_a", "text_b", "label"), labelled_tests=True,
        where="ask its owners for it (http://icrc.hitsz.edu.cn/info/1037/1146.htm) and put "
        "train.txt, dev.txt and test.txt into the folder LCQMC"),
    Task("ChnSentiCorp", "text_a", None, "label", _NO_YES, ("accuracy",),
        test_files={"test": _TEST}, labelled_tests=True,
        where="unpack https://ernie.bj.bcebos.com/task_data_zh.tgz and put train.tsv, dev.tsv and "
        "test.tsv of its chnsenticorp into the folder ChnSentiCorp"),
)
# fmt: on
# The languages of XNLI.
LANGUAGES = (
    "ar",
    "bg",
    "de",
    "el",
    "en",
    "es",
    "fr",
    "hi",
    "ru",
    "sw",
    "th",
    "tr",
    "ur",
    "vi",
    "zh",
)
TASKS = {task.name: task for task in _TASKS}
# The diagnostic set is a second test set for a model of MNLI: it has no rows to train on.
AX = replace(
    TASKS["MNLI"],
    name="AX",
    dev_files={},
    test_files={"AX": "AX.tsv"},
    rows={"AX.tsv": 1104},
    downloads=(Download(_GLUE + "AX.tsv"),),
    spellings=("diagnostic",),
)
DOWNLOADABLE = {name: task for name, task in (TASKS | {AX.name: AX}).items() if task.downloads}
SUBMISSION_FILES = tuple(name for task in DOWNLOADABLE.values() for name in task.test_files)
# Where AX may be in the data folder: downloaded here, or by other programs.
_AX_PATHS = ("AX/AX.tsv", "AX/test.tsv", "diagnostic/diagnostic.tsv")


def find_task(name: str, among: Mapping[str, Task] = TASKS) -> Task:
    """Return a task by any usual spelling (SST, SST-2, sst2).

    Raises
    ------
    UserError
        ``among`` (with ``DOWNLOADABLE``, also AX) has no such task; it lists them.
    """
    for task in (*TASKS.values(), AX):
        if _plain(name) in map(_plain, (task.name, *task.spellings)):
            if task.name in among:
                return task
            if task.where:
                raise UserError(f"{task.name} is not downloaded: {task.where}")
            raise UserError(
                "AX has no training set: train on MNLI with --predict_test, which predicts AX too"
            )
    raise UserError(f"unknown task {name!r}: use one of {', '.join(among)}")


def _plain(spelling: str) -> str:
    return spelling.lower().replace("-", "").replace("_", "")


def task_folder(data_dir: Path | None, task: Task) -> Path:
    """Return the folder of a task's files in ``data_dir`` (``GLUE_DIR``)."""
    if not data_dir:
        raise UserError(
            "no data folder given: set GLUE_DIR or pass --data_dir (it must contain "
            f"{task.name}/{task.train_file.format(language=task.language)}; "
            f"{task.where or 'download_glue_data.py creates it'})"
        )
    folder = data_dir / task.name
    if not folder.is_dir():
        names = set(map(_plain, (task.name, *task.spellings)))
        others = data_dir.iterdir() if data_dir.is_dir() else ()
        for other in sorted(others):
            if _plain(other.name) in names and other.is_dir():
                return other
        advice = f"run download_glue_data.py --data_dir {data_dir} --tasks {task.name}"
        raise UserError(f"no folder {folder}: {task.where or advice}")
    return folder


def task_file(folder: Path, task: Task, name: str) -> Path:
    """Return the path of one of a task's files, which may be in the folders of an archive.

    A ``.txt`` may be a ``.tsv``. Raises UserError if a task that is not GLUE's has no such file.
    """
    name = name.format(language=task.language)
    if not task.where:
        return folder / name
    for choice in (name, name.replace(".txt", ".tsv")):
        if (folder / choice).is_file():
            return folder / choice
        if found := sorted(folder.rglob(choice)):
            return found[0]
    raise UserError(f"no {name} in {folder}: {task.where}")


def files_to_predict(folder: Path, task: Task) -> dict[str, Path]:
    """Return {name at gluebenchmark.com: path} of a task's test files; with MNLI, AX's too.

    Labelled test files are not gluebenchmark.com's: they are called ``test``.
    """
    paths = {name: task_file(folder, task, file) for name, file in task.test_files.items()}
    if task.name == "MNLI":
        for file in _AX_PATHS:
            if (folder.parent / file).is_file():
                paths[AX.name] = folder.parent / file
    return paths


def own_task(
    text_a_column: str,
    text_b_column: str | None,
    label_column: str,
    regression: bool,
    labels: tuple[str, ...] = (),
    quoted_tsv: bool = False,
    separator: str | None = None,
) -> Task:
    """Describe a user's own files; labels that are not known yet are empty.

    Raises UserError if two of the columns are the same, or those of labels are not the labels.
    """
    metrics = ("pearson", "spearman") if regression else ("accuracy", "macro_f1")
    if separator is not None:
        metrics = ("micro_f1", "macro_f1")
    task = Task(
        OWN_DATA,
        text_a_column,
        text_b_column,
        label_column,
        labels,
        metrics,
        regression,
        quoted_tsv=quoted_tsv,
        separator=separator,
    )
    columns = (text_a_column, text_b_column, *task.label_columns)
    for column in columns:
        if columns.count(column) > 1:
            raise UserError(
                f"the columns of texts and label must be different ones: {column!r} is two of them"
            )
    if task.label_columns[1:]:
        if labels and sorted(labels) != sorted(task.label_columns):
            raise UserError(
                f"the columns of labels {', '.join(task.label_columns)} are not the labels of the "
                f"model, {', '.join(labels)}"
            )
        return replace(task, labels=labels or task.label_columns)
    return task


def check_labels(source: Path, task: Task, rows: int) -> None:
    """Raise UserError where the labels of a training file are not those of a classification."""
    count = len(task.labels)
    if count > _MOST_LABELS or (count >= _MANY_LABELS and 2 * count > rows):
        what = f"{count} different values in {rows} rows"
        advice = "for numbers pass --regression"
        if task.multi_label:
            advice = f"pass what separates labels (not {task.separator!r}) to --multi_label"
        raise UserError(
            f"{source}: the label column {task.label_column!r} has {what}, which look like ids, "
            f"texts or numbers and not like labels: name another --label_column, or {advice}"
        )


def task_to_config(task: Task) -> dict:
    """Return the entries of ``config.json`` for a task; labels and kind in Hugging Face's terms."""
    labels = task.labels or ("LABEL_0",)
    return {
        "task_name": task.name,
        "text_a_column": task.text_a_column,
        "text_b_column": task.text_b_column,
        "label_column": task.label_column,
        "problem_type": task.problem_type,
        **({"label_separator": task.separator} if task.multi_label else {}),
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        **({"quoted_tsv": True} if task.quoted_tsv else {}),
        **({"language": task.language} if task.language else {}),
    }


def task_from_config(config: dict) -> Task:
    """Return the task of a trained model's ``config.json``, its labels in the model's order.

    Raises
    ------
    UserError
        The config lacks entries, or its labels are not those of its task.
    """
    name = str(config["task_name"])
    try:
        ids = config["id2label"]
        labels = tuple(ids[str(i)] for i in range(len(ids)))
        if name == OWN_DATA:
            regression = config["problem_type"] == "regression"
            multi_label = config["problem_type"] == MULTI_LABEL
            return own_task(
                config["text_a_column"],
                config["text_b_column"],
                config["label_column"],
                regression,
                () if regression else labels,
                config.get("quoted_tsv") is True,
                config.get("label_separator") or SEPARATOR if multi_label else None,
            )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the model's config.json does not describe the data it was trained on ({error!r})"
        ) from None
    task = find_task(name)
    if task.regression:
        return task
    if sorted(labels) != sorted(task.labels):
        raise UserError(
            f"the model's config.json has the labels {', '.join(map(str, labels))}, but {name} has "
            f"the labels {', '.join(task.labels)}"
        )
    return replace(task, labels=labels, language=config.get("language", task.language))

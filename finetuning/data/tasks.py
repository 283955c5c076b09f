"""What is asked of a text: the tasks of GLUE, and a task of the user's own files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bert.errors import UserError

# What config.json calls the task of a run on the user's own files.
OWN_DATA = "own data"


@dataclass(frozen=True)
class Task:
    """Where a task's columns stand, what its labels are, and how it is measured.

    The order of the labels is that of the network's outputs: for GLUE that of transformers' GLUE
    processors, which for MNLI is that of the original BERT (run_classifier.py).
    """

    name: str
    text_a_column: str
    text_b_column: str | None  # None: single texts
    label_column: str
    labels: tuple[str, ...]  # empty for regression
    metrics: tuple[str, ...]  # the first is the one by which the best epoch is chosen
    regression: bool = False
    # What follows describes GLUE's files; those of the split "" measure the best epoch.
    dev_files: tuple[tuple[str, str], ...] = (("", "dev.tsv"),)  # suffix of its metrics, file
    test_files: tuple[tuple[str, str], ...] = ()  # name at gluebenchmark.com, file
    train_header: tuple[str, ...] | None = None  # of train and dev, where the files have none
    malformed_rows: int = 0  # rows with missing fields that a file may have
    score_range: tuple[float, float] | None = None  # of regression

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for an example."""
        return 1 if self.regression else len(self.labels)


_NO_YES = ("0", "1")
_NLI = ("entailment", "not_entailment")
_TEST = "test.tsv"

TASKS = {
    task.name: task
    for task in (
        Task(
            *("CoLA", "sentence", None, "label", _NO_YES, ("matthews",)),
            test_files=(("CoLA", _TEST),),
            train_header=("source", "label", "star", "sentence"),
        ),
        Task(
            *("SST-2", "sentence", None, "label", _NO_YES, ("accuracy",)),
            test_files=(("SST-2", _TEST),),
        ),
        Task(
            *("MRPC", "#1 String", "#2 String", "Quality", _NO_YES, ("accuracy", "f1")),
            test_files=(("MRPC", _TEST),),
        ),
        Task(
            *("STS-B", "sentence1", "sentence2", "score", (), ("pearson", "spearman")),
            regression=True,
            test_files=(("STS-B", _TEST),),
            score_range=(0.0, 5.0),
        ),
        Task(
            *("QQP", "question1", "question2", "is_duplicate", _NO_YES, ("accuracy", "f1")),
            test_files=(("QQP", _TEST),),
            # Questions with a line break in them have torn a few dozen rows apart; many more
            # mean a damaged file.
            malformed_rows=100,
        ),
        Task(
            *("MNLI", "sentence1", "sentence2", "gold_label"),
            ("contradiction", "entailment", "neutral"),
            ("accuracy",),
            dev_files=(("", "dev_matched.tsv"), ("_mm", "dev_mismatched.tsv")),
            test_files=(("MNLI-m", "test_matched.tsv"), ("MNLI-mm", "test_mismatched.tsv")),
        ),
        Task(
            *("QNLI", "question", "sentence", "label", _NLI, ("accuracy",)),
            test_files=(("QNLI", _TEST),),
        ),
        Task(
            *("RTE", "sentence1", "sentence2", "label", _NLI, ("accuracy",)),
            test_files=(("RTE", _TEST),),
        ),
        Task(
            *("WNLI", "sentence1", "sentence2", "label", _NO_YES, ("accuracy",)),
            test_files=(("WNLI", _TEST),),
        ),
    )
}
# The diagnostic set is a test set for a model of MNLI; where its file may lie in data_dir.
AX = "AX"
_AX_FILES = ("AX/AX.tsv", "AX/test.tsv", "diagnostic/diagnostic.tsv")
_OTHER_SPELLINGS = {"SST": "SST-2", "STS": "STS-B", "SST2": "SST-2", "STSB": "STS-B"}
SUBMISSION_FILES = (*(name for task in TASKS.values() for name, _ in task.test_files), AX)


def find_task(name: str) -> Task:
    """Look a GLUE task up by any usual spelling (SST, SST-2, sst2); UserError lists them."""
    spelled = name.upper().replace("_", "-")
    spelled = _OTHER_SPELLINGS.get(spelled, spelled)
    for task in TASKS.values():
        if task.name.upper() == spelled:
            return task
    if spelled in (AX, "DIAGNOSTIC"):
        raise UserError(
            "AX has no training set: train on MNLI with --predict_test, which predicts AX too"
        )
    raise UserError(f"there is no task {name!r}; there are: {', '.join(TASKS)}")


def task_folder(data_dir: str | Path | None, task: Task) -> Path:
    """Return the folder of a task's files below ``data_dir`` (``GLUE_DIR``)."""
    if not data_dir:
        raise UserError(
            "where is the data? Set GLUE_DIR or pass --data_dir: the folder that "
            f"download_glue_data.py has filled, with {task.name}/train.tsv in it"
        )
    folder = Path(data_dir) / task.name
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: run download_glue_data.py --data_dir {data_dir} "
            f"--tasks {task.name}"
        )
    return folder


def test_files(data_dir: str | Path, task: Task) -> dict[str, Path]:
    """Return {name at gluebenchmark.com: path} of a task's test files; with MNLI, AX's too."""
    files = {name: task_folder(data_dir, task) / file for name, file in task.test_files}
    if task.name == "MNLI":
        for file in _AX_FILES:
            if (Path(data_dir) / file).is_file():
                files[AX] = Path(data_dir) / file
    return files


def own_task(
    text_a_column: str,
    text_b_column: str | None,
    label_column: str,
    regression: bool,
    labels: tuple[str, ...] = (),
) -> Task:
    """Describe the user's own files; labels that are not known yet are left empty."""
    metrics = ("pearson", "spearman") if regression else ("accuracy", "macro_f1")
    columns = (text_a_column, text_b_column, label_column)
    return Task(OWN_DATA, *columns, labels, metrics, regression)


def task_to_config(task: Task) -> dict:
    """Return what ``config.json`` says of a task; labels and kind in Hugging Face's terms."""
    labels = task.labels or ("LABEL_0",)
    return {
        "task_name": task.name,
        "text_a_column": task.text_a_column,
        "text_b_column": task.text_b_column,
        "label_column": task.label_column,
        "problem_type": "regression" if task.regression else "single_label_classification",
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def task_from_config(config: dict) -> Task:
    """Return the task of a trained model's ``config.json``, its labels in the model's order.

    Raises
    ------
    UserError
        It does not say what the model was trained on, or its labels are not those of its task.
    """
    name = str(config["task_name"])
    try:
        ids = config["id2label"]
        labels = tuple(ids[str(i)] for i in range(len(ids)))
        if name == OWN_DATA:
            regression = config["problem_type"] == "regression"
            columns = [config[f"{column}_column"] for column in ("text_a", "text_b", "label")]
            return own_task(*columns, regression, () if regression else labels)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the model's config.json does not describe what it was trained on ({error!r})"
        ) from None
    task = find_task(name)
    if task.regression:
        return task
    if sorted(labels) != sorted(task.labels):
        raise UserError(
            f"the model's config.json has the labels {', '.join(map(str, labels))}, but those of "
            f"{name} are {', '.join(task.labels)}"
        )
    return replace(task, labels=labels)

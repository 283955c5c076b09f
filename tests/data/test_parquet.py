"""Parquet files are read as the same rows in other formats are."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from conftest import run_script
from helpers import FLAGS, write_sentences
from hypothesis import given, settings
from hypothesis import strategies as st

import finetune_classifier
from bert.errors import UserError
from finetuning.data.labels import label_text
from finetuning.data.reading import read_own, read_own_training_file
from finetuning.data.rows import BadRows
from finetuning.data.tasks import own_task

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None
needs_pyarrow = pytest.mark.skipif(pa is None, reason="pyarrow is not installed: make setup")

TOPICS = own_task("text", None, "label", False)


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def read(path, task=TOPICS, bad=None):
    task, examples = read_own_training_file(path, task, bad or BadRows())
    label = [label_text(task, value) for value in examples.label]
    return list(examples.text_a), label


def typed(values, *names):
    """Return the values as pyarrow arrays of these types."""
    return [pa.array(values, pa.type_for_alias(name)) for name in names]


@needs_pyarrow
def test_labels_of_each_type_are_those_of_the_same_csv(tmp_path):
    columns = [
        *(("1", "0", array) for array in typed([1, 0], "int8", "uint64")),
        *(("0.1", "2.0", array) for array in typed([0.1, 2], "float", "double")),
        ("true", "false", pa.array([True, False])),
        *(("é", "b", array) for array in typed(["é", "b"], "string", "large_string")),
        ("a", "b", pa.array(["a", "b"]).dictionary_encode()),
        ("1.10", "2.00", pa.array(["1.10", "2.00"]).cast(pa.decimal128(5, 2))),
        ("2024-01-31", "2024-02-01", pa.array(["2024-01-31", "2024-02-01"]).cast(pa.date32())),
    ]
    for first, second, array in columns:
        path = write(tmp_path / "a.parquet", text=["x", "y"], more=[b"", b"\xff"], label=array)
        assert read(path) == (["x", "y"], [first, second]), array.type


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@needs_pyarrow
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_texts_come_out_as_they_went_in(tmp_path_factory, rows, row_group):
    path = tmp_path_factory.mktemp("a") / "a.parquet"
    texts, others = zip(*rows, strict=True)
    table = pa.table({"b": others, "label": ["x"] * len(rows), "a": texts})
    pq.write_table(table, path, row_group_size=row_group)
    task = own_task("a", "b", "label", False, ("x", "y"))
    bad = BadRows(skip=True)
    good = [row for row in rows if all(map(str.strip, row))]
    if not good:
        with pytest.raises(UserError, match="no usable rows"):
            read_own(path, task, bad)
        return
    examples = read_own(path, task, bad)
    assert list(zip(examples.text_a, examples.text_b, strict=True)) == good
    assert bad.skipped == len(rows) - len(good)
    assert [rows[i] for i in examples.origin["row"]] == good


@needs_pyarrow
def test_a_missing_value_is_an_empty_cell(tmp_path):
    path = write(tmp_path / "a.parquet", text=["x", None, "y", "z"], label=[1.0, 2.0, None, 2.0])
    bad = BadRows(skip=True)
    assert read(path, bad=bad) == (["x", "z"], ["1.0", "2.0"])
    assert [(number, problem) for _, number, problem in bad.first] == [
        (1, "the text is empty"),
        (2, "the label is empty"),
    ]
    assert bad.files[0].counts() == "4 rows: 2 used, 2 skipped"
    assert list(bad.lines())[1] == f"{path}\t1\tthe text is empty\n"
    with pytest.raises(UserError, match=r"^row 1 of .*a\.parquet \(counted from 0\): the text is"):
        read(path)
    scores = own_task("text", None, "label", True)
    path = write(tmp_path / "a.parquet", text=["x", "y"], label=[1.5, np.nan])
    with pytest.raises(UserError, match=r"row 1 of .*: '' in the column 'label' is not a number"):
        read_own(path, scores, BadRows())
    path = write(tmp_path / "a.parquet", text=["x"], label=pa.array([1.5], pa.float32()))
    assert read_own(path, scores, BadRows()).label.tolist() == [1.5]


@needs_pyarrow
def test_lists_are_several_labels(tmp_path):
    task = own_task("text", None, "label", False, separator=",")
    labels = [["a", "b,c"], [], None, ["b,c"]]
    for kind in (pa.list_(pa.string()), pa.large_list(pa.dictionary(pa.int8(), pa.string()))):
        path = write(tmp_path / "a.parquet", text=list("wxyz"), label=pa.array(labels, kind))
        assert read(path, task)[1] == ['["a", "b,c"]', "", "", '["b,c"]']
    path = write(tmp_path / "a.parquet", text=["x", "y"], label=[[1, 2], [2]])
    assert read(path, task)[1] == ["1,2", "2"]
    columns = own_task("text", None, "a,b", False, separator=",")
    path = write(tmp_path / "a.parquet", text=list("xyz"), a=[True, False, None], b=[0.0, 1.0, 1.0])
    assert read(path, columns)[1] == ["a", "b", "b"]


@needs_pyarrow
@pytest.mark.parametrize(
    "name, values, kind",
    [
        ("label", [[1], [2]], "list"),
        ("label", [{"a": 1}, {"a": 2}], "struct"),
        ("label", [b"a", b"b"], "binary"),
        ("text", [[b"a"], [b"b"]], "list"),
        ("text", [b"a", b"b"], "binary"),
    ],
)
def test_what_is_no_text_is_refused_with_its_column(name, values, kind, tmp_path):
    columns = {"text": ["x", "y"], "label": ["a", "b"]} | {name: values}
    with pytest.raises(UserError, match=rf"a\.parquet: the column '{name}' holds {kind}.*, not"):
        read(write(tmp_path / "a.parquet", **columns))
    if name == "label":
        several = own_task("text", None, "label", False, separator=",")
        nested = [[value] for value in values]
        path = write(tmp_path / "a.parquet", text=["x", "y"], label=nested)
        with pytest.raises(UserError, match=r"the column 'label' holds list<.*, not text"):
            read(path, several)


@needs_pyarrow
def test_columns_are_found_by_their_names(tmp_path):
    path = write(tmp_path / "a.parquet", **{"text.b": ["p"], "text": ["x"], "label": ["a"]})
    task = own_task("text", None, "label", False, ("a", "b"))
    assert list(read_own(path, task, BadRows()).text_a) == ["x"]
    task = own_task("text.b", None, "label", False, ("a", "b"))
    assert list(read_own(path, task, BadRows()).text_a) == ["p"]
    with pytest.raises(UserError, match=r"a\.parquet: no column 'no'; columns found: text\.b, te"):
        read_own(path, own_task("no", None, "label", False, ("a", "b")), BadRows())
    pq.write_table(pa.table([["x"], ["y"], ["a"]], ["text", "text", "label"]), path)
    with pytest.raises(UserError, match="the column 'text' is there twice"):
        read(path)


@needs_pyarrow
def test_text_that_is_not_utf8_costs_its_own_row(tmp_path):
    bytes_ = pa.array([b"x", b"\xff", "é".encode(), b"z"])
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    text = pa.Array.from_buffers(pa.string(), 4, bytes_.buffers())
    pq.write_table(pa.table([text, list("abab")], schema=schema), tmp_path / "a.parquet")
    bad = BadRows(skip=True)
    assert read(tmp_path / "a.parquet", bad=bad) == (["x", "é", "z"], ["a", "a", "b"])
    assert bad.first[0][1:] == (1, "the column 'text' is not UTF-8 text")


@needs_pyarrow
def test_a_damaged_file_is_one_sentence(tmp_path):
    whole = write(tmp_path / "a.parquet", text=list("xyz") * 99, label=list("aba") * 99)
    content = whole.read_bytes()
    random = np.random.default_rng(0)
    damaged = [content[:cut] for cut in (4, 5, 100, len(content) - 1)]
    for _ in range(300):
        start = int(random.integers(4, len(content)))
        noise = random.bytes(int(random.integers(1, 9)))
        damaged.append(content[:start] + noise + content[start + len(noise) :])
    for changed in damaged:
        whole.write_bytes(changed)
        try:
            read(whole, bad=BadRows(skip=True))
        except UserError as error:
            assert "\n" not in str(error) and "a.parquet" in str(error)
        except MemoryError:
            pass  # it says that it has petabytes


def test_other_files_of_that_name_are_told(tmp_path):
    path = tmp_path / "a.parquet"
    for content, advice in ((b"text,label\n", "name it after what it is"), (b"", "name it")):
        path.write_bytes(content)
        check_refused(path, f"is not a Parquet file, which begins with the bytes PAR1: {advice}")
    path.write_bytes(b"\x1f\x8b\x08\x00")
    check_refused(path, "PAR1: gunzip it")
    path.unlink()
    check_refused(path, "cannot read .*: No such file")
    os.mkfifo(path)
    check_refused(path, "it must be a regular file")


def check_refused(path, message):
    with pytest.raises(UserError, match="needs pyarrow" if pa is None else message):
        read(path)


def test_parquet_of_another_name_is_told(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"PAR1\x15\x04\x15")
    with pytest.raises(UserError, match="is a Parquet file, not UTF-8 text: pass the file "):
        read(tmp_path / "a.csv")


def test_without_pyarrow_one_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    files = ("--train_file", tmp_path / "a.parquet", "--dev_fraction", "0.2")
    argv = (*files, "--output_dir", tmp_path / "out")
    assert finetune_classifier.main([str(flag) for flag in argv]) == 2
    message = capsys.readouterr().err
    assert message.endswith("pip install pyarrow\n") and message.count("\n") == 1


@needs_pyarrow
def test_a_run_on_parquet_is_the_run_on_the_same_csv(finetune_here, tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    files = []
    for name, seed in (("train", 0), ("dev", 1), ("test", 2)):
        path = write_sentences(tmp_path / f"{name}.csv", 60, seed)
        pandas.read_csv(path).to_parquet(path.with_suffix(".parquet"))
        files.append((f"--{name}_file", path))
    flags = (*FLAGS[:4], "--epochs", "1")
    code, expected = finetune_here(*flags, *sum(files, ()), out="csv")
    parquet = [text for name, path in files for text in (name, path.with_suffix(".parquet"))]
    assert code == 0
    code, out = finetune_here(*flags, *parquet, out="parquet")
    assert code == 0
    for name in ("model.params", "dev_predictions.tsv", "test_predictions.tsv"):
        assert (out / name).read_bytes() == (expected / name).read_bytes()
    assert f"{tmp_path / 'train.parquet'}: 60 rows" in " ".join(capsys.readouterr().out.split())


@needs_pyarrow
def test_an_update_that_is_not_finite_names_the_rows(finetune_here, tmp_path, capsys):
    path = tmp_path / "a.parquet"
    write(path, text=["the cat", "the dog"] * 20, label=["a", "b"] * 20)
    flags = ("--text_a_column", "text", "--train_file", path, "--dev_file", path)
    code, _ = finetune_here(*flags, "--lr", "1e30", "--warmup_ratio", "0", "--batch_size", "4")
    assert code == 1 and "rows of the training file (from 0) " in capsys.readouterr().err


@needs_pyarrow
def test_a_large_row_group_is_read_in_little_memory(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.array([f"{i} {'x' * 1000}" for i in range(100_000)])
    pq.write_table(pa.table({"text": text}), path, compression="none", use_dictionary=False)
    assert pq.ParquetFile(path).num_row_groups == 1 and path.stat().st_size > 10**8
    code = f"""
import resource
from pathlib import Path
from finetuning.data.parquet import ParquetFile
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ParquetFile(Path({str(path)!r})) as file:
    rows = file.rows(["text"], [], [])
    next(rows)
    before = peak()
    assert sum(1 for _ in rows) == 99_999
print(peak() - before)
"""
    run = run_script("-c", code)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 40_000  # KiB

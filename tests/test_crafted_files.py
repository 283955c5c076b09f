"""Whatever a stranger's run says, checksums included: a result or one sentence, nothing outside."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import write_mrpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import export_classifier
import pack_submission
import plot_runs
import predict
from bert.errors import UserError
from bert.files import json_text
from bert.parameters import read_params, write_params
from bert.run_config import read_config
from dataset import TokenizedExamples
from finetuning.data.tasks import task_from_config
from finetuning.results.finished_run import read_results
from finetuning.training.record import read_record

FLAGS = ("--max_len", "32", "--epochs", "2", "--batch_size", "8", "--lr", "1e-3")
DEEP = object()  # more levels than a JSON file may have
MISSING = object()
ODD = [
    *(None, True, False, -1, 0, 1, 2**31, 2**63, -(2**80), 10**400, 0.5, 32.0, 1e-320, 1e308),
    *(math.nan, math.inf, "", "x", "\0", "\x1b[2J", "\ud800", "../../outside/x", "/dev/zero"),
    *([], [1], [[1]], {}, {"x": 1}, {"0": "a", "1": "a"}, DEEP, MISSING),
]


@pytest.fixture(scope="module")
def folder(tiny_bert, runner, tmp_path_factory) -> Path:
    """A folder with data, a finished run, a stopped one, and a file outside of them."""
    folder = tmp_path_factory.mktemp("crafted")
    write_mrpc(folder / "glue", train=24, dev=10)
    test = "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\ta dog\tthe cat\n"
    (folder / "glue/MRPC/test.tsv").write_text(test)
    shutil.copytree(tiny_bert, folder / "bert")
    (folder / "outside").mkdir()
    (folder / "outside/x").write_text("precious")
    for name, more, fault, code in (
        ("run", ("--predict_test", "--calibrate"), {}, 0),
        ("stopped", ("--checkpoint_steps", "1"), {"fail_sync": 45}, 1),
    ):
        run = runner(*training(folder, name), *more, **fault)
        assert run["code"] == code, run
    arrays = read_params(checkpoint_in(folder / "stopped"))
    assert any(name.startswith("predictions:") for name in arrays)
    return folder


def training(folder, name):
    return (
        *("--pretrained_bert_parameters", folder / "bert", "--data_dir", folder / "glue"),
        *("--output_dir", folder / name, "--no_tensorboard", *FLAGS),
    )


def checkpoint_in(run: Path) -> Path:
    return max(run.glob("checkpoint-*.params"))


@pytest.fixture
def run(folder) -> Path:
    return fresh(folder)


def fresh(folder: Path, name: str = "run") -> Path:
    """Return a new copy of a run, which may be changed."""
    shutil.rmtree(folder / "copy", ignore_errors=True)
    return shutil.copytree(folder / name, folder / "copy")


def text_of(content: object) -> str:
    """Return JSON with every character as an escape, and with the values that only Python has."""
    deep = '{"a":' * 60 + "1" + "}" * 60
    return json.dumps(content, default=lambda value: "DEEP").replace('"DEEP"', deep)


@st.composite
def mutated(draw, content: dict) -> dict:
    """Replace or remove some values of a JSON object, anywhere in it."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        part = content
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], (dict, list)) and draw(st.booleans()):
                part = part[key]
                continue
            value = draw(st.sampled_from(ODD))
            if value is MISSING:
                del part[key]
            else:  # a copy, as what is drawn next may change it
                part[key] = copy.deepcopy(value) if isinstance(value, (list, dict)) else value
            break
    return content


def with_checksums(run: Path, config: dict) -> str:
    """Return the text of a config.json whose checksums are right, if it has any."""
    vocabulary = hashlib.sha256((run / "vocab.txt").read_bytes()).hexdigest()
    names = {"vocab_sha256": vocabulary, "sha256": "0" * 64}
    text = text_of({**config, **{name: names[name] for name in names if name in config}})
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(f'"sha256": "{"0" * 64}"', f'"sha256": "{checksum}"')


@contextlib.contextmanager
def in_time(seconds: int):
    """Fail, instead of waiting for a FIFO for ever."""

    def too_late(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(command, *arguments) -> tuple[int, str]:
    """Run a command in this process; a traceback is a failure of the test."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), in_time(60):
        code = command.main([str(argument) for argument in arguments])
    sentence = err.getvalue()
    assert code in (0, 1, 2), sentence
    assert code == 0 or sentence.count("\n") == 1, sentence
    out.flush()
    assert b"NaN" not in out.buffer.getvalue()
    return code, sentence


def readers(folder: Path, run: Path) -> dict[str, tuple]:
    """Return the commands that read a run, with their flags."""
    for name in ("exported", "pictures"):
        shutil.rmtree(folder / name, ignore_errors=True)
    to = ("--output_dir", folder / "exported", "--format", "huggingface")
    return {
        "predict.py": (predict, "--model_dir", run, "--text_a", "a dog", "--text_b", "a cat"),
        "export_classifier.py": (export_classifier, "--model_dir", run, *to),
        "plot_runs.py": (plot_runs, run, "--output_dir", folder / "pictures"),
        "pack_submission.py": (
            *(pack_submission, run),
            *("--output", folder / "packed.zip", "--overwrite"),
        ),
    }


def resumed(folder: Path, runner, run: Path, *flags) -> dict:
    """Continue a run; everything around it must be as before."""
    before = around(folder)
    result = runner(*training(folder, run.name), "--resume", *flags)
    assert result["code"] in (0, 1, 2), result
    assert result["code"] == 0 or result["err"].count("\n") == 1, result
    assert around(folder) == before
    return result


def around(folder: Path) -> dict[str, bytes]:
    names = ("outside", "glue", "run", "stopped")
    paths = [path for name in names for path in (folder / name).rglob("*") if path.is_file()]
    top = {path.name: b"" for path in folder.iterdir()}
    return {str(path): path.read_bytes() for path in paths} | top


def examples(count: int):
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@examples(300)
@given(st.data())
def test_every_file_of_a_run_is_checked_where_it_is_read(folder, data):
    """What the readers return then has no surprise; that it is used is tested below."""
    run = folder / "run"
    name = data.draw(st.sampled_from(["config.json", "metrics.json", "run.json"]))
    content = data.draw(mutated(json.loads((run / name).read_text())))
    copy = folder / "read"
    copy.mkdir(exist_ok=True)
    shutil.copy(run / "vocab.txt", copy)
    text = with_checksums(run, content) if name == "config.json" else text_of(content)
    (copy / name).write_text(text)
    with contextlib.suppress(UserError):
        if name == "config.json":
            config = read_config(copy)
            calibration = config.get("calibration", {"temperature": 1})
            assert 1e-3 <= calibration["temperature"] <= 1e3
            assert 0 <= calibration.get("threshold", 0.5) <= 1
            assert all(isinstance(name, str) for name in config["label2id"])
            json_text(config).encode()
            task_from_config(config)
        elif name == "metrics.json":
            results = read_results(copy, task_from_config(read_config(run)))
            assert math.isfinite(results["best"]["dev"]["accuracy"])
            json_text(results).encode()
        else:
            record = read_record(copy)
            for path in (*record.files, *record.parts):
                assert (run / path).resolve().is_relative_to(run.resolve())


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_the_commands_answer_with_a_result_or_one_sentence(folder, count):
    @examples(count)
    @given(st.data())
    def check(data):
        run = fresh(folder)
        name = data.draw(st.sampled_from(["config.json", "metrics.json"]))
        content = data.draw(mutated(json.loads((run / name).read_text())))
        text = with_checksums(run, content) if name == "config.json" else text_of(content)
        (run / name).write_text(text)
        for command in readers(folder, run).values():
            answer(*command)

    check()


@pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_a_finished_run_is_resumed_or_refused_in_one_sentence(folder, runner, count):
    @examples(count)
    @given(st.data())
    def check(data):
        run = fresh(folder)
        name = data.draw(st.sampled_from(["config.json", "metrics.json", "run.json"]))
        content = data.draw(mutated(json.loads((run / name).read_text())))
        text = with_checksums(run, content) if name == "config.json" else text_of(content)
        (run / name).write_text(text)
        resumed(folder, runner, run, "--predict_test", "--calibrate")

    check()


@pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_a_checkpoint_is_resumed_or_refused_in_one_sentence(folder, runner, count):
    @examples(count)
    @given(st.data())
    def check(data):
        run = fresh(folder, "stopped")
        path = checkpoint_in(run)
        arrays = read_params(path)
        if data.draw(st.booleans()):
            state = data.draw(mutated(json.loads(bytes(arrays["state 4"]))))
            arrays["state 4"] = np.frombuffer(text_of(state).encode(), np.uint8)
        else:
            name = data.draw(st.sampled_from(sorted(arrays)))
            array = arrays.pop(name)
            prefix = name.partition(":")[0] + ":"
            odd = {
                name: array[:-1],
                f"{name} ": array,
                f"{prefix}../outside/x": array,
                f"{prefix}{folder / 'outside/x'}": array,
                **{f"predictions:{there}": array for there in ("run.json", "../outside/x", "")},
            }
            odd |= {f"{name}#{kind}": array.astype(kind) for kind in ("f8", "u1", "i8")}
            chosen = data.draw(st.sampled_from(sorted(odd)))
            arrays[chosen.partition("#")[0]] = odd[chosen]
        write_params(path, arrays)
        resumed(folder, runner, run)

    check()


def test_no_path_comes_out_of_a_checkpoint(folder, runner):
    run = fresh(folder, "stopped")
    path = checkpoint_in(run)
    arrays = read_params(path)
    for name in ("../outside/x", str(folder / "outside/x"), "config.json", "../copy/run.json"):
        write_params(path, {**arrays, f"predictions:{name}": np.frombuffer(b"evil", np.uint8)})
        result = resumed(folder, runner, run)
        assert result["code"] == 2 and f"{path} does not fit this run: delete" in result["err"]
    write_params(path, arrays)
    assert resumed(folder, runner, run)["code"] == 0


def test_a_state_that_is_not_a_runs_is_passed_over(folder, runner):
    for text in ("x", "[]", "{}", '{"finished": true}', '{"a":' * 100_000):
        run = fresh(folder, "stopped")
        path = checkpoint_in(run)
        arrays = read_params(path)
        arrays["state 4"] = np.frombuffer(text.encode(), np.uint8)
        write_params(path, arrays)
        result = resumed(folder, runner, run)
        assert result["code"] == 0 and "it is passed over" in result["out"]


def test_where_a_run_is_resumed_does_not_come_out_of_its_record(folder, runner, tmp_path):
    run = fresh(folder)
    record = json.loads((run / "run.json").read_text())
    record["argv"] += ["--output_dir", str(folder / "elsewhere")]
    (run / "run.json").write_text(json.dumps(record))
    result = runner("--resume", "--output_dir", run)
    assert result["code"] == 0 and f"the run in {run} is finished" in result["out"]
    assert not (folder / "elsewhere").exists()


TEMPERATURES = [0, -1, 1e-9, 1e9, math.nan, math.inf, "1", True, None, [1], 10**400]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_temperature_is_a_positive_number(folder, run, temperature):
    config = json.loads((run / "config.json").read_text())
    config["calibration"]["temperature"] = temperature
    (run / "config.json").write_text(with_checksums(run, config))
    commands = readers(folder, run)
    for command in ALL:
        code, sentence = answer(*commands[command])
        assert code == 2 and "calibration.temperature is " in sentence


def test_an_edited_config_is_not_made_valid(folder, runner):
    run = fresh(folder)
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(
        text.replace('"do_lower_case": true', '"do_lower_case": false')
    )
    edited = (run / "config.json").read_bytes()
    assert edited != text.encode()
    for flags in ((), ("--calibrate",)):
        result = resumed(folder, runner, run, *flags)
        assert result["code"] == 2 and "its checksum differs" in result["err"]
        assert (run / "config.json").read_bytes() == edited


@pytest.mark.parametrize("name", ["dev_predictions.tsv", "dev_mistakes.tsv"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.split("\n")[0] + "\n",
        lambda text: text.replace("\t", "\t\t"),
        lambda text: re.sub(r"\d\.\d+", "nan", text),
        lambda text: re.sub(r"\d\.\d+", "1e39", text),
        lambda text: text + "\t" * 200_000 + "\n",
        lambda text: text + '"' + "x" * 200_000,
        lambda text: text + "\0\n",
        lambda text: text.replace("\t0\t", "\tother\t").replace("\t1\t", "\tother\t"),
    ],
)
def test_damaged_tables_are_one_sentence(folder, runner, name, change):
    run = fresh(folder)
    (run / name).write_text(change((run / name).read_text()))
    commands = readers(folder, run)
    for command in FILES[name]:
        answer(*commands[command])
    resumed(folder, runner, run, "--calibrate")


ARRAYS = {
    "float ids": {"input_ids": lambda a: a.astype(np.float32)},
    "ids in rows": {"input_ids": lambda a: a[:, None]},
    "negative ids": {"input_ids": lambda a: -a},
    "endless": {"max_len": lambda a: np.array([np.inf], np.float32)},
    "two lengths": {"max_len": lambda a: np.array([32, 32], np.int32)},
    "too short": {"max_len": lambda a: np.array([1], np.int32)},
    "bytes": {"offsets": lambda a: a.astype(np.uint8)},
    "offsets that fall": {"offsets": lambda a: a[::-1].copy()},
    "offsets that wrap": {"offsets": lambda a: a - np.array([0, *[2**62] * (len(a) - 2), 0])},
    "a long first text": {"first_segment": lambda a: a + 99},
    "a negative first text": {"first_segment": lambda a: -a},
    "unknown labels": {"label": lambda a: a + 9},
    "labels that are numbers": {"label": lambda a: a.astype(np.float32)},
    "labels of others": {"label": lambda a: a[:-1]},
    "no examples": {
        "offsets": lambda a: a[:1],
        **{n: lambda a: a[:0] for n in ("input_ids", "first_segment", "label", "truncated")},
    },
    "truths of others": {"truncated": lambda a: a[:-1]},
}


@pytest.mark.parametrize("case", ARRAYS)
def test_dev_examples_are_checked(folder, run, case):
    path = run / "dev_examples.params"
    arrays = read_params(path)
    TokenizedExamples.from_arrays(arrays)
    arrays |= {name: change(arrays[name]) for name, change in ARRAYS[case].items()}
    write_params(path, arrays)
    code, sentence = answer(*readers(folder, run)["export_classifier.py"])
    assert code == 2 and str(path) in sentence


ALL = ("predict.py", "export_classifier.py", "plot_runs.py")
# The commands that read a file, besides finetune_classifier.py.
FILES = {
    "config.json": ALL,
    "vocab.txt": ALL,
    "model.params": ALL[:2],
    "metrics.json": ALL[1:],
    "dev_predictions.tsv": ALL[1:],
    "dev_mistakes.tsv": ALL[2:],
    "dev_examples.params": ALL[1:2],
    "predictions/MRPC.tsv": ("pack_submission.py",),
    **dict.fromkeys(("run.json", "README.md", "checkpoint", "train.log", ".lock"), ()),
}


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "huge"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_not_waited_for(folder, runner, name, kind):
    run = fresh(folder)
    path = checkpoint_in(run) if name == "checkpoint" else run / name
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    commands = readers(folder, run)
    for command in FILES[name]:
        assert answer(*commands[command])[0] == 2
    resumed(folder, runner, run, "--calibrate", "--predict_test")


@pytest.mark.parametrize("name", ["train.log", ".lock", "predictions"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link"])
def test_nothing_is_written_through_a_link(folder, runner, name, kind):
    run = fresh(folder)
    path, target = run / name, folder / "outside/x"
    if path.is_dir():
        shutil.rmtree(path)
        target = folder / "outside"
    path.unlink(missing_ok=True)
    if kind == "hard link" and not target.is_dir():
        os.link(target, path)
    else:
        path.symlink_to(f"{target}.missing" if kind == "dangling link" else target)
    before = around(folder)
    for how in ("--resume", "--overwrite"):
        result = runner(*training(folder, run.name), "--predict_test", how)
        assert result["code"] == 2 and f"{path} is a link to another" in result["err"]
    assert around(folder) == before and (run / "model.params").exists()


def test_the_folder_of_a_seed_is_no_link(folder, runner):
    run = folder / "copy"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    (run / "seed-1").symlink_to(folder / "outside")
    before = around(folder)
    for flags in ((), ("--overwrite",)):
        result = runner(*training(folder, run.name), "--seeds", "1,2", *flags)
        assert result["code"] == 2 and "seed-1 is a link" in result["err"]
    assert around(folder) == before


def test_the_text_behind_a_link_does_not_get_into_a_page(folder, run):
    (folder / "outside/key").write_text("index\tSECRET\n1\tKEY\n")
    (run / "dev_mistakes.tsv").unlink()
    (run / "dev_mistakes.tsv").symlink_to(folder / "outside/key")
    code, sentence = answer(*readers(folder, run)["plot_runs.py"])
    assert code == 2 and "dev_mistakes.tsv is damaged" in sentence and "KEY" not in sentence
    (folder / "outside/key").unlink()

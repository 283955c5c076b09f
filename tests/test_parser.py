"""What all commands have in common: a quick --help, and one form of errors."""

from __future__ import annotations

import argparse
import os

import pytest
from conftest import ROOT, run_script

import export_classifier
import pack_submission
import plot_runs
import predict
from finetuning.parser import Parser, count

# Each script, and the least that it needs to be told.
SCRIPTS = {
    predict: ["--model_dir", "nowhere", "--text_a", "a"],
    export_classifier: ["--model_dir", "nowhere", "--format", "onnx", "--output_dir", "new"],
    plot_runs: ["nowhere", "--output_dir", "new"],
    pack_submission: ["nowhere", "--output", "new.zip"],
}
scripts = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)


@scripts
def test_help_loads_no_large_package_and_fits_a_terminal(script):
    command = ("-X", "importtime", ROOT / f"{script.__name__}.py", "--help")
    run = run_script(*command, env={**os.environ, "COLUMNS": "80"})
    assert run.returncode == 0 and "--output" in run.stdout
    loaded = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert not loaded & {"mxnet", "numpy", "scipy", "pandas", "matplotlib", "tokenizers"}
    assert max(map(len, run.stdout.splitlines())) <= 80


@scripts
def test_what_is_wrong_is_one_sentence_in_one_form(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, name = SCRIPTS[script], f"{script.__name__}.py"
    assert script.main(arguments) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"{name}: ") and "nowhere" in sentence
    # An abbreviation could become ambiguous with the next flag.
    for flags in ([], [*arguments, "--outp", "x"], [*arguments, "--nonsense"]):
        with pytest.raises(SystemExit) as end:
            script.main(flags)
        assert end.value.code == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert sentence.startswith(f"{name}: ") and sentence.endswith("(--help lists the flags)")


@scripts
def test_an_empty_argument_is_not_named_after_what_stands_before_it(script, capsys):
    for flags in ([""], ["run", ""]):
        with pytest.raises(SystemExit) as end:
            script.main(flags)
        assert end.value.code == 2
        assert f"{script.__name__}.py: an argument is empty" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["plot_runs", "pack_submission"])
def test_what_reads_text_only_needs_no_mxnet(script, tmp_path):
    program = (
        "import sys; sys.modules['mxnet'] = None\n"
        f"import {script}; sys.exit({script}.main(sys.argv[1:]))"
    )
    output = {"plot_runs": "--output_dir", "pack_submission": "--output"}[script]
    run = run_script("-c", program, tmp_path, output, tmp_path / "new")
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "not a run folder" in run.stderr or "no predictions" in run.stderr


def test_an_old_spelling_works_and_is_not_shown(capsys):
    parser = Parser("name", "what it does", {"--out": "--output_dir"})
    parser.add_argument("--output_dir", required=True)
    assert parser.parse_args(["--out", "a"]).output_dir == "a"
    assert parser.parse_args(["--out=a=b"]).output_dir == "a=b"
    assert "--out " not in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--out"])
    assert capsys.readouterr().err.startswith("name: --output_dir: expected one argument")


def test_a_count_is_at_least_1():
    assert count("3") == 3
    for text, says in {"0": "must be at least 1, not 0", "many": "'many' is not a whole"}.items():
        with pytest.raises(argparse.ArgumentTypeError, match=says):
            count(text)


@scripts
def test_an_empty_value_as_of_an_unset_variable_is_a_mistake_for_every_flag(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    flags = {word.strip("[],") for word in capsys.readouterr().out.split() if word[:2] == "--"}
    assert len(flags) > 1
    for flag in flags:
        for given in ([flag, ""], [f"{flag}="]):
            with pytest.raises(SystemExit) as end:
                script.main(given)
            error = capsys.readouterr().err
            assert end.value.code == 2 and f"the value of {flag} is empty" in error

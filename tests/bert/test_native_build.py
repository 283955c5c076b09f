"""How the fused operators are built, kept and loaded; what happens where that fails."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from bert import native

LOAD = "from bert import runtime; runtime.prepare(1); from bert import native; print(native.load())"


def load_elsewhere(folder=ROOT, **environment):
    """Load the operators in a new process, started in a checkout's folder, and return it."""
    return subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def running_commands() -> list[str]:
    """Return the command lines of all processes."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            commands.append(path.read_text(errors="replace"))
    return commands


def script(path: Path, *lines: str) -> str:
    """Write a shell script that stands in for a compiler; it answers ``--version``."""
    path.write_text("\n".join(["#!/bin/sh", '[ "$1" = --version ] && exit 0', *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def compiler(tmp_path) -> str:
    """A compiler that takes no time: it copies what was built for these tests."""
    (built,) = (
        library
        for folder in native._cache_folders()
        if (library := folder / f"bert-{native.load()}.so").exists()
    )
    return script(tmp_path / "c++", "for output; do :; done", f'cp "{built}" "$output"')


def test_a_build_is_kept_and_a_damaged_one_is_made_again(compiler, tmp_path):
    environment = {"CXX": compiler, "MXNET_HOME": str(tmp_path)}
    first = load_elsewhere(**environment)
    assert first.returncode == 0 and "compiling" in first.stderr
    second = load_elsewhere(**environment)
    assert second.stdout == first.stdout and "compiling" not in second.stderr
    (library,) = (tmp_path / "native").glob("*.so")
    library.write_bytes(library.read_bytes()[:-100])
    third = load_elsewhere(**environment)
    assert third.returncode == 0 and "compiling" in third.stderr


def test_a_second_checkout_uses_the_build_of_the_first(compiler, tmp_path):
    shutil.copytree(ROOT / "bert", tmp_path / "clone/bert")
    environment = {"CXX": compiler, "MXNET_HOME": str(tmp_path)}
    first = load_elsewhere(**environment)
    second = load_elsewhere(tmp_path / "clone", **environment)
    assert second.returncode == 0, second.stderr
    assert "compiling" in first.stderr and "compiling" not in second.stderr
    (tmp_path / "clone/bert/native/common.h").open("a").write("// changed\n")
    third = load_elsewhere(tmp_path / "clone", **environment)
    assert third.stdout != first.stdout and "compiling" in third.stderr


def test_libraries_that_are_no_longer_used_are_deleted(compiler, tmp_path):
    folder = tmp_path / "native"
    folder.mkdir()
    for days in range(12):
        for ending in (".so", ".sha256"):
            path = folder / f"bert-{days}-days-old{ending}"
            path.write_text("")
            os.utime(path, (time.time() - days * 86400 - 60,) * 2)
    for name, days in (("tmpkilled", 2), ("tmpbuilds", 0)):  # what builds work in
        (folder / name).mkdir()
        (folder / name / "cc.s").touch()
        os.utime(folder / name, (time.time() - days * 86400,) * 2)
    assert load_elsewhere(CXX=compiler, MXNET_HOME=str(tmp_path)).returncode == 0
    kept = {path.stem for path in folder.glob("*.so")}
    (built,) = (stem for stem in kept if "days" not in stem)
    assert kept == {built} | {f"bert-{days}-days-old" for days in range(7)}
    assert {path.stem for path in folder.glob("*.sha256")} == kept
    assert [path.name for path in folder.glob("tmp*")] == ["tmpbuilds"]


def test_two_processes_that_build_at_once_both_load(compiler, tmp_path):
    command = [sys.executable, "-c", LOAD]
    environment = {**os.environ, "CXX": compiler, "MXNET_HOME": str(tmp_path / "home")}
    both = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(p.suffix for p in (tmp_path / "home/native").iterdir()) == [".sha256", ".so"]


def finetune(tiny_bert, glue_dir, out, **environment):
    return subprocess.run(
        [
            *(sys.executable, "finetune_classifier.py", "--pretrained_bert_parameters", tiny_bert),
            *("--data_dir", glue_dir, "--output_dir", out, "--max_len", "32"),
            *("--num_threads", "1", "--training_steps", "2"),
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_working_compiler_training_works_and_says_so(
    compiler, tiny_bert, glue_dir, tmp_path
):
    environment = {"CXX": compiler, "MXNET_HOME": str(tmp_path / "home")}
    run = finetune(tiny_bert, glue_dir, tmp_path / "out", **environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("fused operators unavailable") == 1
    assert "does not work" in run.stdout and "stock operators" in run.stdout


def test_a_compiler_that_fails_is_reported_with_its_first_complaint(tmp_path):
    failing = script(tmp_path / "c++", "echo no space >&2", "exit 1")
    run = load_elsewhere(CXX=failing, MXNET_HOME=str(tmp_path))
    assert "the C++ compiler failed: no space" in run.stderr


def test_a_compiler_that_hangs_is_stopped_with_all_it_has_started(tmp_path, monkeypatch):
    hanging = script(tmp_path / "c++", f'sh -c "sleep 30; touch {tmp_path}/survived"; true')
    monkeypatch.setattr(native, "_BUILD_SECONDS", 1)
    with pytest.raises(native.NativeUnavailable, match="took over 1 s"):
        native._find_or_build(tmp_path / "cache", "key", [hanging])
    ends = time.monotonic() + 5
    while any(str(tmp_path) in command for command in running_commands()):
        assert time.monotonic() < ends, "the compiler's children still run"
        time.sleep(0.1)


def test_a_cache_that_cannot_be_used_is_replaced_by_a_temporary_folder(compiler, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    environment = {
        "CXX": compiler,
        "MXNET_HOME": str(tmp_path / "file"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    run = load_elsewhere(**environment)
    assert run.returncode == 0, run.stderr
    (folder,) = (tmp_path / "tmp").glob("mxnet-native-*")
    assert list(folder.glob("*.so")) and folder.stat().st_mode & 0o777 == 0o700


def test_a_library_that_somebody_else_could_have_written_is_not_loaded(tmp_path):
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)
    with pytest.raises(PermissionError, match="somebody else"):
        native._find_or_build(tmp_path / "native", "key", ["false"])


@pytest.mark.parametrize("change", ["mode", "link"])
def test_a_library_that_is_not_ours_alone_is_built_again(tmp_path, change):
    folder = tmp_path / "native"
    folder.mkdir(mode=0o700)
    library = folder / "bert-key.so"
    library.write_bytes(b"code")
    library.with_suffix(".sha256").write_text(hashlib.sha256(b"code").hexdigest())
    assert native._find_or_build(folder, "key", ["false"]) == library
    if change == "mode":
        library.chmod(0o666)
    else:
        library.rename(tmp_path / "elsewhere.so")
        library.symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(native.NativeUnavailable, match="the C\\+\\+ compiler failed"):
        native._find_or_build(folder, "key", ["false"])


def test_a_library_that_mxnet_does_not_take_is_reported(tmp_path):
    broken = script(tmp_path / "c++", "for output; do :; done", 'echo no library > "$output"')
    environment = {"CXX": broken, "MXNET_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    run = load_elsewhere(**environment)
    assert "NativeUnavailable: the fused operators cannot be loaded" in run.stderr


def test_a_user_without_a_home_builds_in_the_temporary_folder(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MXNET_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert [folder.name for folder in native._cache_folders()] == [f"mxnet-native-{os.getuid()}"]

"""What MXNet's wheel is given where the system lacks a shared library."""

from __future__ import annotations

import platform
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from bert import libraries


@pytest.fixture
def site_packages(tmp_path, monkeypatch) -> Path:
    """A site-packages folder of an MXNet that needs one library, which nobody has."""
    (tmp_path / "mxnet").mkdir()
    spec = ModuleSpec("mxnet", None, origin=str(tmp_path / "mxnet/__init__.py"))
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: spec)
    wanted = {"libnobody.so.1": (("peer.libs/libnobody*.so*", "libnone.so.6"), "libnobody1")}
    monkeypatch.setattr(libraries, "_LIBRARIES", wanted)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    return tmp_path


def test_what_the_loader_finds_is_left_alone(site_packages, monkeypatch):
    monkeypatch.setattr(libraries, "_LIBRARIES", {"libc.so.6": ((), "libc6")})
    assert libraries.complete() is None
    assert not list((site_packages / "mxnet").iterdir())


def test_a_library_of_another_wheel_stands_in(site_packages):
    peer = site_packages / "peer.libs/libnobody-0123.so.1.0.0"
    peer.parent.mkdir()
    peer.touch()
    link = site_packages / "mxnet/libnobody.so.1"
    link.symlink_to(site_packages / "gone")
    for _ in range(2):
        assert libraries.complete() is None
        assert link.resolve() == peer


def test_a_library_of_the_system_stands_in(site_packages, monkeypatch):
    wanted = {"libnobody.so": (("libnone.so.6", "libc.so.6"), "libc6")}
    monkeypatch.setattr(libraries, "_LIBRARIES", wanted)
    assert libraries.complete() is None
    assert (site_packages / "mxnet/libnobody.so").resolve().name.startswith("libc")


def test_a_library_that_cannot_be_had_is_named(site_packages):
    assert libraries.complete().endswith("(Debian, Ubuntu: apt install libnobody1)")


def test_arm_is_told_what_stands_in_for_arms_libraries(site_packages, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(libraries, "_LIBRARIES", {})
    monkeypatch.setattr(libraries, "_path_of", lambda name: None)
    assert "libarmpl_lp64_mp.so" in libraries.complete()
    assert libraries.complete().endswith("apt install libopenblas0 liblapacke)")
    monkeypatch.setattr(libraries, "_path_of", {"libopenblas.so.0": "/blas"}.get)
    assert libraries.complete().endswith("apt install liblapacke)")


def test_a_folder_that_cannot_be_written_is_named(site_packages, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(libraries, "_LIBRARIES", {"libx.so": (("libc.so.6",), "libc6")})
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert (
        f"{site_packages / 'mxnet'} cannot be written (Permission denied)" in libraries.complete()
    )

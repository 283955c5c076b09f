"""The shared libraries that MXNet's wheel is linked with, and does not bring.

The loader looks for them in the wheel's own folder first. Where the system lacks one,
:func:`complete` links to a substitute there, once for the installation.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path

# Library -> substitutes (patterns of paths below site-packages, or names that the loader knows),
# and the Debian packages that have one.
_Libraries = dict[str, tuple[tuple[str, ...], str]]
_LIBRARIES: _Libraries = {"libgomp.so.1": (("scikit_learn.libs/libgomp*.so*",), "libgomp1")}
_X86_LIBRARIES: _Libraries = {
    "libquadmath.so.0": (("scipy.libs/libquadmath*.so*",), "libquadmath0")
}
# The wheel for Arm wants Arm's Performance Libraries. All that it takes from them is BLAS and
# LAPACK, which OpenBLAS has, LAPACK's interface for C, and functions that the C library has too.
_ARM_LIBRARIES: _Libraries = {
    "libarmpl_lp64_mp.so": (("libopenblas.so.0", "libopenblasp.so.0"), "libopenblas0 liblapacke"),
    "libamath.so": (("liblapacke.so.3",), "liblapacke"),
    "libastring.so": (("libc.so.6",), "libc6"),
}
_OF_MACHINE: dict[str, _Libraries] = {"x86_64": _X86_LIBRARIES, "aarch64": _ARM_LIBRARIES}


def complete() -> str | None:
    """Give MXNet the libraries it needs; returns one sentence where that cannot be done."""
    spec = importlib.util.find_spec("mxnet")
    if spec is None or spec.origin is None:
        return None  # its import says so
    folder = Path(spec.origin).parent
    wanted = _LIBRARIES | _OF_MACHINE.get(platform.machine(), {})
    for name, (substitutes, package) in wanted.items():
        if (folder / name).exists() or _path_of(name):
            continue
        path = next(_found(substitutes, folder.parent), None)
        if path is None:
            return (
                f"MXNet needs {name}, which this machine lacks: install what has it or stands in "
                f"for it (Debian, Ubuntu: apt install {package})"
            )
        try:
            (folder / name).unlink(missing_ok=True)  # a link to what is gone
            with contextlib.suppress(FileExistsError):  # another process was faster
                (folder / name).symlink_to(path)
        except OSError as error:
            return (
                f"MXNet needs {name}, which this machine lacks, and {folder} cannot be written "
                f"({error.strerror}): as its owner, ln -s {path} {folder / name}"
            )
    return None


def _found(substitutes: tuple[str, ...], site_packages: Path) -> Iterator[str]:
    for substitute in substitutes:
        if "/" in substitute:
            yield from map(str, site_packages.glob(substitute))
        elif path := _path_of(substitute):
            yield path


class _LinkMap(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("path", ctypes.c_char_p))


def _path_of(name: str) -> str | None:
    """Return where the system's loader finds a shared library, which is loaded by that."""
    try:
        handle = ctypes.CDLL(name)._handle
    except OSError:
        return None
    link_map = 2  # RTLD_DI_LINKMAP
    library = ctypes.POINTER(_LinkMap)()
    ctypes.CDLL(None).dlinfo(ctypes.c_void_p(handle), link_map, ctypes.byref(library))
    return os.fsdecode(library.contents.path)

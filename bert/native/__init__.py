"""Fused CPU operators: built for this machine at first use, then loaded into MXNet.

The sources beside this file are compiled against the header and the source that MXNet's wheel
carries for that purpose, into a cache whose key is everything the result depends on. Each operator
is described at the head of its source:

==================== ======================================================
``bert_embedding``      three embeddings, LayerNorm, dropout
``bert_attention``      scores, softmax, dropout, context on packed rows
``bert_cls_attention``  the same for the first token of each pair only
``bert_add_norm``       bias, dropout, residual, LayerNorm
``bert_bias_gelu``      bias, GELU
``bert_adam``           global norm, clipping, BERTAdam on all parameters
==================== ======================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent
_BUILD_SECONDS = 300  # a compiler that takes longer hangs
_loaded: str | None = None


class NativeUnavailable(RuntimeError):
    """The fused operators cannot be had; the text says why, in one sentence."""


def load() -> str:
    """Load the fused operators into MXNet, building them first where the cache has none.

    Returns
    -------
    str
        The build's key: what exactness to the last bit depends on.

    Raises
    ------
    NativeUnavailable
        No compiler, or it fails; no folder to build in; a library MXNet does not take.
    """
    global _loaded
    if _loaded is None:
        import mxnet

        key, command = _plan(mxnet)
        try:
            mxnet.library.load(str(_find_or_build(key, command)), verbose=False)
        except mxnet.MXNetError as error:
            reason = str(error).strip().splitlines()[-1]
            raise NativeUnavailable(f"MXNet does not load the fused operators: {reason}") from None
        _loaded = key
    return _loaded


def _plan(mxnet) -> tuple[str, list[str]]:
    """Return the build's key and its command, which lacks only the output."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        raise NativeUnavailable("there is no C++ compiler (install g++, or name one in CXX)")
    wheel = Path(mxnet.__file__).parent
    sources = [*sorted(_SOURCES.glob("*.cc")), wheel / "src" / "lib_api.cc"]
    headers = [_SOURCES / "common.h", wheel / "include" / "mxnet" / "lib_api.h"]
    command = [
        *compiler.split(),
        *("-std=c++17", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-shared"),
        # GCC halves AVX-512's vectors unless told otherwise.
        *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
        f"-I{wheel / 'include'}",
        *map(str, sources),
    ]
    try:
        version = subprocess.run(
            [*compiler.split(), "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        content = [path.read_bytes() for path in (*sources, *headers)]
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailable(f"the C++ compiler {compiler} does not work ({error})") from None
    digest = hashlib.sha256()
    for part in (_cpu(), version, mxnet.__version__, " ".join(command)):
        digest.update(part.encode())
    for part in content:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:20], command


def _cpu() -> str:
    """Return what -march=native depends on: the processor's model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(x for x in lines if x.split("\t")[0] in ("model name", "flags", "Features"))


def _find_or_build(key: str, command: list[str]) -> Path:
    failure = None
    for folder in _cache_folders():
        library = folder / f"bert-{key}.so"
        if _is_whole(library):
            return library
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to somebody else")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                return _build(command, Path(scratch), library)
        except OSError as error:
            failure = error
    raise NativeUnavailable(f"there is no folder to build the fused operators in ({failure})")


def _cache_folders() -> list[Path]:
    """MXNet's own folder, and for machines where it cannot be written a temporary one."""
    home = os.environ.get("MXNET_HOME") or Path.home() / ".mxnet"
    return [Path(home) / "native", Path(tempfile.gettempdir()) / f"mxnet-native-{os.getuid()}"]


def _is_whole(library: Path) -> bool:
    """Tell whether a cached library is there and as it was built: loading another could crash."""
    with contextlib.suppress(OSError):
        if library.stat().st_uid == os.getuid():
            checksum = library.with_suffix(".sha256").read_text()
            return hashlib.sha256(library.read_bytes()).hexdigest() == checksum
    return False


def _build(command: list[str], scratch: Path, library: Path) -> Path:
    print("building the fused operators, once for this machine (about 15 s)", file=sys.stderr)
    built = scratch / library.name
    try:
        subprocess.run(
            [*command, "-o", str(built)],
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise NativeUnavailable(f"the C++ compiler took over {_BUILD_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        complaint = (error.stderr.strip() or "no message").splitlines()[0]
        raise NativeUnavailable(f"the C++ compiler failed: {complaint}") from None
    checksum = scratch / "sha256"
    checksum.write_text(hashlib.sha256(built.read_bytes()).hexdigest())
    # Two processes that build at once rename the same content; either order leaves a whole pair
    # or a pair that does not match, which is built again.
    built.replace(library)
    checksum.replace(library.with_suffix(".sha256"))
    return library

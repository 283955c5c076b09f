"""Fused CPU operators: compiled for this machine on first use, then loaded into MXNet.

The C++ files in this folder are compiled against the header and the source that MXNet's wheel
contains for that purpose, into a cache whose key covers everything the result depends on.
:func:`load` makes them operators like MXNet's own: ``mx.nd.bert_attention(...)``,
``F.bert_attention(...)``.

The T tokens of B pairs follow each other without padding. In every operator

- **offsets** ``[B + 1]`` int32: pair b has the rows ``offsets[b]`` to ``offsets[b + 1]``
- **dropout** ``[2]`` int32: a seed, new at every step, and the rate times 2^24. MXNet does not tell
  an extension whether it is training, so the rate must be 0 at inference
- **site**: int attribute, a different one for every place in the network with dropout
- **eps**: float attribute of LayerNorm

and all other arrays are float32. All but ``bert_adam`` have gradients for their float32 inputs.
They are always written, never added to (MXNet hides ``grad_req='add'`` from an extension).

``bert_embedding(word, token_type, position, gamma, beta, input_ids, token_types, offsets, dropout,
site, eps)``
    dropout(LayerNorm(sum of the three embeddings)) ``[T, units]``. The tables are ``[vocabulary,
    units]``, ``[types, units]`` and ``[positions, units]``, **input_ids** and **token_types**
    ``[T]`` int32.
``bert_attention(qkv, bias, offsets, dropout, heads, site)``
    dropout(softmax(q kᵀ / √d)) v ``[T, units]``, every token attending to its pair. **qkv**
    ``[T, 3 units]`` lacks its bias ``[3 units]``.
``bert_cls_attention(q, kv, bias, offsets, dropout, heads, site)``
    The same for the first token of each pair only, ``[B, units]``. **q** ``[B, units]``, **kv**
    ``[T, 2 units]``, **bias** ``[3 units]``.
``bert_add_norm(x, bias, residual, gamma, beta, dropout, site, eps)``
    LayerNorm(residual + dropout(x + bias)) ``[rows, units]``.
``bert_bias_gelu(x, bias)``
    gelu(x + bias) ``[rows, units]``, with the exact normal cdf.
``bert_bias_activation(x, bias, kind)``
    Another activation of x + bias: **kind** 0 is relu, 1 silu, 2 gelu with tanh.
``bert_layer(x, offsets, dropout, parameters..., heads, site, eps, kind, cls, bfloat16)``
    An encoder layer ``[T, units]``, or with **cls** its output for each pair's first token only,
    ``[B, units]``: see ``layer.cc``. **x** is ``[T, units]``, the 16 parameters are those of
    :data:`bert.fused.LAYER_PARAMETERS`, **site** is the first of three, and **kind** 3 is gelu.
    With **bfloat16** the factors of its products are rounded to bfloat16.
``bert_dense(x, weight)``
    x weightᵀ ``[rows, units]``, only if :data:`amx` is true: as exact as products in float32, and
    faster. **x** is ``[rows, depth]``, **weight** ``[units, depth]``.
``bert_adam(hyper, lr, decay, weight, gradient, m, v, weight, ..., parameters, beta1, beta2)``
    Updates weight, m and v of all parameters in place, and returns the gradients' global norm
    ``[1]`` before clipping; if it is not finite, nothing changes. **hyper** ``[4]`` is the factor
    of m (1, or the bias correction), epsilon, the factor of the gradients (1 / examples) and the
    largest norm; **lr** and **decay** ``[parameters]`` are learning rate and weight decay.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from bert import runtime
from bert.files import make_private, mxnet_home
from bert.terminal import say

OPERATORS = (
    "bert_embedding",
    "bert_attention",
    "bert_cls_attention",
    "bert_add_norm",
    "bert_bias_gelu",
    "bert_bias_activation",
    "bert_layer",
    "bert_adam",
)
_SOURCES = Path(__file__).parent
# The cache keeps this many libraries, and whichever were used within the last day.
_MOST_KEPT = 8
_SURELY_KEPT_SECONDS = 24 * 3600
_BUILD_SECONDS = 300  # a compiler that takes longer hangs
# -ffast-math without two of its parts: linking with it would make NumPy's subnormals 0 in the whole
# process, and -ffinite-math-only would make some nan look like numbers.
_ARITHMETIC = (
    "-fassociative-math",
    "-freciprocal-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
)
_loaded: str | None = None
#: Whether the loaded operators multiply with AMX, the processor's matrix units.
amx = False


class NativeUnavailable(RuntimeError):
    """The fused operators are unavailable; the message says why, in one sentence."""


class _BuildFailed(NativeUnavailable):
    """The compiler reports an error; another folder may help."""


def load() -> str:
    """Load the fused operators into MXNet; compile them first if the cache lacks them.

    Returns
    -------
    str
        The build's key. Results are bit-identical only between equal keys.

    Raises
    ------
    NativeUnavailable
        There is no compiler or it fails, there is no folder to build in, or MXNet refuses the
        library.
    """
    global _loaded
    if _loaded is None:
        import mxnet

        def load_into_mxnet(path: Path) -> None:
            try:
                _load_library(path)
            except mxnet.MXNetError as error:  # such as a folder that is mounted noexec
                raise OSError(str(error).strip().splitlines()[-1]) from None

        _loaded, _ = _open(load_into_mxnet)
    return _loaded


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library itself, whose plain functions need no MXNet: see :mod:`bert.inference`.

    It is compiled first if the cache lacks it.

    Raises
    ------
    NativeUnavailable
        As :func:`load`.
    """
    return _open(lambda path: ctypes.CDLL(str(path)))[1]


_Opened = TypeVar("_Opened")


def _open(opener: Callable[[Path], _Opened]) -> tuple[str, _Opened]:
    """Return the build's key, and what ``opener`` makes of its library in the first usable folder.

    ``opener`` raises OSError where it cannot load a library.
    """
    key, command = _plan()
    failure = "there is no folder to build the fused operators in: set MXNET_HOME to one"
    for folder in _cache_folders():
        try:
            path = _find_or_build(folder, key, command)
        except OSError as error:
            failure = f"there is no folder to build the fused operators in ({error})"
            continue
        except _BuildFailed as error:  # perhaps because this folder is full
            failure = str(error)
            continue
        try:
            return key, opener(path)
        except OSError as error:
            failure = f"the fused operators cannot be loaded: {error}"
    raise NativeUnavailable(failure)


def _load_library(path: Path) -> None:
    """Load a library of operators, as ``mx.library.load`` does.

    That function creates the Python functions of all of MXNet's operators again, which takes a
    third of a second.
    """
    global amx
    import mxnet
    from mxnet.base import _LIB, OpHandle, c_str, check_call
    from mxnet.ndarray.register import _make_ndarray_function
    from mxnet.operator import get_all_registered_operators
    from mxnet.symbol.register import _make_symbol_function

    check_call(_LIB.MXLoadLib(c_str(str(path)), 0))
    # A compiler that does not know AMX leaves the operator out.
    amx = "bert_dense" in get_all_registered_operators() and runtime.allow_amx()
    for name in (*OPERATORS, *(["bert_dense"] if amx else [])):
        handle = OpHandle()
        check_call(_LIB.NNGetOpHandle(c_str(name), ctypes.byref(handle)))
        setattr(mxnet.nd, name, _make_ndarray_function(handle, name, name))
        setattr(mxnet.sym, name, _make_symbol_function(handle, name, name))


def _plan() -> tuple[str, list[str]]:
    """Return the build's key and its command, to which only the output must be added."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        raise NativeUnavailable("there is no C++ compiler (install g++, or name one in CXX)")
    mxnet = importlib.util.find_spec("mxnet")  # found, but not loaded
    if mxnet is None or mxnet.origin is None:
        raise NativeUnavailable("MXNet is not installed")
    wheel = Path(mxnet.origin).parent
    sources = [*sorted(_SOURCES.glob("*.cc")), wheel / "src" / "lib_api.cc"]
    headers = [*sorted(_SOURCES.glob("*.h")), wheel / "include" / "mxnet" / "lib_api.h"]
    flags = [
        *("-std=c++17", "-O3", "-march=native", *_ARITHMETIC, "-fopenmp", "-fPIC", "-shared"),
        # Horovod brings a C++ library of its own, whose templates ours must not be bound to.
        *("-Wl,-Bsymbolic", "-fno-gnu-unique"),
        # GCC halves AVX-512's vectors unless told otherwise.
        *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
    ]
    command = [*compiler.split(), *flags, f"-I{wheel / 'include'}", *map(str, sources)]
    try:
        version = _run([*compiler.split(), "--version"], 30)
        content = [path.read_bytes() for path in (*sources, *headers)]
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailable(f"the C++ compiler {compiler} does not work ({error})") from None
    # Contents, not paths: every checkout on a machine shares the build.
    digest = hashlib.sha256()
    for text in (_cpu(), compiler, version, " ".join(flags)):
        digest.update(hashlib.sha256(text.encode()).digest())
    for path, part in zip((*sources, *headers), content, strict=True):
        digest.update(path.name.encode() + hashlib.sha256(part).digest())
    return digest.hexdigest()[:20], command


def _cpu() -> str:
    """Return what -march=native depends on: the processor's model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    wanted = "model name", "flags", "Features", "CPU implementer", "CPU part"  # x86, then Arm
    return "\n".join(line for line in lines if line.split("\t")[0] in wanted)


def _cache_folders() -> Iterator[Path]:
    """MXNet's own folder, and a temporary one if that cannot be used."""
    if home := mxnet_home():
        yield home / "native"
    with contextlib.suppress(OSError):  # there is no temporary folder either
        yield Path(tempfile.gettempdir()) / f"mxnet-native-{os.getuid()}"


def _find_or_build(folder: Path, key: str, command: list[str]) -> Path:
    make_private(folder)  # whoever can write there decides what is loaded
    library = folder / f"bert-{key}.so"
    with contextlib.suppress(OSError):
        os.utime(library, follow_symlinks=False)  # the time of its last use, for _clean
    if not _is_whole(library):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _build(command, Path(scratch), library)
        _clean(folder)
    return library


def _clean(folder: Path) -> None:
    """Delete the libraries that have not been used for longest, and what killed builds left.

    Another process that is about to load a library has just set its time. One that has loaded it
    does not need the file any more.
    """
    with contextlib.suppress(OSError):  # another process deletes the same ones
        libraries = sorted(folder.glob("bert-*.so"), key=lambda path: path.stat().st_mtime)
        for library in libraries[:-_MOST_KEPT]:
            if time.time() - library.stat().st_mtime > _SURELY_KEPT_SECONDS:
                library.with_suffix(".sha256").unlink(missing_ok=True)
                library.unlink(missing_ok=True)
        for scratch in folder.glob("tmp*"):  # of a build that was killed
            if time.time() - scratch.stat().st_mtime > _SURELY_KEPT_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(library: Path) -> bool:
    """Tell whether a cached library is complete, and nobody else can have written it."""
    with contextlib.suppress(OSError):
        status = library.lstat()
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or others:
            return False
        checksum = library.with_suffix(".sha256").read_text()
        return hashlib.sha256(library.read_bytes()).hexdigest() == checksum
    return False


def _build(command: list[str], scratch: Path, library: Path) -> None:
    say("compiling the CPU operators (about 15 s; cached for later runs)", sys.stderr)
    built = scratch / library.name
    try:
        _run([*command, "-o", str(built)], _BUILD_SECONDS, {"TMPDIR": str(scratch)})
    except subprocess.TimeoutExpired:
        raise NativeUnavailable(f"the C++ compiler took over {_BUILD_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        complaint = next((line for line in lines if "error: " in line), lines[0])
        raise _BuildFailed(f"the C++ compiler failed: {complaint}") from None
    checksum = scratch / "sha256"
    checksum.write_text(hashlib.sha256(built.read_bytes()).hexdigest())
    built.chmod(0o700)  # whatever the umask
    # Two processes that build at once rename the same content; either order leaves a complete
    # pair, or a pair that does not match, which is built again.
    built.replace(library)
    checksum.replace(library.with_suffix(".sha256"))


def _run(command: list[str], seconds: float, environment: Mapping[str, str] = {}) -> str:
    """Return a command's standard output; on a timeout its children are stopped with it.

    A compiler starts other processes, which ``subprocess.run`` would leave running.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            output, complaints = process.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output, complaints)
    return output

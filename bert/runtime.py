"""What must happen before ``import mxnet``: threads, names for NumPy, shared libraries.

Call :func:`prepare` first, then import MXNet. ``python -m bert.runtime`` is
``python -m bert.diagnose``.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import importlib
import os
import platform
import runpy
import sys
from importlib import metadata
from pathlib import Path

from bert import libraries
from bert.errors import UserError
from bert.terminal import say, shown

_MOST_THREADS = 1024  # far above what a network profits from
_CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
_ARCH_PRCTL = 158  # the system call's number on x86-64
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_CPU_MAX = _CGROUP / "cpu.max"


def physical_cores() -> int:
    """Return the number of physical cores this process may use, at least 1.

    Hyper-threads of one core count once (matrix products gain nothing from the second), and a
    container's CPU quota is respected.
    """
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    siblings = set()
    for cpu in cpus:
        try:
            siblings.add((_CPU_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    cores = len(siblings)
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def available_memory() -> int:
    """Return the bytes of available memory, also within a container's limit; 0: unknown."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
        available = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        cached = int((_CGROUP / "memory.stat").read_text().split("inactive_file ")[1].split()[0])
        used = int((_CGROUP / "memory.current").read_text()) - cached
        available = max(0, min(available, limit - used))
    return available


def processor() -> str:
    """Return the processor's model name, or its architecture if the system has no name for it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Return the processor's features by Linux's names; empty on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    return set()


def bfloat16_units() -> str | None:
    """Return the name of the processor's units for bfloat16, if it has any that are used."""
    flags = cpu_flags() if platform.machine() == "x86_64" else set()
    if "amx_bf16" in flags:
        return "AMX"
    return "AVX-512" if "avx512_bf16" in flags else None


def dtype_for(asked: str, gpu: bool = False) -> str:
    """Return the data type of products that a ``dtype`` asks for.

    ``auto`` is bfloat16 where the processor has units for it, and so multiplies faster in it;
    elsewhere, and on GPUs, it is float32. Any other is itself.
    """
    if asked != "auto":
        return asked
    return "bfloat16" if bfloat16_units() and not gpu else "float32"


def allow_amx() -> bool:
    """Ask Linux to let this process use AMX, the matrix units; returns whether it does."""
    request_permission, tile_data = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return (
        platform.machine() == "x86_64"  # an emulated Arm shows the flags of the machine below
        and "amx_bf16" in cpu_flags()
        and ctypes.CDLL(None).syscall(_ARCH_PRCTL, request_permission, tile_data) == 0
    )


def set_threads(num_threads: int | None = None) -> int:
    """Set how many threads OpenMP will use, before a library loads it; returns the number.

    The first half of :func:`prepare`, whose parameter this is, and all that :mod:`bert.inference`
    needs.
    """
    if num_threads is None:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(asked) if asked.isdecimal() and int(asked) > 0 else physical_cores()
    num_threads = max(1, num_threads // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))
    if num_threads > _MOST_THREADS:
        raise UserError(f"--num_threads {num_threads}: choose at most {_MOST_THREADS}")
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # OpenMP's threads spin while they wait for each other, by default for as long as a processor
    # beside another busy process may be away: a sentence then took 729 ms instead of 9. On a quiet
    # machine this costs a sentence up to 5 % and training nothing.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return num_threads


def prepare(num_threads: int | None = None, bfloat16: bool = False) -> int:
    """Import MXNet so that it works with current NumPy and uses all cores.

    Parameters
    ----------
    num_threads : int, optional
        OpenMP threads of all ranks that horovodrun has started on this machine. Default:
        ``OMP_NUM_THREADS`` if the user has set it, otherwise :func:`physical_cores`. MXNet reads
        it once, while it is loaded; its own default on a machine with two cores is one thread.
    bfloat16 : bool
        Let oneDNN use AMX, the matrix units for bfloat16, if the processor has them.

    Returns
    -------
    int
        The number of threads MXNet will use in this process.

    Raises
    ------
    UserError
        OpenMP cannot start so many threads: it would end the process.
    SystemExit
        MXNet or NumPy is not installed, or MXNet cannot be imported because there is no driver for
        its wheel for GPUs, or another library is missing; a sentence on standard error says so.
    """
    num_threads = set_threads(num_threads)
    # MXNet would warn of every sparse operation that it computes densely.
    os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")
    if bfloat16:
        if allow_amx():  # MXNet's oneDNN (2.4) does not use AMX by default
            os.environ.setdefault("DNNL_MAX_CPU_ISA", "AVX512_CORE_AMX")
        # Products in bfloat16 keep scratch space for every shape they have seen, and packed batches
        # have thousands of shapes: memory would grow by 34 MB per update of MiniLM.
        os.environ.setdefault("MXNET_MKLDNN_CACHE_NUM", "32")
        os.environ.setdefault("DNNL_PRIMITIVE_CACHE_CAPACITY", "64")
    if "mxnet-cu112" in mxnet_wheels():
        load_cuda_libraries()
        _require_driver()
    if complaint := libraries.complete():
        say(shown(complaint), sys.stderr)
        raise SystemExit(2)
    try:
        import_mxnet()
    except ModuleNotFoundError as error:
        say(
            f"the Python package {error.name} is not installed: run `make setup` and use "
            f".venv/bin/python, or run `{shown(sys.executable)} -m pip install --no-deps -r "
            "requirements.lock`",
            sys.stderr,
        )
        raise SystemExit(2) from None
    return num_threads


def num_threads() -> int:
    """Return the number of threads that :func:`prepare` has chosen for this process."""
    return int(os.environ["OMP_NUM_THREADS"])


def import_mxnet() -> None:
    """Import MXNet with current NumPy, and without two optional packages.

    MXNet imports scikit-learn (for its old FeedForward) and scipy.stats (for one way to quantize)
    if they are installed, which takes a second.
    """
    restore_numpy_names()
    hidden = [name for name in ("sklearn", "scipy.stats") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark: "not installed"
    try:
        importlib.import_module("mxnet")
    finally:
        for name in hidden:
            del sys.modules[name]


# Functions of finance that NumPy dropped in 1.20. MXNet looks them up and never calls them.
_NEVER_CALLED = ("fv", "ipmt", "irr", "mirr", "nper", "npv", "pmt", "ppmt", "pv", "rate")


def restore_numpy_names() -> None:
    """Give NumPy back the names that MXNet 1.9 uses at import, each with the value it had.

    NumPy dropped the aliases of Python's types in 1.24 (apache/mxnet#21165), the others in 2.0 and
    later. Names that NumPy still has are not changed.
    """
    import numpy as np

    here = vars(np)
    dropped = {
        **{name: getattr(builtins, name) for name in ("bool", "int", "float", "complex", "str")},
        **dict.fromkeys(("NaN", "NAN"), np.nan),
        **dict.fromkeys(("Inf", "PINF"), np.inf),
        **dict.fromkeys(_NEVER_CALLED),
        "object": object,
        "NINF": -np.inf,
        "PZERO": 0.0,
        "NZERO": -0.0,
        "alltrue": np.all,
        "sometrue": np.any,
        "round_": np.round,
        "product": np.prod,
        "cumproduct": np.cumprod,
        "in1d": np.isin,
        "trapz": here.get("trapezoid"),
        "msort": lambda a: np.sort(a, axis=0),
    }
    for name, value in dropped.items():
        if name not in here:
            setattr(np, name, value)


def mxnet_wheels() -> dict[str, str]:
    """Return name and version of the installed wheels of MXNet (there should be one)."""
    found = {}
    for name in ("mxnet", "mxnet-cu110", "mxnet-cu112"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


# What mxnet-cu112 is linked with, in an order in which each finds those it needs itself: the
# folder below site-packages/nvidia, and the file.
_CUDA_LIBRARIES = (
    ("cuda_runtime", "libcudart.so.11.0"),
    ("nvtx", "libnvToolsExt.so.1"),
    ("cuda_nvrtc", "libnvrtc.so.11.2"),
    ("cublas", "libcublasLt.so.11"),
    ("cublas", "libcublas.so.11"),
    ("cusparse", "libcusparse.so.11"),
    ("cusolver", "libcusolver.so.11"),
    ("curand", "libcurand.so.10"),
    ("cufft", "libcufft.so.10"),
    ("nccl", "libnccl.so.2"),
    ("cudnn", "libcudnn.so.8"),
)


def load_cuda_libraries() -> dict[str, str | None]:
    """Load NVIDIA's libraries from their PyPI packages, so that MXNet finds them.

    Returns
    -------
    dict of str to str
        Where each library was found: a path, ``the system``, or None.
    """
    found = {}
    for folder, name in _CUDA_LIBRARIES:
        paths = [Path(p, "nvidia", folder, "lib", name) for p in sys.path]
        where = next((str(path) for path in paths if path.is_file()), None)
        try:
            ctypes.CDLL(where or name, ctypes.RTLD_GLOBAL)
        except OSError:
            where = None
        else:
            where = where or "the system"
        found[name] = where
    return found


def _require_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        say(
            "MXNet's wheel for GPUs is installed, but this machine has no NVIDIA driver "
            "(libcuda.so.1): install the driver, or the wheel for CPUs (make setup)",
            sys.stderr,
        )
        raise SystemExit(2) from None


def why_no_gpu() -> str | None:
    """Return None if MXNet sees a GPU, otherwise one sentence that says what is missing."""
    import mxnet as mx

    if not mx.runtime.Features().is_enabled("CUDA"):
        return (
            f"the installed MXNet ({mx.__version__}) is built for CPUs only: install the GPU wheel "
            "(make setup-gpu), or leave out --gpu"
        )
    if not Path("/proc/driver/nvidia/version").exists():
        return "no NVIDIA driver is loaded on this machine: install it, or leave out --gpu"
    try:
        count = mx.context.num_gpus()
    except mx.MXNetError as error:
        return f"MXNet cannot use the GPU: {str(error).splitlines()[0]}"
    return None if count else "the NVIDIA driver is loaded, but MXNet sees no GPU"


if __name__ == "__main__":
    runpy.run_module("bert.diagnose", run_name="__main__")

"""What must happen before ``import mxnet``: threads, names for NumPy, shared libraries.

Call :func:`prepare` first, then import MXNet.

    python -m bert.runtime

says what is installed, and whether it can use this machine's GPUs.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import importlib
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bert import libraries

_CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
_ARCH_PRCTL = 158  # the system call's number on x86-64
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


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


def processor() -> str:
    """Return the processor's model name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Return what the processor says it can do, in Linux's names; empty on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    return set()


def bfloat16_units() -> str | None:
    """Return the name of the processor's units for bfloat16, if it has any that oneDNN uses."""
    flags = cpu_flags() if platform.machine() == "x86_64" else set()
    if "amx_bf16" in flags:
        return "AMX"
    return "AVX-512" if "avx512_bf16" in flags else None


def allow_amx() -> bool:
    """Ask Linux for the matrix units of AMX, for this process; tell whether it gives them."""
    request_permission, tile_data = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return (
        platform.machine() == "x86_64"  # an emulated Arm shows the flags of the machine below
        and "amx_bf16" in cpu_flags()
        and ctypes.CDLL(None).syscall(_ARCH_PRCTL, request_permission, tile_data) == 0
    )


def prepare(num_threads: int | None = None, bfloat16: bool = False) -> int:
    """Import MXNet so that it works with current NumPy and computes on all cores.

    Parameters
    ----------
    num_threads : int, optional
        OpenMP threads of all ranks that horovodrun has started on this machine. Default:
        ``OMP_NUM_THREADS`` where the user has set it, otherwise :func:`physical_cores`. MXNet reads
        it once, while it is loaded, and left alone it takes one thread on a machine of two cores.

    bfloat16 : bool
        Let oneDNN use AMX, the matrix units for bfloat16, where the processor has them.

    Returns
    -------
    int
        The number of threads MXNet will use in this process.

    Raises
    ------
    SystemExit
        MXNet or NumPy is not installed, or MXNet cannot be imported because there is no driver for
        its wheel for GPUs, or another library is missing; a sentence on standard error says so.
    """
    if num_threads is None:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(asked) if asked.isdigit() and int(asked) > 0 else physical_cores()
    num_threads = max(1, num_threads // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # Forked tokenizer threads and OpenBLAS beside OpenMP would only fight for the same cores.
    os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")
    if bfloat16:
        if allow_amx():  # MXNet's oneDNN (2.4) leaves AMX alone unless it is told otherwise
            os.environ.setdefault("DNNL_MAX_CPU_ISA", "AVX512_CORE_AMX")
        # Products in bfloat16 keep scratch space for every shape they have met, and packed batches
        # have thousands: 34 MB an update of MiniLM unless MXNet and oneDNN forget some.
        os.environ.setdefault("MXNET_MKLDNN_CACHE_NUM", "32")
        os.environ.setdefault("DNNL_PRIMITIVE_CACHE_CAPACITY", "64")
    if "mxnet-cu112" in mxnet_wheels():
        load_cuda_libraries()
        _require_driver()
    if complaint := libraries.complete():
        print(complaint, file=sys.stderr)
        raise SystemExit(2)
    try:
        restore_numpy_names()
        _import_mxnet()
    except ModuleNotFoundError as error:
        print(
            f"the Python package {error.name} is not installed: run `make setup` and use "
            f".venv/bin/python, or run `{sys.executable} -m pip install --no-deps -r "
            "requirements.lock`",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    return num_threads


def num_threads() -> int:
    """Return the number of threads that :func:`prepare` has chosen for this process."""
    return int(os.environ["OMP_NUM_THREADS"])


def _import_mxnet() -> None:
    """Import MXNet without what it asks for only to see whether it is there.

    scikit-learn (for its old FeedForward) and scipy.stats (for one way to quantize) take a second.
    """
    hidden = [name for name in ("sklearn", "scipy.stats") if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # None: "not installed"
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
    later. A name that NumPy still has is left alone.
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
    """Load NVIDIA's libraries from where their PyPI packages have put them, for all to see.

    Returns
    -------
    dict of str to str
        For each library where it was found: a path, ``the system``, or None.
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
        print(
            "MXNet's wheel for GPUs is installed, and this machine has no NVIDIA driver "
            "(libcuda.so.1): install the driver, or the wheel for CPUs (make setup)",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


@dataclass(frozen=True)
class GPU:
    """A GPU as ``nvidia-smi`` describes it."""

    index: int
    name: str
    memory_mib: int | None
    compute_capability: tuple[int, int] | None  # None: the driver is too old to tell

    @property
    def verdict(self) -> str:
        """Say whether MXNet 1.9's wheels hold code for it: 5.0 to 8.0, and none to compile."""
        capability = self.compute_capability
        if capability is None:
            return "the driver does not tell its compute capability: look it up; 5.0 to 8.9 can run"
        if capability < (5, 0):
            return "cannot run MXNet's wheels: they begin with compute capability 5.0"
        if capability >= (9, 0):
            return (
                "cannot run MXNet's wheels: they end with compute capability 8.9, and hold no code "
                "that a newer GPU could compile; use an older GPU, or the CPU"
            )
        return "can run MXNet's wheels"


_QUERY = "index,name,memory.total,compute_cap"


def gpus() -> tuple[list[GPU], str]:
    """Ask ``nvidia-smi`` for the GPUs; returns them, and the driver's version or what is wrong."""
    try:
        rows = _nvidia_smi(f"{_QUERY},driver_version")
        old = bool(rows) and "not a valid field" in rows[0]
        if old:  # drivers before 510
            rows = _nvidia_smi("index,name,memory.total,driver_version")
    except FileNotFoundError:
        return [], "no NVIDIA driver: nvidia-smi is not there"
    except (OSError, subprocess.SubprocessError) as error:
        return [], f"nvidia-smi fails: {error}"
    found, driver = [], "an NVIDIA driver, but no GPU"
    for row in rows:
        fields = [field.strip() for field in row.split(",")]
        if len(fields) != 5 - old or not fields[0].isdigit():
            driver = f"nvidia-smi says: {row.strip()}"
            continue
        capability = None
        if not old and re.fullmatch(r"\d+\.\d+", fields[3]):
            capability = tuple(map(int, fields[3].split(".")))
        memory = int(fields[2]) if fields[2].isdigit() else None
        found.append(GPU(int(fields[0]), fields[1], memory, capability))
        driver = f"NVIDIA driver {fields[-1]}"
    return found, driver


def _nvidia_smi(query: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout.strip() or done.stderr.strip()).splitlines()


def diagnosis() -> str:
    """Return what is installed, what the machine has, and what is missing, a line each."""
    import numpy as np

    supported = (3, 10) <= sys.version_info[:2] <= (3, 14)
    lines = [
        f"Python      {platform.python_version()}"
        + ("" if supported else ": supported are 3.10 to 3.14"),
        f"NumPy       {np.__version__}",
    ]
    wheels = mxnet_wheels()
    lines.append(f"MXNet       {', '.join(map(' '.join, wheels.items())) or 'not installed'}")
    if len(wheels) > 1:
        lines.append("            more than one: uninstall all of them, then install one")
    missing = []
    if "mxnet-cu112" in wheels:
        for name, where in load_cuda_libraries().items():
            lines.append(f"            {name:18} {where or 'missing'}")
            missing += [] if where else [name]
    if missing:
        lines.append("            make setup-gpu installs what is missing")
    if complaint := libraries.complete():
        lines.append(f"            {complaint}")
    try:
        restore_numpy_names()
        _import_mxnet()
        import mxnet as mx

        features = mx.runtime.Features()
        kinds = [kind for kind in ("CUDA", "CUDNN", "NCCL", "MKLDNN") if features.is_enabled(kind)]
        lines.append(f"            imports; built with {', '.join(kinds)}")
        lines.append(f"            sees {mx.context.num_gpus()} GPUs")
    except ImportError as error:
        lines.append(f"            does not import: {error}")
    except OSError as error:
        lines.append(f"            does not import: {error}")
        lines.append("            (a library of the driver or of CUDA that is not there)")
    units = bfloat16_units()
    lines.append(
        f"processor   {processor()}, {physical_cores()} cores for this process, bfloat16 "
        + (f"by {units}" if units else "emulated")
    )
    found, driver = gpus()
    lines.append(f"driver      {driver}")
    for gpu in found:
        capability = ".".join(map(str, gpu.compute_capability or ("unknown",)))
        memory = f"{gpu.memory_mib / 1024:.1f} GiB, " if gpu.memory_mib else ""
        lines.append(f"GPU {gpu.index}       {gpu.name}, {memory}compute capability {capability}")
        lines.append(f"            {gpu.verdict}")
    cuda = {"mxnet-cu110", "mxnet-cu112"} & set(wheels)
    if any("can run" in gpu.verdict for gpu in found) and not cuda:
        lines.append("            --gpu needs MXNet's wheel for GPUs: make setup-gpu")
    return "\n".join(lines)


def why_no_gpu() -> str | None:
    """Return None when MXNet sees a GPU, otherwise one sentence that says what is missing."""
    import mxnet as mx

    if not mx.runtime.Features().is_enabled("CUDA"):
        return (
            f"the installed MXNet ({mx.__version__}) is built for CPUs only: install the GPU wheel "
            "(make setup-gpu), or leave --gpu out"
        )
    if not Path("/proc/driver/nvidia/version").exists():
        return "no NVIDIA driver is loaded on this machine: install it, or leave --gpu out"
    try:
        count = mx.context.num_gpus()
    except mx.MXNetError as error:
        return f"MXNet cannot use the GPU: {str(error).splitlines()[0]}"
    return None if count else "the NVIDIA driver is loaded, but MXNet sees no GPU"


if __name__ == "__main__":
    print(diagnosis())

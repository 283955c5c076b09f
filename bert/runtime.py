"""What must happen before ``import mxnet``: threads and NumPy aliases.

Call :func:`prepare` first, then import MXNet. Nothing here imports it at module level.
"""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

_CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
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


def prepare(num_threads: int | None = None) -> int:
    """Make ``import mxnet`` work on today's NumPy and compute on all cores.

    Parameters
    ----------
    num_threads : int, optional
        OpenMP threads of all ranks that horovodrun has started on this machine. Default:
        ``OMP_NUM_THREADS`` where the user has set it, otherwise :func:`physical_cores`. MXNet reads
        it once, while it is loaded, and left alone it takes one thread on a machine of two cores.

    Returns
    -------
    int
        The number of threads MXNet will use in this process.
    """
    if num_threads is None:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(asked) if asked.isdigit() and int(asked) > 0 else physical_cores()
    num_threads = max(1, num_threads // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # Forked tokenizer threads and OpenBLAS beside OpenMP would only fight for the same cores.
    os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")
    _restore_numpy_aliases()
    return num_threads


def _restore_numpy_aliases() -> None:
    """Give NumPy >= 1.24 back the aliases that MXNet 1.9 uses at import (apache/mxnet#21165)."""
    import numpy as np

    for name in ("bool", "int", "float", "object", "complex", "str"):
        if name not in np.__dict__:
            setattr(np, name, getattr(__import__("builtins"), name))


def why_no_gpu() -> str | None:
    """Return None when MXNet sees a GPU, otherwise one sentence that says what is missing."""
    import mxnet as mx

    if not mx.runtime.Features().is_enabled("CUDA"):
        return (
            f"the installed MXNet ({mx.__version__}) is built for CPUs only: install the GPU wheel "
            "(see README, On a GPU), or leave --gpu out"
        )
    if not Path("/proc/driver/nvidia/version").exists():
        return "no NVIDIA driver is loaded on this machine: install it, or leave --gpu out"
    try:
        count = mx.context.num_gpus()
    except mx.MXNetError as error:
        return f"MXNet cannot use the GPU: {str(error).splitlines()[0]}"
    return None if count else "the NVIDIA driver is loaded, but MXNet sees no GPU"

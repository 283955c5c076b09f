"""Report what is installed, whether it can use this machine's GPUs, and what is missing.

    python -m bert.diagnose

Exit codes: 0 success; 2 unknown argument.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from bert import libraries, runtime
from bert.terminal import say, shown, start

_QUERY = "index,name,memory.total,compute_cap"


@dataclass(frozen=True)
class GPU:
    """A GPU as ``nvidia-smi`` describes it."""

    index: int
    name: str
    memory_mib: int | None
    compute_capability: tuple[int, int] | None  # None: the driver is too old to report it

    @property
    def can_run(self) -> bool:
        """Whether MXNet 1.9's wheels can run on it, as far as is known.

        They contain code for compute capability 5.0 to 8.0, and none to compile for newer ones.
        """
        return self.compute_capability is None or (5, 0) <= self.compute_capability < (9, 0)

    @property
    def verdict(self) -> str:
        """:attr:`can_run` as a sentence."""
        capability = self.compute_capability
        if capability is None:
            return (
                "the driver is too old to report the compute capability; MXNet runs on 5.0 to 8.9"
            )
        if capability < (5, 0):
            return "cannot run MXNet's wheels: they begin with compute capability 5.0"
        if capability >= (9, 0):
            return (
                "cannot run MXNet's wheels: they end with compute capability 8.9, and contain no "
                "code that a newer GPU could compile; use an older GPU, or the CPU"
            )
        return "can run MXNet's wheels"


def gpus() -> tuple[list[GPU], str]:
    """Ask ``nvidia-smi`` for the GPUs.

    Returns
    -------
    gpus : list of GPU
    driver : str
        The driver's version, or what is wrong.
    """
    try:
        rows = _nvidia_smi(f"{_QUERY},driver_version")
        old = bool(rows) and "not a valid field" in rows[0]
        if old:  # drivers before 510
            rows = _nvidia_smi("index,name,memory.total,driver_version")
    except FileNotFoundError:
        return [], "no NVIDIA driver: nvidia-smi is not installed"
    except (OSError, subprocess.SubprocessError) as error:
        return [], f"nvidia-smi fails: {error}"
    found, driver = [], "an NVIDIA driver, but no GPU"
    for row in rows:
        fields = [field.strip() for field in row.split(",")]
        if len(fields) != 5 - old or not fields[0].isdigit():
            driver = f"nvidia-smi says: {row.strip()}"
            continue
        capability = None
        if not old and (match := re.fullmatch(r"(\d+)\.(\d+)", fields[3])):
            capability = int(match[1]), int(match[2])
        memory = int(fields[2]) if fields[2].isdigit() else None
        found.append(GPU(int(fields[0]), fields[1], memory, capability))
        driver = f"NVIDIA driver {fields[-1]}"
    return found, driver


def _nvidia_smi(query: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout.strip() or done.stderr.strip()).splitlines()


def diagnosis() -> str:
    """Return what is installed, what the machine has, and what is missing, one item per line."""
    return "\n".join([*_python(), *_mxnet(), *_processor(), *_gpus()])


def _python() -> Iterator[str]:
    supported = (3, 10) <= sys.version_info[:2] <= (3, 14)
    note = "" if supported else ": supported are 3.10 to 3.14"
    yield f"Python      {platform.python_version()}{note}"
    try:
        yield f"NumPy       {metadata.version('numpy')}"
    except metadata.PackageNotFoundError:
        yield "NumPy       not installed"


def _mxnet() -> Iterator[str]:
    wheels = runtime.mxnet_wheels()
    yield f"MXNet       {', '.join(map(' '.join, wheels.items())) or 'not installed'}"
    if len(wheels) > 1:
        yield "            more than one: uninstall all of them, then install one"
    if "mxnet-cu112" in wheels:
        found = runtime.load_cuda_libraries()
        yield from (f"            {name:18} {where or 'missing'}" for name, where in found.items())
        if None in found.values():
            yield "            make setup-gpu installs what is missing"
    if complaint := libraries.complete():
        yield f"            {complaint}"
    try:
        runtime.import_mxnet()
        import mxnet as mx

        features = mx.runtime.Features()
        kinds = [kind for kind in ("CUDA", "CUDNN", "NCCL", "MKLDNN") if features.is_enabled(kind)]
        yield f"            imports; built with {', '.join(kinds)}"
        yield f"            sees {mx.context.num_gpus()} GPUs"
    except ImportError as error:
        yield f"            does not import: {error}"
    except OSError as error:
        yield f"            does not import: {error}"
        yield "            (a library of the driver or of CUDA is missing)"


def _processor() -> Iterator[str]:
    units = runtime.bfloat16_units()
    yield (
        f"processor   {runtime.processor()}, {runtime.physical_cores()} cores for this process, "
        f"bfloat16 {f'by {units}' if units else 'emulated'}"
    )


def _gpus() -> Iterator[str]:
    found, driver = gpus()
    yield f"driver      {driver}"
    for gpu in found:
        capability = ".".join(map(str, gpu.compute_capability or ("unknown",)))
        memory = f"{gpu.memory_mib / 1024:.1f} GiB, " if gpu.memory_mib else ""
        yield f"GPU {gpu.index}       {gpu.name}, {memory}compute capability {capability}"
        yield f"            {gpu.verdict}"
    has_gpu_wheel = {"mxnet-cu110", "mxnet-cu112"} & set(runtime.mxnet_wheels())
    if any(gpu.can_run for gpu in found) and not has_gpu_wheel:
        yield "            --gpu needs MXNet's wheel for GPUs: make setup-gpu"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bert.diagnose",
        description="Report what is installed, whether it can use this machine's GPUs, and what is "
        "missing.",
    )
    parser.parse_args(argv)
    say(shown(diagnosis(), 20_000, keep="\n"))
    return 0


if __name__ == "__main__":
    start(main)

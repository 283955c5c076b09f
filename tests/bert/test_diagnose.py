"""The diagnosis of a machine, against what nvidia-smi prints on machines of several kinds."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conftest import run_script

from bert import diagnose

# nvidia-smi --query-gpu=index,name,memory.total,compute_cap,driver_version
#            --format=csv,noheader,nounits
RECORDED = {
    "a T4": "0, Tesla T4, 15360, 7.5, 535.161.08",
    "four V100": "\n".join(f"{n}, Tesla V100-SXM2-16GB, 16160, 7.0, 470.182.03" for n in range(4)),
    "a laptop": "0, NVIDIA GeForce RTX 4090 Laptop GPU, 16376, 8.9, 550.54.14",
    "an H100": "0, NVIDIA H100 80GB HBM3, 81559, 9.0, 535.129.03",
    "a Kepler": "0, Tesla K80, 11441, 3.7, 470.82.01",
    "Blackwell": "0, NVIDIA B200, 183359, 10.0, 570.86.10",
    "no memory told": "0, NVIDIA GH200, [N/A], 9.0, 550.90.07",
    "a broken driver": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA "
    "driver. Make sure that the latest NVIDIA driver is installed and running.",
    "an old driver": 'Field "compute_cap" is not a valid field to query.',
    "no GPU": "No devices were found",
}
OLD_DRIVER = "0, Tesla P100-PCIE-16GB, 16280, 418.226.00"


@pytest.fixture
def with_smi(tmp_path, monkeypatch):
    """Put a program of the name of nvidia-smi on the path, which prints what was recorded."""

    def put(output):
        program = tmp_path / "nvidia-smi"
        program.write_text(
            "#!/bin/sh\n"
            f"case \"$*\" in *compute_cap*) cat <<'EOF'\n{output}\nEOF\n;; *) "
            f"cat <<'EOF'\n{OLD_DRIVER}\nEOF\n;; esac\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(
    "machine, capability, says",
    [
        ("a T4", (7, 5), "can run"),
        ("four V100", (7, 0), "can run"),
        ("a laptop", (8, 9), "can run"),
        ("an H100", (9, 0), "cannot run MXNet's wheels: they end"),
        ("Blackwell", (10, 0), "cannot run MXNet's wheels: they end"),
        ("no memory told", (9, 0), "cannot run MXNet's wheels: they end"),
        ("a Kepler", (3, 7), "cannot run MXNet's wheels: they begin"),
        ("an old driver", None, "too old to report"),
    ],
)
def test_a_gpu_is_known_by_its_compute_capability(machine, capability, says, with_smi):
    with_smi(RECORDED[machine])
    found, driver = diagnose.gpus()
    assert len(found) == (4 if machine == "four V100" else 1)
    assert [gpu.index for gpu in found] == list(range(len(found)))
    for gpu in found:
        assert gpu.compute_capability == capability and gpu.verdict.startswith(("the", says))
        assert says in gpu.verdict
    expected = OLD_DRIVER if machine == "an old driver" else RECORDED[machine]
    assert driver == f"NVIDIA driver {expected.split(', ')[-1]}"


@pytest.mark.parametrize("machine", ["a broken driver", "no GPU"])
def test_a_driver_that_fails_is_quoted(machine, with_smi):
    with_smi(RECORDED[machine])
    found, driver = diagnose.gpus()
    assert not found and driver == f"nvidia-smi says: {RECORDED[machine]}"


def test_without_a_driver_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnose.gpus() == ([], "no NVIDIA driver: nvidia-smi is not installed")


@pytest.mark.parametrize("module", ["bert.diagnose", "bert.runtime"])
def test_the_diagnosis_is_printed(module, with_smi):
    with_smi(RECORDED["an H100"])
    run = run_script("-m", module)
    assert run.returncode == 0, run.stderr
    for line in (
        f"NumPy       {np.__version__}",
        "MXNet       mxnet",
        "imports; built with",
        "bfloat16",
        "driver      NVIDIA driver 535.129.03",
        "GPU 0       NVIDIA H100 80GB HBM3, 79.6 GiB, compute capability 9.0",
        "cannot run MXNet's wheels",
    ):
        assert line in run.stdout


def test_a_gpu_that_can_run_without_its_wheel_is_told_how_to_get_it(with_smi):
    with_smi(RECORDED["a T4"])
    assert "--gpu needs MXNet's wheel for GPUs: make setup-gpu" in diagnose.diagnosis()


@pytest.mark.parametrize("module", ["bert.diagnose", "bert.runtime", "bert.zoo"])
def test_unknown_arguments_are_refused_and_help_is_given(module):
    refused = run_script("-m", module, "--nonsense")
    assert refused.returncode == 2 and "unrecognized arguments: --nonsense" in refused.stderr
    assert not refused.stdout
    helped = run_script("-m", module, "--help")
    assert helped.returncode == 0 and helped.stdout.startswith("usage: python -m bert.")

"""The diagnosis of a machine, against what nvidia-smi prints on machines of several kinds."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_script

from bert import runtime

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
        ("an old driver", None, "look it up"),
    ],
)
def test_a_gpu_is_known_by_its_compute_capability(machine, capability, says, with_smi):
    with_smi(RECORDED[machine])
    found, driver = runtime.gpus()
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
    found, driver = runtime.gpus()
    assert not found and driver == f"nvidia-smi says: {RECORDED[machine]}"


def test_without_a_driver_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtime.gpus() == ([], "no NVIDIA driver: nvidia-smi is not there")


def test_the_diagnosis_is_printed(with_smi):
    with_smi(RECORDED["an H100"])
    run = subprocess.run(
        [sys.executable, "-m", "bert.runtime"], cwd=ROOT, capture_output=True, text=True
    )
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


@pytest.mark.parametrize("local_ranks, threads", [("1", 4), ("2", 2), ("3", 1), ("9", 1)])
def test_the_ranks_of_a_machine_divide_its_threads(local_ranks, threads):
    code = "from bert import runtime; print(runtime.prepare(4))"
    environment = os.environ | {"HOROVOD_LOCAL_SIZE": local_ranks}
    run = run_script("-c", code, env=environment)
    assert run.stdout.split() == [str(threads)]


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--dtype", "float16"), "needs --gpu"),
        (("--dtype", "bfloat16", "--gpu"), "for CPUs"),
        (("--gpu", "0,0"), "twice"),
        (("--gpu", "0,x"), "--gpu must be a whole number"),
    ],
)
def test_what_a_device_cannot_do_is_refused(flags, says, capsys):
    from finetuning.options import parse

    with pytest.raises(SystemExit) as exit:
        parse("", list(flags))
    assert exit.value.code == 2 and says in capsys.readouterr().err


GPU_PYTHON = ROOT / ".venv-gpu/bin/python"  # make setup-gpu: 2 GB
# What libmxnet.so of mxnet-cu112 takes from the driver.
DRIVER_FUNCTIONS = (
    "cuDeviceGet cuDevicePrimaryCtxRetain cuGetErrorString cuGraphKernelNodeGetParams "
    "cuGraphNodeGetType cuLaunchKernel cuModuleGetFunction cuModuleLoadData cuModuleLoadDataEx "
    "cuModuleUnload"
).split()


@pytest.mark.slow
@pytest.mark.skipif(not GPU_PYTHON.exists(), reason="make setup-gpu was not run")
def test_the_gpu_wheel_imports_and_says_what_is_missing(tiny_bert, glue_dir, tmp_path):
    flags = ("--pretrained_bert_parameters", tiny_bert, "--data_dir", glue_dir, "--epochs", "1")
    train = [GPU_PYTHON, "finetune_classifier.py", *flags, "--max_len", "32", "--output_dir"]

    def run(*command, **environment):
        return subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    without = run(*train, tmp_path / "without", "--gpu")
    assert without.returncode == 2 and "no NVIDIA driver" in without.stderr
    assert without.stderr.count("\n") == 1
    # A driver that has no GPU: CUDA_ERROR_NO_DEVICE from every function.
    source = "".join(f"int {name}(void) {{ return 100; }}\n" for name in DRIVER_FUNCTIONS)
    (tmp_path / "stub.c").write_text(source)
    stub = ("-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", tmp_path / "libcuda.so.1")
    assert run("cc", *stub, tmp_path / "stub.c").returncode == 0
    driver = {"LD_LIBRARY_PATH": str(tmp_path)}
    diagnosis = run(GPU_PYTHON, "-m", "bert.runtime", **driver)
    assert "built with CUDA" in diagnosis.stdout and "missing" not in diagnosis.stdout
    refused = run(*train, tmp_path / "gpu", "--gpu", **driver)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    trained = run(*train, tmp_path / "cpu", "--no_native", **driver)
    assert trained.returncode == 0, trained.stderr

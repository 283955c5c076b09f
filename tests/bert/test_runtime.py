"""What happens before MXNet is loaded: threads, NumPy's names, the processor's features."""

from __future__ import annotations

import os
import subprocess

import pytest
from conftest import ROOT, run_script


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

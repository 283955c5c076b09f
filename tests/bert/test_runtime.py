"""What happens before MXNet is loaded: threads, NumPy's names, the processor's features."""

from __future__ import annotations

import os
import subprocess

import pytest
from conftest import ROOT, run_script

from bert import runtime
from bert.errors import UserError


@pytest.mark.parametrize("local_ranks, threads", [("1", 4), ("2", 2), ("3", 1), ("9", 1)])
def test_the_ranks_of_a_machine_divide_its_threads(local_ranks, threads):
    code = "from bert import runtime; print(runtime.prepare(4))"
    environment = os.environ | {"HOROVOD_LOCAL_SIZE": local_ranks}
    run = run_script("-c", code, env=environment)
    assert run.stdout.split() == [str(threads)]


@pytest.mark.parametrize(
    "environment, threads",
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "0"}, runtime.physical_cores()),
        ({"OMP_NUM_THREADS": "many"}, runtime.physical_cores()),
    ],
)
def test_the_users_number_of_threads_is_kept(environment, threads):
    code = "import os; from bert import runtime; runtime.prepare(); print(os.environ[{!r}])"
    run = run_script("-c", code.format("OMP_NUM_THREADS"), env=os.environ | environment)
    assert run.stdout.split() == [str(threads)], run.stderr


def test_more_threads_than_openmp_can_start_are_refused():
    with pytest.raises(UserError, match="--num_threads 100000: choose at most"):
        runtime.prepare(100_000)


@pytest.mark.parametrize(
    "environment, spins",
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_give_way_unless_the_user_has_a_policy(environment, spins):
    code = "import os; from bert import runtime; runtime.prepare(); "
    code += "print(os.environ.get('GOMP_SPINCOUNT'))"
    free = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    assert run_script("-c", code, env=free | environment).stdout.split() == [spins]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of four hyper-threads on two cores; returns the file with a container's quota."""
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}")
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(runtime, "_CPU_TOPOLOGY", tmp_path)
    monkeypatch.setattr(runtime, "_CGROUP_CPU_MAX", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    return quota


@pytest.mark.parametrize(
    "quota, cores",
    [(None, 2), ("max 100000", 2), ("150000 100000", 1), ("10000 100000", 1), ("strange", 2)],
)
def test_hyper_threads_and_a_containers_quota_are_respected(machine, quota, cores):
    if quota:
        machine.write_text(quota)
    assert runtime.physical_cores() == cores


@pytest.mark.parametrize(
    "flags, units",
    [({"avx2"}, None), ({"avx512_bf16"}, "AVX-512"), ({"avx512_bf16", "amx_bf16"}, "AMX")],
)
def test_units_for_bfloat16_are_known_by_the_processors_flags(flags, units, monkeypatch):
    monkeypatch.setattr(runtime, "cpu_flags", lambda: flags)
    assert runtime.bfloat16_units() == units


def test_importing_mxnet_loads_no_scikit_learn_and_hides_none():
    code = (
        "import sys; from bert import runtime; runtime.prepare(1); "
        "print('sklearn' in sys.modules, 'scipy.stats' in sys.modules); "
        "import sklearn, scipy.stats"
    )
    run = run_script("-c", code)
    assert run.returncode == 0 and run.stdout.split() == ["False", "False"], run.stderr


def test_a_missing_package_is_one_sentence(tmp_path):
    (tmp_path / "mxnet.py").write_text("import something_that_is_not_installed")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import bert; bert.get_model"
    run = run_script("-c", code)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "the Python package something_that_is_not_installed is not installed" in run.stderr


def test_without_a_gpu_it_is_said_what_is_missing():
    assert "make setup-gpu" in runtime.why_no_gpu()


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


def test_the_memory_of_a_container_counts_where_it_is_less(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_CGROUP", tmp_path)
    free = runtime.available_memory()
    assert free > 0
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 2000\n")
    assert runtime.available_memory() == 6000
    (tmp_path / "memory.max").write_text("max\n")
    assert runtime.available_memory() > free / 2

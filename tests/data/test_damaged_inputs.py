"""No input file, however damaged, ends in a crash, a hang or a traceback; ours never unnoticed."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import write_mrpc

# What is damaged, and whether the file is ours: then every damage must be noticed.
FILES = {
    "run/model.params": True,
    "run/config.json": True,
    "run/vocab.txt": True,
    "stopped/checkpoint": True,
    "run/model.params without checksum": False,
    "bert/model.safetensors": False,
    "bert/config.json": False,
    "bert/vocab.txt": False,
    "glue/MRPC/train.tsv": False,
    "glue/MRPC/dev.tsv": False,
}
FLAGS = ("--max_len", "32", "--epochs", "1", "--batch_size", "8")


def damage(content: bytes, dice: random.Random) -> bytes:
    """Flip some bits, cut the end off, or put random bytes somewhere; never nothing."""
    damaged = bytearray(content)
    while bytes(damaged) == content:
        match dice.choice(("flip", "truncate", "randomise")):
            case "flip":
                for _ in range(dice.choice((1, 1, 1, 2, 8))):
                    # Headers are where it is most dangerous, and most of a file is not header.
                    end = dice.choice((64, 2000, len(content)))
                    damaged[dice.randrange(min(end, len(content)))] ^= 1 << dice.randrange(8)
            case "truncate":
                del damaged[dice.randrange(len(content)) :]
            case "randomise":
                start = dice.choice((0, dice.randrange(len(content))))
                size = dice.choice((1, 8, 64, len(content)))
                damaged[start : start + size] = dice.randbytes(len(damaged[start : start + size]))
    return bytes(damaged)


@pytest.fixture(scope="module")
def originals(tiny_bert, runner, tmp_path_factory) -> Path:
    """A folder with a pretrained BERT, data, a finished run and a stopped one."""
    folder = tmp_path_factory.mktemp("originals")
    shutil.copytree(tiny_bert, folder / "bert")
    write_mrpc(folder / "glue", train=24, dev=10)
    for name, fault, code in (("run", {}, 0), ("stopped", {"fail_sync": 13}, 1)):
        run = runner(*training(folder, name, "--checkpoint_steps", "1"), **fault)
        assert run["code"] == code, run
    return folder


def training(folder: Path, out: str, *flags) -> tuple:
    source = ("--pretrained_bert_parameters", folder / "bert", "--data_dir", folder / "glue")
    return (*source, "--output_dir", folder / out, *FLAGS, *flags)


def run_with(file: str, dice: random.Random, originals: Path, folder: Path, runner) -> dict:
    """Damage one file of a fresh copy of everything, and use it as a user would."""
    shutil.copytree(originals, folder)
    path = folder / file.split()[0]
    if file == "stopped/checkpoint":
        path = max(folder.glob("stopped/checkpoint-*.params"))
    content = path.read_bytes()
    if file.endswith("without checksum"):
        content = content[:8] + bytes(8) + content[16:]
    path.write_bytes(damage(content, dice))
    if file.startswith("stopped"):
        return runner(*training(folder, "stopped", "--resume"))
    if file.startswith("run"):
        model = ("--model_parameters", folder / "run", "--data_dir", folder / "glue")
        return runner("--only_inference", *model)
    return runner(*training(folder, "out", "--training_steps", "1"))


@pytest.mark.parametrize("cases", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_damaged_file_ends_in_a_sentence_or_in_a_run_on_what_it_says(
    cases, originals, runner, tmp_path
):
    dice, outcomes = random.Random(6), Counter()
    for case in range(cases):
        file = list(FILES)[case % len(FILES)]
        folder = tmp_path / "case"
        run = run_with(file, dice, originals, folder, runner)
        where = f"case {case}, {file}: {run}"
        if run["code"] == 0:
            passed_over = file == "stopped/checkpoint" and "is damaged" in run["out"]
            assert passed_over or not FILES[file], where
            outcomes[file, "passed over" if passed_over else "run"] += 1
        else:
            assert run["code"] in (1, 2), where
            assert "Traceback" not in run["err"], where
            # Which file it is (a weight that is finite, but absurd, shows only in the outputs).
            named = any(str(folder / part) in run["err"] for part in ("bert", "glue", "run"))
            assert named or "not finite" in run["err"], where
            outcomes[file, "error"] += 1
        shutil.rmtree(folder)
        if case % 100 == 99:
            runner.close()  # MXNet keeps memory for each of the networks
    for (file, outcome), count in sorted(outcomes.items()):
        print(f"{file}: {count} {outcome}")


def set_config(name, value):
    def change(bert: Path) -> None:
        path = bert / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return change


def claim_bfloat16(bert: Path) -> None:
    path = bert / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["bert.pooler.dense.bias"] |= {"dtype": "BF16", "shape": [64]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


# What chance would hardly find.
TRAPS = {
    "numbers that NumPy does not have": claim_bfloat16,
    "a header of 2^60 bytes": lambda bert: (bert / "model.safetensors").write_bytes(b"\x10" * 64),
    "layers without end": set_config("num_hidden_layers", 10**9),
    "positions without end": set_config("max_position_embeddings", 10**18),
    "an epsilon that is not a number": set_config("layer_norm_eps", float("nan")),
    "an epsilon that is infinite": set_config("layer_norm_eps", float("inf")),
    "brackets without end": lambda bert: (bert / "config.json").write_text("[" * 200_000),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_file_made_to_do_harm_with(trap, originals, runner, tmp_path):
    folder = shutil.copytree(originals, tmp_path / "case")
    TRAPS[trap](folder / "bert")
    run = runner(*training(folder, "out", "--training_steps", "1"), timeout=20)
    assert run["code"] in (1, 2) and run["err"].count("\n") == 1, run

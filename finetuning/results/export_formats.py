"""The formats of export_classifier.py: one table, a writer and a reader for each.

Nothing here loads MXNet before a model is written, so that ``--help`` and the model card can use
the table.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mxnet as mx
    import numpy as np

    from bert.classifier import Classifier

# Padded input_ids and token_types [B, L] and valid_length [B], all int32, to logits [B, labels].
Compute = Callable[["np.ndarray", "np.ndarray", "np.ndarray"], "np.ndarray"]


class Format(NamedTuple):
    """A format that a fine-tuned model can be exported in."""

    write: Callable[[Path, Classifier], None]  # fills a new folder
    read: Callable[[Path], Compute]  # computes from the files in that folder, in this process
    reader: str  # what opens the export in other programs
    library: str  # what opens the export, in the Hugging Face Hub's terms
    usage: str  # Markdown for the export's card; {max_len} is the run's
    files: str  # what --help says about it
    packages: tuple[str, ...] = ()  # optional ones that write and read need
    quantize: Callable[[Path, Classifier], None] | None = None  # makes the files 8-bit


def write_gluon(folder: Path, model: Classifier) -> None:
    from bert import export

    export.write_symbol(folder, model.net, model.config, model.tokenizer)


def read_gluon(folder: Path) -> Compute:
    import mxnet as mx

    from bert.export import SYMBOL_INPUTS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the types of the inputs are those of the first batch
        block = mx.gluon.SymbolBlock.imports(
            str(folder / "classifier-symbol.json"),
            list(SYMBOL_INPUTS),
            str(folder / "classifier-0000.params"),
        )
    return _block_compute(block)


def write_huggingface(folder: Path, model: Classifier) -> None:
    from bert import export
    from bert.parameters import arrays_of

    export.write_huggingface(folder, arrays_of(model.net), model.config, model.tokenizer)


def read_huggingface(folder: Path) -> Compute:
    from bert import export

    return _block_compute(export.read_huggingface(folder))


def _block_compute(block: mx.gluon.HybridBlock) -> Compute:
    import mxnet as mx

    block.hybridize(static_alloc=True)
    return lambda *batch: block(*(mx.nd.array(a, dtype="int32") for a in batch)).asnumpy()


def write_onnx(folder: Path, model: Classifier) -> None:
    from bert import export, onnx_graph
    from bert.parameters import arrays_of

    onnx_graph.write(folder / "model.onnx", arrays_of(model.net), model.net.bert.config)
    export.write_tokenizer_and_config(folder, model.config, model.tokenizer)


def quantize_onnx(folder: Path, model: Classifier) -> None:
    """Replace an ONNX model by one with 8-bit products.

    Each output of a product has its own scale. The word embeddings become float16 instead: in 8
    bits, with one scale, they cost a point of MRPC's accuracy.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from bert import onnx_graph
    from bert.parameters import arrays_of, release_memory

    float32 = folder / "float32.onnx"
    onnx_graph.write(float32, arrays_of(model.net), model.net.bert.config, half_embeddings=True)
    release_memory()
    logging.disable(logging.WARNING)  # it recommends what this graph does not need
    quantize_dynamic(
        float32,
        folder / "model.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    logging.disable(logging.NOTSET)
    float32.unlink()


def read_onnx(folder: Path) -> Compute:
    """Open an ONNX model in ONNX Runtime, on the CPU, with the threads that MXNet has."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])  # runtime.prepare sets it
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
    inputs = [node.name for node in session.get_inputs()]

    def compute(
        input_ids: np.ndarray, token_types: np.ndarray, valid_length: np.ndarray
    ) -> np.ndarray:
        mask = np.arange(input_ids.shape[1]) < valid_length[:, None]
        batch = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_types}
        batch = {name: batch[name].astype(np.int64) for name in inputs}
        return session.run(["logits"], batch)[0]

    return compute


_TOKENIZE = """\
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
batch = tokenizer(
    texts, truncation=True, max_length={max_len}, padding=True, return_tensors="%s"
)"""
_GLUON_USAGE = """\
```python
import mxnet as mx

net = mx.gluon.SymbolBlock.imports(
    "THIS_FOLDER/classifier-symbol.json",
    ["input_ids", "token_types", "valid_length"],
    "THIS_FOLDER/classifier-0000.params",
)
```

The package tokenizers reads the tokenizer: `Tokenizer.from_file("THIS_FOLDER/tokenizer.json")`."""
_HUGGINGFACE_USAGE = f"""\
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("THIS_FOLDER")
{_TOKENIZE % "pt"}
logits = model(**batch).logits
```"""
_ONNX_USAGE = f"""\
```python
import onnxruntime
from transformers import AutoTokenizer

session = onnxruntime.InferenceSession("THIS_FOLDER/model.onnx")
{_TOKENIZE % "np"}
(logits,) = session.run(["logits"], dict(batch))
```"""
# All that an export may consist of, whatever its format.
FILES = frozenset(
    "README.md config.json vocab.txt tokenizer.json tokenizer_config.json model.safetensors "
    "model.onnx classifier-symbol.json classifier-0000.params".split()
)

FORMATS = {
    "gluon": Format(
        write_gluon,
        read_gluon,
        "mx.gluon.SymbolBlock.imports",
        "mxnet",
        _GLUON_USAGE,
        "a symbol file, classifier-symbol.json, and classifier-0000.params, also for\n"
        "MXNet in other languages; inputs input_ids and token_types [B, L],\n"
        "valid_length [B], int32. (python -m bert.convert --to gluon writes\n"
        "parameters and config instead, for this project and gluonnlp's networks.)",
    ),
    "huggingface": Format(
        write_huggingface,
        read_huggingface,
        "transformers' AutoModelForSequenceClassification",
        "transformers",
        _HUGGINGFACE_USAGE,
        "config.json and model.safetensors",
    ),
    "onnx": Format(
        write_onnx,
        read_onnx,
        "ONNX Runtime",
        "onnx",
        _ONNX_USAGE,
        "model.onnx, any batch and length; inputs input_ids, attention_mask and\n"
        "token_type_ids [B, L], int64 (RoBERTa and DistilBERT take no token types)",
        packages=("onnx", "onnxruntime"),
        quantize=quantize_onnx,
    ),
}


def described() -> str:
    """Return the formats as text for ``--help``."""
    entries = (
        f"  {name}: for {format.reader}\n{indent(format.files, 4 * ' ')}"
        for name, format in FORMATS.items()
    )
    return "formats:\n\n" + "\n".join(entries)

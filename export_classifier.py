#!/usr/bin/env python3
"""Export a fine-tuned model for other programs and verify its results.

    python3 export_classifier.py --model_dir output_dir --format huggingface \\
        --output_dir exported
    python3 export_classifier.py --model_dir output_dir --format onnx \\
        --quantize dynamic --output_dir small

Every format gives logits [B, labels] and comes with tokenizer, labels
(config.json) and model card. The folder appears only after the export has
computed the run's dev examples with the same results; a table compares labels
and logits. --quantize dynamic stores weights as 8-bit integers: smaller and
faster, with slightly different results.

Exit codes: 0 success; 1 the export does not compute the same, or cannot be
written; 2 a flag or file is wrong; 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    import finetuning.early  # noqa: F401

import argparse

from bert import runtime, terminal
from finetuning import command
from finetuning.parser import Parser, add_num_threads, count, require
from finetuning.results.export_formats import FORMATS, described


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; exits with code 2 if they do not go together."""
    parser = Parser(
        "export_classifier.py",
        __doc__,
        {"--out": "--output_dir", "--model_parameters": "--model_dir"},
        usage="%(prog)s --model_dir DIR --format F --output_dir DIR [flags]",
        epilog=described(),
    )
    parser.add_argument(
        "--model_dir", metavar="DIR", required=True, help="output folder of a training run"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--output_dir", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export in --output_dir"
    )
    parser.add_argument(
        "--quantize",
        choices=("dynamic",),
        help="8-bit weights, and activations quantized at run time (default: float32)",
    )
    parser.add_argument(
        "--batch_size",
        metavar="N",
        type=count,
        default=32,
        help="examples per batch of the comparison (default: 32)",
    )
    add_num_threads(parser)
    args = parser.parse_args(argv)
    if args.quantize and not FORMATS[args.format].quantize:
        able = [name for name, format in FORMATS.items() if format.quantize]
        parser.error(f"--quantize goes with --format {' or '.join(able)}")
    require(parser, FORMATS[args.format].packages)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    def work() -> None:
        runtime.prepare(args.num_threads)
        from finetuning.results import exports

        exports.export(args)

    return command.run("export_classifier.py", work)


if __name__ == "__main__":
    terminal.start(main)

#!/usr/bin/env python3
"""Fine-tune a pretrained BERT to classify sentences or sentence pairs.

    python3 finetune_classifier.py --data_dir sample_data --epochs 10 \\
        --bert_model bert_6_384_12 --bert_dataset minilm_en_uncased \\
        --optimizer adamw --lr 1e-4

Trains, evaluates on the dev set after every epoch, and writes the best epoch's
model and all results into --output_dir: model.params, config.json and vocab.txt
(what is needed to load it), README.md (a model card), metrics.json,
dev_predictions.tsv and train.log. An interrupted run continues with the same
flags plus --resume and gives a byte-identical result.

Exit codes: 0 success; 1 the run failed; 2 wrong flag or file; 130, 143
interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    import finetuning.early  # noqa: F401

from bert import runtime, terminal
from finetuning import command, signals
from finetuning.options import parse


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, load MXNet with its threads set, and train; returns the exit code."""
    options = parse(__doc__, argv)

    def work() -> None:
        runtime.prepare(options.num_threads, options.dtype == "bfloat16")
        from finetuning.training.finetune import finetune

        finetune(options)

    return command.run("finetune_classifier.py", work)


if __name__ == "__main__":
    terminal.open_streams()  # before anything else gets their descriptors
    signals.listen()
    terminal.start(main)

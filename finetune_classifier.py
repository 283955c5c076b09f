#!/usr/bin/env python3
"""Fine-tune a pretrained BERT to classify sentences or sentence pairs.

    GLUE_DIR=glue_data python3 finetune_classifier.py --bert_model bert_6_384_12 \\
        --bert_dataset minilm_en_uncased --optimizer adamw --lr 1e-4 --epochs 5

Reads a task's files, trains, evaluates on the dev split after every epoch, and writes to
--output_dir the best epoch's model.params with config.json and vocab.txt (all that is needed to
load it), a model card (README.md), metrics.json, dev_predictions.tsv and train.log. An interrupted
run continues with the same flags plus --resume, and gives a byte-identical result.

Exit codes: 0 success; 1 the run failed; 2 a flag or a file is wrong; 130, 143 interrupted.
"""

from __future__ import annotations

import sys

from bert import runtime
from finetuning import command, signals
from finetuning.options import parse


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, load MXNet with its threads set, and train; returns the exit code."""
    options = parse(__doc__, argv)
    runtime.prepare(options.num_threads, options.dtype == "bfloat16")

    def work() -> None:
        from finetuning.training.finetune import finetune

        finetune(options)

    return command.run("finetune_classifier.py", work)


if __name__ == "__main__":
    signals.listen()
    sys.exit(main())

#!/usr/bin/env python3
"""Fine-tune a pretrained BERT to classify sentences or pairs of sentences.

    GLUE_DIR=glue_data python3 finetune_classifier.py --batch_size 32 --optimizer bertadam \\
        --epochs 2 --gpu --seed 2 --lr 6e-5

Reads a task's files, trains, evaluates on the dev split after every epoch, and leaves in
--output_dir the best epoch's model.params, config.json and vocab.txt (all that is needed to load
it again), a README.md that says what it is, metrics.json, dev_predictions.tsv and train.log. A run
that was stopped, by whatever, goes on with the same flags and --resume, and ends with the same
bytes.

Exit codes: 0 done; 1 the run failed; 2 a flag or a file is wrong; 130, 143 interrupted.
"""

from __future__ import annotations

import sys

from bert import runtime
from finetuning import signals
from finetuning.flags import MODEL_DEFAULTS, parse_args

# MXNet takes its number of threads from the environment while it is loaded, so the flags come
# first, and a wrong one or --help costs no time.
ARGUMENTS = parse_args(__doc__) if __name__ == "__main__" else None
if __name__ == "__main__":
    signals.listen()
if ARGUMENTS:
    NUM_THREADS = runtime.prepare(ARGUMENTS.num_threads, ARGUMENTS.dtype == "bfloat16")
    ARGUMENTS.num_threads = NUM_THREADS
else:
    NUM_THREADS = runtime.prepare()

import argparse
from contextlib import nullcontext
from pathlib import Path

import mxnet as mx
from mxnet.contrib import amp

from bert import native, zoo
from bert.classifier import BERTClassifier, load_classifier
from bert.convert import config_to_huggingface
from bert.errors import UserError
from bert.files import SaveError, write_json
from bert.tokenizer import BERTTokenizer
from finetuning import console
from finetuning.console import log
from finetuning.data import summary
from finetuning.data.splits import read_splits, tokenize_splits
from finetuning.data.tasks import Task, task_from_config, task_to_config
from finetuning.results import metrics
from finetuning.training import checkpoint, repeats
from finetuning.training.evaluation import evaluate, predict_test
from finetuning.training.loop import fit, new_head, new_trainer, num_parameters
from finetuning.training.trainer import NotFiniteError, OutOfMemoryError
from finetuning.training.workers import Workers


def main(args: argparse.Namespace) -> None:
    """Do what the flags say, alone in --output_dir."""
    output_dir = Path(args.output_dir) if args.output_dir and not args.check else None
    workers = new_workers(args)
    with checkpoint.locked(output_dir) if output_dir and workers.first else nullcontext():
        finetune(args, output_dir, workers)


def finetune(args: argparse.Namespace, output_dir: Path | None, workers: Workers) -> None:
    if output_dir and not args.only_inference and workers.first:
        check_output_dir(args, output_dir)
    ctx = workers.ctx
    if args.dtype == "float16":
        amp.init("float16")  # from now on MXNet puts casts around the operators of every network
    trained = None
    if args.model_parameters:
        net, tokenizer, config = load_classifier(args.model_parameters, args.dropout, ctx)
        agree_with_config(args, config)
        trained = task_from_config(config)
        config.pop("calibration", None)  # it is that of the model to begin with
    splits = read_splits(args, trained)
    task = splits.task
    if not args.model_parameters:
        net, tokenizer, config = new_classifier(args, task, ctx)
    config |= task_to_config(task)
    if workers.first:
        console.start_logging(output_dir / "train.log" if output_dir else None)
    compile_network(args, net, ctx)

    summary.log_bad_rows(splits.bad_rows, output_dir if workers.first else None)
    data = tokenize_splits(splits, tokenizer, args.max_len, args.class_weights)
    summary.log_data(data)
    log_machine(args, net, workers)

    if args.check:
        summary.log_examples(
            task, data.train or next(iter((data.dev | data.test).values())), tokenizer
        )
        if data.train:

            def check_trainer(longest, epochs):
                return new_trainer(args, net, data, longest, workers, epochs, None)

            summary.try_a_batch(data.train, check_trainer, args.batch_size, args.epochs)
    elif args.only_inference:
        only_inference(args, net, data, output_dir, workers)
    elif args.folds:
        repeats.cross_validate(args, net, tokenizer, config, data, output_dir, workers)
    elif args.seeds:
        repeats.train_seeds(args, net, tokenizer, config, data, trained, output_dir, workers)
    else:
        fit(args, net, tokenizer, config, data, output_dir, workers)


def only_inference(args, net, data, output_dir, workers) -> None:
    """Measure --model_parameters on the dev split, and predict the test split."""
    results = {"task": data.task.name}
    if data.dev:
        results["dev"], logits = evaluate(net, data.dev, data.task, args.dev_batch_size, workers)
        log.info("\n" + console.table(list(results["dev"]), [list(results["dev"].values())]))
        if not data.task.regression:
            results |= metrics.by_class(logits[""], data.dev[""].label, data.task.labels)
            console.log_classes(results)
    predict_test(net, data, args.predict_test, args.dev_batch_size, results, output_dir, workers)
    if output_dir and workers.first:
        write_json(output_dir / "eval_metrics.json", results)
        log.info(f"written to {output_dir / 'eval_metrics.json'}")


def check_output_dir(args: argparse.Namespace, output_dir: Path) -> None:
    """Raise UserError where a new run would write over files that are not its own."""
    source = args.model_parameters or args.pretrained_bert_parameters
    if source and output_dir.resolve() == (
        Path(source).resolve() if Path(source).is_dir() else Path(source).resolve().parent
    ):
        raise UserError(f"--output_dir {output_dir} holds the model to begin with: choose another")
    folders = (output_dir, *output_dir.glob("fold_*"), *output_dir.glob("seed-*"))
    if any(map(checkpoint.holds_run, folders)) and not (args.resume or args.overwrite):
        raise UserError(
            f"{output_dir} holds a run already: --resume continues it, --overwrite deletes it, or "
            "choose another --output_dir"
        )


def new_workers(args: argparse.Namespace) -> Workers:
    """Return the devices to train on; UserError says what a GPU, or Horovod, is missing."""
    horovod = None
    if args.comm_backend == "horovod":
        import horovod.mxnet as horovod

        horovod.init()
    if args.gpu is None:
        return Workers([mx.cpu()], horovod)
    missing = runtime.why_no_gpu()
    if missing:
        raise UserError(f"--gpu: {missing}")
    numbers = args.gpu or [horovod.local_rank() if horovod else 0]
    count = mx.context.num_gpus()
    if max(numbers) >= count:
        raise UserError(f"--gpu {max(numbers)}: there are {count}, numbered from 0")
    return Workers([mx.gpu(number) for number in numbers], horovod)


def agree_with_config(args: argparse.Namespace, config: dict) -> None:
    """Take from a trained model's config what it decides; contradicting it is an error."""
    for name in MODEL_DEFAULTS:
        given, trained = getattr(args, name), config.get(name)
        if given is not None and given != trained:
            raise UserError(f"--{name} {given}: --model_parameters was trained with {trained}")
        setattr(args, name, trained)


def new_classifier(
    args: argparse.Namespace, task: Task, ctx: list[mx.Context]
) -> tuple[BERTClassifier, BERTTokenizer, dict]:
    """Put a new head on a pretrained BERT; returns network, tokenizer and its config.json."""
    source = find_pretrained(args)
    bert, tokenizer = zoo.load(source, ctx, dropout=args.dropout, cls_only=True)
    if args.max_len > bert.config.max_length:
        raise UserError(
            f"--max_len {args.max_len}: this BERT has {bert.config.max_length} positions"
        )
    net = BERTClassifier(bert, task.outputs, args.dropout)
    new_head(net, args.seed, ctx)
    config = {
        **config_to_huggingface(bert.config),
        "architectures": ["BertForSequenceClassification"],
        "hidden_dropout_prob": args.dropout,
        "attention_probs_dropout_prob": args.dropout,
        "do_lower_case": tokenizer.do_lower_case,
        **{name: getattr(args, name) for name in MODEL_DEFAULTS},
        "bert_revision": source.revision,
    }
    return net, tokenizer, config


def find_pretrained(args: argparse.Namespace) -> zoo.Pretrained:
    """Find the files of the BERT to begin with."""
    path = args.pretrained_bert_parameters
    if path and not Path(path).is_dir():
        return zoo.find_params(Path(path), args.bert_model, args.bert_dataset)
    return zoo.find(path or args.bert_model, args.bert_dataset, args.revision)


def compile_network(args: argparse.Namespace, net: BERTClassifier, ctx: list[mx.Context]) -> None:
    """Make one graph of a network, with the fused CPU operators where they can be had."""
    if args.dtype == "bfloat16":
        net.bert.use_bfloat16()
    if ctx[0].device_type == "cpu" and not args.no_native:
        fuse(net)
    net.hybridize(static_alloc=True)


def fuse(net: BERTClassifier) -> None:
    """Let a network compute with the fused CPU operators, where they can be had."""
    try:
        native.load()
    except native.NativeUnavailable as reason:
        log.info(f"slower    the fused operators are not used: {reason}")
    else:
        net.bert.fuse()


def log_machine(args: argparse.Namespace, net: BERTClassifier, workers: Workers) -> None:
    """Say what is about to compute: model and device."""
    sizes = net.bert.config
    name = args.bert_model or f"bert_{sizes.num_layers}_{sizes.units}_{sizes.num_heads}"
    source = args.model_parameters or args.pretrained_bert_parameters or args.bert_dataset
    name = f"{name}, {source}" if source else name
    log.info(f"model     {name}, {num_parameters(net):,} parameters")
    operators = "fused" if net.bert.fused else "stock"
    if args.dtype == "bfloat16":
        units = runtime.bfloat16_units()
        if units is None:
            log.info("slower    this processor has no units for bfloat16: it is emulated")
        operators += f" operators, bfloat16 products{f' by {units}' if units else ''}"
    else:
        operators += f" operators, {args.dtype}"
        operators += " products by AMX" if net.bert.fused and native.amx else ""
    log.info(f"device    {workers}, {NUM_THREADS} threads, MXNet {mx.__version__}, {operators}")


def command(args: argparse.Namespace) -> int:
    """Run, and turn what can be foreseen into one sentence and an exit code."""
    try:
        main(args)
    except UserError as error:
        print(f"finetune_classifier.py: {error}", file=sys.stderr)
        return 2
    except signals.Interrupted as signal:
        print(f"finetune_classifier.py: {signal}; --resume goes on from here", file=sys.stderr)
        return signal.exit_code
    except (NotFiniteError, OutOfMemoryError, SaveError, OSError) as error:
        print(f"finetune_classifier.py: {error}", file=sys.stderr)
        return 1
    except mx.MXNetError as error:
        print(f"finetune_classifier.py: MXNet: {str(error).splitlines()[-1]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(command(ARGUMENTS))

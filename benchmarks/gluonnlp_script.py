"""gluonnlp's own BERTClassifier, its bucket sampler and its BERTAdam, used as its fine-tuning
script uses them. Variant "threads" sets OMP_NUM_THREADS, which that script does not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import runtime

if "threads" in sys.argv:
    runtime.prepare()
else:
    runtime.restore_numpy_names()  # without them nothing of it runs today
    os.environ.pop("OMP_NUM_THREADS", None)

import gluonnlp
import mxnet as mx
import numpy as np
import workload
from gluonnlp.data import FixedBucketSampler

from bert.huggingface import config_from_huggingface, gluon_names, read_safetensors
from bert.parameters import parameters_of, set_parameters
from bert.tokenizer import BERTTokenizer


def main() -> None:
    args = workload.parse_args(__doc__)
    mx.random.seed(workload.SEED)
    np.random.seed(workload.SEED)  # the sampler's
    ctx = mx.cpu()
    pairs = workload.read_pairs(args)
    config = config_from_huggingface(args.model / "config.json")
    encoder = gluonnlp.model.bert.BERTEncoder(
        num_layers=config.num_layers,
        units=config.units,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        max_length=config.max_length,
        dropout=workload.DROPOUT,
    )
    bert = gluonnlp.model.BERTModel(
        encoder,
        vocab_size=config.vocab_size,
        token_type_vocab_size=config.token_type_vocab_size,
        units=config.units,
        embed_size=config.units,
        use_decoder=False,
        use_classifier=False,
    )
    source = args.model / "model.safetensors"
    arrays = gluon_names(read_safetensors(source), config, source)
    for name, parameter in parameters_of(bert).items():
        parameter.shape = arrays[name].shape  # gluonnlp leaves some open until the first batch
    set_parameters(bert, arrays, [ctx], source)
    net = gluonnlp.model.BERTClassifier(bert, num_classes=2, dropout=workload.DROPOUT)
    net.classifier.initialize(mx.init.Normal(0.02), ctx=ctx)
    net.hybridize(static_alloc=True)

    tokenizer = BERTTokenizer(args.model / "vocab.txt")
    text_a, text_b, labels = zip(*pairs, strict=True)
    all_ids, offsets, first_segment, *_ = tokenizer.encode(text_a, text_b, workload.MAX_LEN)
    input_ids = np.split(all_ids, offsets[1:-1])
    lengths = [len(ids) for ids in input_ids]
    sampler = FixedBucketSampler(
        lengths, workload.BATCH_SIZE, num_buckets=10, ratio=0, shuffle=True
    )
    loss_function = mx.gluon.loss.SoftmaxCELoss()
    optimizer = {"learning_rate": workload.LR, "epsilon": 1e-6, "wd": 0.01}
    trainer = mx.gluon.Trainer(net.collect_params(), "bertadam", optimizer, update_on_kvstore=False)
    for parameter in net.collect_params(".*beta|.*gamma|.*bias").values():
        parameter.wd_mult = 0.0
    parameters = [p for p in net.collect_params().values() if p.grad_req != "null"]

    epoch = list(sampler)  # in random order
    timed = workload.typical_batches(epoch, lengths, args.batches)
    timed_batches = [epoch[i] for i in timed]
    watch = workload.Stopwatch()
    for number, chosen in enumerate(epoch[: workload.WARM_UP_STEPS] + timed_batches):
        if number == workload.WARM_UP_STEPS:
            watch.start()
        longest = max(lengths[i] for i in chosen)
        ids = np.zeros((len(chosen), longest), np.int32)
        types = np.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, : lengths[i]] = input_ids[i]
            types[row, first_segment[i] : lengths[i]] = 1
        valid_length = mx.nd.array([lengths[i] for i in chosen])
        label = mx.nd.array([labels[i] for i in chosen])
        with mx.autograd.record():
            logits = net(mx.nd.array(ids), mx.nd.array(types), valid_length)
            loss = loss_function(logits, label).mean()
        loss.backward()
        trainer.allreduce_grads()
        gluonnlp.utils.clip_grad_global_norm(parameters, 1)
        trainer.update(1)
        loss.asscalar()
        watch.step_done()
    mx.nd.waitall()
    watch.report(sum(map(len, timed_batches)), workload.tokens_of(timed_batches, lengths))


main()

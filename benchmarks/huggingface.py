"""Hugging Face transformers on PyTorch, training. Variants: "padded" (every pair to 128 tokens,
run_glue.py's default), "dynamic" (to the batch's longest), "grouped" (and batches of similar
length, by transformers' own sampler), "compiled" (grouped, under torch.compile). With bfloat16
under torch.autocast, as --bf16 does it."""

from __future__ import annotations

import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import workload
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import logging


def main() -> None:
    args = workload.parse_args(__doc__)
    logging.set_verbosity_error()
    torch.manual_seed(workload.SEED)
    pairs = workload.read_pairs(args)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    text_a, text_b, labels = map(list, zip(*pairs, strict=True))
    encoded = tokenizer(text_a, text_b, truncation=True, max_length=workload.MAX_LEN)
    lengths = [len(ids) for ids in encoded["input_ids"]]

    if args.variant in ("grouped", "compiled"):
        order = list(LengthGroupedSampler(workload.BATCH_SIZE, lengths=lengths))
    else:
        order = torch.randperm(len(pairs)).tolist()
    epoch = [
        order[start : start + workload.BATCH_SIZE]
        for start in range(0, len(order), workload.BATCH_SIZE)
    ]
    padding = "max_length" if args.variant == "padded" else "longest"

    def collate(chosen):
        features = [{key: encoded[key][i] for key in encoded} for i in chosen]
        batch = tokenizer.pad(
            features, padding=padding, max_length=workload.MAX_LEN, return_tensors="pt"
        )
        return batch | {"labels": torch.tensor([labels[i] for i in chosen])}

    watch = workload.Stopwatch()
    model.train()
    decayed = [p for n, p in model.named_parameters() if "bias" not in n and "LayerNorm" not in n]
    others = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    optimizer = torch.optim.AdamW(  # fused, as the Trainer's default "adamw_torch_fused" is
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=workload.LR,
        eps=1e-6,
        fused=True,
    )
    forward = torch.compile(model, dynamic=True) if args.variant == "compiled" else model
    random.Random(workload.SEED).shuffle(epoch)  # the sampler begins with the longest
    timed = workload.typical_batches(epoch, lengths, args.batches)
    timed_batches = [epoch[i] for i in timed]
    for number, chosen in enumerate(epoch[: workload.WARM_UP_STEPS] + timed_batches):
        if number == workload.WARM_UP_STEPS:
            watch.start()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
            loss = forward(**collate(chosen)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.step_done()
    watch.report(sum(map(len, timed_batches)), workload.tokens_of(timed_batches, lengths))


main()

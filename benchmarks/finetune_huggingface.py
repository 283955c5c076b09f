"""Hugging Face's side of parity.py: finetune_huggingface.py MODEL DATA.json SEED.

Prints as JSON the dev logits after each epoch, and the seconds of the training."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)
from transformers.utils import logging

BATCH_SIZE, MAX_LEN, LR, EPOCHS, WARMUP_RATIO = 32, 128, 5e-5, 3, 0.1


def main() -> None:
    folder, data_file, seed = sys.argv[1:]
    logging.set_verbosity_error()
    data = json.loads(Path(data_file).read_text(encoding="utf-8"))
    train, dev = data["train"], data["dev"]
    torch.manual_seed(int(seed))  # the new head, the order and the dropout
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=data["outputs"])
    decayed = [p for n, p in model.named_parameters() if "bias" not in n and "LayerNorm" not in n]
    others = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=LR,
        eps=1e-6,
        fused=True,
    )
    updates = EPOCHS * -(-len(train["label"]) // BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP_RATIO * updates), updates)
    encoded = [encode(tokenizer, part) for part in (train, dev)]

    def batch(which: int, part: dict, chosen: list[int]) -> dict:
        features = [{key: values[i] for key, values in encoded[which].items()} for i in chosen]
        label = torch.tensor([part["label"][i] for i in chosen])
        return tokenizer.pad(features, return_tensors="pt") | {"labels": label}

    logits, seconds = [], 0.0
    for _ in range(EPOCHS):
        start = time.perf_counter()
        model.train()
        order = torch.randperm(len(train["label"])).tolist()
        for first in range(0, len(order), BATCH_SIZE):
            model(**batch(0, train, order[first : first + BATCH_SIZE])).loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        seconds += time.perf_counter() - start
        logits.append(predict(model, batch, dev))
    print(json.dumps({"logits": logits, "seconds": seconds}))


def encode(tokenizer, part: dict) -> dict:
    texts = [part["text_a"]] + ([part["text_b"]] if part["text_b"] else [])
    return tokenizer(*texts, truncation=True, max_length=MAX_LEN)


def predict(model, batch, dev: dict) -> list:
    model.eval()
    logits = []
    with torch.inference_mode():
        for first in range(0, len(dev["label"]), BATCH_SIZE):
            chosen = list(range(first, min(first + BATCH_SIZE, len(dev["label"]))))
            logits.append(model(**batch(1, dev, chosen)).logits)
    return torch.cat(logits).tolist()


main()

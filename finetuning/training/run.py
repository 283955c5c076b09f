"""One training run: what belongs together from the first update to the last file."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx
import numpy as np

from bert import native, runtime
from bert.classifier import Classifier
from bert.parameters import parameters_of
from dataset import TokenizedExamples, length_statistics
from finetuning.data.splits import Dataset
from finetuning.options import Options
from finetuning.training import checkpoint
from finetuning.training.workers import Workers


@dataclass(frozen=True)
class Run:
    """A classifier to train on data as the options say, into a folder of its own."""

    options: Options
    classifier: Classifier
    data: Dataset
    folder: Path
    workers: Workers
    saves: bool = True  # False: nothing is written

    @property
    def output(self) -> Path | None:
        """The folder, on the one rank that writes into it."""
        return self.folder if self.saves and self.workers.first else None

    @property
    def train(self) -> TokenizedExamples:
        """What a run that trains makes batches of: examples, or their windows."""
        assert self.data.train is not None
        return self.data.train.apart

    @property
    def num_parameters(self) -> int:
        parameters = parameters_of(self.classifier.net).values()
        return sum(math.prod(parameter.shape) for parameter in parameters)

    def identity(self) -> dict[str, dict]:
        """Return what the result is a function of: arguments, and fingerprints of all contents."""
        net, data = self.classifier.net, self.data
        # The new layer of a pretrained BERT is a function of the seed.
        pretrained = net if self.options.model_parameters else net.bert
        weights = [parameter.list_data()[0] for parameter in parameters_of(pretrained).values()]
        dev_arrays = (array for part in data.dev.values() for array in part.arrays())
        return {
            "arguments": self.options.deciding(),
            "contents": {
                "training data": checkpoint.fingerprint(self.train.arrays()),
                "dev data": checkpoint.fingerprint(dev_arrays),
                "pretrained weights": checkpoint.fingerprint(weights),
                # The examples have their numbers.
                "labels": hashlib.sha256(json.dumps(data.task.labels).encode()).hexdigest(),
            },
        }

    def environment(self) -> dict[str, str | int]:
        """Return what the last bits of the result depend on."""
        fused = self.classifier.net.bert.fused
        return {
            "device": str(self.workers),
            "threads": runtime.num_threads(),
            "operators": f"fused {native.load()}{', AMX' * native.amx}" if fused else "stock",
            "processor": runtime.processor(),
            "MXNet": mx.__version__,
            "NumPy": np.__version__,
        }

    def header(self, identity: dict, environment: dict) -> dict:
        """Return what metrics.json says before the results."""
        data, options = self.data, self.options
        assert data.train is not None
        return {
            "task": data.task.name,
            "seed": options.seed,
            "arguments": identity["arguments"],
            "environment": {"Python": platform.python_version(), **environment},
            "num_parameters": self.num_parameters,
            "data": {
                "train": length_statistics(data.train, options.batch_size, options.seed),
                **{f"dev{suffix}": length_statistics(part) for suffix, part in data.dev.items()},
            },
        }

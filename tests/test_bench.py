"""The arithmetic of the benchmarks; what they measure is not asserted."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench
import workload

BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}


@pytest.fixture
def base(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BASE))
    return tmp_path


def runs(*speeds, **constants):
    return [{"pairs_per_second": speed, **constants} for speed in speeds]


def test_encoder_of_bert_base_has_85_million_parameters(base):
    # 109,482,240 of the published model, less 23,837,184 in embeddings and 590,592 in the pooler
    assert bench.encoder_parameters(base) == 109_482_240 - 23_837_184 - 590_592


def test_share_of_peak_counts_six_flops_a_parameter_in_training_and_two_in_inference(base):
    results = [{"tokens_per_second": 500.0}, {"tokens_per_second": 1.0}, {"tokens_per_second": 9e9}]
    flops = bench.encoder_parameters(base) * 500 / 1e9
    assert bench.share_of_peak(results, base, "training", 300) == pytest.approx(6 * flops / 300)
    assert bench.share_of_peak(results, base, "inference", 300) == pytest.approx(2 * flops / 300)


def test_spread_shows_median_least_and_greatest():
    assert bench.spread(runs(30.0, 10.0, 11.0), "pairs_per_second") == "11.0 (10.0 to 30.0)"


def test_goals_divide_medians_and_state_each_target(base):
    constants = {"tokens_per_second": 400.0, "peak_mb": 500.0, "first_step_seconds": 3.0}
    ours = runs(60.0, 90.0, 10.0, **constants)
    peer = runs(40.0, 39.0, 41.0, **constants | {"peak_mb": 1000.0, "first_step_seconds": 4.0})
    contestants = {
        "training": dict.fromkeys(bench.TRAINING, peer) | {"this project": ours},
        "inference": dict.fromkeys(bench.INFERENCE, peer) | {"this project": ours},
    }
    results = {(base, mode): measured for mode, measured in contestants.items()}
    rows = "\n".join(bench.goals(results, [base], 350.0))
    assert "training, pairs per second, over Hugging Face, length-grouped | 1.50 (≥ 1.45)" in rows
    assert "inference, pairs per second, over Hugging Face, sorted by length | 1.50 (≥ 1.2)" in rows
    assert "training, peak mb, over Hugging Face, length-grouped | 0.50 (≤ 1.0)" in rows
    assert "first step seconds, over Hugging Face, length-grouped | 0.75 (≤ 0.5)" in rows
    assert "58% (≥ 65%)" in rows


def test_timed_batches_have_the_whole_epochs_tokens_a_pair():
    random = np.random.default_rng(0)
    lengths = np.sort(random.integers(10, 100, 32 * 100))
    epoch = list(np.arange(3200).reshape(100, 32))  # alike in length
    random.shuffle(epoch)
    timed = workload.typical_batches(epoch, lengths, 4)
    assert len(timed) == 4 and timed.stop <= 100
    batches = epoch[timed.start : timed.stop]
    assert workload.tokens_of(batches, lengths) / 128 == pytest.approx(lengths.mean(), rel=0.01)


def test_fewer_batches_than_asked_for_are_all_timed():
    assert workload.typical_batches([[0, 1], [2]], [5, 6, 7], 12) == range(0, 2)

"""The arithmetic of the benchmarks; what they measure is not asserted."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench
import contestants
import workload

from bert import runtime

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


def everything_of(base, ours, peer, mode="training"):
    """Return what was measured: ours, and every other contestant as the peer."""
    measured = {
        name: ours if name.startswith("this project") else peer
        for name in contestants.CONTESTANTS[mode]
    }
    return {(base, mode): (measured, {"float32": 400.0, "bfloat16": 800.0})}


CONSTANTS = {"tokens_per_second": 400.0, "peak_mb": 500.0, "first_step_seconds": 3.0}


def test_goals_divide_medians_and_state_each_target(base, monkeypatch):
    ours = runs(60.0, 90.0, 10.0, **CONSTANTS)
    peer = runs(40.0, 39.0, 41.0, **CONSTANTS | {"peak_mb": 1000.0, "first_step_seconds": 4.0})
    everything = everything_of(base, ours, peer)
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: "AVX-512")
    rows = "\n".join(bench.goals(everything, [base]))
    us = "this project, float32 over Hugging Face, length-grouped, float32"
    assert f"training, pairs per second: {us} | 1.50 (≥ 2.00)" in rows
    assert f"training, peak mb: {us} | 0.50 (≤ 1.00)" in rows
    assert f"first step seconds: {us} | 0.75 (≤ 0.50)" in rows
    flops = 6 * bench.encoder_parameters(base) * 400
    assert f"share of the bfloat16 peak | {flops / 800e9:.0%} (≥ 65%)" in rows
    assert "inference" not in rows and "latency" not in rows  # they were not measured
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: "AMX")
    assert f"pairs per second: {us} | 1.50 (≥ 1.80)" in "\n".join(bench.goals(everything, [base]))


def test_several_peers_are_compared_with_at_their_best(base):
    (results, peak) = everything_of(base, runs(60.0), runs(40.0), "inference")[base, "inference"]
    results[contestants.ONNX] = runs(50.0)
    rows = "\n".join(bench.goals({(base, "inference"): (results, peak)}, [base]))
    best = f"the best of {contestants.OPENVINO}, {contestants.ONNX}, {contestants.TORCH}"
    assert f"{contestants.US} over {best} | 1.20 (≥ 1.20)" in rows
    times = [{"ms_16": 3.0, "ms_128": 9.0, "peak_mb": 1.0}]
    (results, peak) = everything_of(base, times, times, "latency")[base, "latency"]
    results[contestants.OPENVINO] = [{"ms_16": 2.0, "ms_128": 12.0}]
    rows = "\n".join(bench.goals({(base, "latency"): (results, peak)}, [base]))
    assert f"ms 16: {contestants.US} over {best} | 1.50 (≤ 0.90)" in rows
    assert f"ms 128: {contestants.US} over {best} | 1.00 (≤ 0.90)" in rows


def test_a_table_names_the_processor_its_peaks_and_the_share_of_the_contestants_type(base):
    everything = everything_of(base, runs(60.0, **CONSTANTS), runs(40.0, **CONSTANTS))
    lines = bench.markdown(*everything[base, "training"], base, "training")
    assert runtime.processor() in lines[2] and "float32 400, bfloat16 800" in lines[2]
    flops = 6 * bench.encoder_parameters(base) * 400
    for name, peak in ((contestants.US, 400e9), (contestants.US_BFLOAT16, 800e9)):
        (row,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert row.endswith(f"| {flops / peak:.0%} |")
    assert len({line.count("|") for line in lines[4:-1]}) == 1


@pytest.mark.usefixtures("native_library")
def test_the_probe_measures_each_type_that_the_processor_has_units_for():
    found = bench.peaks()
    assert found["float32"] > 1
    units = runtime.bfloat16_units()
    assert found["bfloat16"] > found["float32"] if units else found["bfloat16"] == 0


def test_inference_takes_the_batch_size_that_is_fastest(capsys):
    def one_pass(batches):
        assert all(len(batch) == len(batches[0]) for batch in batches)
        for batch in batches:
            time.sleep(1e-3 if len(batch) == 8 else 2e-3 * len(batch))

    workload.inference([5] * 64, one_pass)
    assert json.loads(capsys.readouterr().out)["batch_size"] == 8
    workload.inference([5] * 64, one_pass, [16], as_in_file=True)
    assert json.loads(capsys.readouterr().out)["batch_size"] == 16


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

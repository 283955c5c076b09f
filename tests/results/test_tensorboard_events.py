"""TensorBoard event files, read back by TensorBoard."""

from __future__ import annotations

import os
import resource

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bert.errors import UserError
from finetuning.results import tensorboard_events
from finetuning.results.tensorboard_events import EventFile


def test_a_resumed_run_replaces_the_points_it_computes_again(tmp_path):
    warnings = []
    with EventFile(tmp_path, True, 0, warnings.append) as events:
        for update in (1, 2, 3):
            events.add(update, {"train/loss": 1.0})
    with EventFile(tmp_path, True, 2, warnings.append) as events:
        events.add(3, {"train/loss": 2.0})
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    points = [(point.step, point.value) for point in found.Scalars("train/loss")]
    assert points == [(1, 1.0), (2, 1.0), (3, 2.0)] and not warnings


def test_a_file_that_cannot_grow_ends_the_curves_with_one_warning(tmp_path):
    warnings = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        with EventFile(tmp_path, True, 0, warnings.append) as events:
            events.add(1, {"train/loss": 1.0})
            events.add(2, {"train/loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (sentence,) = warnings
    assert sentence.startswith("warning") and "File too large" in sentence


def test_the_curves_are_not_written_through_a_link(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_events.time, "time", lambda: 1)
    name = f"events.out.tfevents.0000000001.{os.getpid()}.0"
    (tmp_path / "mine").write_text("mine")
    (tmp_path / name).symlink_to("mine")
    with pytest.raises(UserError, match="is a link to another file"):
        EventFile(tmp_path, True, 0, print)
    assert (tmp_path / "mine").read_text() == "mine"


def test_no_file_where_none_is_wanted(tmp_path):
    for folder, wanted in ((tmp_path, False), (None, True)):
        with EventFile(folder, wanted, 0, print) as events:
            events.add(1, {"train/loss": 1.0})
    assert not list(tmp_path.iterdir())

"""Cameras in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.simulation.profiles import load_profile
from loadtest.studies.cameras.frames import End
from loadtest.studies.cameras.simulation import FIFO, STREAMS, Plan, run

PLAN = Plan((0.3, 3.0), 5.0, 0.4, 3.0, 1)


@pytest.mark.parametrize("load", PLAN.loads)
def test_with_streams_nothing_is_late_and_every_camera_knows_more(load: float) -> None:
    profile = load_profile("sizes")
    streams, fifo = (run(profile, PLAN, load, system) for system in (STREAMS, FIFO))
    assert streams.num_frames == fifo.num_frames
    assert streams.late_share < 0.01
    assert streams.answers[0] > 0
    assert fifo.num(End.SUPERSEDED) == 0
    if load > 1:
        assert streams.num(End.SUPERSEDED) > 0
        assert streams.worst_age_p99_s < fifo.worst_age_p99_s
        assert streams.age_p50_s < fifo.age_p50_s


def test_cameras_are_answered_as_often_as_each_other_where_frames_give_way() -> None:
    plan = replace(PLAN, duration_s=10.0)
    streams = run(load_profile("sizes"), plan, 3.0, STREAMS)
    fewest, most = streams.answers
    assert streams.num(End.SUPERSEDED) > 0.1 * streams.num_frames
    assert most <= 1.15 * fewest

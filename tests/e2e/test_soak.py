"""A soak in small: every kind of request over a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.studies.drills.report import Circumstances
from loadtest.studies.soak import study
from loadtest.studies.soak.messages import KINDS
from loadtest.workload.images import read_images
from tests import trained
from tests.e2e.backends import RUNTIME

SECONDS, RATE_HZ = 3.0, 20.0


def test_every_request_of_every_kind_ends_as_it_may(
    small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CAPACITY_S", 0.5)
    monkeypatch.setattr(study, "REST_S", 0.5)
    settings = study.SoakSettings(
        model_repository=small_repository,
        model=None,
        runtime=RUNTIME,
        images=read_images([trained.IMAGE]),
        share=0.5,
        rate_hz=RATE_HZ,
        seconds=SECONDS,
        warm_up_s=0.0,
        every_s=0.2,
        is_control=False,
        seed=0,
    )
    nowhere = Circumstances("a machine", "2026-11-30", 0.0, {}, {})
    report = study.run(settings, nowhere, tmp_path, lambda _: None)
    assert {tally.kind for tally in report.tallies if tally.sent} == {kind.name for kind in KINDS}
    assert [tally for tally in report.tallies if tally.unexpected] == []
    assert report.is_counted, (report.counted, report.certain, report.possible)
    assert report.inside_after == 0

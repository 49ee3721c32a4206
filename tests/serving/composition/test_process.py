from __future__ import annotations

import asyncio
import signal
from typing import Any

from prometheus_client import CollectorRegistry

from serving.composition.process import create_server
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import FakeBackend, FakeClock


def test_drain_follows_a_signal() -> None:
    backend = FakeBackend(FakeClock())
    metrics = Metrics(CollectorRegistry(), backend.clock)
    bounds_s: list[float] = []
    codes: list[int] = []
    ends: Any = {"end_within": bounds_s.append, "end_now": codes.append}
    patient = create_server(Settings(drain_delay_ms=1e9), backend, metrics, **ends)
    hasty = create_server(Settings(drain_delay_ms=0), backend, metrics, **ends)

    async def scenario() -> None:
        for server in (patient, hasty):
            server.handle_exit(signal.SIGTERM, None)
        while not hasty.should_exit:
            await asyncio.sleep(0)
        assert not patient.should_exit
        assert not hasty.force_exit
        assert bounds_s[0] > 1e6 > bounds_s[1] > 2 * Settings().shutdown_grace_ms / 1e3
        assert codes == []
        patient.handle_exit(signal.SIGTERM, None)
        assert patient.should_exit
        assert patient.force_exit
        assert codes == [143]

    asyncio.run(scenario())

"""The real server over a fake engine: ``python -m tests.e2e.fake_server``, settings as ever.

What the engine does is chosen by ``max_depth``: 1 never answers, 2 takes its time, 3 is at once.
``FAKE_START=fails`` makes it fail to start, ``FAKE_START=never`` start for ever. Its time stands
still while its process does: nobody is late for that.
"""

from __future__ import annotations

import asyncio
import os

from serving.core.errors import BackendError
from serving.core.ports import Clock, Image
from serving.core.request import Answered, Request
from serving.observability.metrics import Metrics
from serving.settings import Settings, load
from tests.e2e.working_time import adopt
from tests.serving.fakes import FakeBackend, forever

SLOW_S = 0.6


class Engine(FakeBackend):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, self._behave)
        self.ready = False

    async def start(self) -> None:
        match os.environ.get("FAKE_START"):
            case "fails":
                raise BackendError("there is no such device")
            case "never":
                await forever()
        self.ready = True

    async def _behave(self, image: Image, request: Request) -> Answered:
        self.num_waiting += 1
        try:
            if request.max_depth == 1:
                await forever()
            if request.max_depth == 2:
                await asyncio.sleep(SLOW_S)
            return await self.answer(image, request)
        finally:
            self.num_waiting -= 1


def create(settings: Settings, metrics: Metrics, clock: Clock, *, tracing: object) -> Engine:
    return Engine(clock)


if __name__ == "__main__":
    adopt()
    from serving.composition.process import serve

    serve(load({}), lambda url, _: print(url, flush=True), create)

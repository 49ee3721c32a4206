"""A shadow: a version that answers again what another has answered, so that both can be compared.

Nobody waits for it, and it is in nobody's way: it begins when nobody is inside, and is given up as
soon as somebody comes. One image at a time; whatever comes meanwhile is not shadowed, and counted
as that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

from serving.core.agreement import Agreement, compare
from serving.core.errors import ServingError
from serving.core.observing import BUSY, COMPARED, ELSEWHERE, GAVE_WAY, NO_ANSWER
from serving.core.ports import Backend, Clock, Image
from serving.core.request import Answered, Request

logger = logging.getLogger(__name__)


LEAST_SCORE = 0.3
"""Score from which on a box counts, if either version gives it: below that, models hold on to
hundreds of guesses for the sake of average precision."""


class ShadowObserver(Protocol):
    """An observer of what a shadow does."""

    def shadowed(self, end: str) -> None:
        """Take note of an end, one of ``observing.SHADOW_ENDS``."""

    def compared(self, agreement: Agreement) -> None:
        """Take note of how far the shadow agreed."""


class Shadow:
    """A shadow of whatever answers, over the version behind ``backend``.

    ``is_quiet`` says whether nobody is inside. For the event loop.
    """

    def __init__(
        self, backend: Backend, is_quiet: Callable[[], bool], clock: Clock, observer: ShadowObserver
    ) -> None:
        self._backend = backend
        self._is_quiet = is_quiet
        self._clock = clock
        self._observer = observer
        self._running: asyncio.Task[str] | None = None
        self._number = 0

    def offer(self, image: Image, request: Request, answered: Answered) -> None:
        """Answer ``request`` again, if nobody is in the way, and compare with ``answered``."""
        if self._running is not None or not self._is_quiet() or not self._backend.ready:
            self._observer.shadowed(BUSY)
            return
        self._running = asyncio.create_task(self._run(image, request, answered))
        self._running.add_done_callback(self._ended)

    def make_way(self) -> None:
        """Give up what is under way, since somebody comes."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self, image: Image, request: Request, answered: Answered) -> str:
        """Return how it ended, one of ``observing.SHADOW_ENDS``."""
        try:
            return await self._answer(image, request, answered)
        except ServingError as error:
            logger.info("the shadow has no answer: %s", error)
        except Exception as error:  # whatever it comes to, nobody waits for it
            logger.error("the shadow failed", exc_info=error)
        return NO_ANSWER

    def _ended(self, task: asyncio.Task[str]) -> None:
        self._running = None
        self._observer.shadowed(GAVE_WAY if task.cancelled() else task.result())

    async def _answer(self, image: Image, request: Request, answered: Answered) -> str:
        """Return whether the shadow came to the operating point of ``answered``, and compare."""
        self._number += 1
        now_s = self._clock()
        again = Request(
            id=-self._number,
            arrival_s=now_s,
            deadline_s=now_s + request.deadline_s - request.arrival_s,
            min_depth=answered.depth,
            max_depth=answered.depth,
            streaming=True,  # so that it tells of each size that it comes by
        )
        async with aclosing(self._backend.stream(image, again)) as answers:
            async for other in answers:
                if other.points == answered.points:
                    self._observer.compared(
                        compare(answered.detections, other.detections, LEAST_SCORE)
                    )
                    return COMPARED
        return ELSEWHERE

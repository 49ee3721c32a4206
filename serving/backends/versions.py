"""Versions of one model behind one backend: the one that answers, and at most one beside it.

Requests go to the current version or, a share of them, to a canary; a shadow answers again what has
been answered. A request stays where it went. To swap versions is one assignment in the event loop:
whoever came before it ends with the old one, whoever comes after begins with the new one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from serving.backends.shadow import Shadow, ShadowObserver
from serving.core.errors import BackendUnavailable, ModelUnloaded
from serving.core.family import Family
from serving.core.model_versions import Role, VersionFacts
from serving.core.ports import Backend, Clock, Image
from serving.core.request import Answered, Request

QUIET_WITHIN_S = 5.0
"""Seconds within which an instant without anybody inside is waited for before versions are swapped.
A server that does not take in all that it could has many such instants in each second."""
TURN_WITHIN_S = 0.1
"""Seconds that a run beside a version which serves waits for nobody to be inside that."""
LOOK_EVERY_S = 0.001


class VersionsObserver(ShadowObserver, Protocol):
    """An observer of versions coming and going."""

    def name_versions(self, releases: tuple[str, ...]) -> None:
        """Take note of the versions that are there; of any other nothing will be heard again."""


@dataclass(eq=False)
class LoadedVersion:
    """A version that is there."""

    backend: Backend
    role: Role = Role.CURRENT
    share: float = 0.0
    """Share of the requests that are for it, of a canary."""
    credit: float = 0.0
    """Requests, or parts of one, that it is behind its share."""
    shadow: Shadow | None = None

    @property
    def family(self) -> Family:
        """What it is."""
        return self.backend.family

    @property
    def num_inside(self) -> int:
        """Number of requests that it has and has not ended."""
        backend = self.backend
        return backend.num_waiting + backend.num_in_flight + backend.num_held

    def takes_next(self) -> bool:
        """Return whether the next request is for this canary: as many as make its share, evenly."""
        if not self.backend.ready:  # what it cannot take is not made up for afterwards
            return False
        self.credit += self.share
        if self.credit < 1.0:
            return False
        self.credit -= 1.0
        return True


class VersionedBackend:
    """``Backend`` over the versions of one model, the first of them behind ``first``.

    All of it is for the event loop, but ``wait_until_quiet``. ``drain_s`` is how long a request may
    stay inside: its largest budget.
    """

    def __init__(
        self, first: Backend, clock: Clock, observer: VersionsObserver, *, drain_s: float
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._drain_s = drain_s
        self._leaving: list[LoadedVersion] = []
        self.current: LoadedVersion | None = LoadedVersion(first)
        self.candidate: LoadedVersion | None = None
        self.family = first.family
        """The current version, or the one that was last."""
        self.has_started = False
        self.stopping = False
        self.name_versions()

    # -- Backend ---------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is a current version, and it is ready."""
        return self.current is not None and self.current.backend.ready

    @property
    def absence(self) -> BackendUnavailable:
        """Error of a request that comes while it is not ready."""
        if self.current is None:
            return ModelUnloaded(f"The model {self.family.name} was unloaded by an admin.")
        return self.current.backend.absence

    @property
    def alive(self) -> bool:
        """Whether the current version may be ready; another one has no say in that."""
        return self.current is None or self.current.backend.alive

    @property
    def num_waiting(self) -> int:
        """Number of requests that no segment has run for."""
        return sum(live.backend.num_waiting for live in self._all())

    @property
    def num_in_flight(self) -> int:
        """Number of requests with features on the device."""
        return sum(live.backend.num_in_flight for live in self._all())

    @property
    def num_held(self) -> int:
        """Number of requests with an answer in hand that may have a better one."""
        return sum(live.backend.num_held for live in self._all())

    @property
    def num_instances(self) -> int:
        """Number of runs of the current version that may be under way at a time."""
        return 1 if self.current is None else self.current.backend.num_instances

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        """Return what the current version is predicted to take, as ``Backend.predicted_s``."""
        return self._serving().predicted_s(depth, model)

    def tail_s(self, depth: int, model: int | None = None) -> float:
        """Return what the current version seldom exceeds, as ``Backend.tail_s``."""
        return self._serving().tail_s(depth, model)

    async def start(self) -> None:
        """Start the version that it begins with. Raises BackendError."""
        await self._serving().start()
        self.has_started = True

    async def stop(self, grace_s: float) -> None:
        """Stop every version, each as ``Backend.stop`` does."""
        self.stopping = True
        everything, self._leaving = self._all(), []
        for live in everything:
            _end_shadow(live)
        await asyncio.gather(*(live.backend.stop(grace_s) for live in everything))

    def stream(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        """Yield each answer of the version that the request goes to; see ``Backend.stream``."""
        serving, candidate = self._serving(), self.candidate
        if candidate is None:
            return serving.stream(image, request)
        if candidate.shadow is not None:
            candidate.shadow.make_way()
            return _shadowed(serving, candidate.shadow, image, request)
        return (candidate.backend if candidate.takes_next() else serving).stream(image, request)

    # -- versions --------------------------------------------------------------------------------

    def versions(self) -> list[VersionFacts]:
        """Return what is there, the current version first."""
        shared_out = 0.0 if self.candidate is None else self.candidate.share
        return [
            VersionFacts(
                live.family.name,
                live.family.version,
                live.family.release,
                live.family.digest,
                live.role,
                1.0 - shared_out if live is self.current else live.share,
                live.backend.ready,
                live.num_inside,
            )
            for live in (self.current, self.candidate)
            if live is not None
        ]

    def put_beside(self, live: LoadedVersion, role: Role, share: float) -> None:
        """Let a version be the candidate, as a canary with this share or as a shadow."""
        _end_shadow(live)
        live.role, live.share, live.credit = role, share, 0.0
        if role is Role.SHADOW:
            live.shadow = Shadow(live.backend, self._is_quiet, self._clock, self._observer)
        self.candidate = live

    async def swap(self, live: LoadedVersion) -> None:
        """Let a version be the current one, at an instant when nobody is inside if one comes soon.

        Returns when the old one has ended what was inside, and is freed.
        """
        _end_shadow(live)
        old, give_up_s = self.current, self._clock() + QUIET_WITHIN_S
        while old is not None and old.num_inside and self._clock() < give_up_s:
            await asyncio.sleep(LOOK_EVERY_S)
        live.role, live.share = Role.CURRENT, 0.0
        self.current, self.candidate, self.family = live, None, live.family
        if old is not None:
            await self._release(old)

    async def withdraw(self) -> None:
        """Let the candidate go, if there is one, once it has ended what is inside."""
        candidate, self.candidate = self.candidate, None
        if candidate is not None:
            _end_shadow(candidate)
            await self._release(candidate)

    async def unload(self) -> None:
        """Let every version go, once it has ended what is inside."""
        await self.withdraw()
        current, self.current = self.current, None
        if current is not None:
            await self._release(current)

    def name_versions(self, *coming: Backend) -> None:
        """Say which versions are there, ``coming`` among them."""
        backends = (*(live.backend for live in self._all()), *coming)
        releases = dict.fromkeys(backend.family.release for backend in backends)
        self._observer.name_versions(tuple(releases))

    def wait_until_quiet(self) -> None:
        """Wait for an instant at which nobody is inside what serves, a while at most.

        For a thread that is about to run something once, beside it.
        """
        give_up_s = self._clock() + TURN_WITHIN_S
        while not self._is_quiet() and self._clock() < give_up_s:
            time.sleep(LOOK_EVERY_S)

    # -- inside ----------------------------------------------------------------------------------

    async def _release(self, live: LoadedVersion) -> None:
        """Stop a version that nobody is sent to any more; all that is inside has time to end."""
        self._leaving.append(live)
        try:
            await live.backend.stop(self._drain_s)
        finally:
            if live in self._leaving:
                self._leaving.remove(live)

    def _all(self) -> list[LoadedVersion]:
        there = [live for live in (self.current, self.candidate) if live is not None]
        return there + self._leaving

    def _serving(self) -> Backend:
        if self.current is None:
            raise self.absence
        return self.current.backend

    def _is_quiet(self) -> bool:
        """Return whether nobody is inside the current version."""
        current = self.current
        return current is None or current.num_inside == 0


async def _shadowed(
    backend: Backend, shadow: Shadow, image: Image, request: Request
) -> AsyncGenerator[Answered, None]:
    """Yield the answers of ``backend``, and have the last one compared."""
    answered = None
    async with aclosing(backend.stream(image, request)) as answers:
        async for answered in answers:
            yield answered
    # One that was held may still be in the engine's hands, and so may its image.
    if answered is not None and not answered.held:
        shadow.offer(image, request, answered)


def _end_shadow(live: LoadedVersion) -> None:
    if live.shadow is not None:
        live.shadow.make_way()
        live.shadow = None

"""Changes of the model that admins ask for, one at a time, while requests are served.

find --> opened, warmed up, looked at --> in its place --> the one before it is let go
  '---------------'--- any of these fails: everything is as it was, and it is said why
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from serving.backends.threads import in_daemon_thread
from serving.backends.versions import LoadedVersion, VersionedBackend, VersionsObserver
from serving.core.command_errors import CommandError
from serving.core.errors import BackendUnavailable, ModelRefused, ServingError
from serving.core.family import Family
from serving.core.model_versions import LoadOptions, Role, VersionFacts
from serving.core.observing import LOADED, REFUSED, UNCHANGED, UNLOADED
from serving.core.ports import Backend, Clock, Image
from serving.core.replacement import find_obstacle
from serving.core.request import Request

logger = logging.getLogger(__name__)

CHECK_WITHIN_S = 30.0
"""Budget in seconds of each answer of a version that is looked at before it may serve."""


class LoadableVersion(Protocol):
    """A version that lies in the repository."""

    @property
    def family(self) -> Family:
        """What it is."""

    def open(self, beside: bool) -> Backend:
        """Return a backend of it that is not started; in a thread, which this may hold up for long.

        ``beside``: another one serves. Raises CommandError.
        """


class ChangesObserver(VersionsObserver, Protocol):
    """An observer of versions coming and going, and of why."""

    def changed_model(self, ending: str) -> None:
        """Take note of how a change has ended, by one of ``observing.MODEL_CHANGES``."""


Find = Callable[[], LoadableVersion]
"""Function that returns the version that lies in the repository now, in a thread. Raises
CommandError."""

Changed = Callable[[str], None]
"""Function that is told how each change ended, one of ``observing.MODEL_CHANGES``."""

_Change = Callable[[], Awaitable[tuple[str, str]]]
"""Function that makes a change, and returns how it ended, and a sentence."""


class ModelChanges:
    """Changes of the versions behind ``backend``; for the event loop.

    ``trial_image`` returns an image that a version is looked at with, in a thread.
    """

    def __init__(
        self,
        backend: VersionedBackend,
        find: Find,
        trial_image: Callable[[Family], Image],
        clock: Clock,
        changed: Changed,
    ) -> None:
        self._backend = backend
        self._find = find
        self._trial_image = trial_image
        self._clock = clock
        self._changed = changed
        self._running: asyncio.Task[str] | None = None

    @property
    def is_changing(self) -> bool:
        """Whether a change is under way."""
        return self._running is not None

    def versions(self) -> list[VersionFacts]:
        """Return what is there, the current version first."""
        return self._backend.versions()

    async def load(self, wanted: LoadOptions) -> str:
        """Load the version that lies in the repository; return in a sentence what came of it.

        It goes on if nobody waits for it any more. Raises ModelRefused, and then what serves does
        so as before.
        """
        return await self._make(lambda: self._load(wanted))

    async def unload(self, *, candidate_only: bool = False) -> str:
        """Let every version go, or the candidate alone; return in a sentence what came of it.

        Whoever is inside is answered. Raises ModelRefused.
        """
        return await self._make(lambda: self._unload(candidate_only))

    async def _make(self, change: _Change) -> str:
        """Make one change, while no other is under way. Raises ModelRefused."""
        if self._running is not None:
            raise ModelRefused("Another change of the model is under way.")
        if self._backend.stopping or not self._backend.has_started:
            raise ModelRefused("The server is starting or ending.")
        self._running = asyncio.create_task(self._told(change))
        return await asyncio.shield(self._running)

    async def _told(self, change: _Change) -> str:
        """Make a change, and tell how it ended. Raises ModelRefused."""
        ending = REFUSED
        try:
            ending, sentence = await change()
        except ModelRefused as error:
            logger.error("%s", error)
            raise
        except Exception as error:
            logger.error("the model could not be changed", exc_info=error)
            raise ModelRefused(f"The model could not be changed: {error}") from error
        finally:
            self._running = None
            self._backend.name_versions()
            self._changed(ending)
        logger.info("%s", sentence)
        return sentence

    # -- loading -----------------------------------------------------------------------------------

    async def _load(self, wanted: LoadOptions) -> tuple[str, str]:
        try:
            found = await in_daemon_thread(self._find)
        except CommandError as error:
            raise ModelRefused(f"What lies in the repository cannot serve: {error}.") from error
        self._check_wanted(found.family, wanted)
        current, candidate = self._backend.current, self._backend.candidate
        if not wanted.again:
            if candidate is not None and _is(candidate, found.family):
                return await self._place(candidate, wanted)
            if current is not None and _is(current, found.family):
                return self._unchanged(found.family, wanted)
        return await self._place(LoadedVersion(await self._opened(found)), wanted)

    def _check_wanted(self, family: Family, wanted: LoadOptions) -> None:
        """Raise ModelRefused unless ``family`` can have what is wanted of it."""
        obstacle = find_obstacle(self._backend.family, family)
        if obstacle is not None:
            raise ModelRefused(f"{obstacle}.")
        if self._backend.current is None and wanted.role is not Role.CURRENT:
            raise ModelRefused(f"There is no version that it could be a {wanted.role} of.")

    @staticmethod
    def _unchanged(family: Family, wanted: LoadOptions) -> tuple[str, str]:
        if wanted.role is not Role.CURRENT:
            raise ModelRefused(
                f"{family.release} is what serves: nothing else lies in the repository that could "
                f"be its {wanted.role}."
            )
        return UNCHANGED, f"{family.name} {family.release} serves already"

    async def _opened(self, found: LoadableVersion) -> Backend:
        """Return a backend of a version that is ready and was looked at. Raises ModelRefused.

        What was a candidate has made room for it.
        """
        beside = self._backend.current is not None
        try:
            backend = await in_daemon_thread(lambda: found.open(beside))
            await self._backend.withdraw()
            self._backend.name_versions(backend)
            try:
                await backend.start()
                await self._look_at(backend)
                if self._backend.stopping or not backend.ready:
                    raise BackendUnavailable(
                        "The server is shutting down, or the engine failed again."
                    )
            except BaseException:
                await backend.stop(0.0)
                raise
        except (CommandError, ServingError) as error:
            raise ModelRefused(
                f"{found.family.name} {found.family.release} was not loaded: {error}."
            ) from error
        return backend

    async def _look_at(self, backend: Backend) -> None:
        """Have a version answer by each number of exits. Raises ServingError if it does not."""
        image = await in_daemon_thread(lambda: self._trial_image(backend.family))
        for depth in range(1, backend.family.num_exits + 1):
            now_s = self._clock()
            request = Request(-depth, now_s, now_s + CHECK_WITHIN_S, depth, depth)
            async with aclosing(backend.stream(image, request)) as answers:
                async for _ in answers:
                    pass

    async def _place(self, live: LoadedVersion, wanted: LoadOptions) -> tuple[str, str]:
        """Give a version that was loaded its role. Raises ModelRefused if it has become unready."""
        title = f"{live.family.name} {live.family.release}"
        if not live.backend.ready:
            raise ModelRefused(f"The engine of {title} is not ready.")
        if wanted.role is Role.CURRENT:
            await self._backend.swap(live)
            return LOADED, f"{title} serves"
        self._backend.put_beside(live, wanted.role, wanted.share or 0.0)
        if wanted.role is Role.SHADOW:
            return LOADED, f"{title} shadows {self._backend.family.release}"
        return LOADED, f"{title} answers {wanted.share:g} of the requests"

    # -- unloading ---------------------------------------------------------------------------------

    async def _unload(self, candidate_only: bool) -> tuple[str, str]:
        backend = self._backend
        if candidate_only:
            if backend.candidate is None:
                raise ModelRefused("There is no version beside the one that serves.")
            release = backend.candidate.family.release
            await backend.withdraw()
            return UNLOADED, f"{backend.family.name} {release} was unloaded"
        if backend.current is None:
            return UNCHANGED, f"{backend.family.name} was unloaded before"
        await backend.unload()
        return UNLOADED, f"{backend.family.name} {backend.family.release} was unloaded"


def _is(live: LoadedVersion, family: Family) -> bool:
    """Return whether ``family`` is the version that is there: its weights, called the same."""
    return (live.family.digest, live.family.version) == (family.digest, family.version)


class ChangeableBackend(VersionedBackend):
    """``VersionedBackend`` whose versions admins change, by ``changes``."""

    def __init__(
        self,
        first: Backend,
        find: Find,
        trial_image: Callable[[Family], Image],
        clock: Clock,
        observer: ChangesObserver,
        *,
        drain_s: float,
    ) -> None:
        super().__init__(first, clock, observer, drain_s=drain_s)
        self.changes = ModelChanges(self, find, trial_image, clock, observer.changed_model)

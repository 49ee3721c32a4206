"""A supervisor of one engine: it opens it, watches it, and puts another in its place if it hangs.

    opening --> serving --a step is overdue--> abandoned, opening --> serving
       ^                                                  |
       '---------------- it failed, a while later --------'

A thread that hangs inside a runtime cannot be ended: it is left to itself, with all that it holds,
and ends when it returns. So there is a bound on how many are left, and with it on memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serving.core.errors import BackendError, EngineLost, EngineStalled
from serving.core.latency import LatencyModel
from serving.core.ports import Clock
from serving.execution.engine import Engine
from serving.execution.liveness import EXECUTOR_THREAD, STALL_FLOOR_S
from serving.execution.request_executor import RequestExecutor

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.05
"""Seconds between two looks at the engine: how much later than due a hang may be noticed."""
PAUSE_S = 0.5
"""Seconds between two looks from which on the whole process is taken to have stood still, so that
being late says nothing about the engine."""
START_WITHIN_S = 900.0
"""Seconds that opening the first engine may take before it is taken to hang: it may have to be
compiled, beside others that do the same."""
OPEN_WITHIN_S = 120.0
"""Seconds that opening another engine may take before it is taken to hang as well."""
RETRY_S, MAX_RETRY_S = 1.0, 30.0
"""Seconds before an engine that could not be opened is tried again: the first, doubled each time,
and the most."""
MAX_FAILURES = 3
"""Number of engines on end that could not be opened from which on this process is of no use."""
MAX_HANGING = 3
"""Number of threads that hang at once from which on no further engine is opened: each holds the
memory of an engine."""

OPENING = "opening"
"""Name of the thread that opens an engine."""

OpenEngine = Callable[[Sequence[LatencyModel] | None], Engine]
"""Function that opens an engine, starts it, and returns it; it is given what the last one has
learnt of run times. Raises whatever a runtime does."""


@dataclass(eq=False)
class _Opening:
    """An engine that is being opened in a thread of its own."""

    started_s: float
    over: threading.Event = field(default_factory=threading.Event)
    engine: Engine | None = None
    error: Exception | None = None
    is_given_up: bool = False
    """Whether nobody waits for it any more."""


class Supervisor:
    """A supervisor of the engine that ``open_engine`` opens.

    ``engine``, ``is_alive`` and ``stop`` are for any thread; ``look`` is one pass of its own
    thread, and all that tests need.
    """

    def __init__(self, open_engine: OpenEngine, clock: Clock) -> None:
        """Make a supervisor that has opened nothing yet."""
        self._open_engine = open_engine
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._engine: Engine | None = None
        self._opening: _Opening | None = None
        self._stopping = False
        # Touched by one thread at a time: the starting one, then its own.
        self._learnt: Sequence[LatencyModel] | None = None
        self._abandoned: list[RequestExecutor] = []
        self._given_up: list[_Opening] = []
        self._num_failures = 0
        self._retry_at_s: float | None = None
        self._looked_s = clock()
        self._trusted_s = self._looked_s
        self._stopped = threading.Event()

    @property
    def engine(self) -> Engine | None:
        """The engine that serves; None while there is none."""
        return self._engine

    @property
    def is_alive(self) -> bool:
        """Whether an engine is there or may yet be; if not, the process had better be restarted."""
        return self._num_failures < MAX_FAILURES and self._num_hanging() < MAX_HANGING

    def start(self) -> None:
        """Open the engine, and watch it from then on. Raises what opening it does."""
        opening = self._begin()
        if not opening.over.wait(START_WITHIN_S):
            self._give_up(opening)
            raise BackendError(f"opening it took longer than {START_WITHIN_S:g} s")
        if opening.error is not None:
            raise opening.error
        self._take(opening)
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Drain for up to ``grace_s`` seconds, then free the engine, unless it hangs.

        One that is being opened is freed when it is there; it is not waited for.
        """
        with self._lock:
            self._stopping = True
            engine = self._engine
        if engine is not None:
            engine.stop(grace_s)
        self._stopped.set()

    # -- its thread ------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception:  # whoever watches must go on
                log.exception("the supervisor failed")

    def look(self) -> None:
        """Replace an engine that hangs, take in one that was opened, forget what has returned."""
        self._abandoned = [each for each in self._abandoned if each.is_running]
        self._given_up = [each for each in self._given_up if not each.over.is_set()]
        engine = self._engine
        # Before the clock, so that standing still between the two shows in the time since last.
        is_stalled = engine is not None and engine.executor.is_stalled
        now_s = self._clock()
        if now_s - self._looked_s > PAUSE_S:
            self._trusted_s = now_s + STALL_FLOOR_S
        self._looked_s = now_s
        if engine is not None:
            if is_stalled and now_s >= self._trusted_s:
                self._replace(engine)
        elif self._opening is not None:
            self._look_at_opening(self._opening)
        elif self._retry_at_s is not None and now_s >= self._retry_at_s and not self._stopping:
            self._begin()

    def _replace(self, engine: Engine) -> None:
        """Give ``engine`` up, unless it has just returned, and open another."""
        self._engine = None  # so that nobody is sent there from now on
        executor = engine.executor
        error: BackendError = EngineStalled("The engine hung; another takes its place.")
        if executor.is_lost:
            error = EngineLost("The engine's process ended; another takes its place.")
        if not executor.abandon(error):
            self._engine = engine
            return
        log.error("%s", error)
        try:
            engine.abort()
        except Exception:  # it is given up, whatever it says
            log.exception("what hangs could not be ended")
        self._learnt = engine.latencies
        self._abandoned.append(executor)
        if not self._stopping:
            self._begin()

    def _begin(self) -> _Opening:
        """Begin to open an engine, unless too many hang."""
        opening = _Opening(self._clock())
        if self._num_hanging() >= MAX_HANGING:
            log.error("%d engines hang: no further one is opened", self._num_hanging())
            self._retry_at_s = self._clock() + MAX_RETRY_S
            return opening
        self._retry_at_s = None
        self._opening = opening
        threading.Thread(target=self._open, args=(opening,), name=OPENING, daemon=True).start()
        return opening

    def _open(self, opening: _Opening) -> None:
        """Open an engine; in a thread of its own, which the process does not wait for."""
        try:
            engine = self._open_engine(self._learnt)
        except Exception as error:
            opening.error = error
        else:
            with self._lock:
                is_wanted = not (opening.is_given_up or self._stopping)
                opening.engine = engine if is_wanted else None
            if not is_wanted:
                engine.stop(0.0)
                opening.error = BackendError("The engine was no longer wanted.")
        opening.over.set()

    def _look_at_opening(self, opening: _Opening) -> None:
        now_s = self._clock()
        if opening.over.is_set() and opening.error is None:
            self._take(opening)
            log.info("another engine serves, after %.1f s", now_s - opening.started_s)
        elif opening.over.is_set():
            self._fail(opening, f"another engine could not be opened: {opening.error}")
        elif now_s - opening.started_s > OPEN_WITHIN_S:
            self._fail(opening, "opening another engine hung")

    def _fail(self, opening: _Opening, why: str) -> None:
        """Note that an engine could not be opened, and try again after a while."""
        self._give_up(opening)
        retry_s = min(MAX_RETRY_S, RETRY_S * 2**self._num_failures)
        self._num_failures += 1
        self._retry_at_s = self._clock() + retry_s
        log.error("%s; again in %g s", why, retry_s)

    def _give_up(self, opening: _Opening) -> None:
        """Wait no longer for an engine. If it comes all the same it is freed."""
        with self._lock:
            opening.is_given_up = True
            engine, opening.engine = opening.engine, None
            self._opening = None
        self._given_up.append(opening)
        if engine is not None:  # it came at this very instant
            engine.stop(0.0)

    def _take(self, opening: _Opening) -> None:
        """Serve with the engine that was opened."""
        with self._lock:
            self._opening = None
            self._engine = opening.engine
            stopping = self._stopping
        self._num_failures = 0
        self._retry_at_s = None
        if stopping and opening.engine is not None:
            opening.engine.stop(0.0)

    def _num_hanging(self) -> int:
        """Return how many threads hang, of those that were given up."""
        hanging = sum(executor.is_running for executor in self._abandoned)
        return hanging + sum(not opening.over.is_set() for opening in self._given_up)


def threads_left() -> bool:
    """Return whether a thread of an engine is there that was not waited for.

    It is in native code, where nothing can end it but the end of the process, and must not hold
    that up.
    """
    return any(thread.name in (OPENING, EXECUTOR_THREAD) for thread in threading.enumerate())

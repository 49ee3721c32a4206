"""Engine state: who waits for one engine, whose features it holds, and which runs are under way.

    add -> waiting --apply(Run)--> under way --complete--> a cohort, a deeper one, held, or answered
              |                        |
              '-- remove --------------'-- fail

The executor and the simulator both drive it: the one moves pixels and reads a clock, the other
draws how long runs take. It holds requests alone. What lies on a device by cohort is its driver's,
who is told which rows of which cohort are left (``CohortChange``).

Several runs may be under way at once. Their requests and cohorts are in no snapshot until they end,
so no decision can be about them, and whoever is removed meanwhile leaves when its run ends.

No two frames of one stream wait: one that is added supersedes another that no run is under way for,
and takes its place. Whoever is held of that stream ends with the answer in hand, since nobody wants
a better one of an older frame.

A held request has an answer in hand, which its driver keeps. It leaves when it is removed, when its
deadline comes (``expire``), or at the end of a run, under way then, that did not answer it in time.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from serving.core.demand import DemandMeter
from serving.core.fair_shares import StreamTurns, VirtualTimes
from serving.core.policy import (
    Cohort,
    Conclude,
    Decision,
    Held,
    Merge,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
)
from serving.core.request import Request

_NOBODY: Mapping[int, int] = {}
_NO_TIMES: Mapping[str, float] = {}
_urgency = attrgetter("deadline_s", "id")
"""Key that orders waiting requests: by deadline, then by id."""
_held_urgency = attrgetter("request.conclude_by_s", "request.id")
"""Key that orders held requests: by when they are concluded, then by id."""


class CohortChange(NamedTuple):
    """The rows of a cohort that are left after some requests have gone."""

    cohort: int
    """Id of the cohort."""
    rows: tuple[int, ...]
    """Positions of these rows before the change, in order; none if the cohort is gone."""


class Arrivals(NamedTuple):
    """The outcome of an arrival of frames: those that are no longer here for it."""

    superseded: tuple[Request, ...] = ()
    """Frames that waited."""
    concluded: tuple[Request, ...] = ()
    """Frames that were held: they end with the answer that they have in hand."""


class Completion(NamedTuple):
    """The outcome of a run that has ended well."""

    cohort: Cohort | None
    """Cohort whose features came out; None if boxes did."""
    left: tuple[Request, ...] = ()
    """Requests that were answered and are no longer here."""
    staying: tuple[Request, ...] = ()
    """Requests that were answered and may go deeper."""
    held: tuple[Request, ...] = ()
    """Requests that were answered and are held, with this answer in hand."""
    too_late: tuple[Request, ...] = ()
    """Requests that this answer came too late for: they are no longer here, and end with the answer
    that they had in hand."""
    changes: tuple[CohortChange, ...] = ()
    """Changes of cohorts that some of their requests have left."""


class EngineState:
    """The requests that one engine has taken and not ended, of which at most ``max_held`` are held.

    Only its numbers (``num_waiting``, ``num_waiting_of``, ``num_in_flight``, ``num_held``) and
    ``is_awaited`` may be read from other threads.
    """

    def __init__(self, max_held: int) -> None:
        self._max_held = max_held
        self._waiting: list[Request] = []
        self._cohorts: dict[int, Cohort] = {}
        self._answered: dict[int, int] = {}
        self._held: dict[int, Held] = {}
        self._demand = DemandMeter()
        self._virtual = VirtualTimes()
        self._turns = StreamTurns()
        self._idle_since_s = -math.inf
        self._under_way: list[tuple[Run, int | None]] = []
        """Runs under way, each with the id of the cohort that it is of or will make, if any."""
        self._removed: set[int] = set()
        """Ids of requests that leave when the run they are in ends."""
        self._next_cohort_id = 0

    # -- what there is ---------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Number of requests that no run has ended for; those in a first run still wait."""
        return len(self._waiting)

    def num_waiting_of(self, principal: str) -> int:
        """Return how many of the requests that ``num_waiting`` counts are this principal's."""
        return sum([request.principal == principal for request in tuple(self._waiting)])

    def is_awaited(self, request: Request) -> bool:
        """Return whether another frame of its stream waits, whose place ``request`` would take."""
        key, busy = request.stream_key, self._busy_ids()
        return any(each.stream_key == key and each.id not in busy for each in tuple(self._waiting))

    @property
    def num_in_flight(self) -> int:
        """Number of requests with features on the device."""
        return sum(len(cohort.requests) for cohort in tuple(self._cohorts.values()))

    @property
    def num_held(self) -> int:
        """Number of requests with an answer in hand, those in a run included."""
        return len(self._held)

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to decide about, now or when the runs under way end."""
        return not self._waiting and not self._cohorts and not self._held

    @property
    def next_expiry_s(self) -> float:
        """Instant at which the next held request in no run is concluded; infinite if none."""
        busy = self._busy_ids() if self._held else ()
        instants_s = (h.request.conclude_by_s for id, h in self._held.items() if id not in busy)
        return min(instants_s, default=math.inf)

    def cohort(self, id: int) -> Cohort:
        """Return the cohort with this id. Raises KeyError."""
        return self._cohorts[id]

    def snapshot(self, now_s: float) -> Snapshot:
        """Return what a policy is shown at ``now_s``: everything that no run is under way for.

        Who expires at ``now_s`` has to be taken out before, by ``expire``.
        """
        waiting, cohorts = self._waiting, list(self._cohorts.values())
        holding = sorted(self._held.values(), key=_held_urgency)
        answered = dict(self._answered) if self._answered else _NOBODY
        demand = self._demand.measure(now_s)
        if self._under_way:
            busy, busy_cohorts = self._busy_ids(), {cohort for _, cohort in self._under_way}
            waiting = [request for request in waiting if request.id not in busy]
            cohorts = [cohort for cohort in cohorts if cohort.id not in busy_cohorts]
            holding = [held for held in holding if held.request.id not in busy]
        virtual_s, turns = _NO_TIMES, self._turns.of(waiting)
        if self._virtual.is_shared or turns:
            names = _principals(waiting, cohorts)
            virtual_s = self._virtual.of(names) if len(names) > 1 or turns else _NO_TIMES
        return Snapshot(
            now_s,
            tuple(waiting),
            tuple(cohorts),
            answered,
            demand,
            tuple(holding),
            virtual_s,
            turns,
        )

    # -- what happens ----------------------------------------------------------------------------

    def add(self, arrivals: Iterable[tuple[Request, float]]) -> Arrivals:
        """Let requests wait, and return those that leave because of that.

        ``arrivals``: requests and the instants (seconds) at which they were submitted, earliest
        first.
        """
        superseded: list[Request] = []
        concluded: list[Request] = []
        for request, submitted_s in arrivals:
            if request.stream:
                superseded += self._leave_for(request, self._waiting)
                concluded += self._leave_for(request, [h.request for h in self._held.values()])
            busy = self._at_work or submitted_s < self._idle_since_s
            if not self._virtual.knows_only(request.principal):
                self._virtual.joined(request.principal, self._owed())
            insort(self._waiting, request, key=_urgency)
            left_s = request.deadline_s - submitted_s
            self._demand.arrived(submitted_s, left_s, busy, request.group)
        return Arrivals(tuple(superseded), tuple(concluded))

    def apply(self, decision: Decision) -> tuple[CohortChange, ...]:
        """Carry out ``decision`` as far as requests are concerned.

        A run is then under way until ``complete`` or ``fail``; of all others this is the end.
        Returns how cohorts have changed. Raises ValueError for a run of what another run is under
        way for, and for one that takes held requests from the image to features.
        """
        match decision:
            case Run():
                self._begin(decision)
            case Merge():
                parts = [self._cohorts.pop(id) for id in decision.cohorts]
                rows = tuple(request for part in parts for request in part.requests)
                self._cohorts[parts[0].id] = replace(parts[0], requests=rows)
            case ShedRequests() | Conclude():
                return self.remove(decision.requests)
            case Wait():
                pass
        return ()

    def charge(self, requests: Sequence[Request], seconds: float) -> None:
        """Charge a run of ``seconds`` to the principals of its requests, and to their streams."""
        self._turns.ran(requests)
        self._virtual.ran(requests, seconds)

    def cohort_of(self, run: Run) -> int | None:
        """Return the id of the cohort that ``run``, which is under way, is of or will make.

        None if it goes from the image to the boxes.
        """
        return next(cohort for other, cohort in self._under_way if other is run)

    def complete(self, run: Run, now_s: float) -> Completion:
        """End ``run`` well at ``now_s``, and return what it led to: features, or boxes."""
        cohort_id = self._end(run)
        if run.cohort is None:  # which they took up room in until now
            self._leave_queue(run.requests)
        if run.segment.head:
            completion = self._answer(run, now_s)
        else:
            assert cohort_id is not None, "features are a cohort's"
            completion = self._advance(run, cohort_id)
        if not self._at_work:
            self._idle_since_s = now_s
        return completion

    def fail(self, run: Run) -> tuple[CohortChange, ...]:
        """End ``run`` badly: remove everybody in it. Returns how cohorts have changed."""
        self._end(run)
        self._leaving(run)
        return self.remove(run.requests)

    def remove(self, requests: Collection[Request]) -> tuple[CohortChange, ...]:
        """Take requests out of the queue and out of their cohorts; return how these have changed.

        Those in a run that is under way leave when it ends.
        """
        if self._under_way:
            busy = self._busy_ids()
            self._removed.update(request.id for request in requests if request.id in busy)
            requests = [request for request in requests if request.id not in busy]
        self._leave_queue(requests)
        changes = self._take_out(requests) if self._cohorts else ()
        self._forget(requests)
        return changes

    def expire(self, now_s: float) -> tuple[Request, ...]:
        """Take out, and return, the held requests that are to be concluded by ``now_s``.

        They end with the answer they have in hand. Those in a run that is under way stay until it
        ends.
        """
        if not self._held:
            return ()
        busy = self._busy_ids()
        expired = tuple(
            held.request
            for id, held in self._held.items()
            if held.request.conclude_by_s <= now_s and id not in busy
        )
        self._forget(expired)
        return expired

    # -- parts of these --------------------------------------------------------------------------

    @property
    def _at_work(self) -> bool:
        """True if there is anything to do that somebody is owed, or anything is being done."""
        return bool(self._waiting or self._cohorts or self._under_way)

    def _owed(self) -> set[str]:
        """Return the names of the principals who wait or are in a cohort."""
        return _principals(self._waiting, self._cohorts.values())

    def _busy_ids(self) -> set[int]:
        """Return the ids of the requests in runs that are under way."""
        return {request.id for run, _ in tuple(self._under_way) for request in run.requests}

    def _leave_for(self, frame: Request, others: Iterable[Request]) -> list[Request]:
        """Remove, and return, the older frames of a stream among ``others`` that are in no run."""
        older = [each for each in others if each.stream_key == frame.stream_key]
        if older:
            busy = self._busy_ids()
            older = [each for each in older if each.id not in busy]
            self.remove(older)
        return older

    def _begin(self, run: Run) -> None:
        """Put ``run`` under way.

        Raises ValueError if another run is of the same requests or cohort, or if it would make
        features of held requests.
        """
        if not run.segment.head and any(request.id in self._held for request in run.requests):
            raise ValueError(f"{run.segment.name}: held requests go to an exit in one run")
        for other, _ in self._under_way:
            same = {request.id for request in run.requests} & {r.id for r in other.requests}
            if same or (run.cohort is not None and run.cohort == other.cohort):
                raise ValueError(f"{run.segment.name}: a run of {other.segment.name} is under way")
        cohort = run.cohort
        if cohort is None and not run.segment.head:
            cohort = self._next_cohort_id
            self._next_cohort_id += 1
        self._under_way.append((run, cohort))

    def _end(self, run: Run) -> int | None:
        """Take ``run`` from those under way, and return the id of its cohort, if any."""
        for place, (other, cohort) in enumerate(self._under_way):
            if other is run:
                del self._under_way[place]
                return cohort
        raise ValueError(f"no such run of {run.segment.name} is under way")

    def _answer(self, run: Run, now_s: float) -> Completion:
        """Let go whom ``run`` has answered at ``now_s``, unless they stay or are held."""
        segment, leaving = run.segment, self._leaving(run)
        left: list[Request] = []
        staying: list[Request] = []
        held: list[Request] = []
        too_late: list[Request] = []
        for request in run.requests:
            if request in leaving:
                continue
            is_wanted = now_s <= request.conclude_by_s
            had_one = request.id in self._held
            if run.cohort is not None and request.streaming and segment.stop < request.max_depth:
                self._answered[request.id] = segment.stop
                staying.append(request)
            elif had_one and not is_wanted:
                too_late.append(request)
            elif run.hold and is_wanted and (had_one or len(self._held) < self._max_held):
                self._held[request.id] = Held(request, segment.model, segment.stop)
                held.append(request)
            else:
                left.append(request)
        gone = left + too_late + leaving
        changes = self._take_out(gone + held) if run.cohort is not None else ()
        self._forget(gone)
        for request in held:
            self._answered.pop(request.id, None)
        return Completion(None, tuple(left), tuple(staying), tuple(held), tuple(too_late), changes)

    def _advance(self, run: Run, cohort_id: int) -> Completion:
        """Keep the cohort whose features came out of ``run``.

        Those who were removed meanwhile leave it at once.
        """
        if run.cohort is None:
            cohort = Cohort(cohort_id, run.segment.stop, run.requests, run.segment.model)
        else:
            cohort = replace(self._cohorts[run.cohort], depth=run.segment.stop)
        self._cohorts[cohort.id] = cohort
        gone = self._leaving(run)
        if not gone:
            return Completion(cohort)
        changes = self._take_out(gone)
        self._forget(gone)
        return Completion(cohort, changes=changes)

    def _leaving(self, run: Run) -> list[Request]:
        """Return the requests of ``run`` that were removed while it ran, and forget that."""
        if not self._removed:
            return []
        leaving = [request for request in run.requests if request.id in self._removed]
        self._removed.difference_update(request.id for request in leaving)
        return leaving

    def _leave_queue(self, requests: Collection[Request]) -> None:
        """Take requests out of the queue, as far as they are in it."""
        count = len(requests)
        if self._waiting[:count] == [*requests]:  # the most urgent, as is most often the case
            del self._waiting[:count]
            return
        gone = {request.id for request in requests}
        self._waiting = [request for request in self._waiting if request.id not in gone]

    def _take_out(self, requests: Collection[Request]) -> tuple[CohortChange, ...]:
        """Take requests out of their cohorts, and return how these have changed."""
        gone = {request.id for request in requests}
        changes = []
        for cohort in tuple(self._cohorts.values()):
            rows = tuple([i for i, r in enumerate(cohort.requests) if r.id not in gone])
            if len(rows) == len(cohort.requests):
                continue
            if rows:
                kept = tuple([cohort.requests[i] for i in rows])
                self._cohorts[cohort.id] = replace(cohort, requests=kept)
            else:
                del self._cohorts[cohort.id]
            changes.append(CohortChange(cohort.id, rows))
        return tuple(changes)

    def _forget(self, requests: Iterable[Request]) -> None:
        """Forget which of these requests have an answer."""
        if self._answered or self._held:
            for request in requests:
                self._answered.pop(request.id, None)
                self._held.pop(request.id, None)


def _principals(waiting: Iterable[Request], cohorts: Iterable[Cohort]) -> set[str]:
    """Return the names of the principals of these requests, and of those in these cohorts."""
    names = {request.principal for request in waiting}
    for cohort in cohorts:
        names.update([request.principal for request in cohort.requests])
    return names

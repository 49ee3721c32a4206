"""What one engine has to do: who waits, whose features it holds, and which runs are under way.

    add -> waiting --apply(Run)--> under way --complete--> a cohort, a deeper one, or answered
              |                        |
              '-- remove --------------'-- fail

The executor and the simulator both drive it: the one moves pixels and reads a clock, the other
draws how long runs take. It holds requests alone. What lies on a device by cohort is its driver's,
who is told which rows of which cohort are left (``CohortChange``).

Several runs may be under way at once. Their requests and cohorts are in no snapshot until they end,
so no decision can be about them, and whoever is removed meanwhile leaves when its run ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from serving.core.demand import DemandMeter
from serving.core.policy import Cohort, Conclude, Decision, Merge, Run, ShedRequests, Snapshot, Wait
from serving.core.request import Request

_NOBODY: Mapping[int, int] = {}


@dataclass(frozen=True, slots=True)
class CohortChange:
    """Which rows of a cohort are left."""

    cohort: int
    """Its id."""
    rows: tuple[int, ...]
    """Positions before the change, in order; none if the cohort is gone."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a run that has ended led to."""

    cohort: Cohort | None
    """The cohort whose features came out; None if boxes did."""
    left: tuple[Request, ...] = ()
    """Requests that were answered and are no longer here."""
    staying: tuple[Request, ...] = ()
    """Requests that were answered and may go deeper."""
    changes: tuple[CohortChange, ...] = ()


class EngineState:
    """The requests that one engine has taken and not ended. Only its numbers may be read from other
    threads."""

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self._cohorts: dict[int, Cohort] = {}
        self._answered: dict[int, int] = {}
        self._demand = DemandMeter()
        self._under_way: list[tuple[Run, int | None]] = []
        """Each with the id of the cohort that it is of or will make, if any."""
        self._removed: set[int] = set()
        """Ids of requests that leave when the run they are in ends."""
        self._next_cohort_id = 0

    # -- what there is ---------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Requests that no run has ended for; those in a first run still wait."""
        return len(self._waiting)

    @property
    def num_in_flight(self) -> int:
        """Requests with features on the device."""
        return sum(len(cohort.requests) for cohort in tuple(self._cohorts.values()))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to decide about, now or when the runs under way end."""
        return not self._waiting and not self._cohorts

    def cohort(self, id: int) -> Cohort:
        """The cohort with this id. Raises KeyError."""
        return self._cohorts[id]

    def snapshot(self, now_s: float) -> Snapshot:
        """What a policy is shown at ``now_s``: everything that no run is under way for."""
        waiting, cohorts = self._waiting, self._cohorts.values()
        answered = dict(self._answered) if self._answered else _NOBODY
        demand = self._demand.measure(now_s)
        if not self._under_way:
            return Snapshot(now_s, tuple(waiting), tuple(cohorts), answered, demand)
        busy = {request.id for run, _ in self._under_way for request in run.requests}
        held = {cohort for _, cohort in self._under_way}
        return Snapshot(
            now_s,
            tuple([request for request in waiting if request.id not in busy]),
            tuple([cohort for cohort in cohorts if cohort.id not in held]),
            answered,
            demand,
        )

    # -- what happens ----------------------------------------------------------------------------

    def add(self, arrivals: Iterable[tuple[Request, float]]) -> None:
        """Let requests wait that were submitted at these instants (seconds), earliest first."""
        before = len(self._waiting)
        for request, submitted_s in arrivals:
            self._waiting.append(request)
            self._demand.arrived(submitted_s, request.deadline_s - submitted_s)
        if len(self._waiting) > before:
            self._waiting.sort(key=lambda request: (request.deadline_s, request.id))

    def apply(self, decision: Decision) -> tuple[CohortChange, ...]:
        """Carry out ``decision`` as far as requests are concerned. A run is then under way until
        ``complete`` or ``fail``; of all others this is the end. Raises ValueError for a run of what
        another run is under way for."""
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

    def cohort_of(self, run: Run) -> int | None:
        """The id of the cohort that ``run``, which is under way, is of or will make; None if it
        goes from the image to the boxes."""
        return next(cohort for other, cohort in self._under_way if other is run)

    def complete(self, run: Run) -> Completion:
        """End ``run`` well: its features are there, or its boxes."""
        cohort_id = self._end(run)
        if run.cohort is None:  # until now they took up room in the queue
            self._leave_queue({request.id for request in run.requests})
        if cohort_id is not None and not run.segment.head:
            return self._hold(run, cohort_id)
        depth, left, staying = run.segment.stop, [], []
        for request in run.requests:
            if request.id in self._removed:
                continue
            if run.cohort is not None and request.streaming and depth < request.max_depth:
                self._answered[request.id] = depth
                staying.append(request)
            else:
                left.append(request)
        gone = [*left, *self._leaving(run)]
        changes = self._take_out(gone) if run.cohort is not None else ()
        self._forget(gone)
        return Completion(None, tuple(left), tuple(staying), changes)

    def fail(self, run: Run) -> tuple[CohortChange, ...]:
        """End ``run`` badly: nobody in it is here any more."""
        self._end(run)
        self._leaving(run)
        return self.remove(run.requests)

    def remove(self, requests: Collection[Request]) -> tuple[CohortChange, ...]:
        """Take requests out of the queue and out of their cohorts; those in a run that is under way
        leave when it ends."""
        if self._under_way:
            busy = {request.id for run, _ in self._under_way for request in run.requests}
            self._removed.update(request.id for request in requests if request.id in busy)
            requests = [request for request in requests if request.id not in busy]
        self._leave_queue({request.id for request in requests})
        changes = self._take_out(requests)
        self._forget(requests)
        return changes

    # -- parts of these --------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
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
        """It is no longer under way; the id of its cohort."""
        cohort = self.cohort_of(run)
        self._under_way = [entry for entry in self._under_way if entry[0] is not run]
        return cohort

    def _hold(self, run: Run, cohort_id: int) -> Completion:
        """The cohort whose features came out, without those who left meanwhile."""
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
        """Those in ``run`` who were removed while it was under way; they are so no longer."""
        if not self._removed:
            return []
        leaving = [request for request in run.requests if request.id in self._removed]
        self._removed.difference_update(request.id for request in leaving)
        return leaving

    def _leave_queue(self, gone: Collection[int]) -> None:
        self._waiting = [request for request in self._waiting if request.id not in gone]

    def _take_out(self, requests: Collection[Request]) -> tuple[CohortChange, ...]:
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
        if self._answered:
            for request in requests:
                self._answered.pop(request.id, None)

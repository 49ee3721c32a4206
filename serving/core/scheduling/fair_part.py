"""The fair part of a snapshot: whom the engine has time for, if principals take turns.

Where not everybody can be in time and there is more than one principal or stream, it is not
deadlines that say who is given up. Everybody is lined up in the order in which principals would be
served if each had its share (see ``fair_shares``): a principal's requests follow each other by
deadline, those in flight first, each as much later in virtual time as the one before it still
needs. Streams of one principal take turns inside its share, whichever has had none for longest
first. Those that have no time for the largest batch are its last, unless they were promised: a
principal that has others is served faster without. The fair part is as much of the head of that
line as can be in time, and at least the first. The rest is put off: it waits, or stays on the
device, and may be in the next part.

So a principal gets nothing for sending more, for claiming to be urgent, or for asking for depth;
and no engine time is lost, since whoever comes after those within their share fills what is left.

No more of the line is made than is looked at: twice what there is time for, however many wait.

Frames are given up even where everybody can be in time: each gives way to the next one of its
stream. By deadline alone it would be those of the same cameras again and again, whose frames come
just before their turn. So while more frames come than can be answered, those at the head of the
line go first, as long as all others can be in time after them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice
from operator import attrgetter, itemgetter
from typing import NamedTuple

from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.opportunity_cost import RATE_MARGIN
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.path_times import Memo
from serving.core.scheduling.ways_in import WaysIn

MakePlan = Callable[[Snapshot], EdfPlan]
"""Function that plans a snapshot."""

_turn = itemgetter(0, 1)
_deadline_s = attrgetter("deadline_s")
_urgency = attrgetter("deadline_s", "id")
_bounds = attrgetter("min_depth", "max_depth")

_Entry = tuple[float, bool, int, Request | Cohort]
"""A place in the line: virtual time, whether it is a cohort's (who waits goes before a cohort of
another principal that is no further behind), a number that decides between equals, and who has it.
"""


class FairPart(NamedTuple):
    """A part of a snapshot, and what it leaves out."""

    snapshot: Snapshot
    plan: EdfPlan
    parked: tuple[Cohort, ...]
    """Cohorts that are left out, the first to go on again first."""


def fair_part(snapshot: Snapshot, plan: EdfPlan, make_plan: MakePlan) -> FairPart:
    """Return the fair part of ``snapshot``, which is of several principals or streams.

    ``plan`` is that of all of it, and ``make_plan`` plans a part.
    """
    line = TurnOrder(snapshot, plan.ways_in, plan.streaming_ids)

    def is_too_much(length: int) -> bool:
        waiting, parked = line.head(length)
        return plan.slack_of(waiting, {cohort.id for cohort in parked}) < 0.0

    # One is always served, whether or not it can be in time.
    fits, most = 1, 4
    while most <= len(line) and not is_too_much(most):
        fits, most = most, 2 * most
    lengths = range(fits + 1, min(most, len(line) + 1))
    waiting, parked = line.head(fits + bisect_left(lengths, True, key=is_too_much))
    put_off = {cohort.id for cohort in parked}
    # Cohorts that nobody in is owed an answer stay, since they are in nobody's way.
    cohorts = tuple([cohort for cohort in snapshot.cohorts if cohort.id not in put_off])
    part = replace(snapshot, waiting=waiting, cohorts=cohorts, num_parked=len(parked))
    return FairPart(part, make_plan(part), parked)


def next_in_turn(snapshot: Snapshot, plan: EdfPlan) -> tuple[Request, ...]:
    """Return the waiting requests whose turn it is, by deadline: as many as run together.

    None while the engine can answer all that comes. Some of those who wait are frames of streams.
    """
    way = plan.ways_in.to(1, False)
    most = way.sizes[-1]
    if RATE_MARGIN * snapshot.demand.rate_hz * way.times[most][1] < most:
        return ()
    streaming_ids = plan.streaming_ids
    line = TurnOrder(snapshot, plan.ways_in, streaming_ids)
    waiting = (item for item in line if isinstance(item, Request))
    head = next(waiting)
    streams, bounds = head.id in streaming_ids, _bounds(head)
    alike = (
        request
        for request in waiting
        if _bounds(request) == bounds and (request.id in streaming_ids) == streams
    )
    sizes = plan.ways_in.to(head.min_depth, streams).sizes
    together = [head, *islice(alike, sizes[-1] - 1)]
    size = max([paying for paying in sizes if paying <= len(together)])
    return tuple(sorted(together[:size], key=_urgency))


class TurnOrder:
    """Who waits, and the cohorts of those who are owed an answer, as they take turns."""

    def __init__(self, snapshot: Snapshot, ways_in: WaysIn, streaming_ids: frozenset[int]) -> None:
        """Line up who is in ``snapshot``; the other arguments are those of its plan."""
        virtual_s = dict(snapshot.virtual_s)
        in_flight = _in_flight(snapshot, ways_in.models, virtual_s)
        self._cohorts = [item for *_, item in in_flight if isinstance(item, Cohort)]
        self._items: list[Request | Cohort] = []
        self._num_all = len(in_flight) + len(snapshot.waiting)
        kinds: Memo[tuple[int, bool], _Kind] = Memo(
            lambda kind: _kind_of(*kind, snapshot.now_s, ways_in)
        )

        def kind_of(request: Request) -> _Kind:
            return kinds[request.min_depth, request.id in streaming_ids]

        of_principal: dict[str, list[tuple[int, Request]]] = {}
        for number, request in enumerate(_by_turns(snapshot)):
            of_principal.setdefault(request.principal, []).append((number, request))
        queues = [
            _queue(waiting, virtual_s[principal], kind_of, len(snapshot.waiting))
            for principal, waiting in of_principal.items()
        ]
        self._rest = merge(in_flight, *queues)

    def __len__(self) -> int:
        return self._num_all

    def __iter__(self) -> Iterator[Request | Cohort]:
        for place in range(self._num_all):
            self._make(place + 1)
            yield self._items[place]

    def head(self, length: int) -> tuple[tuple[Request, ...], tuple[Cohort, ...]]:
        """Return the requests among the first ``length``, by deadline, and the cohorts behind."""
        self._make(length)
        head = self._items[:length]
        waiting = sorted([item for item in head if isinstance(item, Request)], key=_urgency)
        if len(waiting) == length:
            return tuple(waiting), tuple(self._cohorts)
        served = {item.id for item in head if isinstance(item, Cohort)}
        return tuple(waiting), tuple([each for each in self._cohorts if each.id not in served])

    def _make(self, length: int) -> None:
        missing = length - len(self._items)
        if missing > 0:
            self._items += [item for *_, item in islice(self._rest, missing)]


def _in_flight(
    snapshot: Snapshot, models: Sequence[Costs], virtual_s: dict[str, float]
) -> list[_Entry]:
    """Return the places of cohorts that somebody is owed an answer in, in order.

    ``virtual_s`` moves on by what each principal's requests in them still need.
    """
    entries: list[_Entry] = []
    in_flight = [
        (min(owed, key=_deadline_s).deadline_s, cohort, owed)
        for cohort in snapshot.cohorts
        if (owed := [r for r in cohort.requests if r.id not in snapshot.answered])
    ]
    for _, cohort, owed in sorted(in_flight, key=itemgetter(0)):
        start_s = min(virtual_s[request.principal] for request in owed)
        entries.append((start_s, True, len(entries), cohort))
        depth = max(cohort.depth, owed[0].min_depth)
        path_s = models[cohort.model].remaining_path(cohort.depth, depth, len(owed))[1]
        for request in owed:
            virtual_s[request.principal] += path_s / len(owed) / request.share
    return sorted(entries)


def _by_turns(snapshot: Snapshot) -> Sequence[Request]:
    """Return who waits, by deadline, or as streams take turns.

    Those that were promised go first. All first ones of each stream go before all second ones, as
    there may be of what is of none.
    """
    turns = snapshot.stream_turns
    if not turns:
        return snapshot.waiting
    rounds: Counter[tuple[str, str]] = Counter()
    line: list[tuple[int, int, Request]] = []
    for request in snapshot.waiting:
        key = request.stream_key
        place = -1 if request.is_promised else rounds[key]
        line.append((place, turns.get(key, 0), request))
        rounds[key] += 1
    return [request for _, _, request in sorted(line, key=_turn)]


class _Kind(NamedTuple):
    """Waiting requests with one shallowest exit that they accept, streaming or not."""

    seconds: float
    """Typical seconds of one by itself."""
    batch_end_s: float
    """Instant by which the largest batch that pays off would end if it were started now."""


def _kind_of(depth: int, streams: bool, now_s: float, ways_in: WaysIn) -> _Kind:
    way = ways_in.to(depth, streams, hurried=True)
    batch_s = way.times[way.sizes[-1]][0]
    return _Kind(way.costs.typical_path(depth, streams=streams), now_s + batch_s)


def _queue(
    waiting: Sequence[tuple[int, Request]],
    virtual_s: float,
    kind_of: Callable[[Request], _Kind],
    num_waiting: int,
) -> Iterator[_Entry]:
    """Yield the places of one principal's waiting requests, which come with their numbers."""
    hasty: list[tuple[int, Request]] = []
    for number, request in waiting:
        kind = kind_of(request)
        if request.deadline_s < kind.batch_end_s and not request.is_promised:
            hasty.append((number, request))
            continue
        yield virtual_s, False, number, request
        virtual_s += kind.seconds / request.share
    for number, request in hasty:
        yield virtual_s, False, num_waiting + number, request
        virtual_s += kind_of(request).seconds / request.share

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
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.path_costs import Costs, quickest

MakePlan = Callable[[Snapshot], EdfPlan]
"""Function that plans a snapshot."""

_turn = itemgetter(0, 1)


class FairPart(NamedTuple):
    """A part of a snapshot, and what it leaves out."""

    snapshot: Snapshot
    plan: EdfPlan
    parked: tuple[Cohort, ...]
    """Cohorts that are left out, the first to go on again first."""


def fair_part(
    snapshot: Snapshot,
    plan: MakePlan,
    models: Sequence[Costs],
    batch_sizes: Sequence[int],
    streaming_ids: frozenset[int],
) -> FairPart:
    """Return the fair part of ``snapshot``, which is of several principals or streams.

    ``plan`` plans a part of it, with the costs of ``models`` and in batches of ``batch_sizes``.
    ``streaming_ids`` are the requests that can be answered more than once.
    """
    line = _line(snapshot, models, batch_sizes, streaming_ids)
    place = {item.id: i for i, item in enumerate(line) if isinstance(item, Request)}
    places = [(place[request.id], request) for request in snapshot.waiting]
    plans: dict[int, tuple[Snapshot, EdfPlan]] = {}

    def is_too_much(length: int) -> bool:
        waiting = tuple([request for place, request in places if place < length])
        part = _part(snapshot, waiting, line[length:])
        plans[length] = part, plan(part)
        return plans[length][1].slack_s < 0.0

    # One is always served, whether or not it can be in time.
    length = 1 + bisect_left(range(2, len(line) + 1), True, key=is_too_much)
    if length not in plans:
        is_too_much(length)
    part, planned = plans[length]
    parked = tuple([item for item in line[length:] if isinstance(item, Cohort)])
    return FairPart(part, planned, parked)


def _line(
    snapshot: Snapshot,
    models: Sequence[Costs],
    batch_sizes: Sequence[int],
    streaming_ids: frozenset[int],
) -> list[Request | Cohort]:
    """Return who waits, and the cohorts of those who are owed an answer, as they take turns."""
    virtual_s = dict(snapshot.virtual_s)
    line: list[tuple[float, bool, Request | Cohort]] = []
    in_flight = [
        (min(owed, key=lambda request: request.deadline_s).deadline_s, cohort, owed)
        for cohort in snapshot.cohorts
        if (owed := [r for r in cohort.requests if r.id not in snapshot.answered])
    ]
    for _, cohort, owed in sorted(in_flight, key=itemgetter(0)):
        line.append((min(virtual_s[request.principal] for request in owed), True, cohort))
        depth = max(cohort.depth, owed[0].min_depth)
        path_s = models[cohort.model].remaining_path(cohort.depth, depth, len(owed))[1]
        for request in owed:
            virtual_s[request.principal] += path_s / len(owed) / request.share
    kinds: dict[tuple[int, bool], _Kind] = {}
    hasty: list[tuple[Request, float]] = []
    for request in _by_turns(snapshot):
        key = (request.min_depth, request.id in streaming_ids)
        kind = kinds.get(key)
        if kind is None:
            kind = kinds[key] = _kind_of(*key, snapshot.now_s, models, batch_sizes)
        if request.deadline_s < kind.batch_end_s and not request.is_promised:
            hasty.append((request, kind.seconds))
            continue
        # Who waits goes before a cohort of another principal that is no further behind.
        line.append((virtual_s[request.principal], False, request))
        virtual_s[request.principal] += kind.seconds / request.share
    for request, seconds in hasty:
        line.append((virtual_s[request.principal], False, request))
        virtual_s[request.principal] += seconds / request.share
    return [item for _, _, item in sorted(line, key=_turn)]


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


def _kind_of(
    depth: int, streams: bool, now_s: float, models: Sequence[Costs], batch_sizes: Sequence[int]
) -> _Kind:
    costs = quickest(models, depth, streams)
    size = costs.paying_sizes(depth, batch_sizes)[-1]
    batch_s = costs.path(depth, size, streams=streams)[0]
    return _Kind(costs.typical_path(depth, streams=streams), now_s + batch_s)


def _part(
    snapshot: Snapshot, waiting: tuple[Request, ...], rest: Sequence[Request | Cohort]
) -> Snapshot:
    """Return the part of a snapshot with these ``waiting``, and without the cohorts in ``rest``.

    Cohorts that nobody in is owed an answer stay, since they are in nobody's way.
    """
    put_off = {item.id for item in rest if isinstance(item, Cohort)}
    return replace(
        snapshot,
        waiting=waiting,
        cohorts=tuple([cohort for cohort in snapshot.cohorts if cohort.id not in put_off]),
        num_parked=len(put_off),
    )

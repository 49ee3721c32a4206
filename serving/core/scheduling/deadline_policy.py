"""The deadline policy: depth is bound late, at the opportunity cost of engine time.

The plan (see ``edf_plan``) has everybody leave at the shallowest exit they accept, in order of
deadline. Its **slack** is how long all of it can be put off before somebody is late.

* Slack is spent on depth: on the request whose next exit buys most accuracy per second, if that
  fits into the slack and buys more than the **opportunity cost** of its time (see
  ``opportunity_cost``): what the same time is worth to those who will arrive and cannot overtake.
  Since each exit gains less than the one before, depth is shared evenly (see ``depth_selection``).
* When nothing is worth its time, the plan's first step is taken: the most urgent leave where they
  are, and who waits goes to the exit that is worth most, in one fused run if there is one.
* Cohorts that have come to the same depth are merged where a batch of both is quicker.
* When the plan has no slack, not everybody who waits can be in time. Who is in flight will be;
  among the others the most urgent who still can be go first, or, while more come than can be
  served, the largest batches (see ``overload``); who has no chance left after those is shed at
  once.
* Where several principals share an engine without slack, only the part of it is decided about that
  it has time for if they take turns (see ``fair_part``).
* Who cannot be in time even alone, at a typical pace, is shed as well; unless it is alone on an
  engine that is mostly idle. It is tried, since that costs nobody anything, and the run shows
  whether the engine is still as slow as it was.

Depth is thus never decided on arrival, and one request's depth never makes another one late.

A *streaming* request is owed its first answer like any other; from then on the plan does not count
it, and it goes deeper in what slack there is: one more exit for it is a stack and a head. It ends
with what it has when the next exit cannot be in time, or when others need its place.

Whoever is answered by a fused run may stay with that answer in hand, and be run again for a better
one (see ``answers_in_hand``). Nothing is owed to it: it is never shed and delays nobody.

Several models may be served as one: a request starts in the one that promises most for its time,
and stays there, unless it has an answer in hand. Where there are only *fused* segments, requests go
to an exit in one run, and streaming ones have one answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain

from serving.core.errors import ShedReason
from serving.core.latency import Latency
from serving.core.policy import Decision, ShedRequests, Snapshot, Wait, Why
from serving.core.scheduling.answers_in_hand import Merged, upgrades_of
from serving.core.scheduling.decision import DecisionMaker, Setup
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.fair_part import FairPart, fair_part, next_in_turn
from serving.core.scheduling.path_costs import EPSILON_S, Costs
from serving.core.scheduling.paths import paths_of
from serving.core.scheduling.ways_in import WaysIn
from serving.core.segment import Segment
from serving.core.useful_exits import UsefulExits

IDLE_SHARE = 0.25
"""Share of arrivals that find the engine at work below which it is mostly idle."""

_EXPIRED = Why("not even the quickest path is quick enough any more")
_NO_PLACE = Why("those of principals that are further behind need the place")
_NOBODY: frozenset[int] = frozenset()


class DeadlinePolicy:
    """The deadline policy for one model, or several served as one, on one runner.

    ``accuracy`` is the expected AP of exits 1 .. N, ``others`` that of further models, and
    ``merged`` that of pairs of points of which the later answer takes in the first one's;
    ``available``, what the runner has. Raises ValueError unless that is, of each model, every unit
    segment or every fused one; it uses both.
    """

    def __init__(
        self,
        available: Collection[Segment],
        accuracy: Sequence[float],
        batch_sizes: Sequence[int],
        max_cohorts: int,
        others: Sequence[Sequence[float]] = (),
        merged: Merged | None = None,
    ) -> None:
        self._paths = paths_of(available)
        useful_exits = [UsefulExits(values) for values in (accuracy, *others)]
        units = all(paths.units for paths in self._paths)
        known = [paths.num_exits for paths in self._paths]
        self._deepest = known.index(max(known))
        given = [exits.num_exits for exits in useful_exits]
        if known != given:
            raise ValueError(f"segments of models with {known} exits, accuracies of {given}")
        merged = merged or {}
        upgrades = upgrades_of(self._paths, useful_exits, merged)
        self._setup = Setup(useful_exits, tuple(batch_sizes), max_cohorts, units, merged, upgrades)

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next action.

        Raises KeyError if ``latency`` does not know a segment it needs.
        """
        models = [Costs(latency, paths) for paths in self._paths]
        # A fused run leaves no features to go on with.
        streaming = _streaming(snapshot) if self._setup.units else _NOBODY
        expired = _shed_expired(snapshot, models, streaming, models[self._deepest])
        if expired is not None:
            return expired
        make_plan = partial(
            EdfPlan,
            ways_in=WaysIn(
                snapshot.now_s, models, self._setup.batch_sizes, self._setup.useful_exits
            ),
            streaming_ids=streaming,
        )
        plan = make_plan(snapshot)
        if not plan.batches and not snapshot.held:
            return Wait()
        if plan.slack_s < 0.0 and snapshot.virtual_s:
            part = fair_part(snapshot, plan, make_plan)
            if self._needs_place(part):
                last = part.parked[-1].requests
                return ShedRequests(last, ShedReason.EVICTED_SHARE, plan.length_s, _NO_PLACE)
            snapshot, plan = part.snapshot, part.plan
        elif snapshot.stream_turns:
            first = next_in_turn(snapshot, plan)
            in_turn = make_plan(snapshot, first=first) if first else plan
            plan = in_turn if in_turn.slack_s >= 0.0 else plan
        return DecisionMaker(self._setup, snapshot, plan).decide()

    def _needs_place(self, part: FairPart) -> bool:
        """Return whether those put off take up all room on the device, so that nobody can start."""
        num_cohorts = len(part.snapshot.cohorts) + part.snapshot.num_parked
        return (
            self._setup.units
            and len(part.parked) > 0
            and not part.snapshot.cohorts
            and num_cohorts >= self._setup.max_cohorts
        )


def _streaming(snapshot: Snapshot) -> frozenset[int]:
    """Return the ids of the requests that can be answered more than once."""
    everybody = [snapshot.waiting, *[cohort.requests for cohort in snapshot.cohorts]]
    streaming = [
        [r.id for r in some if r.streaming and r.min_depth < r.max_depth] for some in everybody
    ]
    return frozenset(chain.from_iterable(streaming))


def _has_idle_engine(snapshot: Snapshot) -> bool:
    """Return whether there is one request only, on an engine that most arrivals find idle."""
    if snapshot.demand.busy_share >= IDLE_SHARE:
        return False
    return len(snapshot.waiting) + sum(len(c.requests) for c in snapshot.cohorts) == 1


def _shed_expired(
    snapshot: Snapshot, models: Sequence[Costs], streaming: frozenset[int], deepest: Costs
) -> ShedRequests | None:
    """Return the shedding of requests that can no longer be in time; None if all can.

    ``deepest`` are the costs of a model that has as many exits as any.
    Those are shed who would be late with their first answer even alone and at a typical pace.
    Whoever has a mostly idle engine for itself is shed only when its deadline has passed.
    """
    latest_s = snapshot.now_s - EPSILON_S
    needed = 0.0 if _has_idle_engine(snapshot) else 1.0
    enough_s = latest_s + needed * deepest.slowest_s(streams=bool(streaming))
    if snapshot.waiting and snapshot.waiting[0].deadline_s < enough_s:
        # By shallowest exit and whether they stream: the deadlines before this are out of reach.
        depths = {request.min_depth for request in snapshot.waiting}
        limits_s = {
            (depth, streams): latest_s
            + needed * min([each.typical_path(depth, streams=streams) for each in models])
            for depth in depths
            for streams in ((False, True) if streaming else (False,))
        }
        enough_s = max(limits_s.values())
        expired = []
        for request in snapshot.waiting:
            if request.deadline_s >= enough_s:
                break  # it has time for any of these exits, and so have those behind it
            if limits_s[request.min_depth, request.id in streaming] > request.deadline_s:
                expired.append(request)
        if expired:
            return ShedRequests(tuple(expired), ShedReason.REJECTED_EXPIRED, 0.0, _EXPIRED)
    for cohort in snapshot.cohorts:
        depth = max(cohort.depth, cohort.requests[0].min_depth)
        path_s = models[cohort.model].remaining_path(cohort.depth, depth, 1)[1]
        limit_s = latest_s + needed * path_s
        answered = snapshot.answered
        expired = [r for r in cohort.requests if limit_s > r.deadline_s and r.id not in answered]
        if expired:
            return ShedRequests(tuple(expired), ShedReason.EVICTED_EXPIRED, 0.0, _EXPIRED)
    return None

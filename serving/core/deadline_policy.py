"""The policy that serves: late binding of depth, under a plan that keeps every promise.

The plan (see ``serving.core.plan``) has everybody leave at the shallowest exit they accept, in
order of deadline. Its **slack** is how long all of it can be put off before somebody is late.

* A plan without lateness is a promise. A newcomer that would break it is shed; nobody who was
  admitted before is.
* Slack is spent on depth: on the request whose next stack buys most accuracy per second, if that
  stack fits into the slack. Since each exit gains less than the one before, depth is shared evenly.
* When no stack fits, the plan's first step is taken: the most urgent request leaves where it is.

Depth is thus never decided on arrival, and one request's depth never makes another one late.

A *growing* request is owed its first answer like any other; from then on the plan does not know it,
and it goes deeper in what slack there is: one more exit for it is a stack and a head. It ends with
what it has when the next exit cannot be in time, or when others need its place.

Where there are only *fused* segments, the plan's first step is always taken, to the deepest exit
that the slack allows. Requests do not grow there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from serving.core import segment as segments
from serving.core.errors import ShedReason
from serving.core.plan import EPSILON_S, Clock as PlanClock, Costs, Paths, Plan, Task
from serving.core.policy import (
    Cohort,
    Conclude,
    Decision,
    Latency,
    Merge,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
)
from serving.core.request import Request
from serving.core.segment import Segment

FUSED_WORTH = 0.02
"""Relative accuracy that an exit must add for a lone request to reach it by a fused run, where
unit segments would not get that far. A fused run that turns out slow cannot be cut short: about one
in fifty exceeds its prediction on a shared machine."""
MIN_GAIN = 1e-6
import os
_e=lambda k,d: float(os.environ.get(k,d))
PROM=_e('PROM',1);AVG=_e('AVG',0);UP=_e('UP',1);US=_e('US',99);FO=_e('FO',0);HH=_e('HH',1);JP=_e('JP',1);SL=_e('SL',1);CB=_e('CB',1);PC=_e('PC',0);BF=_e('BF',1);PF=_e('PF',1);HUR=_e('HUR',1);MRG=_e('MRG',1);DST=_e('DST',1);OVH=_e('OVH',1)
"""Accuracy that an exit is taken to add where measurement says none or less, so that depth still
follows the budget."""

_Step = tuple[float, Callable[[], Decision]]
"""How much accuracy per second the next step of a task buys, infinite if it is in the plan anyway;
and what makes that step."""


class DeadlinePolicy:
    """The policy for one model on one runner.

    ``accuracy`` is the expected AP of exits 1 .. N; ``available``, what the runner has. Raises
    ValueError unless that is every unit segment or every fused one; it uses both.
    """

    def __init__(
        self,
        available: Collection[Segment],
        accuracy: Sequence[float],
        batch_sizes: Sequence[int],
        max_cohorts: int,
    ) -> None:
        self._paths = Paths(available, len(accuracy))
        best_so_far = accuracy[0]
        # At k: what exit k + 1 adds over the best before it, and the same as a share of it.
        self._gain, self._worth = [math.inf], [math.inf]
        for ap in accuracy[1:]:
            self._gain.append(max(ap - best_so_far, MIN_GAIN))
            best_so_far = max(best_so_far, ap)
            self._worth.append(self._gain[-1] / max(best_so_far, MIN_GAIN))
        self._ap=tuple(accuracy)
        self._first_ap = max(accuracy[0], MIN_GAIN)
        self._batch_sizes = tuple(batch_sizes)
        self._max_cohorts = max_cohorts

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """The next action. Raises KeyError if ``latency`` does not know a segment it needs."""
        costs, growing = Costs(latency, self._paths), self._paths.growing(snapshot)
        expired = self._shed_expired(snapshot, costs, growing)
        if expired is not None:
            return expired
        plan = Plan(snapshot, costs, self._batch_sizes, growing)
        if not plan.tasks:
            return Wait()
        final = _final(plan, costs, snapshot.answered) if snapshot.answered else ()
        if final:
            return Conclude(final)
        self._mu = self._price(snapshot.demand, plan, costs)
        if plan.slack_s < 0:
            d = self._crowded(snapshot, plan, costs, growing)
            if d is not None: return d
        if MRG:
            m = self._merge(plan, costs)
            if m: return m
        return self._proceed(snapshot, plan, costs)

    def _crowded(self, snapshot, plan, costs, growing):
        now = snapshot.now_s
        # in-flight ones leave in time
        cs = math.inf; fin=0.0
        for t in plan.tasks:
            if t.cohort is not None and t.owed:
                fin += t.cost_s
                cs = min(cs, t.deadline_s - now - fin)
        if not snapshot.waiting: return None
        first=snapshot.waiting[0]
        k=(first.min_depth, first.max_depth, first.id in growing)
        q=[r for r in snapshot.waiting if (r.min_depth, r.max_depth, r.id in growing)==k]
        sec=lambda n: costs.path(k[0],n,grows=k[2])
        best=None
        for size in reversed(self._batch_sizes):
            L=sec(size)
            el=[r for r in q if r.deadline_s+EPSILON_S>=now+L][:size]
            if L<=cs and len(el)==size:
                best=(0,k,el,[r for r in q if r.deadline_s<el[0].deadline_s] if el[0] is not q[0] else [])
                break
        if best is not None and best[2][0] is not q[0]:
            el=best[2]
            c = min(costs.path(1, b)/b for b in self._batch_sizes)
            fitted=False
            for size in reversed(self._batch_sizes):
                ur=q[:size]
                L=sec(len(ur))
                if len(ur)==size and (size==1 or L<=ur[0].deadline_s-now+EPSILON_S) and L<=cs:
                    if fitted and self._P*L/c > JP*size: break
                    fitted=True
                    ck=PlanClock(now, plan._calm if HH else 1.0); ck.add(L)
                    if ck.add(sec(len(el))) <= el[0].deadline_s+EPSILON_S:
                        best=(0,k,ur,[]); break
                    if not JP: break
        if best is None:
            plan.tasks = [t for t in plan.tasks if t.cohort is not None] or plan.tasks
            return None
        score,k,el,lost=best
        out=tuple(r for r in lost if r.id>snapshot.admitted) if SL else ()
        if out: return ShedRequests(out, ShedReason.REJECTED_OVERLOAD, plan.length_s)
        seg = segments.fused_exit(k[0])
        if len(el)>=US and self._P<=UP and self._paths.units and len(snapshot.cohorts)<self._max_cohorts and costs.unit_path(k[0],len(el))<=min(cs, min(r.deadline_s for r in el)-now):
            return Run(segments.STEM, tuple(el), None)
        if k[2] or k[0] not in self._paths.fused:
            if len(snapshot.cohorts)>=self._max_cohorts: return None
            seg = segments.STEM
        return Run(seg, tuple(el), None)

    def _merge(self, plan, costs):
        by={}
        for task in plan.tasks:
            c=task.cohort
            if c is None or task.num_growing or not task.owed or c.depth<1: continue
            o=by.get((c.depth,task.min_depth,task.max_depth))
            if o is not None:
                a,b=len(o.requests),len(task.requests)
                if a+b<=self._batch_sizes[-1] and costs.head(c.depth,a+b)-costs.head(c.depth,a)<=plan.slack_s and costs.head(c.depth,a+b)<.95*(costs.head(c.depth,a)+costs.head(c.depth,b)):
                    return Merge((o.cohort.id,c.id))
            by[(c.depth,task.min_depth,task.max_depth)]=task
        return None

    def _hit(self, th, W, b):
        if b<=W: return 1.0
        x,y=th*W, th*b
        if abs(y)<1e-6: P=W/b
        elif y>50: P=math.exp(x-y)
        elif y<-50: P=1-math.exp(max(x,-50))
        else: P=math.expm1(x)/math.expm1(y)
        return P
    def _price(self, demand, plan, costs):
        self._P=0.0
        if demand.rate_hz <= 0: return 0.0
        c = min(costs.path(1, b)/b for b in self._batch_sizes if b==1 or 2*costs.path(1,b)<=CB*demand.budget_s)
        rho = demand.rate_hz*c
        th = 2*(1-rho)/(rho*c*max(demand.cv2, .25))
        W = plan.length_s
        if AVG:
            P=sum(self._hit(th,W,demand.budget_s*BF*f-c) for f in (.5,.833,1.667))/3
        else: P=self._hit(th,W,demand.budget_s*BF-c)
        P=min(P,1-math.exp(-demand.rate_hz*W))
        self._P=min(1,P); return PF*P*self._first_ap/c

    def _shed_expired(
        self, snapshot: Snapshot, costs: Costs, growing: frozenset[int]
    ) -> ShedRequests | None:
        """Those that would be late with their first answer even alone and at a typical pace."""
        latest_s = snapshot.now_s - EPSILON_S
        plain_s: dict[int, float] = {}
        growing_s: dict[int, float] = {}
        expired = []
        for request in snapshot.waiting:
            depth = request.min_depth
            grows = bool(growing) and request.id in growing
            known = growing_s if grows else plain_s
            if depth not in known:
                known[depth] = min(map(costs.typical, self._paths.to(depth, grows=grows)))
            if latest_s + known[depth] > request.deadline_s:
                expired.append(request)
        if expired:
            return ShedRequests(tuple(expired), ShedReason.REJECTED_EXPIRED, 0.0)
        for cohort in snapshot.cohorts:
            limit_s = latest_s + costs.typical(_way_out(cohort))
            late = (request for request in cohort.requests if limit_s > request.deadline_s)
            expired = [request for request in late if request.id not in snapshot.answered]
            if expired:
                return ShedRequests(tuple(expired), ShedReason.EVICTED_EXPIRED, 0.0)
        return None

    def _proceed(self, snapshot: Snapshot, plan: Plan, costs: Costs) -> Decision:
        """Go deeper if that fits, else take a step of the plan."""
        if not self._paths.units:
            return self._leave(plan, costs, room=False)
        # Cohorts that nothing is owed to make room as soon as it is needed.
        paid = [c for c in snapshot.cohorts if all(r.id in snapshot.answered for r in c.requests)]
        room = len(snapshot.cohorts) - len(paid) < self._max_cohorts
        decision = self._spend_slack(plan, costs, room) or self._leave(plan, costs, room)
        starts = isinstance(decision, Run) and decision.segment == segments.STEM
        if starts and len(snapshot.cohorts) >= self._max_cohorts:
            return Conclude(max(paid, key=lambda cohort: cohort.depth).requests)
        return decision

    # -- going deeper ----------------------------------------------------------------------------

    def _spend_slack(self, plan: Plan, costs: Costs, room: bool) -> Decision | None:
        """The step that buys most, None if none fits."""
        if len(plan.tasks) == 1 and plan.tasks[0].cohort is None:
            return self._start_alone(plan.tasks[0], plan.slack_s, costs)
        best: _Step | None = None
        seen: set[tuple[int, int, int, int]] = set()
        for task in plan.tasks:
            cohort = task.cohort
            if cohort is None:
                # Of waiting tasks that are alike, the first has the most slack ahead of it.
                kind = (task.min_depth, task.max_depth, len(task.requests), task.num_growing)
                if kind in seen or not room:
                    continue
                seen.add(kind)
                step = self._start(task, plan.slack_s, costs) if not FO else None
            elif (
                cohort.depth == task.max_depth
                and costs.head(cohort.depth, len(task.requests)) <= plan.slack_s
            ):
                # It cannot go deeper, so it may as well be answered now and make room.
                return Run(segments.head(cohort.depth), task.requests, cohort.id)
            else:
                step = self._go_on(cohort, task, plan.slack_s, costs)
            # Of equals the one with most time, which has paid for it.
            if step is not None and step[0] >= self._mu and (best is None or step[0] >= best[0]):
                best = step
        return best and best[1]()

    def _start(self, task: Task, slack_s: float, costs: Costs) -> _Step | None:
        """Its first unit segment, if it may go deeper than it must, and that fits into everybody's
        slack and the segment into the slack of those before it."""
        depth, batch, growing = task.min_depth, len(task.requests), task.num_growing
        if depth >= task.max_depth or costs.stem(batch) > task.ahead_s:
            return None
        plain = batch - growing
        extra_s = costs.unit_path(depth, batch) - task.cost_s
        extra_s += costs.apart(depth, growing, plain, batch)
        extra_s += costs.deeper(depth, batch, growing, plain)
        if extra_s > slack_s:
            return None
        rate = self._rate(depth, batch, growing, costs)
        if OVH and not growing:
            rate = self._gain[depth]*batch/(costs.stack(depth+1,batch)+costs.unit_path(depth, batch) - task.cost_s)
        return rate, lambda: Run(segments.STEM, task.requests, None)

    def _go_on(self, cohort: Cohort, task: Task, slack_s: float, costs: Costs) -> _Step | None:
        """One more stack, but first a head for those rows that grow and are not yet answered at
        this depth."""
        if cohort.depth < task.min_depth:
            stack_s = costs.stack(cohort.depth + 1, len(task.requests))
            return (math.inf, lambda: _one_stack(cohort)) if stack_s <= task.ahead_s else None
        if task.stale:
            step = self._answer_first(cohort, task, slack_s, costs)
        else:
            step = self._one_deeper(cohort, task, slack_s, costs)
        return step or self._without_paid(cohort, task, slack_s, costs)

    def _answer_first(
        self, cohort: Cohort, task: Task, slack_s: float, costs: Costs
    ) -> _Step | None:
        depth, batch, owed = cohort.depth, len(task.stale), len(task.owed)
        plain, head_s = len(task.requests) - task.num_growing, costs.head(depth, batch)
        extra_s = costs.apart(depth, batch, plain, owed)
        if head_s > task.ahead_s or extra_s > slack_s:
            return None
        first_answer = owed > plain  # which is in the plan anyway
        rate = math.inf if first_answer else self._gain[depth - 1] * batch / head_s
        return rate, lambda: Run(segments.head(depth), task.stale, cohort.id)

    def _one_deeper(self, cohort: Cohort, task: Task, slack_s: float, costs: Costs) -> _Step | None:
        depth, batch, growing = cohort.depth, len(task.requests), task.num_growing
        if depth >= task.max_depth:
            return None
        if costs.deeper(depth, batch, growing, len(task.owed)) > slack_s:
            return None
        return self._rate(depth, batch, growing, costs), lambda: _one_stack(cohort)

    def _without_paid(
        self, cohort: Cohort, task: Task, slack_s: float, costs: Costs
    ) -> _Step | None:
        """What does not fit for all rows may fit for those to whom an answer is owed; the others
        end."""
        depth, batch, owed = cohort.depth, len(task.requests), len(task.owed)
        if not 0 < owed < batch or depth >= task.max_depth:
            return None
        if costs.deeper(depth, owed, 0, owed) > slack_s:
            return None
        paid = (request for request in task.requests if request not in task.owed)
        return self._rate(depth, owed, 0, costs), lambda: Conclude(tuple(paid))

    def _rate(self, depth: int, batch: int, num_growing: int, costs: Costs) -> float:
        """Accuracy per second that exit ``depth + 1`` buys: heads that would be run anyway are
        free."""
        seconds = costs.stack(depth + 1, batch) + costs.head(depth + 1, num_growing)
        return self._gain[depth] * batch / seconds

    def _start_alone(self, task: Task, slack_s: float, costs: Costs) -> Run:
        """Nobody else is here: fused if that reaches an exit worth it, else stoppable."""
        batch, limit_s = len(task.requests), task.cost_s + slack_s
        if task.num_growing:
            return Run(segments.STEM, task.requests, None)
        depths = range(task.min_depth, task.max_depth + 1)
        unit = max((d for d in depths if costs.unit_path(d, batch) <= limit_s), default=0)
        if DST and self._mu > 0 and task.min_depth in self._paths.fused and task.min_depth<task.max_depth:
            d=task.min_depth
            r=self._gain[d]*batch/(costs.stack(d+1,batch)+costs.unit_path(d, batch) - task.cost_s)
            if r < self._mu: return Run(segments.fused_exit(d), task.requests, None)
        if unit == 0:  # only a fused run is quick enough, and only the first exit is certain
            unit, segment = task.min_depth, segments.fused_exit(task.min_depth)
        else:
            segment = segments.STEM
        for depth in range(unit + 1, task.max_depth + 1):
            if self._worth[depth - 1] < FUSED_WORTH or costs.fused(depth, batch) > limit_s:
                break
            segment = segments.fused_exit(depth)
        return Run(segment, task.requests, None)

    # -- leaving ---------------------------------------------------------------------------------

    def _leave(self, plan: Plan, costs: Costs, room: bool) -> Decision:
        """The first step of the plan that can be taken."""
        for task in plan.tasks:
            cohort = task.cohort
            if cohort is None:
                segment = self._way_in(task, plan.slack_s, costs, room)
                if segment is not None:
                    return Run(segment, task.requests, None)
            elif cohort.depth < task.min_depth:
                return _one_stack(cohort)
            elif task.owed:
                rows = self._urgent(cohort, plan, task, costs)
                return Run(segments.head(cohort.depth), rows, cohort.id)
            else:
                return Conclude(task.requests)
        raise AssertionError("a plan without room for a cohort has one in it")

    def _way_in(self, task: Task, slack_s: float, costs: Costs, room: bool) -> Segment | None:
        """The deepest fused run that fits into the slack, or else the start of the unit path;
        None if there is no room for another cohort and no fused segment does without."""
        batch = len(task.requests)
        fused = () if task.num_growing else self._paths.fused
        depths = [d for d in range(task.min_depth, task.max_depth + 1) if d in fused]
        fitting = [d for d in depths if costs.fused(d, batch) - task.cost_s <= slack_s]
        if fitting:
            best=max(fitting,key=lambda d: batch*self._ap[d-1]-self._mu*costs.fused(d,batch))
            return segments.fused_exit(best)
        if room:
            return segments.STEM
        return segments.fused_exit(depths[0]) if depths else None

    def _urgent(self, cohort: Cohort, plan: Plan, task: Task, costs: Costs) -> tuple[Request, ...]:
        """The rows that must leave now, when the rest can go one deeper and harm nobody. Growing
        ones are among them: they must be answered before they go on."""
        depth, everybody = cohort.depth, task.owed
        if depth >= task.max_depth or len(everybody) == 1:
            return everybody
        others_slack_s = plan.slack_without(task)
        by_deadline = sorted(everybody, key=lambda r: (not r.growing, r.deadline_s, r.id))
        num_growing = sum(request.growing for request in everybody)
        for num_leaving in range(max(1, num_growing), len(by_deadline)):
            leaving_s = costs.head(depth, num_leaving)
            staying_s = costs.way_out(depth, depth + 1, len(by_deadline) - num_leaving)
            extra_s = leaving_s + staying_s - costs.head(depth, len(everybody))
            in_time = plan.now_s + leaving_s + staying_s <= by_deadline[num_leaving].deadline_s
            if in_time and extra_s <= others_slack_s:
                leaving = set(by_deadline[:num_leaving])
                return tuple(r for r in everybody if r in leaving)  # in row order
        return everybody


def _one_stack(cohort: Cohort) -> Run:
    return Run(segments.stack(cohort.depth + 1), cohort.requests, cohort.id)


def _way_out(cohort: Cohort) -> tuple[Segment, ...]:
    """What a cohort must still run through to leave at the shallowest exit it accepts."""
    depth = max(cohort.depth, cohort.requests[0].min_depth)
    stacks = map(segments.stack, range(cohort.depth + 1, depth + 1))
    return (*stacks, segments.head(depth))


def _final(plan: Plan, costs: Costs, answered: Mapping[int, int]) -> tuple[Request, ...]:
    """Those with an answer whose next one could not be in time."""
    final: list[Request] = []
    for task in plan.tasks:
        if task.cohort is None or len(task.owed) == len(task.requests):
            continue
        depth = task.cohort.depth
        if task.stale:
            next_s = costs.head(depth, len(task.stale))
        else:
            next_s = costs.stack(depth + 1, len(task.requests))
            next_s += costs.head(depth + 1, task.num_growing)
        limit_s = plan.now_s + next_s - EPSILON_S
        final.extend(r for r in task.requests if r.id in answered and limit_s > r.deadline_s)
    return tuple(final)

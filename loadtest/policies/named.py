"""All policies by name, so that simulator, load test and tables speak of the same ones.

deadline          the policy that serves
fixed:POINT       one operating point for all requests, Clockwork's batches
nexus:POINT, aimd:POINT   the same with Nexus' and Clipper's batches
accscale          Proteus: the point that demand of the last seconds allows, Proteus' batches
accscale-eager    the same with Clockwork's batches, which do not wait
slackfit, maxacc, maxbatch, greedy     by the slack of the most urgent request
alert, alert-staged                    by expected accuracy, fused and in stages
edgeserving       by what the others wait for meanwhile

A POINT is an input size and an exit, such as 300x300/1; or K, the K-th of all points by size, then
depth, which is exit K of a model of one size; or max, the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from loadtest.baselines import batching, slack
from loadtest.baselines.alert import Alert, StagedAlert
from loadtest.baselines.fixed import Aimd, FixedPoint
from loadtest.baselines.scaling import AccuracyScaling
from loadtest.baselines.slack import Rank, SlackPolicy
from loadtest.baselines.stability import StabilityPolicy
from serving.core.command_errors import InvalidArgument, invalid_arguments
from serving.core.ladder import SIZE, Ladder, PointId
from serving.core.policy import Policy
from serving.core.ports import CreatePolicy
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.segment import Segment

LAST = "max"
FIXED = "fixed"
"""Kind of policies of one operating point, of which the best is looked for in hindsight."""


def deadline(
    available: Collection[Segment], ladder: Ladder, batch_sizes: Sequence[int], max_cohorts: int
) -> Policy:
    """Return the policy that serves."""
    first, *others = ladder.accuracies
    return DeadlinePolicy(available, first, batch_sizes, max_cohorts, others, ladder.merged)


def point_of(text: str, ladder: Ladder) -> PointId:
    """Return the operating point that is called ``text``, as in the name of a policy.

    Raises InvalidArgument if there is none.
    """
    if text == LAST:
        return ladder.points[-1]
    if not text.isdecimal():
        with invalid_arguments():
            return ladder.find(text)
    if not 1 <= int(text) <= len(ladder.points):
        labels = ", ".join(map(ladder.label, ladder.points))
        raise InvalidArgument(
            f"there are operating points 1 to {len(ladder.points)}, not {text}: {labels}"
        )
    return ladder.points[int(text) - 1]


def _fixed(batcher: batching.Batcher) -> Callable[[str], CreatePolicy]:
    return lambda text: (
        lambda available, ladder, batch_sizes, max_cohorts: FixedPoint(
            available, ladder, batch_sizes, point_of(text, ladder), batcher
        )
    )


def _aimd(text: str) -> CreatePolicy:
    return lambda available, ladder, batch_sizes, max_cohorts: Aimd(
        available, ladder, batch_sizes, point_of(text, ladder)
    )


def _scaling(batcher: batching.Batcher) -> CreatePolicy:
    return lambda available, ladder, batch_sizes, max_cohorts: AccuracyScaling(
        available, ladder, batch_sizes, batcher
    )


def _slack(rank: Rank) -> CreatePolicy:
    return lambda available, ladder, batch_sizes, max_cohorts: SlackPolicy(
        available, ladder, batch_sizes, rank
    )


AT_POINT: dict[str, Callable[[str], CreatePolicy]] = {
    FIXED: _fixed(batching.clockwork),
    "nexus": _fixed(batching.nexus),
    "aimd": _aimd,
}
"""Kind of policies of one operating point -> how to make one at a point, as ``point_of`` has it."""

POLICIES: dict[str, CreatePolicy] = {
    "deadline": deadline,
    **{f"{kind}:{text}": make(text) for text in ("1", LAST) for kind, make in AT_POINT.items()},
    "accscale": _scaling(batching.proteus),
    "accscale-eager": _scaling(batching.clockwork),
    "slackfit": _slack(slack.slackfit),
    "maxacc": _slack(slack.maxacc),
    "maxbatch": _slack(slack.maxbatch),
    "greedy": lambda available, ladder, batch_sizes, max_cohorts: SlackPolicy(
        available, ladder, (1,), slack.maxacc
    ),
    "alert": lambda available, ladder, batch_sizes, max_cohorts: Alert(
        available, ladder, batch_sizes
    ),
    "alert-staged": lambda available, ladder, batch_sizes, max_cohorts: StagedAlert(
        available, ladder, batch_sizes
    ),
    "edgeserving": lambda available, ladder, batch_sizes, max_cohorts: StabilityPolicy(
        available, ladder, batch_sizes
    ),
}
"""Name -> maker of each policy that is compared. Those of one point have more members: see
``parse_policy``."""


def parse_policy(text: str) -> CreatePolicy:
    """Return the maker of the policy called ``text``.

    A name is one of ``POLICIES``, or a kind and any operating point, such as ``fixed:300x300/1``;
    whether there is such a point is found when the policy is made. Raises ValueError, naming all
    policies, for anything else.
    """
    if text in POLICIES:
        return POLICIES[text]
    kind, _, point = text.partition(":")
    if kind in AT_POINT and _may_be_point(point):
        return AT_POINT[kind](point)
    plain = [name for name in POLICIES if ":" not in name]
    names = ", ".join((*plain, *(f"{kind}:POINT" for kind in AT_POINT)))
    raise InvalidArgument(
        f"not a policy: {text!r} ({names}; POINT is a size and an exit such as 300x300/1, K for "
        f"the K-th of them, or {LAST} for the last)"
    )


def _may_be_point(text: str) -> bool:
    size, separator, number = text.rpartition("/")
    named = bool(SIZE.fullmatch(size)) if separator else True
    return named and number.isdecimal() and int(number) > 0

"""All policies by name, so that simulator, load test and tables speak of the same ones.

deadline          the policy that serves
fixed:K           exit K for all requests, Clockwork's batches; ``max`` is the deepest exit
nexus:K, aimd:K   the same with Nexus' and Clipper's batches
accscale          Proteus: the exit that demand of the last seconds allows, Proteus' batches
accscale-eager    the same with Clockwork's batches, which do not wait
slackfit, maxacc, maxbatch, greedy     by the slack of the most urgent request
alert, alert-staged                    by expected accuracy, fused and in stages
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from loadtest.baselines import batching, slack
from loadtest.baselines.alert import Alert, StagedAlert
from loadtest.baselines.fixed import Aimd, FixedDepth
from loadtest.baselines.scaling import AccuracyScaling
from loadtest.baselines.slack import Rank, SlackPolicy
from serving.core.command_errors import InvalidArgument
from serving.core.policy import Policy
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.segment import Segment

Factory = Callable[[Collection[Segment], Sequence[float], Sequence[int], int], Policy]
"""A maker of policies for one executor, from a model's facts and an executor's limits.

(available, accuracy, batch_sizes, max_cohorts) -> policy. Raises ValueError if the runner or the
model lacks what the policy needs.
"""

DEEPEST = "max"


def _fixed(batcher: batching.Batcher) -> Callable[[int | None], Factory]:
    return lambda depth: (
        lambda available, accuracy, batch_sizes, max_cohorts: FixedDepth(
            available, accuracy, batch_sizes, depth or len(accuracy), batcher
        )
    )


def _aimd(depth: int | None) -> Factory:
    return lambda available, accuracy, batch_sizes, max_cohorts: Aimd(
        available, accuracy, batch_sizes, depth or len(accuracy)
    )


def _scaling(batcher: batching.Batcher) -> Factory:
    return lambda available, accuracy, batch_sizes, max_cohorts: AccuracyScaling(
        available, accuracy, batch_sizes, batcher
    )


def _slack(rank: Rank) -> Factory:
    return lambda available, accuracy, batch_sizes, max_cohorts: SlackPolicy(
        available, accuracy, batch_sizes, rank
    )


AT_DEPTH: dict[str, Callable[[int | None], Factory]] = {
    "fixed": _fixed(batching.clockwork),
    "nexus": _fixed(batching.nexus),
    "aimd": _aimd,
}
"""Family of policies with a fixed depth -> how to make one at a depth, None being the deepest."""

POLICIES: dict[str, Factory] = {
    "deadline": DeadlinePolicy,
    **{f"{family}:1": make(1) for family, make in AT_DEPTH.items()},
    **{f"{family}:{DEEPEST}": make(None) for family, make in AT_DEPTH.items()},
    "accscale": _scaling(batching.proteus),
    "accscale-eager": _scaling(batching.clockwork),
    "slackfit": _slack(slack.slackfit),
    "maxacc": _slack(slack.maxacc),
    "maxbatch": _slack(slack.maxbatch),
    "greedy": lambda available, accuracy, batch_sizes, max_cohorts: SlackPolicy(
        available, accuracy, (1,), slack.maxacc
    ),
    "alert": lambda available, accuracy, batch_sizes, max_cohorts: Alert(
        available, accuracy, batch_sizes
    ),
    "alert-staged": lambda available, accuracy, batch_sizes, max_cohorts: StagedAlert(
        available, accuracy, batch_sizes
    ),
}
"""Name -> maker of each policy that is compared. Families with a depth have more members: see
``parse_policy``."""


def parse_policy(text: str) -> Factory:
    """Return the maker of the policy called ``text``.

    A name is one of ``POLICIES``, or a family and any depth, such as ``fixed:3``. Raises
    ValueError, naming them all, for anything else.
    """
    if text in POLICIES:
        return POLICIES[text]
    family, _, depth = text.partition(":")
    if family in AT_DEPTH and depth.isdecimal() and int(depth) > 0:
        return AT_DEPTH[family](int(depth))
    plain = [name for name in POLICIES if ":" not in name]
    names = ", ".join((*plain, *(f"{family}:K" for family in AT_DEPTH)))
    raise InvalidArgument(
        f"not a policy: {text!r} ({names}; K is an exit's number, or {DEEPEST} for the deepest)"
    )

"""Context of one request: what it asks, how far it has come, and the reply that it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from starlette.responses import Response

from serving.api.backlog import Place
from serving.api.body import BodyPlace
from serving.api.budget import Budget
from serving.api.options import Options
from serving.api.problems import to_ms
from serving.api.protocol_adapter import DetectionResult
from serving.api.request_timer import RequestTimer
from serving.api.tracking import TrackBoxes
from serving.core.family import Family
from serving.core.ladder import PointId
from serving.core.letterbox import Letterbox
from serving.core.principals import NOBODY, Principal
from serving.core.request import Answered
from serving.core.streams import Frame
from serving.imaging.decode_lane import Claim
from serving.observability.request_record import AnsweredFacts

if TYPE_CHECKING:
    from serving.observability.tracing import RequestTrace


@dataclass(slots=True)
class RequestContext:
    """One request's state: what it asks, as far as it has been read, and how far it has come.

    Instants are seconds of the server's clock.
    """

    request_id: str
    arrival_s: float
    budget: Budget
    options: Options
    body: BodyPlace
    """Place of its body among those of all requests."""
    timer: RequestTimer
    """What ends its waits."""
    principal: Principal = NOBODY
    """Who sent it."""
    read_s: float = 0.0
    """Instant when the request's image was there."""
    claim: Claim | None = None
    """What its turn to be decoded depends on, once it is admitted."""
    decoded_s: float = 0.0
    """Instant when the request's pixels were there."""
    answered: Answered | None = None
    """Best answer so far."""
    has_place: bool = False
    """Whether it has one of the places for requests in this server."""
    place: Place | None = None
    """Place in the backlog, once the request is inside."""
    reply: AnsweredFacts | None = None
    """Facts of the answer that was given, once it has been."""
    frame: Frame | None = None
    """Frame of a stream that it is, once its head has been read; None if it is of none."""
    track: TrackBoxes | None = None
    """What tracks its boxes, if it is a frame whose sender asks for that."""
    exits: ExitStack = field(default_factory=ExitStack)
    """What is to be left when the request ends."""
    trace: RequestTrace | None = None
    """Trace of the request, if it is traced."""
    is_split: bool = False
    """Whether its parts are counted, each as a request, and it is not."""
    write_s: float = 0.0
    """Seconds before the deadline at which its boxes must be there, beside the usual reserve."""
    group: int | None = None
    """Number that it has in common with the other parts of a request, if it is one."""

    def part(self, write_s: float, group: int) -> RequestContext:
        """Return the context of a part, with the same deadline, which has no place of its own."""
        return replace(
            self,
            timer=RequestTimer(self.timer.clock),
            has_place=False,
            trace=None,
            write_s=write_s,
            group=group,
        )

    @property
    def deadline_s(self) -> float:
        """Instant by which the reply must be on its way."""
        return self.arrival_s + self.budget.seconds

    @property
    def stream(self) -> str:
        """Name of the principal's stream that it is a frame of; empty if it is of none."""
        return "" if self.frame is None else self.frame.key[1]

    @property
    def boxes_due_s(self) -> float:
        """Instant by which there must be boxes that a reply can be written of."""
        return self.deadline_s - self.write_s

    @property
    def turn(self) -> int | None:
        """Order in which its stream was last answered; None if it is a frame of none."""
        return None if self.frame is None else self.frame.turn

    def degraded(self, family: Family, points: Sequence[PointId]) -> bool:
        """Return whether a better answer than that of these operating points was allowed."""
        return family.degraded(points, self.options.min_depth, self.options.max_depth)

    def facts(
        self, family: Family, points: Sequence[PointId], now_s: float
    ) -> dict[str, str | float | bool]:
        """Return how an answer of these operating points compares with what was asked.

        The last of them is what the others were merged into. The comparison is as of ``now_s``.
        """
        model, depth = points[-1]
        elapsed_s = now_s - self.arrival_s
        return {
            "version": family.release,
            "operating_point": family.answer_label(points),
            "exit_depth": depth,
            "max_depth": family.deepest(model, self.options.max_depth),
            "degraded": self.degraded(family, points),
            "expected_ap": family.answer_ap(points),
            "budget_ms": to_ms(self.budget.seconds),
            "elapsed_ms": to_ms(elapsed_s),
            "slack_ms": to_ms(self.budget.seconds - elapsed_s),
        }

    def queue_s(self, answered: Answered) -> float:
        """Return the seconds in the backend during which none of the request's segments ran."""
        return max(0.0, answered.finished_s - self.decoded_s - answered.engine_s)

    def in_hand_s(self, answered: Answered, now_s: float) -> float:
        """Return the seconds for which an answer that is sent at ``now_s`` has been in hand."""
        return max(0.0, now_s - answered.finished_s) if answered.held else 0.0


def write_reply(
    context: RequestContext,
    write: Callable[[DetectionResult], Response],
    placement: Letterbox,
    answered: Answered,
    family: Family,
    now_s: float,
) -> Response:
    """Return what ``write`` makes, at ``now_s``, of an answer of ``family``."""
    response = write(result_of(context, placement, answered, family, now_s))
    stages = (
        ("read", context.read_s - context.arrival_s, ""),
        ("decode", context.decoded_s - context.read_s, ""),
        ("queue", context.queue_s(answered), ""),
        ("engine", answered.engine_s, f';desc="depth={answered.depth}"'),
        *((("in-hand", context.in_hand_s(answered, now_s), ""),) if answered.held else ()),
        ("total", now_s - context.arrival_s, ""),
    )
    add_headers(response, context, stages)
    return response


def result_of(
    context: RequestContext,
    placement: Letterbox,
    answered: Answered,
    family: Family,
    now_s: float,
) -> DetectionResult:
    """Return what may be told, at ``now_s``, of an answer of ``family``."""
    detections = answered.detections
    kept = context.options.wanted(detections)
    found = (
        placement.to_original(detections.boxes_xyxy_input[kept]),
        detections.scores[kept],
        detections.labels[kept],
    )
    return DetectionResult(
        context.request_id,
        family.names[answered.model],
        family.version,
        placement,
        *found,
        {
            **context.facts(family, answered.points, now_s),
            "predicted_ms": to_ms(answered.predicted_s),
        },
        None if context.track is None else context.track(*found),
    )


def add_headers(
    response: Response, context: RequestContext, stages: Iterable[tuple[str, float, str]]
) -> None:
    """Add to a reply what every answer has: how long its stages took, by name, and for what."""
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server-Timing"] = ", ".join(
        f"{name};dur={to_ms(seconds)}{desc}" for name, seconds, desc in stages
    )
    if context.budget.wait is not None:
        response.headers["Preference-Applied"] = f"wait={context.budget.wait}"

"""Jobs of an executor: its requests, the answers that they have in hand, and how each ends.

Every request ends exactly once, by its ``done`` callback. One with an answer in hand ends with it,
whatever fails; a better answer takes its place, or is merged with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from serving.core.engine_state import Completion
from serving.core.errors import ShedReason, malformed_output
from serving.core.observing import CALLBACK, MERGE, OUTPUT
from serving.core.output_check import FindFault
from serving.core.ports import Clock, Image, Observer
from serving.core.request import (
    Answered,
    Cancelled,
    Detections,
    Failed,
    Request,
    Result,
    Shed,
    Superseded,
)
from serving.core.segment import Segment
from serving.execution.failures import Failures

Done = Callable[[Result], None]
"""Function that is given a request's result, in the executor's thread, or in the submitting one if
the request is refused at once."""
OnExit = Callable[[Answered], None]
"""Function that is given each answer of a request that does not end with it at once, in the
executor's thread."""
MergeAnswers = Callable[[tuple[int, Detections], tuple[int, Detections]], Detections | None]
"""Function from the answer in hand and a later one, each a model's number and its boxes, to both as
one, or None where the later one takes the place of the first."""


@dataclass(slots=True)
class Job:
    """A request and what has happened to it so far."""

    request: Request
    image: Image
    done: Done
    on_exit: OnExit | None
    submitted_s: float
    started_s: float = 0.0
    engine_s: float = 0.0
    predicted_s: float = 0.0
    answer: Answered | None = None
    """Answer in hand: the best so far, of a request that may have a better one."""


class Jobs:
    """The jobs that an executor has taken in and not ended.

    For one thread, but that another may end them all, should that one hang: whichever ends a job
    first has ended it.
    """

    def __init__(
        self,
        clock: Clock,
        observer: Observer,
        failures: Failures,
        merge_answers: MergeAnswers | None,
        find_fault: FindFault | None,
        left: Callable[[], None],
    ) -> None:
        """Make an empty collection; ``left`` is called after each job that has ended."""
        self._clock = clock
        self._observer = observer
        self._failures = failures
        self._merge_answers = merge_answers
        self._find_fault = find_fault
        self._left = left
        self._by_id: dict[int, Job] = {}

    def add(self, jobs: Iterable[Job]) -> None:
        """Take jobs in."""
        self._by_id |= {job.request.id: job for job in jobs}

    def of(self, requests: Iterable[Request]) -> list[Job]:
        """Return the jobs of these requests, in their order. Raises KeyError."""
        return [self._by_id[request.id] for request in requests]

    def known(self, request_ids: Iterable[int]) -> list[Job]:
        """Return those jobs of these requests that have not ended."""
        return [self._by_id[id] for id in request_ids if id in self._by_id]

    def all(self) -> list[Job]:
        """Return every job that has not ended."""
        return list(self._by_id.values())

    # -- answers ---------------------------------------------------------------------------------

    def answer(
        self,
        segment: Segment,
        jobs: Sequence[Job],
        detections: Sequence[Detections],
        completion: Completion,
    ) -> list[Request]:
        """Hand out the boxes that came out of ``segment``, one entry for each of ``jobs``.

        By ``completion`` some go on with this answer, and those it came too late for end with the
        one that they had; the others end with this one. Returns those that were to go on but have
        ended: with boxes that no sound model gives, or because whoever was to be told failed.
        """
        ended: list[Request] = []
        self.conclude(completion.too_late)
        staying = {request.id for request in completion.staying}
        held = {request.id for request in completion.held}
        too_late = {request.id for request in completion.too_late}
        finished_s = self._clock()
        for job, found in zip(jobs, detections, strict=True):
            id, in_hand = job.request.id, job.answer
            if id in too_late or id not in self._by_id:
                continue
            if (fault := self._fault(found)) is not None:
                self._fail(job, fault)
                ended.append(job.request)
                continue
            answer = Answered(
                job.request,
                found,
                segment.stop,
                job.started_s,
                finished_s,
                job.engine_s,
                job.predicted_s,
                segment.model,
                held=id in held,
            )
            if in_hand is not None and in_hand.held:
                answer = self._upgraded(in_hand, answer)
            if id not in staying and id not in held:
                self._end(job, answer)
                continue
            job.answer = answer
            if job.on_exit is None:
                continue
            try:
                job.on_exit(answer)
            except Exception as error:  # who cannot be told of one answer is told of the end
                self._failures.note(CALLBACK, "an answer could not be handed out", error)
                self._end(job, answer)
                ended.append(job.request)
        return ended

    def _fault(self, found: Detections) -> Exception | None:
        """Return the error that boxes of no sound model are; None for others."""
        if self._find_fault is None:
            return None
        try:
            fault = self._find_fault(found)
        except Exception as raised:
            fault = f"it cannot be checked ({raised!r})"
        if fault is None:
            return None
        error = malformed_output(fault)
        self._failures.note(OUTPUT, "an answer was withheld", error)
        return error

    def _upgraded(self, in_hand: Answered, later: Answered) -> Answered:
        """Return the answer that takes the place of the one in hand: both merged, or the later."""
        merged = None
        if self._merge_answers is not None:
            first, then = ((each.model, each.detections) for each in (in_hand, later))
            try:
                merged = self._merge_answers(first, then)
            except Exception as error:  # whatever boxes a model comes up with must not end the loop
                self._failures.note(MERGE, "answers could not be merged", error)
        later = replace(later, upgrades=in_hand.upgrades + 1)
        if merged is None:
            return later
        return replace(later, detections=merged, earlier=in_hand.points)

    # -- ends ------------------------------------------------------------------------------------

    def conclude(self, requests: Iterable[Request]) -> None:
        """End requests with the answers they have."""
        for job in self.of(requests):
            assert job.answer is not None, "a request is concluded that has no answer"
            self._end(job, job.answer)

    def withdraw(self, job: Job, with_answer: bool) -> None:
        """End a job that its client takes back: with the answer it has, if wanted and there."""
        answer = job.answer if with_answer else None
        self._end(job, answer or Cancelled(job.request, self._clock()))

    def shed(self, requests: Iterable[Request], reason: ShedReason, retry_after_s: float) -> None:
        """End requests as shed, or with the answer they have."""
        for job in self.of(requests):
            self.give_up(job, reason, retry_after_s)

    def give_up(self, job: Job, reason: ShedReason, retry_after_s: float) -> None:
        """End a job as shed, or with the answer it has."""
        self._end(job, job.answer or Shed(job.request, reason, self._clock(), retry_after_s))

    def supersede(self, requests: Iterable[Request]) -> None:
        """End frames that waited, in favour of newer ones."""
        for job in self.of(requests):
            self._end(job, Superseded(job.request, self._clock()))

    def fail(self, requests: Iterable[Request], error: Exception) -> None:
        """End those of the requests that have not ended as failed, or with the answer they have."""
        for job in self.known(request.id for request in requests):
            self._fail(job, error)

    def fail_all(self, error: Exception) -> None:
        """End every request as failed, or with the answer it has."""
        for job in self.all():
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        """End a job as failed, or with the answer it has."""
        self._end(job, job.answer or Failed(job.request, error, self._clock()))

    def _end(self, job: Job, result: Result) -> None:
        """End a job: tell the observer, whoever submitted it, and whoever waits for all to end.

        One that has ended is left alone. Whatever these raise, the others are told.
        """
        if self._by_id.pop(job.request.id, None) is None:
            return
        for tell in (self._observer.ended, job.done):
            try:
                tell(result)
            except Exception as error:
                self._failures.note(CALLBACK, "the end of a request could not be told", error)
        self._left()

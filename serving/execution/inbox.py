"""The inbox of an executor: what other threads have to say, kept until its loop looks.

    submit, cancel, conclude --> Inbox --take--> the loop

It also counts the requests that have not ended, and knows whether any more are taken in.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from serving.execution.jobs import Job


class Messages(NamedTuple):
    """What has come since the loop last looked."""

    arrived: list[Job]
    """Requests, the earliest first."""
    cancelled: set[int]
    """Ids of requests to drop."""
    concluded: set[int]
    """Ids of requests to end with the answer that they have."""


class Inbox:
    """The inbox of one executor, for any thread.

    ``changed`` guards it, and what has to change together with it, and tells of every change.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.arrived: list[Job] = []
        """Requests that the loop has not seen; to be changed by the methods here alone."""
        self._cancelled: set[int] = set()
        self._concluded: set[int] = set()
        self._num_open = 0
        self.is_draining = False
        """Whether requests are refused, while those inside may end."""
        self.is_stopping = False
        """Whether the loop is to end."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come since the loop last looked."""
        return not (self.arrived or self._cancelled or self._concluded)

    def put(self, job: Job) -> None:
        """Add a request, which counts as open until ``left`` is called for it."""
        with self.changed:
            self.arrived.append(job)
            self._num_open += 1
            self.changed.notify_all()

    def cancel(self, request_id: int) -> None:
        """Add the wish to drop a request."""
        with self.changed:
            self._cancelled.add(request_id)
            self.changed.notify_all()

    def conclude(self, request_id: int) -> None:
        """Add the wish to end a request with the answer that it has."""
        with self.changed:
            self._concluded.add(request_id)
            self.changed.notify_all()

    def take(self) -> Messages:
        """Return all that has come, and keep none of it."""
        with self.changed:
            messages = Messages(self.arrived, self._cancelled, self._concluded)
            self.arrived, self._cancelled, self._concluded = [], set(), set()
        return messages

    def left(self) -> None:
        """Note that a request has ended."""
        with self.changed:
            self._num_open -= 1
            self.changed.notify_all()

    def close(self, grace_s: float) -> None:
        """Refuse requests, wait up to ``grace_s`` seconds for those inside, and stop the loop."""
        with self.changed:
            self.is_draining = True
            self.changed.wait_for(lambda: self._num_open == 0, timeout=grace_s)
            self.is_stopping = True
            self.changed.notify_all()

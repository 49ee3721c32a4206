"""A pool of Ray workers: on this machine, or on all machines of a Ray cluster.

A worker that dies is replaced by Ray, also where its whole machine is lost, and its child is
evaluated again: from its last epoch, if all machines share the folder of the search.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from builder.search.evaluators.base import Evaluator, Job
from builder.search.pool import MAX_DEATHS, JobResult, crash_result, evaluate_elsewhere
from serving.core.command_errors import CommandError, CommandFailed

# Ray reads its environment when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A child that memory does not suffice for would be tried for ever.
os.environ.setdefault("RAY_task_oom_retries", str(MAX_DEATHS - 1))

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

OBJECT_STORE_BYTES = 80 * 2**20
"""Memory for what workers of this machine alone share: an evaluator, some kilobytes.

It is hardly more than the least that Ray takes.
"""

CONNECT_S = 10.0
"""Seconds within which a cluster's address has to answer."""

LOST = (WorkerCrashedError, NodeDiedError, OutOfMemoryError)
"""Errors of a child whose worker died as often as it was evaluated."""


class NoCluster(CommandError):
    """Error of an address at which there is no Ray cluster that can be joined."""


class ClusterLost(CommandFailed):
    """Error of a Ray cluster that went away."""


class RayPool:
    """A pool of so many Ray workers at a time, each with one core."""

    def __init__(
        self, evaluator: Evaluator, count: int, *, journal: Path, address: str | None = None
    ) -> None:
        """Join the cluster at ``address``, or start one of this machine's processes.

        ``auto`` is the cluster that this machine is in. ``journal`` is the file that is written
        here: a worker that sees it shares the folder of the search. Raises NoCluster.
        """
        self._count, self._journal = count, journal.resolve()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if address is None:
            # Its sockets and logs go when it does. Paths of sockets have to be short.
            self._folder = tempfile.TemporaryDirectory(
                prefix="punctual-", ignore_cleanup_errors=True
            )
        _connect(address, count, self._folder)
        self._evaluator = ray.put(evaluator)
        as_task = ray.remote(num_cpus=1, max_retries=MAX_DEATHS - 1)
        self._evaluate = as_task(evaluate_elsewhere)

    def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        """Yield the results, in the order in which jobs end. Raises ClusterLost."""
        waiting = deque(jobs)
        running: dict[Any, Job] = {}
        while waiting or running:
            while waiting and len(running) < self._count:
                job = waiting.popleft()
                running[self._evaluate.remote(self._evaluator, job, self._journal)] = job
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            yield _result(ended, running.pop(ended))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ray.shutdown()  # what runs for this process ends with it, on all machines
        if self._folder is not None:
            self._folder.cleanup()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what is to be done at SIGTERM, which Ray takes for itself where it is started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@_own_sigterm()
def _connect(
    address: str | None, count: int, folder: tempfile.TemporaryDirectory[str] | None
) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if folder is not None:
        ray.init(
            address="local",
            num_cpus=count,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=folder.name,
            **quiet,
        )
        return
    assert address is not None, "without a folder there is a cluster to join"
    try:
        _find_listener(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise NoCluster(f"no Ray cluster can be joined at {address}: {why}") from error


def _find_listener(address: str) -> None:
    """Raise OSError if nobody listens at an address that has a port, ValueError if it has none.

    Ray itself tries for minutes. ``auto`` has no port.
    """
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        raise ValueError("it is neither 'auto' nor HOST:PORT")
    socket.create_connection((parts.hostname, parts.port), CONNECT_S).close()


def _result(reference: Any, job: Job) -> JobResult:
    try:
        result: JobResult = ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None  # as the evaluator raised it
    except LOST:
        return crash_result(job)
    except RayError as error:
        why = str(error).partition("\n")[0]
        raise ClusterLost(f"Ray has failed, the same command goes on: {why}") from error
    return result

"""The servers that are compared live: Punctual with several policies, and its peers.

All but the one that is being measured are paused: even an idle server takes something of a machine
that it shares.
"""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.load.accounting import Account, account, server_counts
from loadtest.load.open_loop import LoadResult, LoadSettings, run_load
from loadtest.load.summary import Summary, summarise
from loadtest.load.target import DETECT_PATH
from loadtest.servers.peers import PeerPoint, PeerSettings, peer
from loadtest.servers.processes import RunningServer, gateway_server, get_text
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.images import AnnotatedImage
from serving.core.demand import WINDOW

SHIPPED, SLACKFIT = POLICIES = ("deadline", "slackfit")
"""Policies that choose an operating point for each request."""
SETTLING = 1.2 * WINDOW
"""Number of requests after each pause, by which a policy gets to know the demand.

They come at the rate of the run that follows and with such budgets. A run's first seconds would
otherwise show what the server makes of the requests of a warm-up, whose budgets are generous.
"""
GRACE_S = 10.0
"""Seconds for which late answers are waited for: every request is to have its end."""
PATIENCE_S = 15.0
REST_S = 0.04
DEADLINE_HEADER = "X-Deadline-Ms"
SETTLE_S = 1.0
"""Seconds that the server's counts may take to include the last replies."""
POLL_S = 0.02


@dataclass(frozen=True)
class System:
    """One server under study."""

    name: str
    server: RunningServer
    policy: str | None
    """Name of a gateway's policy; None for a peer."""
    image: AnnotatedImage
    """Image of the requests that do not count."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let the server run, until the context ends; it is paused before and after."""
        self.server.resume()
        try:
            yield
        finally:
            self.pause_when_idle()

    def pause_when_idle(self) -> None:
        """Pause the server when it runs nothing: ``REST_S`` after it has answered its only request.

        A run that a pause interrupts would count as one that took minutes. What follows an answer
        takes less than ``REST_S``, and an idle engine is left alone for longer before it is probed.
        """
        request = urllib.request.Request(
            f"{self.server.url}{DETECT_PATH}",
            self.image.data,
            {"Content-Type": self.image.content_type, DEADLINE_HEADER: "10000"},
        )
        # Any answer will do: whether the server still serves is for the next run to find out.
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=PATIENCE_S) as r:
            r.read()
        time.sleep(REST_S)
        self.server.pause()

    def counts(self) -> Counter[str] | None:
        """Return end -> requests since the server's start; None if it does not tell.

        Raises StudyError.
        """
        if self.policy is None:
            return None
        return server_counts(get_text(f"{self.server.url}/metrics"))

    def counts_at_rest(self, total: int) -> Counter[str] | None:
        """Return the server's counts once they come to ``total``, or after ``SETTLE_S``."""
        give_up_s = time.monotonic() + SETTLE_S
        while True:
            counts = self.counts()
            if counts is None or counts.total() == total or time.monotonic() > give_up_s:
                return counts
            time.sleep(POLL_S)


@contextlib.contextmanager
def gateway_system(
    policy: str, settings: Mapping[str, object], image: AnnotatedImage, log: Path
) -> Iterator[System]:
    """Start a gateway with the policy called ``policy`` and these settings, paused."""
    command = ("study", "serve", "--policy", policy)
    with gateway_server(policy, settings, log, command) as server:
        system = System(policy, server, policy, image)
        system.pause_when_idle()
        yield system


@contextlib.contextmanager
def peer_system(
    name: str,
    kind: str,
    point: PeerPoint,
    python: Path,
    settings: PeerSettings,
    image: AnnotatedImage,
    log: Path,
) -> Iterator[System]:
    """Start a peer at one operating point, paused."""
    with peer(kind, point, python, settings, log) as server:
        system = System(name, server, None, image)
        system.pause_when_idle()
        yield system


@dataclass(frozen=True)
class Measured:
    """The result of one run of one system."""

    result: LoadResult
    summary: Summary
    account: Account


def measure(system: System, settings: LoadSettings) -> Measured:
    """Measure a run of an otherwise paused ``system``. Raises StudyError.

    The system settles before the run and is paused again before anything is computed.
    """
    with system.running():
        start = system.counts()
        settled = run_load(settling(settings))
        before = system.counts_at_rest(_count(start, settled))
        result = run_load(replace(settings, warm_up=1))
        after = system.counts_at_rest(_count(before, result))
    summary = summarise(result)
    return Measured(result, summary, account(summary, before, after, result.settings.warm_up))


def settling(settings: LoadSettings) -> LoadSettings:
    """Return the settings of the requests by which a system settles before a run.

    The run is the one with ``settings``.
    """
    return replace(
        settings,
        arrivals=parse_arrivals("poisson"),
        duration_s=SETTLING / settings.rate_hz,
        seed=settings.seed + 1,
    )


def _count(before: Counter[str] | None, result: LoadResult) -> int:
    """Return the count that a server should come to after a run, having counted ``before``."""
    already = 0 if before is None else before.total()
    return already + result.settings.warm_up + len(result.outcomes)

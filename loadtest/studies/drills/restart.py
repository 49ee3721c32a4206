"""``punctual study restart``: a drill that restarts two gateways in turn under open-loop load.

    load client --> haproxy --> gateway 1    SIGTERM, drain, end, start, ready
                          '---> gateway 2    then it, and so on until the load has been sent

haproxy is a proxy of HTTP, as an ingress is, or of TCP, as a Service of Kubernetes is: there, an
open connection stays with its gateway, whatever the health checks say. It takes readiness from
/readyz, and repeats nothing, so that whatever a restart costs is seen by the client.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.load.open_loop import LoadSettings, run_load
from loadtest.load.outcomes import Outcome, RequestOutcome
from loadtest.load.summary import summarise
from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import (
    STOP_TIMEOUT_S,
    StudyError,
    gateway_server,
    running,
)
from loadtest.servers.prometheus import find_program
from loadtest.studies.drills.report import RestartRun
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import AnnotatedImage

MODES = ("http", "tcp")
NUM_GATEWAYS = 2
CHECK_INTERVAL_S = 0.5
"""Seconds between two of the proxy's probes of readiness, of which one that fails is enough."""
LATE = "deadline-exceeded"
TURNED_AWAY = frozenset({"rejected-draining", "backend-unavailable", "backend-error", "http-503"})
"""Reasons to refuse a request that have nothing to do with its budget; the last is the proxy's."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class RestartDrillSettings:
    """The settings of a drill of restarts. Durations are in seconds."""

    model_repository: Path
    runtime: str
    images: tuple[AnnotatedImage, ...]
    rate_hz: float
    seconds: float
    budgets: str
    drain_delay_s: float
    seed: int


@dataclass
class Gateways:
    """The gateways of a drill, each on a port of its own, on which it comes back."""

    settings: RestartDrillSettings
    folder: Path
    ports: tuple[int, ...]
    drain_s: list[float] = field(default_factory=list)
    outage_s: list[float] = field(default_factory=list)
    _running: dict[int, contextlib.ExitStack] = field(default_factory=dict)
    _starts: int = 0

    def start(self, port: int) -> None:
        """Start the gateway on ``port``, and wait until it is ready. Raises StudyError."""
        settings = self.settings
        self._starts += 1
        log = self.folder / f"gateway-{self._starts}.log"
        given: Mapping[str, object] = {
            "port": port,
            "model_repository": settings.model_repository,
            "runtime": settings.runtime,
            "drain_delay_ms": 1e3 * settings.drain_delay_s,
            "num_threads": 1,
        }
        self._running[port] = stack = contextlib.ExitStack()
        stack.enter_context(gateway_server(f"number {self.ports.index(port)}", given, log))

    def stop(self, port: int) -> None:
        """Tell the gateway on ``port`` to end, and wait for it.

        Raises StudyError if it has to be killed.
        """
        started_s = time.monotonic()
        self._running.pop(port).close()
        seconds = time.monotonic() - started_s
        if seconds >= STOP_TIMEOUT_S:
            raise StudyError(f"a gateway had not ended {STOP_TIMEOUT_S:.0f} s after SIGTERM")
        self.drain_s.append(seconds)

    def restart_in_turn(self, until: threading.Event) -> None:
        """Restart one gateway after the other until the load ends, every one at least once."""
        number = 0
        while number < len(self.ports) or not until.is_set():
            port = self.ports[number % len(self.ports)]
            started_s = time.monotonic()
            self.stop(port)
            self.start(port)
            self.outage_s.append(time.monotonic() - started_s)
            # Wait until the proxy has seen it: with no gateway ready there is no rolling restart.
            time.sleep(3 * CHECK_INTERVAL_S)
            number += 1

    def close(self) -> None:
        """End all gateways."""
        for stack in self._running.values():
            stack.close()


@contextlib.contextmanager
def proxy(mode: str, ports: tuple[int, ...], folder: Path) -> Iterator[str]:
    """Start haproxy in front of gateways on ``ports``, until the context ends.

    Yields its URL, once one of the gateways is ready. Raises StudyError.
    """
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(haproxy_config(mode, port, ports))
    command = (find_program("haproxy"), "-db", "-f", str(config))
    url = f"http://127.0.0.1:{port}"
    with running("haproxy", command, os.environ, f"{url}/readyz", folder / "haproxy.log"):
        yield url


def haproxy_config(mode: str, port: int, ports: tuple[int, ...]) -> str:
    """Return haproxy's configuration as text."""
    servers = "".join(f"  server gateway-{n} 127.0.0.1:{port}\n" for n, port in enumerate(ports))
    return f"""\
defaults
  mode {mode}
  retries 0
  timeout connect 2s
  timeout client 60s
  timeout server 60s
frontend clients
  bind 127.0.0.1:{port}
  default_backend gateways
backend gateways
  balance roundrobin
  option httpchk GET /readyz
  default-server check inter {round(1e3 * CHECK_INTERVAL_S)}ms fall 1 rise 1
{servers}"""


def run(mode: str, settings: RestartDrillSettings, folder: Path, say: Say) -> RestartRun:
    """Run one drill behind a proxy of ``mode``. Raises StudyError."""
    folder.mkdir()
    gateways = Gateways(settings, folder, tuple(free_port() for _ in range(NUM_GATEWAYS)))
    try:
        for port in gateways.ports:
            gateways.start(port)
        with proxy(mode, gateways.ports, folder) as url, ThreadPoolExecutor(1) as pool:
            say(f"{mode}: {settings.seconds:.0f} s of load, restarting meanwhile")
            over = threading.Event()
            restarting = pool.submit(gateways.restart_in_turn, over)
            try:
                result = run_load(_load(settings, url))
            finally:
                over.set()
            restarting.result()
    finally:
        gateways.close()
    summary = summarise(result)
    ends = count_unanswered(result.outcomes)
    return RestartRun(
        proxy=f"haproxy, {mode}",
        drain_delay_s=settings.drain_delay_s,
        restarts=len(gateways.outage_s),
        drain_s=tuple(gateways.drain_s),
        outage_s=tuple(gateways.outage_s),
        sent=len(result.outcomes),
        in_time=summary.outcomes[Outcome.IN_TIME],
        late=ends.late,
        refused=ends.refused,
        failed=ends.failed,
        latency_ms=summary.latency_ms,
        invalid_because=summary.invalid_because,
    )


def _load(settings: RestartDrillSettings, url: str) -> LoadSettings:
    return LoadSettings(
        url=url,
        images=settings.images,
        arrivals=parse_arrivals("poisson"),
        rate_hz=settings.rate_hz,
        duration_s=settings.seconds,
        budgets=parse_budgets(settings.budgets),
        full_depth_s=1.0,
        seed=settings.seed,
    )


@dataclass(frozen=True)
class Ends:
    """Numbers of requests that were not answered in time, by what became of them."""

    late: int
    refused: Mapping[str, int]
    failed: Mapping[str, int]


def count_unanswered(outcomes: tuple[RequestOutcome, ...]) -> Ends:
    """Count what became of the requests that were not answered in time."""
    late = 0
    refused: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for request in outcomes:
        if request.outcome is Outcome.LATE or request.reason == LATE:
            late += 1
        elif request.outcome is Outcome.REFUSED and request.reason not in TURNED_AWAY:
            refused[request.reason] += 1
        elif request.outcome is not Outcome.IN_TIME:
            failed[f"{request.outcome}: {request.reason}"] += 1
    return Ends(late, dict(refused), dict(failed))

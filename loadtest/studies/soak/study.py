"""``punctual study soak``: a gateway serves for hours what clients send, good or not.

    capacity    a closed loop of good requests with ample budgets
    rest        nobody asks for anything: a first sample
    load        requests of all kinds at a share of that capacity, sampled now and then
    rest        everything has ended: a last sample

What it holds must not grow, and each request must end once, as one of its kind may. As a control,
the gateway leaks, which must be found.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from loadtest.load.client import Address, Client, Failure, HttpReply, new_event_loop
from loadtest.load.closed_loop import run_closed_loop
from loadtest.load.target import Target, describe_server
from loadtest.servers.faults import LEAK
from loadtest.servers.processes import RunningServer, StudyError, gateway_server
from loadtest.studies.drills.report import Circumstances
from loadtest.studies.soak.messages import KINDS, LEAVES_WITHIN_S, Kind, Material
from loadtest.studies.soak.report import RESOURCES, Growth, SoakReport, Tally
from loadtest.studies.soak.samples import Sample, counts, take_sample
from loadtest.studies.soak.trend import trend
from loadtest.workload.images import AnnotatedImage

CONCURRENCY = 4
"""Number of clients that find out the capacity."""
CAPACITY_S = 10.0
REST_S = 5.0
"""Seconds after which nobody is inside any more, and the engine has been probed as an idle one."""
PATIENCE_S = 30.0
"""Seconds after which a request that has no reply never ended."""
SAYS_EVERY_S = 300.0
"""Seconds between two lines about how it goes."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class SoakSettings:
    """The settings of a soak. Durations are in seconds."""

    model_repository: Path
    model: str | None
    runtime: str
    images: Sequence[AnnotatedImage]
    share: float
    """Share of the capacity that is sent, if no rate is given."""
    rate_hz: float | None
    seconds: float
    warm_up_s: float
    every_s: float
    """Seconds between two samples."""
    is_control: bool
    seed: int

    def gateway(self) -> dict[str, object]:
        """Return the settings of the gateway."""
        given: dict[str, object] = {
            "model_repository": self.model_repository,
            "runtime": self.runtime,
        }
        return given if self.model is None else {**given, "model": self.model}


def run(
    settings: SoakSettings, circumstances: Circumstances, scratch: Path, say: Say
) -> SoakReport:
    """Soak a gateway that is started for it. Raises StudyError."""
    command: tuple[str, ...] = ("serve",)
    if settings.is_control:
        fault = scratch / "fault"
        fault.write_text(LEAK)
        command = ("study", "serve", "--policy", "deadline", "--fault-file", str(fault))
    log = scratch / "gateway.log"
    with gateway_server("soaked", settings.gateway(), log, command) as server:
        images = tuple(settings.images)
        answers = run_closed_loop(server.url, images, CONCURRENCY, CAPACITY_S, Target())
        rate_hz = settings.rate_hz or settings.share * answers.rate_hz
        say(f"capacity {answers.rate_hz:.1f}/s; {rate_hz:.1f}/s for {settings.seconds:.0f} s")
        facts = describe_server(server.url)
        if facts is None:
            raise StudyError("the server does not say which model it serves")
        soak = _Soak(server, settings, rate_hz, str(facts["name"]), say)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(soak.run(circumstances, answers.rate_hz))


class _Soak:
    """One soak of a running server."""

    def __init__(
        self, server: RunningServer, settings: SoakSettings, rate_hz: float, model: str, say: Say
    ) -> None:
        self._server = server
        self._settings = settings
        self._rate_hz = rate_hz
        self._random = Random(settings.seed)
        self._address = Address.parse(server.url)
        self._material = Material(self._address, model, settings.images, self._random)
        self._say = say
        self._sent: Counter[Kind] = Counter()
        self._ends: defaultdict[Kind, Counter[str]] = defaultdict(Counter)
        self._unexpected: Counter[Kind] = Counter()
        self._samples: list[Sample] = []

    async def run(self, circumstances: Circumstances, capacity_hz: float) -> SoakReport:
        loop = asyncio.get_running_loop()
        client = Client(self._address, loop)
        await client.resolve()
        try:
            counted = await self._counts()
            rest = await self._at_rest()
            started_s = loop.time()
            sampling = loop.create_task(self._sample(started_s))
            await self._send(client, started_s)
            await sampling
            await self._all_ended()
            end = await self._at_rest()
            counted = await self._counts() - counted
        finally:
            await client.close()
        settings = self._settings
        detections = [kind for kind in KINDS if kind.is_detection]
        return SoakReport(
            circumstances=circumstances,
            is_control=settings.is_control,
            capacity_hz=capacity_hz,
            rate_hz=self._rate_hz,
            seconds=settings.seconds,
            warm_up_s=settings.warm_up_s,
            tallies=[self._tally(kind) for kind in KINDS],
            counted=dict(counted),
            certain=sum(self._sent[kind] for kind in detections if not kind.leaves),
            possible=sum(self._sent[kind] for kind in detections),
            growths=growths(rest, self._samples, end, settings.warm_up_s),
            inside_after=end.inside,
            samples=[rest, *self._samples, end],
        )

    async def _counts(self) -> Counter[str]:
        return await asyncio.to_thread(counts, self._server)

    async def _at_rest(self) -> Sample:
        await asyncio.sleep(REST_S)
        return await asyncio.to_thread(take_sample, self._server, 0.0, self._sent.total())

    async def _send(self, client: Client, started_s: float) -> None:
        """Send at the rate, at instants that do not depend on what becomes of requests.

        One of each kind comes first.
        """
        loop, weights = asyncio.get_running_loop(), [kind.weight for kind in KINDS]
        first = self._random.sample(KINDS, len(KINDS))
        next_s = started_s
        while (next_s := next_s + self._random.expovariate(self._rate_hz)) < (
            started_s + self._settings.seconds
        ):
            await asyncio.sleep(max(0.0, next_s - loop.time()))
            kind = first.pop() if first else self._random.choices(KINDS, weights)[0]
            patience_s = self._random.uniform(0, LEAVES_WITHIN_S) if kind.leaves else PATIENCE_S
            self._sent[kind] += 1
            data = kind.write(self._material)
            client.send(data, loop.time() + patience_s, partial(self._ended, kind))

    def _ended(self, kind: Kind, reply: HttpReply) -> None:
        left = kind.leaves and reply.failure is Failure.TIMEOUT
        self._ends[kind]["left" if left else str(reply.status or reply.reason)] += 1
        if not left and reply.status not in kind.statuses:
            self._unexpected[kind] += 1

    async def _all_ended(self) -> None:
        """Wait until each request has an end, which is a matter of ``PATIENCE_S``."""
        while sum(ends.total() for ends in self._ends.values()) < self._sent.total():
            await asyncio.sleep(0.1)

    async def _sample(self, started_s: float) -> None:
        loop, settings = asyncio.get_running_loop(), self._settings
        says_s = SAYS_EVERY_S
        while (at_s := loop.time() - started_s) < settings.seconds:
            sample = await asyncio.to_thread(take_sample, self._server, at_s, self._sent.total())
            self._samples.append(sample)
            if at_s >= says_s:
                says_s += SAYS_EVERY_S
                self._say(f"{at_s:.0f} s: {sample}, {self._unexpected.total()} unexpected")
            await asyncio.sleep(settings.every_s)

    def _tally(self, kind: Kind) -> Tally:
        return Tally(kind.name, self._sent[kind], dict(self._ends[kind]), self._unexpected[kind])


def growths(rest: Sample, samples: Sequence[Sample], end: Sample, warm_up_s: float) -> list[Growth]:
    """Return what became of each resource. Raises StudyError for too few samples."""
    warm = [sample for sample in samples if sample.at_s >= warm_up_s]

    def growth_of(name: str, field: str, unit: float, notable: float) -> Growth:
        def amount(sample: Any) -> float:
            return float(getattr(sample, field)) / unit

        found = trend([sample.at_s for sample in warm], [amount(sample) for sample in warm])
        return Growth(name, field, amount(rest), amount(end), found, notable)

    try:
        return [growth_of(each.name, each.field, each.unit, each.notable) for each in RESOURCES]
    except ValueError as error:
        raise StudyError(f"the soak was too short: {error}") from error

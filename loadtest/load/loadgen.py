"""A run of MLPerf LoadGen's Server scenario against a URL, with its own verdict.

LoadGen is an independent generator.

LoadGen decides when to send (Poisson arrivals), measures each latency from its own schedule, and
calls a run VALID if enough of them are within the budget (and enough queries were made to say so).
It knows no refusals: every query has to be completed. So that a server cannot pass by refusing what
is hard, a query without an answer is completed only once its budget has passed:

    answered                         completed at once: LoadGen sees its latency
    refused, failed, or not sent     completed PENALTY_S after the budget: LoadGen sees a miss

Our own counts stand beside it. They count from the moment at which LoadGen issues a query, since it
does not tell its schedule. Queries go through the client of ``punctual loadtest``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlperf_loadgen as lg

from loadtest.load.client import MAX_CONNECTIONS, Address, Client, HttpReply, new_event_loop
from loadtest.load.open_loop import allow_files, real_time
from loadtest.load.outcomes import Outcome, RequestOutcome, read_outcome
from loadtest.load.target import Requests, Target, warm_up
from loadtest.servers.processes import StudyError
from loadtest.workload.images import AnnotatedImage
from reporting.files import write_whole
from serving.core.command_errors import InvalidArgument

PENALTY_S = 0.001
NUM_WARM_UP = 10
SUMMARY_NAME = "mlperf_log_summary.txt"
RESULT_NAME = "loadgen.json"


@dataclass(frozen=True, slots=True)
class LoadgenSettings:
    """The settings of one run of LoadGen. Durations are in seconds."""

    url: str
    images: tuple[AnnotatedImage, ...]
    target: Target
    rate_hz: float
    """Number of queries per second that LoadGen aims at."""
    budget_s: float
    percentile: float
    """Share of the queries that must be within the budget, below 1."""
    min_duration_s: float
    max_queries: int
    grace_s: float
    """Seconds after its budget for which an answer is waited for."""
    seed: int
    folder: Path
    """Folder for LoadGen's logs."""


@dataclass(frozen=True, slots=True)
class LoadgenResult:
    """The result of one run: LoadGen's verdict, and our counts."""

    is_valid: bool
    facts: Mapping[str, str]
    """Name -> value of every ``name : value`` in LoadGen's summary."""
    advice: tuple[str, ...]
    """Lines of what LoadGen says about a run that is not valid."""
    outcomes: Mapping[str, int]
    """Outcome -> number of queries, by our clock."""
    reasons: Mapping[str, int]
    """Reason -> number of queries, of those that were not answered."""
    count: int

    @property
    def attainment(self) -> float:
        """Return the share of the queries that were answered in time, by our clock."""
        return self.outcomes[Outcome.IN_TIME] / self.count


def run_loadgen(settings: LoadgenSettings) -> LoadgenResult:
    """Run LoadGen's Server scenario once, and write its logs and RESULT_NAME into the folder.

    Raises StudyError if nothing answers at the URL, and ValueError for settings that make no sense.
    """
    if not settings.percentile < 1:
        raise InvalidArgument(f"the percentile must be below 1, not {settings.percentile}")
    settings.folder.mkdir(parents=True, exist_ok=True)
    address = Address.parse(settings.url)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        outcomes = runner.run(_run(settings, address))
    text = (settings.folder / SUMMARY_NAME).read_text()
    result = read_summary(text, outcomes)
    content = dataclasses.asdict(result) | {"attainment": result.attainment}
    write_whole(settings.folder / RESULT_NAME, json.dumps(content) + "\n")
    return result


async def _run(settings: LoadgenSettings, address: Address) -> list[RequestOutcome]:
    client = Client(address, asyncio.get_running_loop(), allow_files(MAX_CONNECTIONS))
    requests = Requests(address, settings.target, settings.images)
    try:
        await client.resolve()
        await warm_up(client, requests, NUM_WARM_UP)
        system = _System(settings, client, requests)
        with real_time():  # LoadGen's threads as well, since they are started from here
            await asyncio.to_thread(_start_test, settings, system)
    except OSError as error:
        raise StudyError(f"{settings.url} cannot be reached: {error}") from error
    finally:
        await client.close()
    return system.outcomes


class _System:
    """The system under test, as LoadGen sees it, in front of the server.

    ``issue`` runs on LoadGen's thread, all else on the event loop.
    """

    def __init__(self, settings: LoadgenSettings, client: Client, requests: Requests) -> None:
        self._settings = settings
        self._client = client
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self.outcomes: list[RequestOutcome] = []

    def issue(self, samples: Sequence[lg.QuerySample]) -> None:
        """Send one query for each sample."""
        issued_s = self._loop.time()
        for sample in samples:
            self._loop.call_soon_threadsafe(self._send, sample.id, sample.index, issued_s)

    def _send(self, query: int, image: int, issued_s: float) -> None:
        budget_s = self._settings.budget_s
        data = self._requests.request(image, budget_s)

        def end(reply: HttpReply) -> None:
            outcome = read_outcome(reply, issued_s, 0.0, budget_s, image, {})
            self.outcomes.append(dataclasses.replace(outcome, detections=None))
            if outcome.is_answer:
                _complete(query)
            else:
                self._loop.call_at(issued_s + budget_s + PENALTY_S, _complete, query)

        self._client.send(data, issued_s + budget_s + self._settings.grace_s, end)


def _complete(query: int) -> None:
    lg.QuerySamplesComplete([lg.QuerySampleResponse(query, 0, 0)])


def _start_test(settings: LoadgenSettings, system: _System) -> None:
    """Run LoadGen's test; blocks until it has its verdict."""
    test = lg.TestSettings()
    test.scenario = lg.TestScenario.Server
    test.mode = lg.TestMode.PerformanceOnly
    test.server_target_qps = settings.rate_hz
    test.server_target_latency_ns = round(1e9 * settings.budget_s)
    test.server_target_latency_percentile = settings.percentile
    test.min_duration_ms = round(1e3 * settings.min_duration_s)
    test.min_query_count = 1
    test.max_query_count = settings.max_queries
    test.qsl_rng_seed = test.sample_index_rng_seed = test.schedule_rng_seed = settings.seed
    logs = lg.LogSettings()
    logs.log_output.outdir = str(settings.folder)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    count = len(settings.images)
    under_test = lg.ConstructSUT(system.issue, _nothing)
    library = lg.ConstructQSL(count, count, _nothing, _nothing)
    try:
        lg.StartTestWithLogSettings(under_test, library, test, logs)
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(under_test)


def _nothing(*_: object) -> None:
    """Do nothing where LoadGen would load images or flush queries: there is nothing to do.

    Images are in memory all the time, and no query is held back.
    """


def read_summary(text: str, outcomes: Sequence[RequestOutcome]) -> LoadgenResult:
    """Read LoadGen's verdict on a run from its summary, and count our outcomes of the run.

    Raises StudyError if there is no verdict.
    """
    cells = [line.partition(":") for line in text.splitlines()]
    facts = {name.strip(): value.strip() for name, colon, value in cells if colon and value.strip()}
    verdict = facts.get("Result is")
    if verdict not in ("VALID", "INVALID"):
        raise StudyError("LoadGen ended without a verdict")
    advice = text.partition("Recommendations:")[2].partition("=====")[0]
    counts = Counter(request.outcome for request in outcomes)
    return LoadgenResult(
        verdict == "VALID",
        facts,
        tuple(line.strip(" *") for line in advice.splitlines() if line.strip(" *")),
        {outcome.value: counts[outcome] for outcome in Outcome},
        dict(
            Counter(request.reason for request in outcomes if not request.is_answer).most_common()
        ),
        len(outcomes),
    )


def report(result: LoadgenResult) -> str:
    """Return LoadGen's verdict and our counts as text for the terminal."""
    facts = result.facts
    lines = [f"LoadGen says {'VALID' if result.is_valid else 'INVALID'}"]
    lines += [f"  {name}: {value}" for name, value in facts.items() if name.endswith("satisfied")]
    lines += [f"  {name}: {value}" for name, value in facts.items() if name.endswith("per second")]
    lines += [
        f"  {name.removesuffix(' (ns)')}: {int(value) / 1e6:.1f} ms"
        for name, value in facts.items()
        if name.endswith("latency (ns)")
    ]
    lines += [f"  {line}" for line in result.advice]
    lines.append(f"we say {result.attainment:.2%} of {result.count:,} were in time")
    lines += [f"  {outcome}: {count:,}" for outcome, count in result.outcomes.items()]
    lines += [f"    {reason}: {count:,}" for reason, count in result.reasons.items()]
    return "\n".join(lines)

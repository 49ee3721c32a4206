"""gRPC beside HTTP at one gateway, by perf_analyzer: rounds in turns, and ratios by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.environment.spread import Spread
from loadtest.studies.triton.perf import BUDGET_MS, Load, PerfAnalyzer, Window

HTTP, GRPC, STREAM = "HTTP", "gRPC", "gRPC stream"
_OPTIONS = {HTTP: (), GRPC: (), STREAM: ("--streaming", "--async")}
_PROTOCOLS = {HTTP: "http", GRPC: "grpc", STREAM: "grpc"}


@dataclass(frozen=True, slots=True)
class ProtocolFigures:
    """The figures of one protocol over all rounds, at one concurrency."""

    protocol: str
    concurrency: int
    p50_ms: Spread
    p99_ms: Spread
    per_s: Spread
    p50_to_http: Spread
    """Spread of the median latency over that of HTTP in the same round."""
    per_s_to_http: Spread


def measure(
    analyzer: PerfAnalyzer,
    addresses: tuple[str, str],
    model: str,
    side: int,
    concurrencies: Sequence[int],
    rounds: int,
    say: Callable[[str], None],
) -> list[ProtocolFigures]:
    """Measure a gateway at its ``addresses`` for HTTP and for gRPC. Raises StudyError."""
    where = {HTTP: addresses[0], GRPC: addresses[1], STREAM: addresses[1]}
    found = []
    for concurrency in concurrencies:
        windows: dict[str, list[Window]] = {name: [] for name in _OPTIONS}
        loads = {
            name: Load(
                *("gateway", model, name, 1, concurrency),
                (
                    *("--shape", f"image:{side},{side},3"),
                    *("-H", f"x-deadline-ms: {BUDGET_MS}"),
                    *options,
                ),
            )
            for name, options in _OPTIONS.items()
        }
        for number in range(rounds):
            names = list(loads) if number % 2 == 0 else list(reversed(loads))
            for name in names:
                say(f"{name}, {concurrency} at once, round {number + 1} of {rounds}")
                if not number:
                    analyzer.warm_up(_PROTOCOLS[name], where[name], loads[name])
                windows[name].append(analyzer.measure(_PROTOCOLS[name], where[name], loads[name]))
        for name, mine in windows.items():
            pairs = list(zip(mine, windows[HTTP], strict=True))
            found.append(
                ProtocolFigures(
                    name,
                    concurrency,
                    Spread.of(each.p50_ms for each in mine),
                    Spread.of(each.p99_ms for each in mine),
                    Spread.of(each.per_s for each in mine),
                    Spread.of(own.p50_ms / http.p50_ms for own, http in pairs),
                    Spread.of(own.per_s / http.per_s for own, http in pairs),
                )
            )
    return found

"""Fleets: nobody is lost, and each balancer chooses as it says."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from loadtest.policies.named import parse_policy
from loadtest.simulation import fleet
from loadtest.simulation.fleet import BALANCERS, Fleet, LeastRequest, PowerOfTwo
from loadtest.simulation.profiles import load_profile
from loadtest.simulation.simulator import ServiceTimes, SimulatedOutcome, SimulatedServer, simulate
from serving.core.latency import LatencyModel
from serving.core.request import Request

PROFILE = load_profile("cpu-lite")


def make_server(number: int, ended: Callable[[SimulatedOutcome], None]) -> SimulatedServer:
    policy = parse_policy("fixed:1")(PROFILE.segments, PROFILE.ladder, PROFILE.batch_sizes, 4)
    service = ServiceTimes(PROFILE.latency, 0.1, np.random.default_rng([7, number]))
    return SimulatedServer(policy, LatencyModel(PROFILE.latency), service, ended)


def requests(count: int, rate_hz: float, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_hz, count)).tolist()
    budgets = rng.choice([0.04, 0.07, 0.14], count).tolist()
    pairs = zip(arrivals, budgets, strict=True)
    return [
        Request(id, arrival, arrival + budget, 1, 5) for id, (arrival, budget) in enumerate(pairs)
    ]


def run(size: int, balancer: str, load: float, count: int = 600) -> list[SimulatedOutcome]:
    outcomes: list[SimulatedOutcome] = []
    several = Fleet(size, balancer, make_server, outcomes.append, np.random.default_rng(1))
    several.simulate(requests(count, load * PROFILE.capacity_hz * size))
    assert several.num_decisions > 0
    return outcomes


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("load", [0.3, 2.0])
def test_every_request_ends_once(balancer: str, size: int, load: float) -> None:
    outcomes = run(size, balancer, load)
    assert sorted(outcome.request.id for outcome in outcomes) == list(range(600))


@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_fleet_of_one_is_the_server_itself(balancer: str) -> None:
    alone: list[SimulatedOutcome] = []
    simulate(requests(600, 0.9 * PROFILE.capacity_hz), make_server(0, alone.append))
    assert run(1, balancer, 0.9) == alone


class _Checked(LeastRequest):
    """Compares each choice with what all servers, brought to this instant, would have it be."""

    num_choices = 0

    def choose(self, now_s: float) -> int:
        number = super().choose(now_s)
        for server in self._servers:
            server.advance(now_s)
        assert self._servers[number].num_open == min(s.num_open for s in self._servers)
        assert self._count == [server.num_open for server in self._servers]
        type(self).num_choices += 1
        return number


@pytest.mark.parametrize("load", [0.2, 0.9, 3.0])
def test_least_request_has_the_fewest_open(load: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Checked, "num_choices", 0)
    monkeypatch.setattr(fleet, "BALANCERS", {"checked": _Checked})
    run(9, "checked", load)
    assert _Checked.num_choices == 600


def test_least_request_does_not_depend_on_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    lazily = run(9, "least-request", 0.9)
    monkeypatch.setattr(fleet, "BALANCERS", {"checked": _Checked})
    eagerly = run(9, "checked", 0.9)

    def by_id(outcomes: list[SimulatedOutcome]) -> list[SimulatedOutcome]:
        return sorted(outcomes, key=lambda outcome: outcome.request.id)

    assert by_id(lazily) == by_id(eagerly)


def test_round_robin_takes_turns() -> None:
    took: list[int] = []

    def told(number: int, ended: Callable[[SimulatedOutcome], None]) -> SimulatedServer:
        def tell(outcome: SimulatedOutcome) -> None:
            took.append((outcome.request.id - number) % 3)
            ended(outcome)

        return make_server(number, tell)

    Fleet(3, "round-robin", told, lambda _: None, np.random.default_rng(0)).simulate(
        requests(60, 10.0)
    )
    assert took == [0] * 60


def test_power_of_two_takes_the_less_busy_of_two() -> None:
    servers = [make_server(number, lambda _: None) for number in range(2)]
    busy, idle = servers
    busy.submit(Request(0, 0.0, 1.0, 1, 5))
    choices = {PowerOfTwo(servers, np.random.default_rng(seed)).choose(1e-6) for seed in range(20)}
    assert choices == {1}
    assert (busy.num_open, idle.num_open) == (1, 0)


def test_looking_at_more_servers_answers_more() -> None:
    all_of_them, two = (
        sum(outcome.in_time for outcome in run(20, balancer, 0.8, count=3000))
        for balancer in ("least-request", "power-of-two")
    )
    assert all_of_them > two


@pytest.mark.parametrize("size", [0, 1001])
def test_a_size_out_of_range(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 1,000 executors"):
        Fleet(size, "round-robin", make_server, lambda _: None, np.random.default_rng(0))


def test_an_unknown_balancer() -> None:
    with pytest.raises(ValueError, match="not one of round-robin, least-request, power-of-two"):
        Fleet(1, "random", make_server, lambda _: None, np.random.default_rng(0))


def test_an_idle_server_expects_nothing() -> None:
    assert make_server(0, lambda _: None).next_event_s() == math.inf

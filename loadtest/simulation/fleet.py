"""Several executors behind a load balancer, in one virtual time.

    arrival --> balancer --> server 0 .. n-1, each with its own policy, latency model and service

A server is advanced only when its state matters. Round robin and power of two need the servers that
they look at; least request needs all, so a heap keeps when each one next does something, and
buckets keep which have how many requests open. An event then costs O(log n) beyond what its own
server does: the policies bound a simulation, not the size of the fleet.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from loadtest.simulation.simulator import SimulatedOutcome, SimulatedServer
from serving.core.command_errors import InvalidArgument
from serving.core.request import Request

MAX_SERVERS = 1000

MakeServer = Callable[[int, Callable[[SimulatedOutcome], None]], SimulatedServer]
"""A maker of servers: (number, callback for each request that ends) -> that server."""


class Balancer:
    """A load balancer, which chooses one of ``servers`` for each arrival."""

    def __init__(self, servers: Sequence[SimulatedServer], rng: np.random.Generator) -> None:
        self._servers = servers
        self._rng = rng

    def choose(self, now_s: float) -> int:
        """Return the number of a server, which has been advanced to ``now_s``."""
        raise NotImplementedError

    def submitted(self, number: int) -> None:
        """Note that a request has been handed to server ``number``, which was chosen last."""

    def ended(self, number: int) -> None:
        """Note that a request has ended at server ``number``."""


class RoundRobin(Balancer):
    """A balancer that chooses each server in turn."""

    _next = 0

    def choose(self, now_s: float) -> int:
        number = self._next
        self._next = (number + 1) % len(self._servers)
        self._servers[number].advance(now_s)
        return number


class PowerOfTwo(Balancer):
    """A balancer that draws two servers at random and chooses the one with fewer open requests.

    It is the first drawn, if they have as many (Mitzenmacher, The Power of Two Choices in
    Randomized Load Balancing, 2001).
    """

    def choose(self, now_s: float) -> int:
        total = len(self._servers)
        first = int(self._rng.integers(total))
        second = (first + 1 + int(self._rng.integers(total - 1))) % total if total > 1 else first
        for number in (first, second):
            self._servers[number].advance(now_s)
        fewer = self._servers[second].num_open < self._servers[first].num_open
        return second if fewer else first


class LeastRequest(Balancer):
    """A balancer that draws at random among the servers with the fewest open requests of all."""

    def __init__(self, servers: Sequence[SimulatedServer], rng: np.random.Generator) -> None:
        super().__init__(servers, rng)
        self._by_count: list[list[int]] = [list(range(len(servers)))]
        """Number of open requests -> the servers that have so many, its bucket."""
        self._place = list(range(len(servers)))
        """Server -> its index in its bucket."""
        self._count = [0] * len(servers)
        self._least = 0
        self._events: list[tuple[float, int]] = []

    def choose(self, now_s: float) -> int:
        # An event at this very instant may wait: its server has been advanced to it, or will be.
        while self._events and self._events[0][0] < now_s:
            _, number = heapq.heappop(self._events)
            self._servers[number].advance(now_s)
            self._expect(number)
        while not self._by_count[self._least]:
            self._least += 1
        bucket = self._by_count[self._least]
        number = bucket[int(self._rng.integers(len(bucket)))]
        self._servers[number].advance(now_s)  # an idle server's clock has been left behind
        return number

    def submitted(self, number: int) -> None:
        before = self._count[number]
        self._move(number, self._servers[number].num_open)
        if before == 0:
            self._expect(number)

    def ended(self, number: int) -> None:
        self._move(number, self._servers[number].num_open)

    def _expect(self, number: int) -> None:
        event_s = self._servers[number].next_event_s()
        if event_s < math.inf:
            heapq.heappush(self._events, (event_s, number))

    def _move(self, number: int, count: int) -> None:
        """Move a server into the bucket of ``count``; the old bucket's last takes its place."""
        bucket, place = self._by_count[self._count[number]], self._place[number]
        bucket[place] = bucket[-1]
        self._place[bucket[place]] = place
        bucket.pop()
        while len(self._by_count) <= count:
            self._by_count.append([])
        self._place[number] = len(self._by_count[count])
        self._by_count[count].append(number)
        self._count[number] = count
        self._least = min(self._least, count)


BALANCERS: Mapping[str, Callable[[Sequence[SimulatedServer], np.random.Generator], Balancer]] = {
    "round-robin": RoundRobin,
    "least-request": LeastRequest,
    "power-of-two": PowerOfTwo,
}


class Fleet:
    """A fleet of ``size`` servers behind the balancer called ``balancer``."""

    def __init__(
        self,
        size: int,
        balancer: str,
        make_server: MakeServer,
        ended: Callable[[SimulatedOutcome], None],
        rng: np.random.Generator,
    ) -> None:
        if not 1 <= size <= MAX_SERVERS:
            raise InvalidArgument(f"a fleet has 1 to {MAX_SERVERS:,} executors, not {size:,}")
        if balancer not in BALANCERS:
            raise InvalidArgument(f"balancer {balancer!r} is not one of {', '.join(BALANCERS)}")

        def told(number: int) -> Callable[[SimulatedOutcome], None]:
            def tell(outcome: SimulatedOutcome) -> None:
                self._balancer.ended(number)
                ended(outcome)

            return tell

        self.servers = tuple(make_server(number, told(number)) for number in range(size))
        self._balancer = BALANCERS[balancer](self.servers, rng)

    @property
    def num_decisions(self) -> int:
        """Return the number of decisions of all servers together."""
        return sum(server.num_decisions for server in self.servers)

    def simulate(self, requests: Sequence[Request]) -> None:
        """Simulate ``requests``, which are in order of arrival, until the last has ended."""
        for request in requests:
            number = self._balancer.choose(request.arrival_s)
            self.servers[number].submit(request)
            self._balancer.submitted(number)
        for server in self.servers:
            server.advance(math.inf)

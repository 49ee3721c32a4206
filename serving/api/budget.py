"""Latency budget that a client allows, from the headers and parameters that can state one.

    X-Deadline-Ms                     a wish: replaces the default; a message may state another
    deadline_ms                       the same, in the query or among a message's parameters
    grpc-timeout                      bounds: what a proxy or a client library will wait for
    x-envoy-expected-rq-timeout-ms
    Prefer: wait=N

The smallest of all wins. What is there but makes no sense is an error, never "no limit" and never
"most urgent".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from starlette.datastructures import Headers

from serving.api.numbers import decimal, integer, shown
from serving.core.errors import InvalidParameter

DEADLINE_HEADER = "X-Deadline-Ms"
DEADLINE_PARAMETER = "deadline_ms"
"""Name of the parameter, for clients that cannot send headers."""

_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])")
_GRPC_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True, slots=True)
class Budget:
    """One request's budget: the seconds from its head to its reply, as far as stated."""

    default_s: float
    """Seconds that apply while no budget was wished for."""
    bound_s: float
    wish_s: float | None = None
    wait: str | None = None
    """Value of the ``wait`` preference that was honoured, as written."""

    @property
    def seconds(self) -> float:
        """Seconds that are allowed: the wish or else the default, and at most the bound."""
        return min(self.default_s if self.wish_s is None else self.wish_s, self.bound_s)

    def wished(self, wish_s: float) -> Budget:
        """Return the budget after a further wish; the smallest counts."""
        return replace(self, wish_s=wish_s if self.wish_s is None else min(self.wish_s, wish_s))


def _milliseconds(text: str) -> float | None:
    value = decimal(text)
    return None if value is None else value / 1e3


def _whole_milliseconds(text: str) -> float | None:
    value = integer(text)
    return None if value is None else value / 1e3


def _grpc_timeout(text: str) -> float | None:
    matched = _GRPC.fullmatch(text)
    return int(matched[1]) * _GRPC_UNIT_S[matched[2]] if matched else None


def _whole_seconds(text: str) -> float | None:
    value = integer(text)
    return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class _Header:
    parse: Callable[[str], float | None]
    example: str


_WISH = _Header(_milliseconds, "a positive decimal number of milliseconds, such as 40 or 12.5")
_BOUNDS = {
    "grpc-timeout": _Header(_grpc_timeout, "1 to 8 digits and one of H M S m u n, such as 100m"),
    "x-envoy-expected-rq-timeout-ms": _Header(
        _whole_milliseconds, "a positive whole number of milliseconds"
    ),
}
_WAIT = _Header(_whole_seconds, "wait= and a positive whole number of seconds, such as wait=2")


def _seconds(name: str, header: _Header, given: object) -> float:
    seconds = header.parse(given) if isinstance(given, str) else None
    if not seconds:
        raise InvalidParameter(f"{name} must be {header.example}; it is {shown(given)}.")
    return seconds


def _read(values: Sequence[str], name: str, header: _Header) -> float | None:
    """Return the seconds that ``values`` of ``name`` state, None where there are none."""
    if len(values) > 1:
        raise InvalidParameter(f"{name} was sent {len(values)} times; once is allowed.")
    return _seconds(name, header, values[0].strip(" \t")) if values else None


def deadline_parameter(given: object) -> float:
    """Return the seconds that ``deadline_ms`` states, as text or as a number of JSON.

    Raises InvalidParameter.
    """
    # type(), since a bool is an int to isinstance().
    if type(given) in (int, float):
        seconds = float(str(given)) / 1e3  # an int may be too large for a division
        if 0.0 < seconds < math.inf:
            return seconds
    return _seconds(DEADLINE_PARAMETER, _WISH, given)


def _wait_preference(headers: Sequence[str]) -> str | None:
    """Return the value of the first ``wait`` among all preferences (RFC 7240).

    Other preferences are ignored.
    """
    for header in headers:
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip(" \t").lower() == "wait":
                return value.strip(" \t").strip('"')
    return None


def parse_budget(
    headers: Headers, *, default_s: float, max_s: float, deadlines_ms: Sequence[str] = ()
) -> Budget:
    """Return the budget that ``headers`` allow, cut to ``max_s``.

    ``deadlines_ms`` are what the query has for ``DEADLINE_PARAMETER``. Raises InvalidParameter.
    """
    present = {name for name, _ in headers.raw}  # most requests have one of them at most

    def values(name: str) -> list[str]:
        return headers.getlist(name) if name.lower().encode() in present else []

    wish_s = _read(values(DEADLINE_HEADER), DEADLINE_HEADER, _WISH)
    asked_s = _read(deadlines_ms, DEADLINE_PARAMETER, _WISH)
    bounds = [max_s]
    for name, header in _BOUNDS.items():
        bound_s = _read(values(name), name, header)
        if bound_s is not None:
            bounds.append(bound_s)
    wait = _wait_preference(values("prefer"))
    if wait is not None:
        bounds.append(_seconds("Prefer", _WAIT, wait))
    budget = Budget(default_s, min(bounds), wish_s, wait)
    return budget if asked_s is None else budget.wished(asked_s)

"""Negotiation of a reply's media type, from a request's ``Accept`` headers (RFC 9110, 12.5.1).

    Accept: text/event-stream;q=0.9, application/json;q=0.5, */*;q=0.1

JSON is what everybody gets who does not say otherwise, and a stream is only for who asks for it by
name: a wildcard means JSON. So nothing is ever refused for its ``Accept``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

JSON = "application/json"
_JSON_RANGES = (JSON, "application/*", "*/*")  # the most specific one counts

MAX_CHARS = 1024
"""Most characters of all ``Accept`` headers together; longer ones are not read."""

_NUM_REMEMBERED = 256
"""Number of headers whose reading is remembered: most clients always send the same."""

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ELEMENTS = re.compile(rf'(?:[^",]|{_QUOTED})+')
_PARTS = re.compile(rf'(?:[^";]|{_QUOTED})+')
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def preferred(accepts: Sequence[str], offered: Collection[str]) -> str | None:
    """Return the media type that a client prefers to JSON; None where that is JSON.

    ``accepts`` holds the values of all ``Accept`` headers; the choice is among the types
    ``offered`` beside JSON. Of equal weights, the one named first wins.
    """
    text = ",".join(accepts)
    weights = _weights(text) if len(text) <= MAX_CHARS else {}
    places = {name: place for place, name in enumerate(weights)}
    json = next((name for name in _JSON_RANGES if name in weights), JSON)
    ranks = {name: (weights[name], -places[name]) for name in offered if weights.get(name)}
    if not ranks:
        return None
    best = max(ranks, key=ranks.__getitem__)
    named = json == JSON and json in places
    json_rank = (weights.get(json, 0.0), -places[json] if named else -math.inf)
    return best if ranks[best] > json_rank else None


@lru_cache(_NUM_REMEMBERED)
def _weights(text: str) -> Mapping[str, float]:
    """Return media ranges in lower case and what they weigh, in the order of ``text``.

    A range with a weight that is none is left out.
    """
    weights: dict[str, float] = {}
    for element in _ELEMENTS.findall(text):
        parts = [part.strip().lower() for part in _PARTS.findall(element)]
        name, parameters = parts[0] if parts else "", parts[1:]
        stated = [parameter for parameter in parameters if parameter.startswith("q=")]
        found = [_WEIGHT.fullmatch(weight) for weight in stated or ["q=1"]]
        if len(found) == 1 and found[0] is not None:
            weights.setdefault(name, float(found[0][1]))
    return weights

"""A fault sweep around the engine: the n-th image that is decoded, the n-th answer that the backend
gives and the n-th reply that is written fail, for every n of a few requests, one after the other
and at once. Each request gets one reply and is counted once; the others are answered, and whoever
comes later is."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from serving.api import result_json, upload
from serving.core.ports import Image
from serving.core.request import Answered, Request
from serving.imaging import decode_pool, decoding
from tests.serving.gateway import Gateway, slug

pytestmark = pytest.mark.anyio

NUM_REQUESTS = 4
PATIENT = {"X-Deadline-Ms": "10000"}
SEAMS = ("decode", "answer", "encode")
ERRORS = (RuntimeError("a fault"), MemoryError(), RecursionError(), UnicodeError("a fault"))


class Nth:
    """Calls a function, but raises at one call."""

    def __init__(self, function: Any, number: int, error: Exception) -> None:
        self._function, self._number, self._error = function, number, error
        self.num_calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.num_calls += 1
        if self.num_calls == self._number:
            raise self._error
        return self._function(*arguments, **named)


@pytest.mark.parametrize("together", [False, True], ids=["in turn", "at once"])
@pytest.mark.parametrize("seam", SEAMS)
async def test_whichever_call_fails_one_request_does(
    seam: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in ERRORS:
        for number in range(1, NUM_REQUESTS + 1):
            gateway = Gateway()
            with monkeypatch.context() as patch:
                fault = _break(seam, number, error, gateway, patch)
                if together:
                    replies = await asyncio.gather(
                        *(gateway.detect(headers=PATIENT) for _ in range(NUM_REQUESTS))
                    )
                else:
                    replies = [await gateway.detect(headers=PATIENT) for _ in range(NUM_REQUESTS)]
                statuses = Counter(reply.status_code for reply in replies)
                assert statuses == {200: NUM_REQUESTS - 1, 500: 1}
                assert fault.num_calls == NUM_REQUESTS
                (failed,) = [reply for reply in replies if reply.status_code == 500]
                assert slug(failed) == "internal"
                assert gateway.outcomes() == {"ok": NUM_REQUESTS - 1, "error": 1}
                assert (await gateway.detect()).status_code == 200


def _break(
    seam: str, number: int, error: Exception, gateway: Gateway, patch: pytest.MonkeyPatch
) -> Nth:
    """Let a call of ``seam`` fail."""
    if seam == "decode":
        fault = Nth(decoding.decode_all, number, error)
        patch.setattr(decode_pool, "decode_all", fault)
    elif seam == "encode":
        fault = Nth(result_json.encode_json, number, error)
        patch.setattr(upload, "encode_json", fault)
    else:
        fault = Nth(gateway.backend.answer, number, error)

        async def behave(image: Image, request: Request) -> Answered:
            answered: Answered = await fault(image, request)
            return answered

        gateway.backend.behaviour = behave
    return fault

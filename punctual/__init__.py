"""A client of Punctual, the object detection server that answers on time.

    from punctual import BudgetInfeasible, Client

    with Client("http://127.0.0.1:8000") as client:
        reply = client.detect("photo.jpg", deadline_ms=80, classes=["person", "dog"])
        for found in reply.detections:
            print(found.label, found.score, found.box)

``AsyncClient`` is the same for asyncio. What a server says instead of boxes is raised, see
``punctual.problems``. The package needs httpx and no other part of this distribution; the clients
are imported when they are first asked for, so that the program's help can be read without httpx.

Begin with ``client``; ``exchange`` is what both clients have in common.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from punctual.problems import (
    AccessDenied,
    BudgetInfeasible,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    Problem,
    PunctualError,
    ServerFailed,
    Superseded,
    TooManyRequests,
    Unavailable,
    UnexpectedReply,
    Unreachable,
)
from punctual.reply import Box, Detection, Reply, Timings

if TYPE_CHECKING:
    from punctual.async_client import AsyncClient
    from punctual.client import Client

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Box",
    "BudgetInfeasible",
    "Client",
    "DeadlineExceeded",
    "Detection",
    "InvalidRequest",
    "Overloaded",
    "Problem",
    "PunctualError",
    "Reply",
    "ServerFailed",
    "Superseded",
    "Timings",
    "TooManyRequests",
    "Unavailable",
    "UnexpectedReply",
    "Unreachable",
]

_NEED_HTTPX = {"AsyncClient": "punctual.async_client", "Client": "punctual.client"}
"""Name -> the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _NEED_HTTPX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEED_HTTPX[name]), name)

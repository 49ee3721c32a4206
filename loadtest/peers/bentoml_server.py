"""A peer server: one exit behind BentoML, a process whose dispatcher batches requests.

    bentoml serve loadtest.peers.bentoml_server:Detection --host 127.0.0.1 --port $PEER_PORT

The other settings come from the environment too, see detector.py.
Settings and where they are recommended: README.md beside this file.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
from bentoml.exceptions import InvalidArgument
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.detector import (
    MAX_BATCH_SIZE,
    ROUTE,
    PeerDetector,
    PeerDetectorSettings,
)
from serving.core.errors import InvalidImage, UnsupportedImage

SETTINGS = PeerDetectorSettings.read(os.environ)
"""The service's settings, read at import: decorators need them.

Both the process that starts the service and the one that serves read them.
"""


class Upload(bentoml.IODescriptor):
    """The body of one request, taken as a batch of one image."""

    images: list[bytes]

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Upload:
        """Return the request's body as it is; BentoML's own readers want JSON or a form."""
        del serde
        return cls(images=[await request.body()])


class Reply(bentoml.IODescriptor):
    """A reply whose JSON is already encoded."""

    @classmethod
    async def to_http_response(cls, obj: Any, serde: Any) -> Response:
        """Return the HTTP response with the single reply of a batch of one."""
        del serde
        (body,) = obj
        return Response(body, media_type="application/json")


@bentoml.service(
    workers=1,
    traffic={"timeout": SETTINGS.timeout_s, "concurrency": MAX_BATCH_SIZE},
    logging={"access": {"enabled": False}},
)
class Detection:
    """BentoML's service around one exit of the model."""

    def __init__(self) -> None:
        self._detector = PeerDetector(SETTINGS.folder, SETTINGS.size, SETTINGS.depth)

    @bentoml.api(
        route=ROUTE,
        input_spec=Upload,
        output_spec=Reply,
        batchable=True,
        max_batch_size=MAX_BATCH_SIZE,
        max_latency_ms=round(SETTINGS.timeout_s * 1e3),
    )
    def detect(self, images: list[bytes]) -> list[bytes]:
        """Return one reply per image; BentoML calls this in a thread, with a batch.

        An image that cannot be read fails the whole batch that it is in.
        """
        try:
            decoded = [self._detector.decode(data) for data in images]
        except (InvalidImage, UnsupportedImage) as error:
            raise InvalidArgument(str(error)) from error
        return self._detector.detect(decoded)

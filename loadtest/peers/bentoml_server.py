"""One exit behind BentoML: one process, whose dispatcher gathers requests into batches.

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
"""Read at import, by the process that starts the service and by the one that serves: decorators
need them."""


class Upload(bentoml.IODescriptor):
    """A batch of the one image that the body is."""

    images: list[bytes]

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Upload:
        """The body as it is; BentoML's own readers want JSON or a form."""
        del serde
        return cls(images=[await request.body()])


class Reply(bentoml.IODescriptor):
    """JSON that is ready."""

    @classmethod
    async def to_http_response(cls, obj: Any, serde: Any) -> Response:
        """The one reply of a batch of one."""
        del serde
        (body,) = obj
        return Response(body, media_type="application/json")


@bentoml.service(
    workers=1,
    traffic={"timeout": SETTINGS.timeout_s, "concurrency": MAX_BATCH_SIZE},
    logging={"access": {"enabled": False}},
)
class Detection:
    """The service."""

    def __init__(self) -> None:
        self._detector = PeerDetector(SETTINGS.folder, SETTINGS.depth)

    @bentoml.api(
        route=ROUTE,
        input_spec=Upload,
        output_spec=Reply,
        batchable=True,
        max_batch_size=MAX_BATCH_SIZE,
        max_latency_ms=round(SETTINGS.timeout_s * 1e3),
    )
    def detect(self, images: list[bytes]) -> list[bytes]:
        """Called in a thread. An image that cannot be read fails the batch that it is in."""
        try:
            decoded = [self._detector.decode(data) for data in images]
        except (InvalidImage, UnsupportedImage) as error:
            raise InvalidArgument(str(error)) from error
        return self._detector.detect(decoded)

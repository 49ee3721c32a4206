"""One exit behind LitServe: a process for HTTP, one for the engine, a queue between them.

    python -m loadtest.peers.litserve_server      settings from the environment, see detector.py

Settings and where they are recommended: README.md beside this file.
"""

# No postponed annotations: LitServe hands the type of ``decode_request``'s argument to FastAPI.
import os
import signal
import sys
from typing import Annotated, Any

import litserve
from fastapi import Body, HTTPException
from fastapi.responses import Response

from loadtest.peers.detector import (
    MAX_BATCH_SIZE,
    ROUTE,
    Decoded,
    PeerDetector,
    PeerDetectorSettings,
    PeerSettingsError,
)
from serving.core.errors import InvalidImage, UnsupportedImage

BATCH_TIMEOUT_S = 0.001
"""The engine's process looks for requests in windows of this length, and a lone request waits for
the end of the one it came in. Shorter ones cost two processes much of a core, longer ones latency;
under load a batch fills at once."""


class DetectApi(litserve.LitAPI):
    """LitServe's four verbs."""

    def __init__(self, settings: PeerDetectorSettings) -> None:
        super().__init__(
            max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S, api_path=ROUTE
        )
        self._settings = settings

    def setup(self, device: str) -> None:
        """Called in the engine's process."""
        del device  # "cpu"; the engine has no other
        self._detector = PeerDetector(self._settings.folder, self._settings.depth)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Decoded:
        """An image that cannot be read fails the batch that it is in: LitServe has it so."""
        try:
            return self._detector.decode(request)
        except (InvalidImage, UnsupportedImage) as error:
            raise HTTPException(400, str(error)) from error

    def batch(self, inputs: list[Decoded]) -> list[Decoded]:
        """As they are: the engine copies them side by side itself."""
        return inputs

    def predict(self, x: list[Decoded]) -> list[bytes]:
        """One run of the engine."""
        return self._detector.detect(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """As they are."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Ready JSON, which FastAPI need not go through again."""
        return Response(output, media_type="application/json")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Serve until SIGTERM."""
    try:
        settings = PeerDetectorSettings.read(os.environ)
    except PeerSettingsError as error:
        print(f"litserve_server: {error}", file=sys.stderr)
        return error.exit_code
    # LitServe ends what it has started at an interrupt; at SIGTERM it would leave it running.
    signal.signal(signal.SIGTERM, _interrupt)
    server = litserve.LitServer(
        DetectApi(settings),
        accelerator="cpu",
        workers_per_device=1,
        timeout=settings.timeout_s,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1", port=settings.port, log_level="warning", generate_client_file=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

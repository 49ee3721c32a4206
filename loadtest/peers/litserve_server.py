"""A peer server: one exit behind LitServe, a process for HTTP, one for the engine, a queue between.

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
"""Seconds of the windows in which the engine's process looks for requests.

A lone request waits for the end of the window it came in. Shorter ones cost two processes much of a
core, longer ones latency; under load a batch fills at once.
"""


class DetectApi(litserve.LitAPI):
    """LitServe's interface to one exit: decode, batch, predict, unbatch and encode."""

    def __init__(self, settings: PeerDetectorSettings) -> None:
        super().__init__(
            max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S, api_path=ROUTE
        )
        self._settings = settings

    def setup(self, device: str) -> None:
        """Open the detector; LitServe calls this in the engine's process."""
        del device  # "cpu"; the engine has no other
        self._detector = PeerDetector(
            self._settings.folder, self._settings.size, self._settings.depth
        )

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Decoded:
        """Decode one request's image; one that cannot be read fails its whole batch.

        LitServe has it so.
        """
        try:
            return self._detector.decode(request)
        except (InvalidImage, UnsupportedImage) as error:
            raise HTTPException(400, str(error)) from error

    def batch(self, inputs: list[Decoded]) -> list[Decoded]:
        """Return the images as they are: the engine copies them side by side itself."""
        return inputs

    def predict(self, x: list[Decoded]) -> list[bytes]:
        """Return one reply per image, found in one run of the engine."""
        return self._detector.detect(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Return the replies as they are, one per request."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Return the reply as ready JSON, which FastAPI need not go through again."""
        return Response(output, media_type="application/json")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Serve until SIGTERM; return the exit code, 2 for settings that cannot be used."""
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

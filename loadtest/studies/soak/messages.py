"""The kinds of requests of a soak: good ones by every protocol, bad ones, and ones that are left.

Each kind says which statuses it may be answered with. A client that leaves closes its connection
while it waits, reads or still sends, and is told nothing.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from loadtest.load.client import Address
from loadtest.load.target import DETECT_PATH
from loadtest.workload.images import AnnotatedImage

BUDGETS_MS = (60.0, 120.0, 300.0, 1000.0)
TINY_MS = 0.5
AMPLE_MS = 10_000.0
LARGE_RATIO = 4
"""Ratio of the sides of a large image to those of the image that it is made of."""
SIDE = 32
"""Pixels of the side of an image that is sent as numbers."""
LEAVES_WITHIN_S = 0.08
"""Most seconds after which a client leaves: about as long as an answer takes."""
BOUNDARY = "of-a-soak"
LENGTH_HEADER = "Inference-Header-Content-Length"

WANTED = frozenset({200, 422, 503, 504})
"""Statuses of a good request: what fits into its budget is for the server to say."""

Headers = Mapping[str, str]


class Material:
    """What requests to one server are made of."""

    def __init__(
        self, address: Address, model: str, images: Sequence[AnnotatedImage], random: Random
    ) -> None:
        self.model = model
        self.random = random
        self._address = address
        self._images = images
        self.large = _enlarged(images[0].data)

    def image(self) -> AnnotatedImage:
        """Return any of the images."""
        return self.random.choice(self._images)

    def budget(self) -> dict[str, str]:
        """Return the header that states any of the budgets."""
        return _budget(self.random.choice(BUDGETS_MS))

    def request(self, method: str, path: str, headers: Headers, body: bytes = b"") -> bytes:
        """Return the bytes of a request."""
        lines = [f"{method} {self._address.prefix}{path} HTTP/1.1"]
        lines += [f"Host: {self._address.authority}", "User-Agent: punctual-soak"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}"] if body or method == "POST" else []
        return "\r\n".join((*lines, "", "")).encode() + body

    def detect(
        self, headers: Headers, query: str = "", image: AnnotatedImage | None = None
    ) -> bytes:
        """Return a detection request with an image."""
        sent = image or self.image()
        headers = {"Content-Type": sent.content_type, **headers}
        return self.request("POST", DETECT_PATH + query, headers, sent.data)

    def infer(self, head: Mapping[str, object], data: bytes, model: str | None = None) -> bytes:
        """Return a message of the Open Inference Protocol, with ``data`` behind its JSON."""
        text = json.dumps(head).encode()
        headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(text))}
        path = f"/v2/models/{model or self.model}/infer"
        return self.request("POST", path, headers, text + data)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request."""

    name: str
    weight: float
    """How often it comes, beside the weights of the others."""
    statuses: frozenset[int]
    write: Callable[[Material], bytes]
    leaves: bool = False
    """Whether the client leaves before the end."""
    is_detection: bool = True
    """Whether the server counts it among the detection requests."""


def _budget(milliseconds: float) -> dict[str, str]:
    return {"X-Deadline-Ms": f"{milliseconds:g}"}


def _enlarged(data: bytes) -> AnnotatedImage:
    with Image.open(io.BytesIO(data)) as small:
        width, height = small.size
        large = small.convert("RGB").resize((LARGE_RATIO * width, LARGE_RATIO * height))
    file = io.BytesIO()
    large.save(file, "JPEG")
    return AnnotatedImage("large", file.getvalue(), "image/jpeg")


def _form(material: Material) -> bytes:
    image = material.image()
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    body = start.encode() + image.data + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **material.budget()}
    return material.request("POST", DETECT_PATH, headers, body)


def _tensor(datatype: str, shape: Sequence[int], **more: object) -> dict[str, object]:
    tensor = {"name": "image", "datatype": datatype, "shape": shape, **more}
    return {"inputs": [tensor], "parameters": {"timeout": 300_000}}


def _infer_file(material: Material, model: str | None = None) -> bytes:
    data = material.image().data
    element = struct.pack("<I", len(data)) + data
    head = _tensor("BYTES", [1], parameters={"binary_data_size": len(element)})
    return material.infer(head, element, model)


def _infer_numbers(material: Material) -> bytes:
    numbers = material.random.randbytes(SIDE * SIDE * 3)
    return material.infer(_tensor("UINT8", [SIDE, SIDE, 3], data=list(numbers)), b"")


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _truncated(material: Material) -> bytes:
    image = material.image()
    cut = AnnotatedImage(image.name, _half(image.data), image.content_type)
    return material.detect(_budget(AMPLE_MS), image=cut)


def _no_image(material: Material) -> bytes:
    noise = AnnotatedImage("noise", material.random.randbytes(5000), "image/png")
    return material.detect(material.budget(), image=noise)


_STREAM = {"Accept": "text/event-stream"}
_READABLE = ("/v1/models", "/metrics", "/", "/docs", "/openapi.json", "/v2", "/readyz", "/livez")

KINDS = (
    Kind("plain", 30, WANTED, lambda m: m.detect(m.budget())),
    Kind("of a stated depth", 5, WANTED, lambda m: m.detect(m.budget(), "?max_depth=1")),
    Kind("large image", 2, WANTED, lambda m: m.detect(_budget(AMPLE_MS), image=m.large)),
    Kind("form", 5, WANTED, _form),
    Kind("streaming", 10, WANTED, lambda m: m.detect({**m.budget(), **_STREAM})),
    Kind("KServe, a file", 5, WANTED, _infer_file),
    Kind("KServe, numbers", 3, WANTED, _infer_numbers),
    Kind(
        "to be read",
        *(5, frozenset({200})),
        lambda m: m.request("GET", m.random.choice(_READABLE), {}),
        is_detection=False,
    ),
    Kind("hopeless budget", 5, frozenset({422}), lambda m: m.detect(_budget(TINY_MS))),
    Kind("no budget", 2, frozenset({400}), lambda m: m.detect({"X-Deadline-Ms": "soon"})),
    Kind("unknown parameter", 2, frozenset({400}), lambda m: m.detect({}, "?depth=3")),
    # Whoever is too late whatever the image is told so before the body is looked at.
    Kind("no image", 2, frozenset({400, 415, 503}), _no_image),
    Kind("half of an image", 2, frozenset({400}), _truncated),
    Kind(
        "wrong type",
        *(2, frozenset({415})),
        lambda m: m.request("POST", DETECT_PATH, {"Content-Type": "text/plain"}, b"image"),
    ),
    Kind("KServe, no JSON", 2, frozenset({400}), lambda m: m.infer({"inputs": 1}, b"")),
    Kind(
        "unknown model",
        *(2, frozenset({404})),
        lambda m: _infer_file(m, "nobody"),
        is_detection=False,
    ),
    Kind(
        "unknown path",
        *(1, frozenset({404})),
        lambda m: m.request("GET", "/nowhere", {}),
        is_detection=False,
    ),
    Kind(
        "wrong method",
        *(1, frozenset({405})),
        lambda m: m.request("PUT", DETECT_PATH, {}),
        is_detection=False,
    ),
    Kind(
        "no HTTP",
        *(2, frozenset({400})),
        lambda m: m.random.randbytes(200) + b"\r\n\r\n",
        is_detection=False,
    ),
    Kind("leaves while it waits", 6, WANTED, lambda m: m.detect(_budget(AMPLE_MS)), leaves=True),
    Kind(
        "leaves a stream",
        *(4, WANTED),
        lambda m: m.detect({**_budget(AMPLE_MS), **_STREAM}),
        leaves=True,
    ),
    Kind(
        "leaves while it sends",
        *(2, WANTED),
        # Nothing else is to be sent behind one half, if it is answered before its sender leaves.
        lambda m: _half(m.detect({**_budget(AMPLE_MS), "Connection": "close"})),
        leaves=True,
    ),
)
"""All kinds, with how often they come in a hundred."""

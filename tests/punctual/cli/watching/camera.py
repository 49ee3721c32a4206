"""A camera that speaks RTSP (RFC 2326): one picture in H.264 again and again, over TCP or UDP.

What it can be made to do wrong is what cameras do.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType

import av

from tests.serving.fakes import picture

HERE = "127.0.0.1"
RATE_HZ = 50
TICKS_HZ = 90_000
WIDTH, HEIGHT = 64, 48
PAYLOAD = 96
PATIENCE_S = 10.0


@cache
def payloads() -> tuple[bytes, ...]:
    """A picture that can be decoded by itself, as what packets of RTP hold of it: a marker and a
    payload type in two bytes, and the payload. FFmpeg makes the packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((HERE, 0))
        sink.settimeout(PATIENCE_S)
        with av.open(f"rtp://{HERE}:{sink.getsockname()[1]}", "w", format="rtp") as container:
            stream = container.add_stream("libx264", rate=RATE_HZ)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.options = {"tune": "zerolatency", "x264-params": "repeat-headers=1"}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(WIDTH, HEIGHT))))
            container.mux(stream.encode(None))
        packets: list[bytes] = []
        while not packets or not packets[-1][1] & 0x80:  # its last packet has a marker
            packet = sink.recv(2**16)
            packets += [packet] if packet[1] & 0x7F == PAYLOAD else []
        return tuple(packet[:2] + packet[12:] for packet in packets)


@dataclass
class Camera:
    """One camera, at a port of this machine, for as long as its context lasts."""

    transports: tuple[str, ...] = ("TCP", "UDP")
    """Those that it has."""
    media: str = "video"
    encoding: str = f"H264/{TICKS_HZ}"
    password: str = ""
    """Of whom it lets in: user and password in base64; empty, if anybody."""
    num_pictures: int | None = None
    """After which it hangs up, the first time; None: it does not."""
    is_mute: bool = False
    """Whether it says what it has, and then sends nothing."""
    used: list[str] = field(default_factory=list)
    """The transports that it was asked for and had."""

    def __enter__(self) -> Camera:
        payloads()
        self._stop = threading.Event()
        self._listener = socket.create_server((HERE, 0))
        self._port = self._listener.getsockname()[1]
        self._start(self._listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._listener.close()

    def url(self, user: str = "", path: str = "cam") -> str:
        """Its address."""
        return f"rtsp://{user}{HERE}:{self._port}/{path}"

    @staticmethod
    def _start(run: object, *arguments: object) -> None:
        threading.Thread(target=run, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                self._start(self._talk, self._listener.accept()[0])

    def _talk(self, connection: socket.socket) -> None:
        transport = ""
        with contextlib.suppress(OSError), connection:
            for method, headers in _requests(connection):
                transport = headers.get("transport", transport)
                status, more, body = self._answer(method, headers)
                length = f"Content-Length: {len(body)}\r\n" if body else ""
                start = f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n"
                connection.sendall(f"{start}{more}{length}\r\n{body}".encode())
                if method == "PLAY":
                    self._film(connection, re.search("client_port=([0-9]+)", transport))
                    return

    def _answer(self, method: str, headers: Mapping[str, str]) -> tuple[str, str, str]:
        """The status, further headers and the body of a reply."""
        if not headers.get("authorization", "").endswith(self.password):
            return "401 Unauthorized", 'WWW-Authenticate: Basic realm="x"\r\n', ""
        if method == "DESCRIBE":
            if not headers["target"].endswith("/cam"):
                return "404 Not Found", "", ""
            lines = (
                *("v=0", f"o=- 0 0 IN IP4 {HERE}", "s=x", "t=0 0"),
                *(f"m={self.media} 0 RTP/AVP {PAYLOAD}", f"a=rtpmap:{PAYLOAD} {self.encoding}"),
                *(f"a=fmtp:{PAYLOAD} packetization-mode=1", "a=control:1", ""),
            )
            return "200 OK", "Content-Type: application/sdp\r\n", "\r\n".join(lines)
        if method == "SETUP":
            transport = headers["transport"]
            kind = "TCP" if "interleaved" in transport else "UDP"
            if kind not in self.transports:
                return "461 Unsupported Transport", "", ""
            self.used.append(kind)
            ports = ";server_port=5000-5001" if kind == "UDP" else ""
            return "200 OK", f"Transport: {transport}{ports}\r\nSession: 1\r\n", ""
        return "200 OK", "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""

    def _film(self, connection: socket.socket, client_port: re.Match[str] | None) -> None:
        """Send pictures, until it is told to stop or hangs up."""
        number = num_pictures = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            while not self._stop.wait(1 / RATE_HZ):
                for payload in () if self.is_mute else payloads():
                    at = num_pictures * TICKS_HZ // RATE_HZ
                    packet = payload[:2] + struct.pack(">HII", number, at, 1) + payload[2:]
                    number += 1
                    if client_port is None:
                        connection.sendall(b"$" + struct.pack(">BH", 0, len(packet)) + packet)
                    else:
                        datagrams.sendto(packet, (HERE, int(client_port[1])))
                num_pictures += 1
                if num_pictures == self.num_pictures:
                    self.num_pictures = None
                    return


def _requests(connection: socket.socket) -> Iterator[tuple[str, dict[str, str]]]:
    """The requests of a client: methods, and headers by name, with ``target`` among them."""
    data = b""
    while some := connection.recv(4096):
        data += some
        while b"\r\n\r\n" in data:
            text, _, data = data.partition(b"\r\n\r\n")
            first, *lines = text.decode().split("\r\n")
            method, target, _ = first.split()
            pairs = (line.split(": ", 1) for line in lines)
            yield method, {"target": target, **{name.lower(): value for name, value in pairs}}

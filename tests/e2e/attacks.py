"""A client of few requests a second beside another that sends as much as it likes of what hurts.

    python -m tests.e2e.attacks --requests 300 --rate 3

prints a table: of each attack, how many of the victim's requests were answered. Victim and attacker
have addresses of their own, and are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import PIL.Image

from serving.imaging.probing import MAX_JPEG_SCANS
from tests import trained
from tests.e2e.process import PATIENCE_S, ROOT, Server
from tests.serving.fakes import encode
from tests.serving.imaging.files import flat_png, flat_webp, with_scans

VICTIM = "127.0.0.2"
"""Address of the victim. Attackers have the usual one of this machine."""
VICTIM_HZ = 1.0
LEAD_S = 3.0
"""Seconds that an attack lasts before the victim's first request."""

PHOTOGRAPH = ROOT / "docs" / "images" / "coffee.jpg"
LARGE_SIDE = 5000


@cache
def photograph() -> bytes:
    return PHOTOGRAPH.read_bytes()


@cache
def large_png() -> bytes:
    """25 million pixels in some hundreds of kilobytes."""
    small = PIL.Image.open(PHOTOGRAPH).convert("RGB").resize((50, 50))
    file = io.BytesIO()
    small.resize((LARGE_SIDE, LARGE_SIDE), PIL.Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def post(body: bytes, kind: str = "jpeg", query: str = "", *lines: str) -> bytes:
    """A detection request, after which the connection closes."""
    head = (
        f"POST /v1/detect{query} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Type: image/{kind}",
        f"Content-Length: {len(body)}",
        *lines,
    )
    return "\r\n".join((*head, "", "")).encode() + body


@dataclass(frozen=True)
class Attack:
    """What an attacker sends, how often, to a server of which model."""

    rate_hz: float
    model: str = "everyday"

    def message(self) -> bytes:
        return post(photograph())


class LargePngs(Attack):
    def message(self) -> bytes:
        return post(large_png(), "png")


@cache
def many_scans() -> bytes:
    """A progressive JPEG that goes over 16 million pixels as often as is served."""
    flat = PIL.Image.new("RGB", (4000, 4000))
    return with_scans(encode(flat, "JPEG", progressive=True), MAX_JPEG_SCANS)


class ManyScans(Attack):
    def message(self) -> bytes:
        return post(many_scans(), "jpeg", "", "X-Deadline-Ms: 10000")


class Webps(Attack):
    def message(self) -> bytes:
        return post(flat_webp(LARGE_SIDE, LARGE_SIDE), "webp", "", "X-Deadline-Ms: 10000")


class Columns(Attack):
    def message(self) -> bytes:
        return post(flat_png(1, 12_000_000), "png", "", "X-Deadline-Ms: 10000")


class Metrics(Attack):
    def message(self) -> bytes:
        return b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Models(Attack):
    def message(self) -> bytes:
        return b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class NoImages(Attack):
    def message(self) -> bytes:
        return post(b"no image")


class Deepest(Attack):
    def message(self) -> bytes:
        body = trained.IMAGE.read_bytes()
        return post(body, "jpeg", "?min_depth=7", "Accept: application/x-ndjson")


class InAHurry(Attack):
    def message(self) -> bytes:
        return post(photograph(), "jpeg", "", "X-Deadline-Ms: 60")


class Patient(Attack):
    def message(self) -> bytes:
        return post(photograph(), "jpeg", "", "X-Deadline-Ms: 10000")


ATTACKS: dict[str, Attack] = {
    "nobody": Attack(0.0),
    "30 ordinary requests/s": Attack(30.0),
    "60 ordinary requests/s": Attack(60.0),
    "60 requests/s in a hurry": InAHurry(60.0),
    "60 patient requests/s": Patient(60.0),
    "25-megapixel PNGs at 4/s": LargePngs(4.0),
    "progressive JPEGs of 500 scans at 4/s": ManyScans(4.0),
    "25-megapixel WebPs of 1 kB at 4/s": Webps(4.0),
    "PNGs of one column at 4/s": Columns(4.0),
    "GET /metrics at 150/s": Metrics(150.0),
    "GET /v1/models at 300/s": Models(300.0),
    "300 bodies/s that are no images": NoImages(300.0),
    "streaming min_depth=7 at 60/s": Deepest(60.0, "bccd"),
}


async def exchange(address: tuple[str, int], message: bytes, host: str | None = None) -> str:
    """Send one message on a connection of its own; return the status, or what else came."""
    local = None if host is None else (host, 0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*address, local_addr=local)
            try:
                writer.write(message)
                line = await reader.readline()
                await reader.read()
                return line.split()[1].decode() if line else "nothing"
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return type(error).__name__


async def send(
    address: tuple[str, int], message: bytes, rate_hz: float, seconds: float, host: str | None
) -> Counter[str]:
    """Send at a rate, whether or not replies come; return the statuses."""
    started_s, tasks = time.monotonic(), []
    for number in range(round(rate_hz * seconds)):
        await asyncio.sleep(max(0.0, started_s + number / rate_hz - time.monotonic()))
        tasks.append(asyncio.create_task(exchange(address, message, host)))
    return Counter(await asyncio.gather(*tasks))


@contextmanager
def attacking(server: Server, attack: str) -> Iterator[None]:
    """Let somebody attack ``server`` meanwhile."""
    if not ATTACKS[attack].rate_hz:
        yield
        return
    host, port = server.address
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.attacks", "--attack", attack, host, str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        time.sleep(LEAD_S)  # what is to be seen is how it lasts
        assert process.poll() is None, "the attacker ended"
        yield
    finally:
        process.kill()
        process.wait()


def victim(server: Server, num_requests: int, rate_hz: float = VICTIM_HZ) -> Counter[str]:
    """What the victim's requests were answered with."""
    message = post(photograph())
    return asyncio.run(send(server.address, message, rate_hz, num_requests / rate_hz, VICTIM))


def serving(model: str, **environment: Any) -> Server:
    """A server as users run it."""
    return Server("serving", "serve", "--model", model, **environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100, help="of the victim")
    parser.add_argument("--rate", type=float, default=VICTIM_HZ, help="of the victim, in Hz")
    parser.add_argument("--only", nargs="*", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--attack", choices=ATTACKS, help=argparse.SUPPRESS)
    parser.add_argument("address", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        attack, (host, port) = ATTACKS[options.attack], options.address
        asyncio.run(send((host, int(port)), attack.message(), attack.rate_hz, 1e5, None))
        return
    print("| attack | victim's requests | answered | otherwise |\n|---|---|---|---|", flush=True)
    for model in dict.fromkeys(ATTACKS[name].model for name in options.only):
        with serving(model) as server:
            for name in options.only:
                if ATTACKS[name].model == model:
                    with attacking(server, name):
                        seen = victim(server, options.requests, options.rate)
                    others = {status: count for status, count in seen.items() if status != "200"}
                    share = seen["200"] / seen.total()
                    print(f"| {name} | {seen.total()} | {share:.1%} | {others} |", flush=True)


if __name__ == "__main__":
    main()

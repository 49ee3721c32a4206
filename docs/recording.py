"""A recording of ``punctual watch`` for the documentation: ``python -m docs.recording``.

It needs a running server, Debian's Chromium and the environment for development. The command is run
in a terminal of its own, over a film that is made of the sample pictures of the page; what it
writes to the terminal, and the film with boxes that it writes beside, become the moving picture
``docs/images/watch.webp``.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import io
import os
import pty
import re
import select
import shutil
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/images/watch.webp"
SAMPLES = [ROOT / "serving/ui" / name for name in ("coffee.jpg", "cat.jpg", "astronaut.jpg")]

WIDTH, HEIGHT = 400, 300
RATE_HZ = 10
STILL_S, PAN_S = 3.0, 1.0
COLUMNS, LINES = 92, 24
FRAME_S = 0.5
PAUSE_S = 0.03
"""After so long without a word, what was being drawn is whole."""
QUALITY = 60

_REDRAW = re.compile(rb"(?:\r?\x1b\[[0-9]*[ABGJK])+")
"""By which a program goes back to what it has drawn, to draw it anew."""


def make_film(path: Path) -> None:
    """Write a film that goes from one sample picture to the next."""
    strip = np.concatenate([_fitted(sample) for sample in SAMPLES], axis=1)
    still, pan = round(STILL_S * RATE_HZ), round(PAN_S * RATE_HZ)
    lefts: list[int] = []
    for index in range(len(SAMPLES)):
        if index:
            lefts += [round(WIDTH * (index - 1 + step / pan)) for step in range(pan)]
        lefts += [WIDTH * index] * still
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for left in lefts:
            pixels = np.ascontiguousarray(strip[:, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))


def _fitted(path: Path) -> np.ndarray:
    """Return the middle of a picture at the size of the film, ``(HEIGHT, WIDTH, 3)``."""
    picture = Image.open(path).convert("RGB")
    scale = max(WIDTH / picture.width, HEIGHT / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    left, top = (size[0] - WIDTH) // 2, (size[1] - HEIGHT) // 2
    return np.asarray(picture.resize(size))[top : top + HEIGHT, left : left + WIDTH]


@dataclass(frozen=True)
class Screen:
    """What a terminal showed from an instant on, as text with colors (ANSI)."""

    at_s: float
    text: str


def record(command: list[str], folder: Path) -> Iterator[Screen]:
    """Run a command in a terminal and in a folder, and yield what it draws, time after time."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", PYTHONPATH=str(ROOT))
        os.execv(command[0], command)
    started_s, drawn = time.monotonic(), b""
    while True:
        ready, _, _ = select.select([terminal], [], [], PAUSE_S)
        if ready:
            try:
                drawn += os.read(terminal, 65536)
            except OSError:  # the command has ended
                break
            continue
        *_, last = _REDRAW.split(drawn)
        if b"\n" in last.strip():
            yield Screen(time.monotonic() - started_s, last.decode("utf-8", "replace"))
        drawn = last
    os.waitpid(pid, 0)


def _html(screen: Screen, frame: Image.Image, command: str) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen.text.replace("\r", "")), end="")
    shown = console.export_html(inline_styles=True, code_format="{code}")
    written = io.BytesIO()
    frame.save(written, "PNG")
    picture = base64.b64encode(written.getvalue()).decode()
    return (
        "<body style='margin:0;background:#12171a;color:#e6ecee;padding:14px;width:max-content'>"
        f"<img src='data:image/png;base64,{picture}' style='display:block;margin:0 auto 12px'>"
        "<pre style='margin:0;font:13px/1.25 \"DejaVu Sans Mono\",monospace'>"
        f"<span style='color:#4cc9be'>$</span> {command}\n{shown}</pre></body>"
    )


def _photographed(page: Page, html: str) -> Image.Image:
    page.set_content(html)
    return Image.open(io.BytesIO(page.locator("body").screenshot())).convert("RGB")


def main() -> None:
    """Record it and write the moving picture."""
    parser = argparse.ArgumentParser(prog="python -m docs.recording", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--deadline-ms", default="80")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        film, drawn = Path(folder, "film.mp4"), Path(folder, "boxes.mp4")
        make_film(film)
        shown = f"punctual watch film.mp4 --deadline-ms {arguments.deadline_ms} --out boxes.mp4"
        command = [sys.executable, "-m", "serving", "watch", film.name, "--out", drawn.name]
        command += ["--url", arguments.url, "--deadline-ms", arguments.deadline_ms]
        command += ["--score-threshold", "0.4"]
        screens = list(record(command, Path(folder)))
        with av.open(str(drawn)) as container:
            frames = [(each.time or 0.0, each.to_image()) for each in container.decode(video=0)]
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        page = browser.new_page(viewport={"width": 900, "height": 100})
        pictures = []
        first_s = screens[0].at_s
        for step in range(int((screens[-1].at_s - first_s) / FRAME_S)):
            now_s = step * FRAME_S
            screen = [each for each in screens if each.at_s - first_s <= now_s][-1]
            frame = ([each for at_s, each in frames if at_s <= now_s] or [frames[0][1]])[-1]
            pictures.append(_photographed(page, _html(screen, frame, shown)))
        browser.close()
    ms = round(FRAME_S * 1e3)
    size = pictures[-1].size
    same = [each if each.size == size else each.resize(size) for each in pictures]
    same[0].save(OUT, save_all=True, append_images=same[1:], loop=0, quality=QUALITY, duration=ms)
    print(f"{OUT}: {len(pictures)} pictures, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""``punctual watch``: a video, a camera or a folder of frames, in real time."""

from __future__ import annotations

import argparse
import contextlib
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from punctual.cli.options import access_denied, add_options, detect_options, read_server
from serving.core.command_errors import CommandFailed, InvalidArgument, files_of_the_user
from serving.core.command_numbers import positive

if TYPE_CHECKING:
    from rich.console import Console

    from punctual.cli.watching.ledger import Ledger
    from punctual.cli.watching.sources import Source
    from punctual.cli.watching.watcher import Sink, Watcher
    from punctual.stream import FrameStream

DEADLINE_MS = 100.0
Happened = queue.SimpleQueue[Callable[[], object]]
"""What other threads have seen, as what this one is to do about it."""
TICK_S = 0.25
"""How often the screen is drawn anew, and a lost connection thought of, if nothing else happens."""
LAST_REPLIES_S = 5.0
"""How long the replies to the last frames are waited for."""

_EPILOG = """\
try it:
  punctual watch film.mp4 --out boxes.mp4
  punctual watch rtsp://camera.local/stream --deadline-ms 80 --json frames.jsonl
  punctual watch /dev/video0

stop it: Ctrl-C. What was written until then is complete.
"""


def add_parser(commands: Any) -> None:
    """Add watch to the subparsers ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "watch",
        help="Find objects in a video, a camera's pictures or a folder of frames, in real time.",
        description="Send the frames of a source to a server as they come, each with the same "
        "budget, and show how many are answered in time, and how deeply. What is stale is not "
        "sent. A connection that is lost is made again.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a video file, an address such as rtsp://..., a camera such as /dev/video0 or 0, or a "
        "folder of images",
    )
    parser.add_argument(
        "--rate", type=positive, metavar="HZ", help="most frames a second (a video's own; 10)"
    )
    parser.add_argument(
        "--name", metavar="NAME", default="watch", help="what the server calls the stream (watch)"
    )
    parser.add_argument(
        "--track", action="store_true", help="have objects numbered from frame to frame"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write a video with the boxes there, such as x.mp4"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write a JSON object for each frame there; - for the output"
    )
    parser.add_argument(
        "--give-up",
        type=positive,
        default=60.0,
        metavar="SECONDS",
        help="how long to try for a connection, or a live source, that was lost (60)",
    )
    add_options(parser, deadline_ms=DEADLINE_MS)
    parser.set_defaults(run=_watch)


@files_of_the_user()
def _watch(arguments: argparse.Namespace) -> None:
    url, key = read_server(arguments)
    _check_outputs(arguments)

    from rich.console import Console
    from rich.live import Live

    from punctual.cli.watching.ledger import Ledger
    from punctual.cli.watching.screen import render
    from punctual.cli.watching.sources import Source
    from punctual.cli.watching.watcher import Watcher
    from punctual.problems import AccessDenied
    from punctual.stream import FrameStream

    source = Source(arguments.source, arguments.rate)
    options = detect_options(arguments)
    if arguments.track:
        options["track"] = True
    ledger, console = Ledger(time.monotonic()), Console(stderr=True)
    with contextlib.ExitStack() as opened:
        happened: Happened = queue.SimpleQueue()

        def connect() -> FrameStream:
            try:
                stream = FrameStream(arguments.name, url, key=key, **options)
            except AccessDenied as problem:
                raise access_denied(problem, arguments) from problem
            _start(partial(_receive, stream, watcher, happened))
            return stream

        sinks = list(_sinks(arguments, opened))
        watcher = Watcher(connect, ledger, sinks, time.monotonic, arguments.give_up)
        opened.callback(watcher.close)
        watcher.open()  # before anything is read: whether there is a server
        opened.callback(lambda: _summarise(console, ledger))
        live = opened.enter_context(Live(console=console, auto_refresh=False, transient=True))
        say = partial(console.print, "punctual:", highlight=False, markup=False, soft_wrap=True)
        feed = _Feed(source, watcher, happened, arguments.give_up, say)
        opened.callback(feed.stop.set)
        _start(feed.run)
        while feed.is_running or (watcher.num_unanswered and time.monotonic() < feed.last_s):
            with contextlib.suppress(queue.Empty):
                happened.get(timeout=TICK_S)()
            watcher.open()
            now_s = time.monotonic()
            if console.is_terminal:
                live.update(
                    render(source.shown, url, ledger, now_s, watcher.is_connected), refresh=True
                )


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Raise InvalidArgument where a file would be written over what is watched, or over another."""
    taken = {Path(arguments.source).resolve(): "what is watched"}
    for option, name in (("--out", arguments.out), ("--json", arguments.json)):
        if name is None or name == "-":
            continue
        other = taken.setdefault(Path(name).resolve(), option)
        if other is not option:
            raise InvalidArgument(f"{option}: {name} is {other}, too")


def _summarise(console: Console, ledger: Ledger) -> None:
    from punctual.cli.watching.screen import summary

    if ledger.num_frames:
        console.print(summary(ledger), highlight=False, soft_wrap=True)


def _text_file(name: str) -> contextlib.AbstractContextManager[IO[str]]:
    if name == "-":
        return contextlib.nullcontext(sys.stdout)
    return Path(name).open("w", encoding="utf-8")


def _start(run: Callable[[], None]) -> None:
    """Run something beside; it does not keep the program from ending."""
    threading.Thread(target=run, daemon=True).start()


def _sinks(arguments: argparse.Namespace, opened: contextlib.ExitStack) -> Iterator[Sink]:
    """Yield what is told of every frame, each closed with ``opened``."""
    from punctual.cli.watching.records import AnnotatedVideo, JsonLines

    if arguments.json is not None:
        yield JsonLines(opened.enter_context(_text_file(arguments.json)))
    if arguments.out is not None:
        video = AnnotatedVideo(arguments.out)
        opened.callback(video.close)
        yield video


class _Feed:
    """What reads a source in a thread of its own, and has its newest frame offered."""

    def __init__(
        self,
        source: Source,
        watcher: Watcher,
        happened: Happened,
        give_up_s: float,
        say: Callable[[str], object],
    ) -> None:
        from punctual.cli.watching.newest import NewestFrame

        self.stop = threading.Event()
        self.is_running = True
        """Whether there may be further frames."""
        self.last_s = math.inf
        """Instant until which the replies to the last ones are waited for, once there are none."""
        self._source = source
        self._watcher = watcher
        self._happened = happened
        self._give_up_s = give_up_s
        self._say = say
        self._newest = NewestFrame()

    def run(self) -> None:
        """Read the source to its end."""
        from punctual.cli.watching.sources import as_filmed, in_real_time

        try:
            if self._source.is_live:
                frames = as_filmed(
                    self._source, time.monotonic, self.stop.wait, self._give_up_s, self._tell
                )
            else:
                frames = in_real_time(self._source.frames(), time.monotonic, self.stop.wait)
            for frame in frames:
                if self.stop.is_set():
                    return
                if self._newest.put(frame):
                    self._happened.put(self._offer)
        except Exception as error:
            self._happened.put(partial(_raise, error))
        else:
            self._happened.put(self._end)

    def _tell(self, text: str) -> None:
        self._happened.put(partial(self._say, text))

    def _offer(self) -> None:
        frame, skipped = self._newest.take()
        if frame is not None:
            self._watcher.offer(frame, skipped)

    def _end(self) -> None:
        self.is_running, self.last_s = False, time.monotonic() + LAST_REPLIES_S


def _receive(stream: FrameStream, watcher: Watcher, happened: Happened) -> None:
    """Have every reply of a stream taken, and its end."""
    from punctual.problems import UnexpectedReply, Unreachable

    try:
        while True:
            happened.put(partial(watcher.replied, stream, stream.receive()))
    except Unreachable:
        happened.put(partial(watcher.lost, stream))
    except UnexpectedReply as error:  # which another connection would not be the end of
        happened.put(partial(_raise, CommandFailed(str(error))))


def _raise(error: Exception) -> None:
    raise error

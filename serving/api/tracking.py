"""Tracking of the objects in streams: which boxes of successive frames are of one object.

    ?track=true -> the tracker is loaded, once -> boxes of a frame, as answered -> an id for each

What is known of a stream is kept with the stream (``core.streams``), and forgotten with it. Frames
are tracked in their order: one that is answered after a newer one was tracked has no ids.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serving.api.numbers import boolean, shown
from serving.core.errors import InvalidParameter
from serving.core.streams import Frame, Streams

if TYPE_CHECKING:
    from serving.api.box_tracker import BoxTracker

logger = logging.getLogger(__name__)

TRACK_PARAMETER = "track"
EXTRA = "track"
"""Extra of this project that installs the tracker."""
LIBRARY = "trackers"
"""Module that is looked for to know whether it is installed."""

TrackBoxes = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]], Sequence[int | None]
]
"""Function that returns the ids of the boxes of a frame; see ``BoxTracker.update``."""


def parse_track(given: Sequence[str], *, is_frame: bool) -> bool:
    """Return whether a query asks for ids. Raises InvalidParameter, also if it is of no frame."""
    if not given:
        return False
    wanted = boolean(given[0]) if len(given) == 1 else None
    if wanted is None:
        raise InvalidParameter(
            f"{TRACK_PARAMETER} must be true or false, once; it is {shown(', '.join(given))}."
        )
    if wanted and not is_frame:
        raise InvalidParameter(
            f"{TRACK_PARAMETER} is for the frames of a stream: objects are tracked from one to the "
            "next."
        )
    return wanted


class Tracking:
    """The tracking of all streams in one server. Not thread-safe: the event loop owns it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._loading: threading.Thread | None = None
        self._make: Callable[[float | None, int], BoxTracker] | None = None
        self._is_broken = False

    def ask(self) -> None:
        """Have the tracker loaded. Raises InvalidParameter if there is none.

        It takes a good half second of a processor, so that nobody waits for it.
        """
        if self._is_broken:
            raise InvalidParameter(
                "This server cannot track: its tracker could not be loaded. Its log says why."
            )
        if self._loading is None:
            if find_spec(LIBRARY) is None:
                raise InvalidParameter(
                    "This server cannot track: it was installed without the extra "
                    f"{EXTRA}; pip install 'punctual[{EXTRA}]' there."
                )
            self._loading = threading.Thread(target=self._load, name="load tracker")
            self._loading.start()

    def of(self, frame: Frame, at_s: float) -> TrackBoxes:
        """Return what tracks the boxes of a frame that came at ``at_s``."""
        return partial(self._ids, frame, at_s)

    def _load(self) -> None:
        try:
            self._make = importlib.import_module("serving.api.box_tracker").BoxTracker
        except Exception as error:
            self._is_broken = True
            logger.error("the tracker could not be loaded: %s", error, exc_info=error)

    def _ids(
        self,
        frame: Frame,
        at_s: float,
        boxes_xyxy: npt.NDArray[np.float32],
        scores: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int32],
    ) -> Sequence[int | None]:
        known, make = self._streams.memory(frame), self._make
        if make is None or frame.order <= known.get(_NEWEST, 0):
            return [None] * len(scores)
        known[_NEWEST] = frame.order
        rate_hz = self._streams.rate_hz(frame)
        tracker: BoxTracker | None = known.get(_TRACKER)
        if tracker is None or tracker.rate_hz != rate_hz:
            tracker = known[_TRACKER] = make(rate_hz, 1 if tracker is None else tracker.next_id)
        return tracker.update(boxes_xyxy, scores, labels, at_s)


_NEWEST, _TRACKER = "newest tracked", "tracker"
"""What is remembered of a stream: the order of its newest tracked frame, and its tracks."""


def describe_track() -> dict[str, Any]:
    """Return the parameter as an OpenAPI object."""
    return {
        "name": TRACK_PARAMETER,
        "in": "query",
        "description": "Whether the boxes of a stream's frames say which object they are of, in "
        f"`track_id`. The server needs the extra `{EXTRA}`.",
        "schema": {"type": "boolean", "default": False},
    }

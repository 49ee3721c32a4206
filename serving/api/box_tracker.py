"""Tracker of one stream's boxes: ByteTrack, as the package ``trackers`` has it (extra ``track``).

A box goes on with the track whose predicted box it overlaps with most, all of a frame together;
first those with high scores, then the others (Zhang et al., "ByteTrack: Multi-Object Tracking by
Associating Every Detection Box", 2022). An object is confirmed, and has an id, once it was seen in
two frames running.

It takes long to import, and is imported by ``tracking`` alone, once it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from supervision import Detections
from trackers import ByteTrackTracker

NOMINAL_RATE_HZ = 10.0
"""Frames a second of a stream that states no rate. Steps are as long as frames are apart; it only
says in what unit of time motion is uncertain."""
BEGIN_SCORE = 0.25
"""Score from which on a box begins a track. One with a lower score may only continue one."""
LOST_S = 2.0
"""Seconds for which an object that is not seen keeps its track."""
LOST_FRAMES = 5
"""Number of frames, at the rate of its stream, for which it keeps its track at least."""
MAX_BOXES = 40
"""Number of boxes of a frame that are tracked, those with the highest scores.

So many take the event loop a good millisecond.
"""
MAX_TRACKS = 80
"""Number of tracks of a stream. Beyond it, those that were not seen for longest are given up."""

_LIBRARY_RATE_HZ = 30.0
"""Rate of the frames that the library counts what is lost in, whatever the stream's own is."""
_APART = 2.0**20
"""Pixels between the boxes of a class and those of the next, so that no two overlap."""
_SHORTEST_S = 1e-3
"""Seconds that a frame is later than the one before, if it came at the same time or sooner."""


class BoxTracker:
    """Tracks of one stream. Not thread-safe."""

    def __init__(self, rate_hz: float | None, first_id: int) -> None:
        """Make one without tracks, for frames at ``rate_hz``; ids begin with ``first_id``."""
        self.rate_hz = rate_hz
        self.next_id = first_id
        """Number above all ids so far."""
        self._first_id = first_id
        rate_hz = NOMINAL_RATE_HZ if rate_hz is None else rate_hz
        lost_s = max(LOST_S, LOST_FRAMES / rate_hz)
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(lost_s * _LIBRARY_RATE_HZ),
            frame_rate=rate_hz,
            track_activation_threshold=BEGIN_SCORE,
            high_conf_det_threshold=BEGIN_SCORE,
        )
        self._at_s: float | None = None

    def update(
        self,
        boxes_xyxy: npt.NDArray[np.float32],
        scores: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int32],
        at_s: float,
    ) -> Sequence[int | None]:
        """Return the ids of the boxes of the next frame, None for those without a confirmed track.

        Boxes are ``(N, 4)`` in pixels, scores and labels ``(N,)``, best first; ``at_s`` is when the
        frame was made, or came, in seconds. A track is of one class.
        """
        self._at_s = at_s if self._at_s is None else max(at_s, self._at_s + _SHORTEST_S)
        ids: list[int | None] = [None] * len(scores)
        labels = labels[:MAX_BOXES]
        boxes = boxes_xyxy[:MAX_BOXES].astype(np.float64)
        boxes[:, ::2] += _APART * labels[:, np.newaxis]
        tracked = self._tracker.update(
            Detections(boxes, confidence=scores[:MAX_BOXES], data={"place": np.arange(len(boxes))}),
            timestamp=self._at_s,
        )
        if len(tracked):
            for place, number in zip(
                tracked.data["place"].tolist(), tracked.tracker_id.tolist(), strict=True
            ):
                if number >= 0:
                    ids[place] = self._first_id + number
        self.next_id = max([self.next_id, *(each + 1 for each in ids if each is not None)])
        if len(self._tracker.tracks) > MAX_TRACKS:
            by_age = sorted(self._tracker.tracks, key=lambda track: track.time_since_update)
            self._tracker.tracks = by_age[:MAX_TRACKS]
        return ids

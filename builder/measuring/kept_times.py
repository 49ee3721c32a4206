"""Times that were measured, kept for the next time that they are wanted.

Where times choose what is trained, whatever goes on has to choose the same again, on a machine that
never measures the same twice.

FILE    {DIGEST: {"on": how they were measured, "times": [{EXIT: ms} of each detector]}, ...}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.config.detector import DetectorConfig
from builder.config.user_files import read_text
from reporting.files import write_whole
from serving.core.command_errors import CommandError

Times = list[dict[int, float]]
"""Milliseconds by exit, of each of some detectors that were measured together."""


_WRONG = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a file of something else may raise."""


class KeptTimes:
    """A file of times, those of each comparison under a digest of what was compared and how."""

    def __init__(self, path: Path, on: Mapping[str, Any]) -> None:
        """Keep times in the file at ``path``, which need not be there.

        ``on`` says how and where they are measured: others are not those that are wanted. Raises
        CommandError for a file of something else.
        """
        self._path, self._on = path, dict(on)
        self._kept: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                read = json.loads(read_text(path))
                self._kept = {str(digest): dict(each) for digest, each in read.items()}
                for digest in self._kept:
                    self._times_of(digest)
            except _WRONG as error:
                raise self._no_times(error) from error

    def of(
        self,
        wanted: Sequence[tuple[DetectorConfig, Collection[int]]],
        measure: Callable[[], Times],
    ) -> Times:
        """Return the times to some exits of detectors: those that are kept, or else measured.

        What is measured is kept. Raises CommandError for kept times of other exits, and OSError.
        """
        asked = [[detector.to_dict(), sorted(exits)] for detector, exits in wanted]
        text = json.dumps([asked, self._on], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if digest not in self._kept:
            self._kept[digest] = {"on": self._on, "times": measure()}
            write_whole(self._path, json.dumps(self._kept, indent=1) + "\n")
        found = self._times_of(digest)
        if [sorted(of_detector) for of_detector in found] != [exits for _, exits in asked]:
            raise self._no_times("they are of other exits")
        return found

    def _times_of(self, digest: str) -> Times:
        found = [
            {int(depth): float(ms) for depth, ms in of_detector.items()}
            for of_detector in self._kept[digest]["times"]
        ]
        if not all(0 < ms < math.inf for of_detector in found for ms in of_detector.values()):
            raise ValueError("a time is no number above 0")
        return found

    def _no_times(self, why: object) -> CommandError:
        return CommandError(
            f"{self._path} holds no times that were measured ({why}): remove it to measure them "
            "again"
        )

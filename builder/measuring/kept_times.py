"""Times that were measured, kept for the next time that they are wanted.

Where times choose what is trained, whatever goes on has to choose the same again, on a machine that
never measures the same twice.

FILE    {DIGEST: {"on": how they were measured, "times": [{EXIT: ms} of each detector]}, ...}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.config.detector import DetectorConfig
from reporting.files import write_whole
from serving.core.command_errors import CommandError

Times = list[dict[int, float]]
"""Milliseconds by exit, of each of some detectors that were measured together."""


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
                read = json.loads(path.read_text(encoding="utf-8"))
                self._kept = {str(digest): dict(each) for digest, each in read.items()}
                for digest in self._kept:
                    self._times_of(digest)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise CommandError(
                    f"{path} holds no times that were measured ({error!r}): remove it to measure "
                    "them again"
                ) from error

    def of(
        self,
        wanted: Sequence[tuple[DetectorConfig, Collection[int]]],
        measure: Callable[[], Times],
    ) -> Times:
        """Return the times to some exits of detectors: those that are kept, or else measured.

        What is measured is kept, in a folder that is made where it is missing.
        """
        asked = [[detector.to_dict(), sorted(exits)] for detector, exits in wanted]
        text = json.dumps([asked, self._on], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if digest not in self._kept:
            self._kept[digest] = {"on": self._on, "times": measure()}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(self._kept, indent=1) + "\n")
        return self._times_of(digest)

    def _times_of(self, digest: str) -> Times:
        return [
            {int(depth): float(ms) for depth, ms in of_detector.items()}
            for of_detector in self._kept[digest]["times"]
        ]

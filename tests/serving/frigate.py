"""A client as Frigate's plugin for DeepStack and CodeProject.AI is, by what is known of it.

It posts a JPEG in a form, after a field ``api_key`` that is empty unless set, and gives up after a
tenth of a second. It takes the predictions in their order, and stops at the first whose score is
below .4 or whose label is not in its list. What fails is no detections to it, whatever the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import requests

MIN_CONFIDENCE = 0.4
MAX_DETECTIONS = 20


@dataclass
class Frigate:
    """One detector process, with a connection of its own."""

    url: str
    labels: tuple[str, ...]
    api_key: str = ""
    timeout_s: float = 0.1
    failures: list[str] = field(default_factory=list)
    """What it would have logged."""

    def __post_init__(self) -> None:
        self._session = requests.Session()

    def detect(self, jpeg: bytes) -> list[tuple[str, float, tuple[int, int, int, int]]]:
        """Return label, score, and y_min, x_min, y_max, x_max of each detection."""
        try:
            response = self._session.post(
                self.url,
                data={"api_key": self.api_key},
                files={"image": jpeg},
                timeout=self.timeout_s,
            )
        except requests.exceptions.RequestException as error:
            self.failures.append(str(error))
            return []
        predictions = response.json().get("predictions")
        if predictions is None:
            self.failures.append(response.text)
            return []
        return self._detections(predictions)

    def _detections(
        self, predictions: list[dict[str, Any]]
    ) -> list[tuple[str, float, tuple[int, int, int, int]]]:
        found = []
        for each in predictions[:MAX_DETECTIONS]:
            if each["confidence"] < MIN_CONFIDENCE:
                break
            label = "car" if each["label"] == "truck" else each["label"].lower()
            if label not in self.labels:
                break
            box = (each["y_min"], each["x_min"], each["y_max"], each["x_max"])
            found.append((label, each["confidence"], box))
        return found

    def close(self) -> None:
        """Hang up."""
        self._session.close()

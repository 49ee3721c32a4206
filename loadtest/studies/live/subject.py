"""What a live study is about: its settings, the model, the images that are sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.load.open_loop import LoadSettings
from loadtest.simulation.profiles import ModelProfile
from loadtest.studies.live.report import Reference
from loadtest.studies.live.simulation import ReplaySettings
from loadtest.studies.live.systems import GRACE_S
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import AnnotatedImage, read_data
from serving.artifacts.model_folders import find_model, read_catalog
from serving.core.catalog import Catalog
from serving.core.command_errors import InvalidArgument
from serving.core.latency import LatencyProfile

BURST_LOAD = 0.25
"""Before and after the burst: little, so that there is depth to come back to."""
BURST_OF_CAPACITY = 5.0
"""In it."""
SEEDS_PER_ROUND = 1000


@dataclass(frozen=True)
class LiveStudySettings:
    """What to measure and how long."""

    model_repository: Path
    model: str | None
    """None: the only one there."""
    runtime: str
    data: Path
    """Annotated images, in Pascal VOC's layout or COCO's."""
    split: str
    peers_python: Path | None
    """An interpreter that has the peers' frameworks; without it there are no peers."""
    loads: tuple[float, ...]
    """Shares of the server's depth-1 capacity."""
    arrivals: tuple[str, ...]
    budgets: str
    rounds: int
    seconds: float
    """Of one run."""
    burst_s: tuple[float, float, float]
    """Before the burst, in it and after it."""
    segment_rounds: int
    """In which segments are timed for the simulator."""
    reference_s: float
    """Of each window in which capacity, or the time of full depth, is measured."""
    seed: int

    def check(self) -> None:
        """Raises ValueError, with a sentence, for what cannot be meant."""
        parse_budgets(self.budgets)
        for name in self.arrivals:
            parse_arrivals(name)
        if not all(0 < load < float("inf") for load in self.loads):
            raise InvalidArgument("loads must be positive and finite")
        if len(self.points) > SEEDS_PER_ROUND:
            raise InvalidArgument(f"more than {SEEDS_PER_ROUND} points are too many")

    @property
    def points(self) -> list[tuple[str, float]]:
        """Arrivals and load."""
        return [(name, load) for name in self.arrivals for load in self.loads]

    @property
    def burst(self) -> str:
        """As ``parse_arrivals`` takes it."""
        before_s, length_s, _ = self.burst_s
        return f"burst:{before_s:g}:{length_s:g}:{BURST_OF_CAPACITY / BURST_LOAD:g}"


@dataclass(frozen=True)
class LiveSubject:
    """The model under study, and what it is asked about."""

    settings: LiveStudySettings
    folder: Path
    catalog: Catalog
    images: tuple[AnnotatedImage, ...]

    @classmethod
    def find(cls, settings: LiveStudySettings) -> LiveSubject:
        """Raises ModelError, and InvalidArgument for images that cannot be used."""
        folder = find_model(settings.model_repository, settings.model)
        images = read_data(settings.data, settings.split)
        return cls(settings, folder, read_catalog(folder), images)

    def load(self, reference: Reference, arrivals: str, rate_hz: float) -> LoadSettings:
        """A run of any system, but for where that is; of the study's usual length."""
        exits = self.catalog.exits
        return LoadSettings(
            url="",
            images=self.images,
            arrivals=parse_arrivals(arrivals),
            rate_hz=rate_hz,
            duration_s=self.settings.seconds,
            budgets=parse_budgets(self.settings.budgets),
            full_depth_s=reference.full_depth_s,
            seed=self.settings.seed,
            classes=self.catalog.classes,
            ap_by_depth={entry.depth: entry.ap for entry in exits},
            grace_s=GRACE_S,
        )

    def twin(self, reference: Reference, rate_hz: float) -> ReplaySettings:
        """What the simulator knows of this machine, with so many requests per second."""
        profile = self.profile(reference.profile)
        return ReplaySettings(profile, reference.reserve_s, reference.slowdown_at(rate_hz))

    def profile(self, latency: LatencyProfile) -> ModelProfile:
        """The model with these times of its segments."""
        accuracy = tuple(entry.ap for entry in self.catalog.exits)
        return ModelProfile(self.catalog.name, "as timed by the study", accuracy, latency)

"""The subject of a live study: its settings, the model, the images that are sent."""

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
from serving.artifacts.model_folders import find_model, read_entry
from serving.core.command_errors import InvalidArgument, invalid_arguments
from serving.core.family import Family
from serving.core.latency_profile import LatencyProfile

BURST_LOAD = 0.25
"""Load before and after the burst: little, so that there is depth to come back to."""
BURST_OF_CAPACITY = 5.0
"""Load in the burst."""
SEEDS_PER_ROUND = 1000


@dataclass(frozen=True)
class LiveStudySettings:
    """The settings of a live study: what to measure and how long."""

    model_repository: Path
    model: str | None
    """Name of the model; None: the default one of the repository."""
    runtime: str
    data: Path
    """Folder or file of annotated images, in Pascal VOC's layout or COCO's."""
    split: str
    peers_python: Path | None
    """Interpreter that has the peers' frameworks; None: there are no peers."""
    loads: tuple[float, ...]
    """Loads, as shares of the server's capacity at its quickest operating point."""
    rates_hz: tuple[float, ...]
    """Requests per second, in the place of loads; empty: loads count."""
    fixed: tuple[str, ...]
    """Names of the operating points at which fixed ones and peers serve; empty: as many as
    ``num_fixed`` says, chosen in simulation."""
    num_fixed: int
    arrivals: tuple[str, ...]
    budgets: str
    rounds: int
    seconds: float
    """Seconds of one run."""
    burst_s: tuple[float, float, float]
    """Seconds before the burst, in it and after it."""
    segment_rounds: int
    """Number of rounds in which segments are timed for the simulator."""
    reference_s: float
    """Seconds of each window in which capacity, or the time of full depth, is measured."""
    seed: int

    def check(self) -> None:
        """Raise ValueError, with a sentence, for settings that cannot be meant."""
        parse_budgets(self.budgets)
        for name in self.arrivals:
            parse_arrivals(name)
        if not all(0 < load < float("inf") for load in (*self.loads, *self.rates_hz)):
            raise InvalidArgument("loads and rates must be positive and finite")
        if len(self.points) > SEEDS_PER_ROUND:
            raise InvalidArgument(f"more than {SEEDS_PER_ROUND} points are too many")

    @property
    def points(self) -> list[tuple[str, float]]:
        """Return all points: each pair of arrivals and load, or rate."""
        loads = self.rates_hz or self.loads
        return [(name, load) for name in self.arrivals for load in loads]

    @property
    def burst(self) -> str:
        """Return the name of the burst's arrivals, as ``parse_arrivals`` takes it."""
        before_s, length_s, _ = self.burst_s
        return f"burst:{before_s:g}:{length_s:g}:{BURST_OF_CAPACITY / BURST_LOAD:g}"


@dataclass(frozen=True)
class LiveSubject:
    """The model under study, and the images that it is sent."""

    settings: LiveStudySettings
    folder: Path
    family: Family
    """The model, of one or several input sizes."""
    images: tuple[AnnotatedImage, ...]

    @classmethod
    def find(cls, settings: LiveStudySettings) -> LiveSubject:
        """Find the model and read the images.

        Raises ModelError, and InvalidArgument for images that cannot be used and for operating
        points that the model lacks.
        """
        folder = find_model(settings.model_repository, settings.model)
        images = read_data(settings.data, settings.split)
        subject = cls(settings, folder, Family((read_entry(folder),)), images)
        with invalid_arguments():
            for label in settings.fixed:
                subject.family.ladder.find(label)
        return subject

    @property
    def quickest(self) -> str:
        """Return the name of the operating point that is first in the ladder."""
        return self.family.ladder.label(self.family.ladder.points[0])

    @property
    def best(self) -> str:
        """Return the name of the most accurate operating point, the first of equals."""
        return self.family.ladder.label(max(self.family.ladder.points, key=self.family.ladder.ap))

    def load(self, reference: Reference, arrivals: str, rate_hz: float, seed: int) -> LoadSettings:
        """Return the settings of a run of the study's usual length, for any system.

        The URL is left empty.
        """
        return LoadSettings(
            url="",
            images=self.images,
            arrivals=parse_arrivals(arrivals),
            rate_hz=rate_hz,
            duration_s=self.settings.seconds,
            budgets=parse_budgets(self.settings.budgets),
            full_depth_s=reference.full_depth_s,
            seed=seed,
            classes=self.family.classes,
            grace_s=GRACE_S,
        )

    def replay_settings(self, reference: Reference, rate_hz: float) -> ReplaySettings:
        """Return what the simulator knows of this machine, with so many requests per second."""
        profile = self.profile(reference.profile)
        return ReplaySettings(profile, reference.reserve_s, reference.slowdown_at(rate_hz))

    def profile(self, latency: LatencyProfile) -> ModelProfile:
        """Return the model's profile with these times of its segments."""
        return ModelProfile(self.family.name, "as timed by the study", self.family.ladder, latency)

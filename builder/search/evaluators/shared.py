"""Accuracies with weights that all graphs share: measured on held-out images, and trained by none.

FOLDER/checkpoint.pt    the weights, of ``builder.search.shared_weights``
FOLDER/shared.json      what they are of, and whether they order graphs as trainings do
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.recipe import TrainConfig
from builder.config.rules import MAPPING, NUMBER, TEXT, check, optional, whole
from builder.config.user_files import check_regular, read_text
from builder.search.evaluators.base import Evaluation, Job
from builder.search.space import SPACES
from serving.core.command_errors import CommandError, CommandFailed

if TYPE_CHECKING:
    from builder.search.shared_weights import SharedDetectors

ABOUT = "shared.json"


class NoSharedWeights(CommandError, ValueError):
    """Error of a folder that holds no weights that graphs share, or those of something else."""


class PoorSharedWeights(CommandFailed, ValueError):
    """Error of shared weights that do not order graphs as trainings do."""

    @classmethod
    def of(cls, kendall: float, least: float) -> Self:
        """Return one of weights with too low a Kendall's tau."""
        return cls(
            f"shared weights order graphs as trainings do with a Kendall's tau of {kendall:.2f}: "
            f"less than {least}"
        )


@dataclass(frozen=True, slots=True)
class AboutShared:
    """What is recorded of shared weights."""

    space: str
    """Name of the space whose tables share them."""
    detector: dict[str, Any]
    train: dict[str, Any]
    """Detector and recipe of the children that they stand for, as JSON types."""
    epochs: int
    """Epochs that the weights are trained for."""
    data: str
    """Digest of the images."""
    kendall: float | None = None
    """Kendall's tau of rewards with them and of trainings; None before it is known."""

    @classmethod
    def of(cls, space: str, config: Config, epochs: int, data: str) -> Self:
        """Return what to record of weights before it is known how they order graphs."""
        # As they come back from a file.
        fields = [config.detector.to_dict(), config.train.to_dict()]
        detector, train = json.loads(json.dumps(fields))
        return cls(space, detector, train, epochs, data)

    def __post_init__(self) -> None:
        check(self, ABOUT_RULES)
        if self.space not in SPACES:
            raise ValueError(f"there is no space {self.space!r}")

    @property
    def config(self) -> Config:
        """Configuration of the children. Raises TypeError or ValueError."""
        return Config(DetectorConfig.from_dict(self.detector), TrainConfig.from_dict(self.train))

    def to_json(self) -> str:
        """Return the text of ``shared.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"


ABOUT_RULES = {
    "space": TEXT,
    "detector": MAPPING,
    "train": MAPPING,
    "epochs": whole(1),
    "data": TEXT,
    "kendall": optional(NUMBER),
}


def read_about(folder: Path) -> AboutShared:
    """Return what is recorded of the weights in a folder. Raises NoSharedWeights, and OSError."""
    path = folder / ABOUT
    try:
        about = AboutShared(**json.loads(read_text(path)))
        about.config  # noqa: B018  what is no configuration shows here
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise NoSharedWeights(f"{path} is of no weights that graphs share: {error}") from error
    return about


@dataclass(frozen=True)
class SharedEvaluator:
    """An evaluator that gives each graph its share of weights that are trained already."""

    about: AboutShared
    weights: Path
    """Checkpoint with the weights."""
    weights_digest: str
    data: Path
    features: Path | None = None
    """Folder for what a frozen backbone makes of the images."""

    is_light = False

    @classmethod
    def of(cls, folder: Path, data: Path, features: Path | None = None) -> Self:
        """Return one with the weights in a folder.

        Raises NoSharedWeights, CommandError for a checkpoint that is no file, and OSError.
        """
        from builder.search.evaluators.training import held_out_digest  # noqa: PLC0415
        from builder.training.loop import CHECKPOINT  # noqa: PLC0415  brings torch along

        about = read_about(folder)
        path = folder / CHECKPOINT
        check_regular(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if held_out_digest(about.config, data) != about.data:
            raise NoSharedWeights(f"{folder} is of other images than those in {data}")
        return cls(about, path, digest, data, features)

    @property
    def num_exits(self) -> int:
        """Number of exits of every child."""
        return self.about.config.detector.num_exits

    def describe(self) -> dict[str, Any]:
        """Return what children are, and which weights they have."""
        return {
            "name": "shared",
            "detector": self.about.config.detector.to_dict(),
            "train": self.about.config.train.to_dict(),
            "data": self.about.data,
            "weights": self.weights_digest,
        }

    def evaluate(self, job: Job) -> Evaluation:
        """Return what is measured with the graph's share of the weights, whatever the seed."""
        import torch  # noqa: PLC0415  only in the process that evaluates

        torch.set_num_threads(1)
        opened = _open(self.weights, self.about.to_json(), self.data, self.features)
        return Evaluation(opened.measure(job.graph))

    def forget(self, index: int) -> None:
        """Do nothing: nothing was kept."""


@lru_cache(maxsize=1)
def _open(weights: Path, about: str, data: Path, features: Path | None) -> SharedDetectors:
    """Return what evaluates, once in a process."""
    from builder.search.shared_weights import SharedDetectors  # noqa: PLC0415  brings torch along

    of = AboutShared(**json.loads(about))
    return SharedDetectors(weights, SPACES[of.space], of.config, data, features)

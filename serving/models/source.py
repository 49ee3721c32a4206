"""A source of versions of the model that a server has: where they lie, and how each is opened.

    read       the catalogue that is there now, and whether its files are those that were built
    try_one    a trial in a process of its own, which compiles into the cache
    open       its runners, here, mostly from that cache

What serves was read from its folders once. When others take their place, its own are no longer
there; then it is not opened again, rather than as something else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from serving.artifacts.model_folders import ModelError, find_models
from serving.core.family import Family
from serving.core.ports import Clock, SegmentRunner
from serving.imaging.decoding import refit
from serving.models.opening import open_instances
from serving.models.precision import settle_precision
from serving.models.repository import check_entries, check_precision, read_family
from serving.models.runtime_options import RuntimeOptions
from serving.models.trial import TrialJob, try_version
from serving.system.low_priority import in_low_priority_thread
from serving.system.memory import available_bytes

logger = logging.getLogger(__name__)

B = TypeVar("B")

OpenRunners = Callable[[], Sequence[SegmentRunner]]
"""Function that opens the runners of a version, one of each instance."""


@dataclass(frozen=True)
class ModelVersion:
    """A version of the model as it lies in its folders, one of each entry."""

    folders: tuple[Path, ...]
    family: Family
    precision: str | None
    """What it is opened in; None: the runtime's own choice."""


@dataclass(frozen=True)
class ModelSource:
    """A model repository, and how what is in it is run."""

    repository: Path
    names: tuple[str, ...]
    """Names of the entries that are served as one; none: that of the default one."""
    options: RuntimeOptions
    """How versions are run; without a precision, in the one that suits each."""
    engine_process: bool
    """Whether runners are in a process of their own."""
    max_second_bytes: int
    """Most bytes of memory that a version may take beside another."""
    clock: Clock = time.monotonic

    def first(self, *, may_choose: bool) -> ModelVersion:
        """Return the version that is there now, for nobody is served meanwhile.

        With ``may_choose``, in the precision that suits it where none was asked for, which takes
        timing some. Raises ModelError, and as ``settle_precision``.
        """
        folders = self._find()
        for folder in folders:
            check_precision(folder, self.options)
        options, reason = self.options, None
        if may_choose:
            options, reason = settle_precision(folders, options, self.clock)
        if reason is not None:
            logger.info("precision: %s, for %s", options.precision or "the runtime's own", reason)
        family = read_family(folders, options.precision, reason)
        return ModelVersion(folders, family, options.precision)

    def read(self) -> ModelVersion:
        """Return the version that is there now, whose files are as they were built.

        Its precision is not chosen yet. Raises ModelError.
        """
        folders, precision = self._find(), self.options.precision
        check_entries(folders, self.options)
        return ModelVersion(folders, read_family(folders, precision), precision)

    def try_one(self, version: ModelVersion, *, low_priority: bool) -> ModelVersion:
        """Return ``version`` as it is to serve, once it has passed its trial.

        With ``low_priority`` the trial keeps out of the way of what serves, and there must be room
        for both. Raises TrialFailed, ModelError.
        """
        job = TrialJob(version.folders, self.options, low_priority)
        trial = try_version(job, self._available_bytes(), self.clock)
        family = read_family(version.folders, trial.precision, trial.reason)
        if family.digest != version.family.digest:
            raise ModelError("its files were replaced while it was tried")
        return ModelVersion(version.folders, family, trial.precision)

    def open(self, version: ModelVersion) -> Sequence[SegmentRunner]:
        """Return the runners of ``version``, one of each instance.

        Raises ModelError, also when its files are no longer there.
        """
        present = read_family(version.folders)
        if present.digest != version.family.digest:
            raise ModelError(
                f"the files of {version.family.name} {version.family.release} are no longer in "
                f"{', '.join(map(str, version.folders))}: there is {present.release}"
            )
        options = replace(self.options, precision=version.precision)
        if self.engine_process:
            # Few have it in a process of its own.
            from serving.models.engine_process import open_in_processes  # noqa: PLC0415

            return open_in_processes(version.folders, options, refit)
        return open_instances(version.folders, options, refit, only_paying=True)

    def _find(self) -> tuple[Path, ...]:
        """Return the folders of the entries, wherever links lead now. Raises ModelError."""
        # Resolved, so that a link which is led elsewhere leaves what serves where it is.
        return tuple(path.resolve() for path in find_models(self.repository, self.names))

    def _available_bytes(self) -> int:
        """Return the bytes of memory that a second version may take now."""
        available = available_bytes()
        return min(self.max_second_bytes, self.max_second_bytes if available is None else available)


class RunnerOpener:
    """An opener of a version's runners: first beside another one, then whenever they are lost."""

    def __init__(self, open_runners: OpenRunners, beside: bool) -> None:
        """Make one. With ``beside``, the first time keeps out of the way of what serves."""
        self._open = open_runners
        self._beside = beside

    def __call__(self) -> Sequence[SegmentRunner]:
        """Return the runners. Raises as ``ModelSource.open``."""
        beside, self._beside = self._beside, False
        return in_low_priority_thread(self._open) if beside else self._open()


@dataclass(frozen=True)
class FoundVersion(Generic[B]):
    """A version that lies in the repository, and what makes a backend of it."""

    version: ModelVersion
    source: ModelSource
    create: Callable[[ModelVersion, bool], B]

    @property
    def family(self) -> Family:
        """What it is, in the precision that was asked for."""
        return self.version.family

    def open(self, beside: bool) -> B:
        """Return a backend of it that is not started, once it has passed its trial.

        ``beside``: another one serves. Raises ModelError, TrialFailed.
        """
        return self.create(self.source.try_one(self.version, low_priority=beside), beside)

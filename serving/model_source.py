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
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from serving.artifacts.model_folders import ModelError, find_models
from serving.core.family import Family
from serving.core.ports import Clock, SegmentRunner
from serving.imaging.decoding import refit
from serving.memory_room import available_bytes
from serving.model_repository import (
    check_entries,
    check_precision,
    find_precision,
    open_instances,
    read_family,
)
from serving.model_trial import TrialJob, try_version
from serving.modest import in_modest_thread
from serving.runners.compiled_cache import CompiledCache

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
    runtime: str
    precision: str | None
    """What was asked for; None: what suits a version."""
    num_threads: int | None
    num_instances: int
    engine_process: bool
    """Whether runners are in a process of their own."""
    cache: CompiledCache | None
    max_second_bytes: int
    """Most bytes of memory that a version may take beside another."""
    clock: Clock = time.monotonic

    def first(self, *, may_choose: bool) -> ModelVersion:
        """Return the version that is there now, for nobody is served meanwhile.

        With ``may_choose``, in the precision that suits it where none was asked for, which takes
        timing some. Raises ModelError, and as ``find_precision``.
        """
        folders = self._find()
        precision, reason = self.precision, None
        for folder in folders:
            check_precision(self.runtime, folder, precision)
        if precision is None and may_choose:
            choice = find_precision(self.runtime, folders, self.num_threads, self.clock, self.cache)
            if choice is not None:
                precision, reason = choice.precision, choice.reason
                logger.info("precision: %s, for %s", precision or "the runtime's own", reason)
        return ModelVersion(folders, read_family(folders, precision, reason), precision)

    def read(self) -> ModelVersion:
        """Return the version that is there now, whose files are as they were built.

        Its precision is not chosen yet. Raises ModelError.
        """
        folders = self._find()
        check_entries(self.runtime, folders, self.precision)
        return ModelVersion(folders, read_family(folders, self.precision), self.precision)

    def try_one(self, version: ModelVersion, *, modest: bool) -> ModelVersion:
        """Return ``version`` as it is to serve, once it has passed its trial.

        With ``modest`` the trial keeps out of the way of what serves, and there must be room for
        both. Raises TrialFailed, ModelError.
        """
        job = TrialJob(
            version.folders,
            self.runtime,
            self.precision,
            self.num_threads,
            self.num_instances,
            None if self.cache is None else (self.cache.folder, self.cache.max_bytes),
            modest,
        )
        trial = try_version(job, self._room(), self.clock)
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
        if self.engine_process:
            # Few have it in a process of its own.
            from serving.engine_process import Job, open_in_processes  # noqa: PLC0415

            where = None if self.cache is None else (self.cache.folder, self.cache.max_bytes)
            job = Job(self.runtime, version.folders, self.num_threads, version.precision, where)
            return open_in_processes(job, self.num_instances, refit)
        return open_instances(
            self.runtime,
            version.folders,
            self.num_threads,
            self.num_instances,
            refit,
            version.precision,
            self.cache,
            only_paying=True,
        )

    def _find(self) -> tuple[Path, ...]:
        """Return the folders of the entries, wherever links lead now. Raises ModelError."""
        # Resolved, so that a link which is led elsewhere leaves what serves where it is.
        return tuple(path.resolve() for path in find_models(self.repository, self.names))

    def _room(self) -> int:
        """Return the bytes of memory that a second version may take now."""
        available = available_bytes()
        return min(self.max_second_bytes, self.max_second_bytes if available is None else available)


class Opening:
    """What opens the runners of a version: at first beside another, then whenever they are lost."""

    def __init__(self, open_runners: OpenRunners, beside: bool) -> None:
        """Make one. With ``beside``, the first time keeps out of the way of what serves."""
        self._open = open_runners
        self._beside = beside

    def __call__(self) -> Sequence[SegmentRunner]:
        """Return the runners. Raises as ``ModelSource.open``."""
        beside, self._beside = self._beside, False
        return in_modest_thread(self._open) if beside else self._open()


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
        return self.create(self.source.try_one(self.version, modest=beside), beside)

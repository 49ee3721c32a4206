"""The backend that settings ask for, and where it finds its model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serving.backends.embedded import EmbeddedBackend, StartEngine
from serving.backends.model_changes import ChangeableBackend
from serving.core.command_errors import CommandError
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.ports import (
    Backend,
    Clock,
    CreatePolicy,
    Observer,
    Pause,
    SegmentRunner,
    no_pause,
)
from serving.execution.engine import Engine, start_engine
from serving.models.runtime_options import RuntimeOptions
from serving.models.source import FoundVersion, ModelSource, ModelVersion, RunnerOpener
from serving.models.trial import trial_images
from serving.observability.decision_log import DecisionLog
from serving.observability.metrics import Metrics
from serving.observability.version_metrics import VersionObserver
from serving.runners.compiled_cache import CompiledCache, default_folder
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.observability.tracing import Tracing


def create_backend(
    settings: Settings,
    metrics: Metrics,
    clock: Clock,
    create_policy: CreatePolicy | None = None,
    tracing: Tracing | None = None,
) -> Backend:
    """Return the backend that ``settings`` ask for, not started.

    It has another policy than the one that serves, if ``create_policy`` is given. ``tracing`` is
    called with each run of a segment, where the executor is in this process. Raises CommandError,
    and ImportError when what it needs is not installed.
    """
    if create_policy is not None and settings.backend == "triton":
        raise CommandError("with the backend triton the policy is not the gateway's to choose")
    source = _open_source(settings, clock)
    first = source.first(may_choose=settings.backend == "embedded")
    if len(first.folders) > 1 and settings.backend != "embedded":
        names = ", ".join(entry.name for entry in first.family.entries)
        raise CommandError(f"the backend {settings.backend} serves one model, not {names}")
    entry = first.family.entries[0]
    watch = (
        None
        if settings.decision_log is None
        else _open_decisions(settings.decision_log, first.family)
    )

    def starting(family: Family, observer: Observer, pause: Pause = no_pause) -> StartEngine:
        def start(
            runners: Sequence[SegmentRunner], latencies: Sequence[LatencyModel] | None = None
        ) -> Engine:
            return start_engine(
                runners,
                family,
                latencies=latencies,
                clock=clock,
                observer=observer,
                max_waiting=settings.max_waiting,
                max_cohorts=settings.max_cohorts,
                create_policy=create_policy,
                watch=watch,
                trace=None if tracing is None else tracing.ran,
                pause=pause,
            )

        return start

    def embedded() -> Backend:
        def pause() -> None:
            versions.wait_until_quiet()  # they are not there yet when the first is created

        def create(version: ModelVersion, beside: bool = False) -> EmbeddedBackend:
            family = version.family
            observer = VersionObserver(metrics, metrics.versions, family.release)
            opener = RunnerOpener(partial(source.open, version), beside)
            start = starting(family, observer, pause)
            return EmbeddedBackend(family, opener, start)

        versions = ChangeableBackend(
            create(first),
            lambda: FoundVersion(source.read(), source, create),
            lambda family: next(trial_images(family)),
            clock,
            metrics.versions,
            drain_s=settings.max_budget_ms / 1e3,
        )
        return versions

    # These drag in gRPC, which few need.
    def triton() -> Backend:
        from serving.backends.triton import TritonBackend  # noqa: PLC0415

        return TritonBackend(
            entry,
            settings.triton_url,
            clock,
            metrics,
            max_pending=settings.max_waiting,
            use_shared_memory=settings.triton_shared_memory,
        )

    def triton_depth() -> Backend:
        from serving.backends.triton_depth import TritonDepthBackend  # noqa: PLC0415

        return TritonDepthBackend(
            entry,
            settings.triton_url,
            starting(first.family, metrics),
            use_shared_memory=settings.triton_shared_memory,
        )

    create = {"embedded": embedded, "triton": triton, "triton-depth": triton_depth}
    return create[settings.backend]()


def _open_source(settings: Settings, clock: Clock) -> ModelSource:
    """Return where versions of the model come from, and how each is opened."""
    num_threads, num_instances = settings.num_threads, settings.num_instances
    if num_instances > 1:
        num_threads = max(1, (num_threads or len(os.sched_getaffinity(0))) // num_instances)
    options = RuntimeOptions(
        runtime=settings.runtime,
        num_threads=num_threads,
        precision=settings.precision,
        num_instances=num_instances,
        cache=_open_cache(settings),
    )
    return ModelSource(
        repository=settings.model_repository,
        names=settings.models,
        options=options,
        engine_process=settings.engine_process,
        max_second_bytes=settings.second_version_mb * 2**20,
        clock=clock,
    )


def _open_cache(settings: Settings) -> CompiledCache | None:
    """Return where compiled segments are kept; None: nowhere."""
    folder = settings.compile_cache or default_folder()
    if folder is None or settings.compile_cache_mb == 0:
        return None
    return CompiledCache(folder, settings.compile_cache_mb * 2**20)


def _open_decisions(path: Path, family: Family) -> DecisionLog:
    try:
        return DecisionLog(path, family.ladder.sizes)
    except OSError as error:
        raise CommandError(f"decisions cannot be written to {path}: {error}") from error


def runtime_name(settings: Settings) -> str:
    """Return the name of what is said to run the segments."""
    return settings.runtime if settings.backend == "embedded" else settings.backend

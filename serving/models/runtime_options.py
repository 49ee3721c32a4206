"""Options of how models are run, which all that opens their runners takes as one."""

from __future__ import annotations

from dataclasses import dataclass

from serving.runners.compiled_cache import CompiledCache


@dataclass(frozen=True)
class RuntimeOptions:
    """How models are run. It can be pickled, for a process that opens them."""

    runtime: str
    """Name of the runtime: a key of ``repository.RUNNERS``."""
    num_threads: int | None = None
    """Number of threads of each instance; None: the runtime's own choice."""
    precision: str | None = None
    """Precision of convolutions: one of ``repository.PRECISIONS``; None: the runtime's own."""
    num_instances: int = 1
    """Number of runs that may be under way at a time."""
    cache: CompiledCache | None = None
    """Where compiled segments are kept and taken from, for runtimes that have such."""

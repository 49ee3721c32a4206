"""Lifecycle of the server: where it is between its start and its end.

    starting --> serving --> draining --> closed
       no          yes          no          no       says it is ready
       no          yes          yes         no       serves detection requests
      yes          yes          no          no       keeps connections after a reply

While it is draining, load balancers notice that it is no longer ready and stop sending; only then
are requests refused.
"""

from __future__ import annotations

from serving.core.errors import BackendUnavailable, Overloaded, ShedReason
from serving.core.ports import Backend


class Lifecycle:
    """One server's state.

    Whether it starts or serves follows from the backend; draining and closed from signals.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._draining = False
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether traffic should be sent to this server."""
        return self._backend.ready and not self._draining

    @property
    def leaving(self) -> bool:
        """Whether clients should take their next request elsewhere."""
        return self._draining

    def drain(self) -> None:
        """Say that the server is not ready, and go on serving."""
        self._draining = True

    def close(self) -> None:
        """Refuse new detection requests."""
        self._draining = self._closed = True

    def admit(self) -> None:
        """Raise Overloaded or BackendUnavailable when a detection request cannot be taken."""
        if self._closed:
            raise _draining()
        if not self._backend.ready:
            raise self._backend.absence

    def check_alive(self) -> None:
        """Raise BackendUnavailable when only another process will have an engine again."""
        if not self._backend.alive:
            raise BackendUnavailable("The engine cannot be replaced; the process has to be.")

    def check_ready(self) -> None:
        """Raise Overloaded or BackendUnavailable when the server is not ready."""
        if self._draining:
            raise _draining()
        self.admit()


def _draining() -> Overloaded:
    return Overloaded("The server is shutting down.", ShedReason.REJECTED_DRAINING)

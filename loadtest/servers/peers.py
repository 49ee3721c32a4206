"""Other servers with the same detector at a fixed operating point, started for a study.

    point = PeerPoint("300x300", 1)
    with peer("litserve", point, Path(".venv-peers/bin/python"), settings, log) as server:
        POST {server.url}/v1/detect                             as to Punctual, without its options

They run in a Python environment of their own: what they bring along (an event loop among other
things) would change the servers that they are compared with. ``loadtest/peers`` has the programs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import RunningServer, running
from serving.core.command_errors import InvalidArgument

OWN_PREFIXES = ("PEER_", "PUNCTUAL_", "BENTOML_", "LIT_")
"""Variables that may be set for other servers of these kinds; none is passed on."""


@dataclass(frozen=True)
class PeerSettings:
    """The settings that all peers are told alike."""

    model_repository: Path
    model: str | None
    """Name of the model; None: the default one of the repository."""
    timeout_s: float
    """Longest budget in seconds: a peer need not work on what has waited for longer."""


class PeerPoint(NamedTuple):
    """The operating point at which a peer serves."""

    size: str
    """Name of the input size."""
    depth: int


@dataclass(frozen=True)
class Peer:
    """How one kind of peer is started. ``{port}`` and ``{folder}``, an empty one, are filled in."""

    arguments: tuple[str, ...]
    """Arguments of the peer's interpreter."""
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict)


PEERS = {
    "litserve": Peer(("-m", "loadtest.peers.litserve_server"), "/health"),
    "bentoml": Peer(
        ("-m", "bentoml", "serve", "loadtest.peers.bentoml_server:Detection"),
        "/readyz",
        {
            "BENTOML_HOST": "127.0.0.1",
            "BENTOML_PORT": "{port}",
            "BENTOML_HOME": "{folder}",
            "BENTOML_DO_NOT_TRACK": "True",
        },
    ),
}


@contextlib.contextmanager
def peer(
    name: str, point: PeerPoint, environment_python: Path, settings: PeerSettings, log: Path
) -> Iterator[RunningServer]:
    """Start the peer called ``name`` of ``PEERS`` at ``point``, ready.

    ``environment_python`` is an interpreter that has its framework and this project. Raises
    StudyError, and InvalidArgument where there is no such peer or interpreter.
    """
    if name not in PEERS:
        raise InvalidArgument(f"there is no peer {name!r}; there are {', '.join(PEERS)}")
    if not os.access(environment_python, os.X_OK):
        raise InvalidArgument(
            f"{environment_python} is no Python; loadtest/peers/README.md says how to make one"
        )
    chosen, port = PEERS[name], free_port()
    given = {
        "PEER_MODEL_REPOSITORY": str(settings.model_repository.resolve()),
        "PEER_SIZE": point.size,
        "PEER_DEPTH": str(point.depth),
        "PEER_PORT": str(port),
        "PEER_TIMEOUT_MS": f"{settings.timeout_s * 1e3:g}",
        **({"PEER_MODEL": settings.model} if settings.model is not None else {}),
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(OWN_PREFIXES)}
    with TemporaryDirectory() as folder:
        own = {k: v.format(port=port, folder=folder) for k, v in chosen.environment.items()}
        # Not resolved: the interpreter of a virtual environment is a link to another one.
        command = (str(environment_python.absolute()), *chosen.arguments)
        url = f"http://127.0.0.1:{port}"
        ready_url = f"{url}{chosen.ready_path}"
        environment = inherited | given | own
        title = f"{name} at {point.size}/{point.depth}"
        with running(title, command, environment, ready_url, log) as group:
            yield RunningServer(url, group)

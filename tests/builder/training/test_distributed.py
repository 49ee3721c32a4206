"""Two processes against one with the whole batch; micro-batches against whole ones."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from builder.config.configuration import Config
from builder.modeling.checkpoint import read_checkpoint
from builder.modeling.detector import Detector
from builder.training import loop as training
from builder.training.distributed import DeviceError, Processes, joined
from builder.training.loop import train
from builder.training.recipe_checks import InvalidRecipe
from builder.training.training_log import LOG
from loadtest.servers.free_ports import free_port
from tests.builder.tiny import TINY

pytestmark = pytest.mark.slow  # it trains

# Statistics of normalisation are those of a process and of a micro-batch; what is compared here is
# everything else, with the statistics as they are.
RECIPE = replace(
    TINY.train,
    batch_size=4,
    autocast=False,
    optimizer="sgd",
    learning_rate=0.01,
    warmup_steps=0,
)
CONFIG = Config(TINY.detector, RECIPE)


class _Still(Detector):
    """Its normalisations stay in eval mode."""

    def train(self, mode: bool = True) -> _Still:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def train_still(config: Config, data: Path, out: Path) -> None:
    train(config, data, out, make=_Still)


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(out / training.CHECKPOINT)["weights"]
    return weights


def in_one(config: Config, data: Path, out: Path) -> dict[str, torch.Tensor]:
    train_still(config, data, out)
    return weights_of(out)


def one_of_two(rank: int, port: int, config: Config, data: Path, out: Path) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    train_still(config, data, out)


def in_two(config: Config, data: Path, out: Path) -> dict[str, torch.Tensor]:
    port = free_port()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=one_of_two, args=(rank, port, config, data, out)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return weights_of(out)


@pytest.fixture
def alone(bccd: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """One process with whole batches."""
    return in_one(CONFIG, bccd, tmp_path / "alone")


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    start = Detector(CONFIG.detector).state_dict()
    assert any(not torch.allclose(expected[name], start[name]) for name in start)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=name, rtol=1e-4, atol=1e-6)


def test_two_processes_are_one(bccd: Path, tmp_path: Path, alone: dict[str, torch.Tensor]) -> None:
    out = tmp_path / "two"
    parted = replace(CONFIG, train=replace(RECIPE, micro_batches=2))
    assert_same(in_two(parted, bccd, out), alone)
    log, log_alone = ((out.parent / name / LOG).read_text() for name in ("two", "alone"))
    assert len(log.splitlines()) == len(log_alone.splitlines()) == 2


def test_two_processes_train_the_last_exit_alone(bccd: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, train=replace(RECIPE, epochs=1, exits_per_step=1))
    assert_same(in_two(config, bccd, tmp_path / "two"), in_one(config, bccd, tmp_path / "one"))


def test_micro_batches_are_one_batch(
    bccd: Path, tmp_path: Path, alone: dict[str, torch.Tensor]
) -> None:
    parted = replace(CONFIG, train=replace(RECIPE, micro_batches=2))
    assert_same(in_one(parted, bccd, tmp_path / "parts"), alone)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"micro_batches": 3}, "a batch of 4 cannot be shared by 1 processes in 3 parts"),
        ({"micro_batches": 2, "batch_size": 8}, "6 images are less than a batch of 8"),
    ],
)
def test_what_cannot_be_shared(
    bccd: Path, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidRecipe, match=problem):
        train(replace(CONFIG, train=replace(RECIPE, **change)), bccd, tmp_path / "run")


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    module = nn.Linear(1, 1)
    with joined("cpu") as (processes, device):
        assert processes == Processes(0, 1)
        assert device.type == "cpu"
        assert processes.is_first
        assert processes.wrap(module, is_partial=True) is module
        np.testing.assert_array_equal(processes.sum(torch.ones(2)), [1, 1])


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("nope", "one of cpu, cuda, not 'nope'"),
        ("meta", "one of cpu, cuda, not 'meta'"),
        ("cuda:99", "torch finds no cuda:99 here"),
    ],
)
def test_what_is_no_device_here(device: str, problem: str) -> None:
    with pytest.raises(DeviceError, match=problem), joined(device):
        pass


@pytest.mark.parametrize(("world", "problem"), [("two", "WORLD_SIZE=two"), ("2", "RANK")])
def test_an_environment_that_is_not_whole(
    world: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(DeviceError, match=problem), joined("cpu"):
        pass

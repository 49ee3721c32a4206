"""Schedules, groups of parameters and the moving average."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from builder.config.named import CONFIGS
from builder.config.recipe import TrainConfig
from builder.training.optimization import (
    MovingAverage,
    learning_rate_at,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)

BASE = TrainConfig(dataset="bccd", learning_rate=1.0, warmup_steps=4)


def test_cosine() -> None:
    config = replace(BASE, final_learning_rate_ratio=0.1)
    rates = [learning_rate_at(step, 14, config) for step in (0, 1, 3, 4, 9, 14, 20)]
    assert rates == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1])


def test_steps() -> None:
    config = replace(BASE, schedule="step", epochs=10, milestones=(6, 8), warmup_ratio=0.2)
    rates = [learning_rate_at(step, 100, config) for step in (0, 3, 4, 59, 60, 79, 80, 99)]
    assert rates == pytest.approx([0.4, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_the_schedule_of_the_paper() -> None:
    """118 287 images in batches of 64."""
    config = CONFIGS["coco_r50_50e"].train
    steps = 118_287 // 64
    rates = [learning_rate_at(epoch * steps, 50 * steps, config) for epoch in (1, 29, 30, 39, 40)]
    assert rates == pytest.approx([0.08, 0.08, 0.008, 0.008, 0.0008])
    assert learning_rate_at(0, 50 * steps, config) == pytest.approx(0.0067, rel=0.03)


def test_only_kernels_decay() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    decayed, others = parameter_groups(module, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)]
    assert (len(others["params"]), others["weight_decay"]) == (3, 0.0)


@pytest.mark.parametrize(("name", "moved"), [("sgd", 2.0), ("adamw", 1.0)])
def test_optimizers(name: str, moved: float) -> None:
    """One step with a gradient of 2 and a rate of 1: by the gradient, or by its sign."""
    module = torch.nn.Linear(1, 1, bias=False)
    before = module.weight.item()
    optimizer = make_optimizer(module, replace(BASE, optimizer=name, weight_decay=0.0))
    module.weight.grad = torch.full_like(module.weight, 2.0)
    optimizer.step()
    assert before - module.weight.item() == pytest.approx(moved, rel=1e-4)


def test_moving_average() -> None:
    module = torch.nn.BatchNorm2d(1)
    average = MovingAverage(module, decay=0.5)
    with torch.no_grad():
        for _ in range(2):
            module.weight.fill_(11.0)
            module.num_batches_tracked += 1
            average.update()
    # decays 1/10 and 2/11
    assert average.model.weight.item() == pytest.approx(11 - 10 * 0.1 * 2 / 11)
    assert average.model.num_batches_tracked.item() == 2
    assert not average.model.training


def test_no_average_is_the_last_weights() -> None:
    module = torch.nn.BatchNorm2d(1)
    average = MovingAverage(module, decay=0.0)
    with torch.no_grad():
        module.weight.fill_(11.0)
    average.update()
    assert average.model.weight.item() == 11.0


def test_a_part_at_its_share_of_the_learning_rate() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)
    )
    model[2].requires_grad_(False)
    config = replace(BASE, optimizer="sgd", backbone_learning_rate_ratio=0.1)
    optimizer = make_optimizer(model, config, model[0])
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates.get(id(p)) for p in model.parameters()] == [0.05, 0.05, 0.5, 0.5, None, None]
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [config.weight_decay, 0.0] * 2

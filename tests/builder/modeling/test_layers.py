"""DropBlock: what it drops, what it leaves, and when."""

from __future__ import annotations

import pytest
import torch

from builder.modeling.layers import DropBlock, drop_rate_at, set_drop_rate


def drop_block(rate: float) -> DropBlock:
    torch.manual_seed(0)
    module = DropBlock().train()
    module.rate = rate
    return module


def test_blocks_of_three_by_three_are_dropped_in_each_channel() -> None:
    x = torch.ones(2, 50, 16, 24)
    dropped = drop_block(0.01)(x) == 0
    seen = 0
    for channel in dropped.flatten(0, 1):
        if channel.sum() == 9:  # one block alone
            rows, columns = channel.nonzero().unbind(1)
            assert rows.max() - rows.min() == columns.max() - columns.min() == 2
            seen += 1
    assert seen > 10
    assert not torch.equal(dropped[0, 0], dropped[1, 0])


@pytest.mark.parametrize("size", [(16, 24), (4, 5), (3, 3)])
def test_rate_and_mean_are_kept(size: tuple[int, int]) -> None:
    y = drop_block(0.05)(torch.ones(64, 500, *size))
    assert (y == 0).float().mean() == pytest.approx(0.05, abs=0.003)
    assert y.mean() == pytest.approx(1.0, abs=1e-4)


def test_a_map_smaller_than_a_block_is_dropped_whole() -> None:
    y = drop_block(0.5)(torch.ones(4, 50, 1, 2))
    assert torch.equal(y[..., 0], y[..., 1])
    assert 0.3 < (y == 0).float().mean() < 0.7


def test_everything_dropped_is_zero_and_finite() -> None:
    assert torch.equal(drop_block(1.0)(torch.ones(1, 2, 3, 3)), torch.zeros(1, 2, 3, 3))


def test_inference_and_rate_zero_leave_the_map_alone() -> None:
    x = torch.ones(1, 2, 8, 8)
    assert drop_block(0.5).eval()(x) is x
    assert drop_block(0.0)(x) is x


def test_the_schedule_is_linear_and_reaches_every_block() -> None:
    assert [drop_rate_at(step, 5, 0.2) for step in range(5)] == pytest.approx(
        [0, 0.05, 0.1, 0.15, 0.2]
    )
    assert drop_rate_at(0, 1, 0.2) == 0
    model = torch.nn.Sequential(DropBlock(), torch.nn.Sequential(DropBlock()))
    set_drop_rate(model, 0.3)
    assert [module.rate for module in model.modules() if isinstance(module, DropBlock)] == [0.3] * 2

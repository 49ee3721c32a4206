from __future__ import annotations

import pytest

from serving.core.instances import share_threads


@pytest.mark.parametrize(
    ("asked", "num_threads", "shared"),
    [
        (None, 1, (1, 1)),
        (None, 2, (2, 1)),
        (None, 16, (2, 8)),
        (1, 4, (1, 4)),
        (3, 8, (3, 2)),
        (4, 2, (4, 1)),
    ],
)
def test_instances_share_the_threads(
    asked: int | None, num_threads: int, shared: tuple[int, int]
) -> None:
    assert share_threads(asked, num_threads) == shared

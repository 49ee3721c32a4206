"""Measured stacks: what stands for a graph, how well a measurement repeats, and the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builder.search.canonical import canonical_key
from builder.search.space import SPACES
from builder.search.stack_rounds import StackRounds
from serving.core.command_errors import CommandError

SPACE = SPACES["nas-fpn"]
RANDOM = np.random.default_rng(0)
ROWS = SPACE.decode(SPACE.sample(np.random.default_rng(1))).rows
GRAPHS = tuple(SPACE.decode(SPACE.sample(RANDOM)) for _ in range(30))


def rounds(of_instance: float, of_round: float, instances: int = 2) -> StackRounds:
    """Graphs that differ by a tenth, with luck of each instance and of each round."""
    random = np.random.default_rng(1)
    stacks = 4.0 * (1 + 0.1 * random.normal(size=(30, 1, 1)))
    luck = 1 + of_instance * random.normal(size=(30, instances, 1))
    slow = 1 + of_round * random.exponential(size=(30, instances, 100))
    ms = np.empty((30, instances, 100, 3))
    ms[..., 0], ms[..., 1], ms[..., 2] = 5.0, stacks * luck * slow, 7.0
    return StackRounds(GRAPHS, ms, {"machine": "a machine"})


def test_rounds_in_which_others_compute_do_not_count() -> None:
    quiet, busy = rounds(0.0, 0.0), rounds(0.0, 0.3)
    for one, other in zip(quiet.stacks(), busy.stacks(), strict=True):
        assert other.stack == pytest.approx(one.stack, rel=0.1)
    assert busy.repeats_with() > 0.8


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_what_repeats_is_told_from_luck(instances: int) -> None:
    assert rounds(0.0, 0.0, instances).repeats_with() == pytest.approx(1.0)
    assert rounds(0.0, 0.1, instances).repeats_with() > 0.8


def test_luck_of_an_instance_is_no_property_of_the_graph() -> None:
    assert rounds(0.3, 0.0).repeats_with() < 0.5
    # One instance cannot show it: its rounds repeat.
    assert rounds(0.3, 0.0, instances=1).repeats_with() > 0.9


def test_two_graphs_are_compared_within_the_same_rounds() -> None:
    found = rounds(0.0, 0.0)
    slow = 1 + np.random.default_rng(2).exponential(size=(1, 1, 100, 1))
    at_once = StackRounds(GRAPHS, found.ms * slow, {})
    one, other = (canonical_key(graph) for graph in GRAPHS[:2])
    expected = found.ratio(one, other, 3)
    ratio = at_once.ratio(one, other, 3)
    assert (ratio.low, ratio.middle, ratio.high) == pytest.approx((expected.middle,) * 3)
    first, second, third = found.exits(one, 3)
    assert third - second == pytest.approx(second - first)
    assert first == pytest.approx(12.0 + second - first)


def test_rounds_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "rounds.json"
    found = rounds(0.1, 0.1)
    path.write_text(found.to_json())
    read = StackRounds.read(path)
    assert read.graphs == found.graphs
    assert read.made_of == found.made_of
    assert read.ms == pytest.approx(found.ms, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "no",
        "[]",
        json.dumps({"format": 2}),
        json.dumps({"format": 1, "made_of": {}, "graphs": []}),
        json.dumps({"format": 1, "made_of": {}, "graphs": [{"rows": [], "ms": []}]}),
        *(
            json.dumps({"format": 1, "made_of": {}, "graphs": [{"rows": ROWS, "ms": [[[ms] * 3]]}]})
            for ms in (0, -1, float("nan"), 1e308, 10**400)
        ),
    ],
)
def test_what_is_no_such_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rounds.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"rounds.json is no file of measured stacks"):
        StackRounds.read(path)

"""Random sampling and evolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.searchers import SEARCHERS
from builder.search.searchers.evolution import Evolution, EvolutionSettings
from builder.search.space import SPACES

SPACE = SPACES["nas-fpn"]
SMALL = EvolutionSettings(population=10, tournament=4)


def coarse(graph: Graph) -> float:
    """A worth that is easy to raise: cells with attention."""
    return float(sum(cell.op == "attention" for cell in graph.cells))


def search(searcher: Evolution, batches: int) -> list[list[float]]:
    found = []
    for _ in range(batches):
        rewards = [coarse(graph) for graph in searcher.ask()]
        searcher.tell(rewards)
        found.append(rewards)
    return found


@pytest.mark.parametrize("name", ["random", "evolution", "screened-evolution"])
def test_a_searcher_is_a_function_of_its_seed(name: str) -> None:
    def asked(seed: int) -> Sequence[str]:
        searcher = SEARCHERS[name](SPACE, seed)
        keys = []
        for _ in range(8):
            graphs = searcher.ask()
            searcher.tell([coarse(graph) for graph in graphs])
            keys += [canonical_key(graph) for graph in graphs]
        return keys

    assert asked(0) == asked(0) != asked(1)


def test_evolution_begins_at_random_and_gets_better() -> None:
    found = search(Evolution(SPACE, 0, SMALL), 30)
    assert np.mean(found[0]) < 5
    assert np.mean(found[-1]) > 6
    assert max(map(max, found)) == 7


def test_children_of_evolution_differ_from_a_living_one_in_one_decision() -> None:
    searcher = Evolution(SPACE, 0, SMALL)
    search(searcher, 1)
    living = [encoding for encoding, _ in searcher._living]
    for graph in searcher.ask():
        child = SPACE.encode(graph)
        # An input may change places with the other, and two output levels with each other.
        differences = [sum(a != b for a, b in zip(child, old, strict=True)) for old in living]
        assert 1 <= min(differences) <= 2


def test_the_oldest_die() -> None:
    searcher = Evolution(SPACE, 0, SMALL)
    first = [SPACE.encode(graph) for graph in searcher.ask()]
    searcher.tell([100.0] * 10)
    assert [encoding for encoding, _ in searcher._living] == first
    search(searcher, 1)
    assert not {encoding for encoding, _ in searcher._living} & set(first)


def test_evolution_proposes_nothing_twice_while_there_is_something_new() -> None:
    searcher = Evolution(SPACE, 0, SMALL)
    keys = []
    for _ in range(20):
        graphs = searcher.ask()
        searcher.tell([coarse(graph) for graph in graphs])
        keys += [canonical_key(graph) for graph in graphs]
    assert len(set(keys)) > 0.97 * len(keys)


def test_screening_finds_it_with_fewer_children() -> None:
    settings = EvolutionSettings(
        population=10, tournament=4, screened=10, min_examples=10, explored=0.1
    )
    pairs = [
        [np.mean(search(Evolution(SPACE, seed, chosen), 5)[-1]) for chosen in (SMALL, settings)]
        for seed in range(5)
    ]
    without, with_screening = np.mean(pairs, axis=0)
    assert with_screening > without + 0.5


def test_exhaustive_is_every_network_once_and_then_again() -> None:
    searcher = SEARCHERS["exhaustive"](SPACES["micro"], 0)
    keys: list[str] = []
    while len(keys) < 2 * 641:
        keys += [canonical_key(graph) for graph in searcher.ask()]
    assert len(set(keys[:641])) == 641
    assert keys[641 : 2 * 641] == keys[:641]
